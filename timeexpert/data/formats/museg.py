"""MUSEG: questions with the windows that answer them.

Training files are JSON lines ``{problem, solution, video, task}``, evaluation files lists of ``{video, question,
groundtruth}``.
"""

from __future__ import annotations

from typing import Any

from timeexpert.data.formats.base import Draft, Drafts, Format, RawEvent, fields_of, list_of, quoted, text_of, window_of
from timeexpert.data.formats.reading import Row, records
from timeexpert.data.formats.to_museg import to_museg

_EVAL_QUERY = "textual sentence: "


def _drafts(row: Row) -> Drafts:
    value = fields_of(row.value, "video")
    asked, answer = ("problem", "solution") if "solution" in value else ("question", "groundtruth")
    fields_of(value, asked, answer)
    prompt = text_of(value[asked], asked)
    query = prompt.partition(_EVAL_QUERY)[2].strip() or quoted(prompt)
    windows = list_of(value[answer], answer)
    meta: dict[str, Any] = {name: value[name] for name in ("idx", "task") if name in value}
    yield Draft(
        key=row.key,
        video=value["video"],
        task="moment_retrieval",
        prompt=prompt,
        duration_s=value.get("duration"),
        events=[RawEvent(window_of(w, f"{answer}[{i}]"), (), query) for i, w in enumerate(windows)],
        meta=meta,
    )


def _matches(first: Any) -> bool:
    keys = set(first) if isinstance(first, dict) else set()
    return {"video", "problem", "solution"} <= keys or {"video", "question", "groundtruth"} <= keys


FORMAT = Format(
    "museg",
    "MUSEG: {problem, solution, video} lines or {video, question, groundtruth} lists; moments, one or several",
    records,
    _matches,
    _drafts,
    gather=to_museg,
)
