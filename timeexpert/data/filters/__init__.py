"""Filters: which samples of a data set are dropped before training, and why. See docs/filters.md."""

from .config import FilterConfig
from .run import FilterReport, run_filters
from .verdict import Filter, Verdict

__all__ = ["Filter", "FilterConfig", "FilterReport", "Verdict", "run_filters"]
