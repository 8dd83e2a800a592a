"""An endpoint that annotates: a phrase for a person, ranges of frames for a row of numbered frames."""

from __future__ import annotations

import re
from typing import Any

from tests.data.chat_server import Reply, completion

PHRASE = "a man in a red shirt"


def words_of(request: dict[str, Any]) -> str:
    """The text of the first user message."""
    return str(request["messages"][0]["content"][0]["text"])


def pictures_of(request: dict[str, Any]) -> list[str]:
    """The data addresses of its pictures."""
    return [part["image_url"]["url"] for part in request["messages"][0]["content"][1:]]


def last_id(request: dict[str, Any]) -> int | None:
    """The last frame id that is asked about; ``None`` where a description is asked for."""
    match = re.search(r"The last frame id is (\d+)", words_of(request))
    return None if match is None else int(match[1])


def ranges(last: int) -> str:
    """Two ranges where there are frames for two, else one."""
    if last < 26:
        return f"from 0 to {last}: The person does it."
    return f"from 0 to 12: The person begins.\nfrom 13 to {last}: The person ends."


def annotator(number: int, request: dict[str, Any]) -> Reply:
    """The answer to any question of the pipeline."""
    last = last_id(request)
    return completion(PHRASE if last is None else ranges(last))
