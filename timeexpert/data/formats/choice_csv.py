"""Questions in CSV with numbered choices: NExT-QA (Xiao et al., CVPR 2021) and EgoQA (Nguyen et al., EMNLP 2024).

Columns ``video`` or ``video_id``, ``question``, ``answer`` (the number of the right choice), ``qid``, ``a0``, ``a1``
and so on. Without choice columns, as in NExT-QA's open-ended files, ``answer`` is the text. The answer of a sample is
the text of the right choice; the choices stay in ``meta``.
"""

from __future__ import annotations

import re
from typing import Any

from timeexpert.data.formats.base import Draft, Drafts, Format, RawEvent, RowError, fields_of, text_of
from timeexpert.data.formats.reading import Row, csv_rows

_CHOICE = re.compile(r"a\d")


def _drafts(row: Row) -> Drafts:
    value = fields_of(row.value, "question", "answer")
    named = "video" if "video" in value else "video_id"
    video = text_of(fields_of(value, named)[named], named)
    choices = [value[name] for name in sorted(filter(_CHOICE.fullmatch, map(str, value)))]
    answer = text_of(value["answer"], "answer")
    if choices:
        if not answer.isdecimal() or int(answer[:3]) >= len(choices):
            raise RowError("malformed", f"answer ({answer!r}) must be the number of a choice, 0 to {len(choices) - 1}.")
        answer = text_of(choices[int(answer[:3])], f"a{answer}")
    meta: dict[str, Any] = {name: value[name] for name in ("qid", "type") if name in value}
    yield Draft(
        key=row.key,
        video=video.removesuffix(".mp4"),
        video_is_id=True,
        task="general",
        prompt=value["question"],
        events=[RawEvent((), (), answer)],
        meta=meta | ({"choices": choices} if choices else {}),
    )


def _matches(first: Any) -> bool:
    columns = set(first.split(",")) if isinstance(first, str) else set()
    return {"question", "answer", "qid"} <= columns and bool({"video", "video_id"} & columns)


FORMAT = Format(
    "choice_csv",
    "NExT-QA and EgoQA: CSV of video, question, answer, qid and choices a0, a1, ...; general questions",
    csv_rows,
    _matches,
    _drafts,
)
