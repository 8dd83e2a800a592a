"""Pictures and pages made from what a run leaves behind."""

from .errors import ReportError

__all__ = ["ReportError"]
