"""Files of predictions and references as people have them, read without a model: see :func:`read_predictions`,
:func:`read_references` and :func:`match`."""

from .matching import Matched, match
from .predictions import Predictions, read_predictions
from .references import Reference, read_references
from .shapes import FORMATS

__all__ = ["FORMATS", "Matched", "Predictions", "Reference", "match", "read_predictions", "read_references"]
