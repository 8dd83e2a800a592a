"""What a report refuses."""

from __future__ import annotations

from timeexpert.errors import UserError


class ReportError(UserError):
    """A run folder, a frame array or an option of which no report can be made."""
