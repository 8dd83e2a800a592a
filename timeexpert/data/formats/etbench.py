"""E.T. Bench (text annotations): a JSON list of ``{task, source, video, duration, tgt, q, g}``.

Tasks whose answer is a list of windows or of captioned windows are converted; the others (choice questions, sets of
alternatives, single highlights) are rejected by name.
"""

from __future__ import annotations

from typing import Any

from timeexpert.data.formats.base import Draft, Drafts, Format, RawEvent, RowError, fields_of, list_of, quoted, text_of
from timeexpert.data.formats.captions import paired
from timeexpert.data.formats.reading import Row, records

WINDOW_TASKS = ("tvg", "epm", "tal", "evs")
CAPTION_TASKS = ("dvc", "slc")
_ANSWER_FORMAT = "The format of your response"


def _drafts(row: Row) -> Drafts:
    value = fields_of(row.value, "task", "video", "q")
    task = value["task"]
    if task not in WINDOW_TASKS + CAPTION_TASKS:
        raise RowError(
            "unsupported", f"task ({task!r}) is not converted; {', '.join(WINDOW_TASKS + CAPTION_TASKS)} are."
        )
    prompt = text_of(value["q"], "q")
    windows = list_of(value.get("tgt"), "tgt")
    if len(windows) == 2 and not any(isinstance(w, list) for w in windows):
        windows = [windows]
    if task in CAPTION_TASKS:
        captions = list_of(value.get("g"), "g")
    else:
        captions = [quoted(prompt.partition(_ANSWER_FORMAT)[0]) or prompt] * len(windows)
    yield Draft(
        key=f"{task}:{value.get('source', '')}:{row.key}",
        video=value["video"],
        task="dense_captioning" if task in CAPTION_TASKS else "moment_retrieval",
        prompt=prompt,
        duration_s=value.get("duration"),
        events=[RawEvent(window, (), text) for window, text in paired(windows, captions, "tgt")],
        meta={name: value[name] for name in ("idx", "task", "source") if name in value},
    )


def _matches(first: Any) -> bool:
    return isinstance(first, dict) and {"version", "idx", "task", "video", "q"} <= set(first)


FORMAT = Format(
    "etbench",
    "E.T. Bench annotations/txt: tvg, epm, tal, evs as moments; dvc, slc as dense captions",
    records,
    _matches,
    _drafts,
)
