"""Re-annotation to event style: fragments grouped by a video LLM, times refined by rules. See docs/reannotation.md."""

from .config import ReannotateConfig
from .grouping import Annotator, Group, Refused
from .run import ReannotateReport, reannotate

__all__ = ["Annotator", "Group", "ReannotateConfig", "ReannotateReport", "Refused", "reannotate"]
