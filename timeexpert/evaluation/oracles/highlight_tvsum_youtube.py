"""lighthouse on TVSum and YouTube Highlights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..oracle import NotCovered
from ..video_highlights import video_highlights

_BENCHMARKS = {"tvsum": "tvsum", "youtube_highlight": "youtube_highlights"}


def figures(reference: str, inputs: Mapping[str, Any], case: Mapping[str, Any]) -> Any:
    """The mean average precision, a fraction of five decimals; NaN where no video has a positive clip."""
    if reference != "lighthouse" or case["kind"] not in _BENCHMARKS:
        raise NotCovered(f"no convention for {reference} on {case['kind']}")
    videos = inputs["videos"]
    scores = video_highlights(
        [video["label"] for video in videos],
        [video["pred"] for video in videos],
        _BENCHMARKS[case["kind"]],
        convention="lighthouse",
    )
    value = scores.figures()["map"]
    return np.nan if value is None else value / 100
