"""Conversations ``[{from: human, value}, {from: gpt, value}, ...]``, which LLaVA and TRACE files share."""

from __future__ import annotations

import re
from typing import Any

from timeexpert.data.formats.base import RowError, fields_of, list_of, text_of

_MEDIA = re.compile(r"\A\s*<(?:video|image)>\s*|\s*<(?:video|image)>\s*\Z")
_OTHER_MEDIA = re.compile(r"<(?:video|image)>")


def turns(value: Any) -> list[tuple[str, str]]:
    """(question, answer) of each turn, media placeholders removed from the question's ends.

    Raises :class:`RowError` where speakers do not alternate, human first, or a question holds another placeholder.
    """
    messages = [fields_of(m, "from", "value") for m in list_of(value, "conversations")]
    speakers = [m["from"] for m in messages]
    if not messages or speakers != ["human", "gpt"] * (len(messages) // 2):
        raise RowError("malformed", f"conversations go {speakers!r}; human and gpt must take turns, human first.")
    out = []
    for i in range(0, len(messages), 2):
        question = _MEDIA.sub("", text_of(messages[i]["value"], f"conversations[{i}]"))
        if _OTHER_MEDIA.search(question):
            raise RowError("unsupported", f"conversations[{i}] places media inside the text; one video per question.")
        answer = text_of(messages[i + 1]["value"], f"conversations[{i + 1}]")
        out.append((text_of(question, f"conversations[{i}]"), answer))
    return out


def video_of(value: dict[str, Any]) -> str:
    """The path of the video. Raises :class:`RowError` where the row is about an image, several videos or nothing."""
    if "video" not in value:
        raise RowError("unsupported", "the row has no 'video': image and text rows are not converted.")
    return text_of(value["video"], "video")
