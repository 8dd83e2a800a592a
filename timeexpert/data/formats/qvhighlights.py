"""QVHighlights (Lei et al., NeurIPS 2021), as released with Moment-DETR: a JSON line per query.

A row gives a moment retrieval sample (its windows) and a highlight detection sample (a point per relevant clip).
"""

from __future__ import annotations

from typing import Any

from timeexpert.data.formats.base import (
    Draft,
    Drafts,
    Format,
    RawEvent,
    RowError,
    fields_of,
    list_of,
    number,
    text_of,
    window_of,
)
from timeexpert.data.formats.reading import Row, json_lines

CLIP_S = 2
"""Length of a clip in seconds: clip i covers [2 i, 2 i + 2)."""


def clip_time(clip: int) -> float:
    """The time in seconds that stands for a clip: its centre, 2 i + 1."""
    return float(CLIP_S * clip + CLIP_S // 2)


def clip_of(time_s: float) -> int:
    """The clip in which a time lies: ``clip_of(clip_time(i)) == i``."""
    return int(time_s // CLIP_S)


def window_draft(row: Row) -> Draft:
    """The moment retrieval draft of a Moment-DETR style row. Raises :class:`RowError` where it has no windows."""
    value = fields_of(row.value, "qid", "query", "vid", "duration")
    query = text_of(value["query"], "query")
    if value.get("relevant_windows") is None:
        raise RowError("no_label", "relevant_windows is absent or null: the row has no answer for moment retrieval.")
    windows = list_of(value["relevant_windows"], "relevant_windows")
    return Draft(
        key=f"{value['qid']}:moments",
        video=value["vid"],
        video_is_id=True,
        task="moment_retrieval",
        query=query,
        duration_s=value["duration"],
        events=[RawEvent(window_of(w, f"relevant_windows[{i}]"), (), query) for i, w in enumerate(windows)],
        meta={"qid": value["qid"], "query": query},
    )


def _drafts(row: Row) -> Drafts:
    moments = window_draft(row)
    yield moments
    value = fields_of(row.value, "relevant_clip_ids", "saliency_scores")
    clips = list_of(value["relevant_clip_ids"], "relevant_clip_ids")
    scores = list_of(value["saliency_scores"], "saliency_scores")
    if len(clips) != len(scores):
        raise RowError(
            "malformed", f"{len(clips)} relevant_clip_ids have {len(scores)} saliency_scores; one list per clip is due."
        )
    yield Draft(
        key=f"{value['qid']}:highlights",
        video=value["vid"],
        video_is_id=True,
        task="highlight_detection",
        query=moments.query,
        duration_s=value["duration"],
        events=[
            _highlight(clip, score, i, moments.query) for i, (clip, score) in enumerate(zip(clips, scores, strict=True))
        ],
        meta={**moments.meta, "relevant_clip_ids": clips, "saliency_scores": scores},
    )


def _highlight(clip: Any, annotators: Any, i: int, query: str | None) -> RawEvent:
    number(clip, f"relevant_clip_ids[{i}]")
    if not isinstance(clip, int) or clip < 0:
        raise RowError("malformed", f"relevant_clip_ids[{i}] ({clip!r}) must be a whole number from 0.")
    name = f"saliency_scores[{i}]"
    scores = [number(s, name) for s in list_of(annotators, name)]
    if not scores:
        raise RowError("no_label", f"{name} is empty; it has a score per annotator.")
    return RawEvent([clip_time(clip)], [sum(scores) / len(scores)], query)


def _matches(first: Any) -> bool:
    """Rows with clip labels, and the unlabelled test rows, which have nothing but query and video."""
    if not isinstance(first, dict) or not {"qid", "query", "vid"} <= set(first):
        return False
    return "saliency_scores" in first or set(first) == {"qid", "query", "vid", "duration"}


FORMAT = Format(
    "qvhighlights",
    "QVHighlights JSON lines (Moment-DETR): moments, and highlights per 2-s clip with scores",
    json_lines,
    _matches,
    _drafts,
)
