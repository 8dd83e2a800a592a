"""STAR (Wu et al., NeurIPS 2021): ``[{question_id, video_id, start, end, question, answer, choices}]``.

A general sample per question about the whole Charades video; the situation's ``start`` and ``end`` and the choices stay
in ``meta``.
"""

from __future__ import annotations

from typing import Any

from timeexpert.data.formats.base import Draft, Drafts, Format, RawEvent, RowError, fields_of, list_of, number, text_of
from timeexpert.data.formats.reading import Row, records


def _drafts(row: Row) -> Drafts:
    value = fields_of(row.value, "question_id", "video_id", "question")
    if value.get("answer") is None:
        raise RowError("no_label", "the row has no answer, like those of the test split.")
    meta: dict[str, Any] = {"question_id": value["question_id"]}
    if "start" in value or "end" in value:
        meta["situation_s"] = [number(value.get(name), name) for name in ("start", "end")]
    if "choices" in value:
        choices = [fields_of(choice, "choice") for choice in list_of(value["choices"], "choices")]
        meta["choices"] = [text_of(choice["choice"], "choice") for choice in choices]
    yield Draft(
        key=row.key,
        video=value["video_id"],
        video_is_id=True,
        task="general",
        prompt=value["question"],
        events=[RawEvent((), (), text_of(value["answer"], "answer"))],
        meta=meta,
    )


def _matches(first: Any) -> bool:
    return isinstance(first, dict) and {"question_id", "video_id", "question"} <= set(first)


FORMAT = Format(
    "star",
    "STAR: {question_id, video_id, start, end, question, answer, choices}; general questions",
    records,
    _matches,
    _drafts,
)
