"""Metrics on times, captions and highlights. numpy only: no model and no torch is ever imported here.

Every function takes truth and predictions in the same order and returns a JSON-able dict; shares are percent
in [0, 100]. An answer that is missing or did not parse (``None``) is a miss and stays in the denominator.
"""

from .captioning import dense_captioning
from .errors import EvaluationError
from .grounding import moment_retrieval, temporal_iou
from .highlights import HighlightTruth, highlight_detection

__all__ = [
    "EvaluationError",
    "HighlightTruth",
    "dense_captioning",
    "highlight_detection",
    "moment_retrieval",
    "temporal_iou",
]
