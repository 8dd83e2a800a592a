"""Reads highlights, a time and a saliency score each, from the free text of an answer.

The forms, as models that answer in words write them:

- two lists: ``There are 2 highlight moments in the 8, 29 second. Their saliency scores are 3.3, 1.3.`` (TimeChat) and
  ``The highlight timestamps are in the 59.5, 61.5 seconds. The scores are 3.7, 2.1``;
- pairs, each a time with its score: ``1. At 5.0 seconds, the saliency score is 2.3.`` (VTG-LLM),
  ``Second 15: score 2.8``, ``The moment at 41 seconds has a score of 1``, ``at 12 s (score 4.5)``.

The rules: a time is a number of seconds with its unit; the two lists have equal lengths; a text with pairs has no word
``score`` outside of one; a text that breaks a rule, or says a negative number, did not parse as a whole (``None``).
Frame numbers in place of seconds (VideoLoom's ``in ids``) and time tokens (decode them first) are not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

Points = list[tuple[float, float]]  # (time_s, score)

_NUMBER = r"\d{1,9}(?:\.\d{1,9})?"
_LIST = rf"{_NUMBER}(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+){_NUMBER})*"
_UNIT = r"(?:s|secs?|seconds?)\b"
_END = r"(?![\w%]|\.\d)"
_TIMES = re.compile(rf"\b(?:in|at) (?:the )?({_LIST})\s*{_UNIT}")
_SCORES = re.compile(rf"\bscores are ({_LIST}){_END}")
_PAIR = re.compile(
    rf"(?:\bsecond ({_NUMBER}){_END}|\bat ({_NUMBER})\s*{_UNIT}|(?<![\w.,:-])({_NUMBER})\s*{_UNIT})"
    rf"[\s,:;(\[-]*(?:(?:with|has|have|its|the|a) ){{0,2}}(?:saliency )?score(?: is| of|:| =)? ({_NUMBER}){_END}"
)
_NUMBERED = re.compile(rf"\bat ({_NUMBER}) seconds, the saliency score is ({_NUMBER}){_END}")
_SCORE = re.compile(r"scores?\b")
_NEGATIVE = re.compile(r"(?:\A|[\s(,:])[-\u2212]\d")
_FINDS = re.compile(_NUMBER)


def read_lists(text: str) -> Points | None:
    """The points of a list of times and a list of scores; ``None`` where there is not one of each, equally long."""
    text = _plain(text)
    times, scores = _TIMES.findall(text), _SCORES.findall(text)
    if len(times) != 1 or len(scores) != 1 or len(_SCORE.findall(text)) != 1 or _NEGATIVE.search(text):
        return None
    seconds, values = ([float(number) for number in _FINDS.findall(found[0])] for found in (times, scores))
    return list(zip(seconds, values, strict=True)) if len(seconds) == len(values) else None


def read_pairs(text: str, pair: re.Pattern[str] = _PAIR) -> Points | None:
    """The points of a text that tells each time with its score; ``None`` where a score has no time."""
    text = _plain(text)
    pairs = [[float(number) for number in found.groups() if number] for found in pair.finditer(text)]
    if not pairs or len(pairs) != len(_SCORE.findall(text)) or _NEGATIVE.search(text):
        return None
    return [(time_s, score) for time_s, score in pairs]


def read_highlights(text: str) -> Points | None:
    """(time_s, score) of every highlight, in the order of the text; ``None`` where it is in none of the forms."""
    return read_lists(text) or read_pairs(text)


READINGS: Mapping[str, Callable[[str], Points | None]] = {
    "timechat": read_lists,
    "vtgllm": partial(read_pairs, pair=_NUMBERED),
}
"""The form that the script of a convention was written for (``utils/format_vhd.py``); the others take every form.
Not repeated: TimeChat's script also reads some numbered lines, and leaves out some of their times or shifts them."""


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
