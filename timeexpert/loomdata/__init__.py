"""Videos to samples with times and masks (VideoLoom's LoomData pipeline). See docs/loomdata.md."""

from .config import AnnotateConfig
from .run import AnnotateReport, annotate
from .steps import Adapters

__all__ = ["Adapters", "AnnotateConfig", "AnnotateReport", "annotate"]
