"""Metrics on times, captions and highlights. numpy only: no model and no torch is ever imported here.

Every function takes truth and predictions in the same order and returns :class:`~.scores.Scores`: figures, counts,
and what bootstrap intervals need. Shares are percent in [0, 100]. An answer that did not parse (``None``) or is not
there (``MISSING``) is a miss and stays in the denominator, unless a ``convention`` says otherwise.
"""

from .captioning import dense_captioning
from .choices import choice_accuracy
from .errors import MISSING, EvaluationError
from .grounding import moment_retrieval
from .highlights import HighlightTruth, highlight_detection
from .moment_map import moment_map
from .multi_segment import multi_segment_f1
from .tiou import temporal_iou

__all__ = [
    "MISSING",
    "EvaluationError",
    "HighlightTruth",
    "choice_accuracy",
    "dense_captioning",
    "highlight_detection",
    "moment_map",
    "moment_retrieval",
    "multi_segment_f1",
    "temporal_iou",
]
