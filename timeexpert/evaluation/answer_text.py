"""Reads times from the free text of an answer: one strict parser, and the readings of published scripts by name.

The strict rules, in the order of the text:

- A time is a number of seconds (``12``, ``12.3``, ``1,234.5``), a number with a unit (``12s``, ``2 minutes``,
  ``1 minute 20 seconds``), or a clock (``1:23``, ``1:02:03.5``; minutes after an hour, and seconds, below 60).
  Full-width digits and Unicode dashes count as their ASCII forms. A number inside a word (``v2``, ``1e3``), with more
  than 12 digits, behind ``frame`` or before ``frames``, ``fps`` or ``%`` is no time.
- A span is two times joined by a dash, ``~``, ``to``, ``until``, ``till`` or ``through``; ``between A and B``; two
  times with a comma in brackets (``[12.3, 45.6]``); or ``start ... A ... end ... B`` with no other number between.
  A time without a unit takes the unit of its partner: ``1 - 2 minutes`` is 60 to 120 seconds.
- A span with a negative number is void. So are three or more times in a row of joins (``2024-05-01``, ``1-2-3``).
- A reversed span is kept as it was written: it overlaps nothing, and it counts as parsed.
- Every span is read; metrics of one window take the first. A text without a span did not parse (``None``).
- Where every line of a text is ``start - end seconds, caption.`` (IndustryASM's answers, and those of
  :mod:`timeexpert.tokenization.answer_lines`), a line is an event: a span inside its caption is part of the caption
  (``cook for 2 to 3 minutes``), and its last full stop is not.
- Highlights are a list of times and a list of scores of one length (TimeIT's answer); any other text has none.

The other readings are listed in :data:`READINGS` and live in :mod:`.reference_readings`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import NamedTuple

from . import reference_readings as reference
from .conventions import chosen
from .tiou import Segment

_DIGITS = r"\d{1,12}(?:\.\d{1,12})?"
_NUMBER = rf"(?:\d{{1,3}}(?:,\d{{3}}){{1,3}}(?:\.\d{{1,12}})?|{_DIGITS})"
_UNIT = r"(?:seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h)"
_CLOCK = r"\d{1,4}:\d{2}(?::\d{2})?(?:\.\d{1,12})?"
_TIME = re.compile(
    rf"(?<![\w.,:])(?:(?P<clock>{_CLOCK})(?![\w:])(?!\.\d)"
    rf"|(?P<measured>{_NUMBER}\s*{_UNIT}(?:\s*{_NUMBER}\s*{_UNIT}){{0,2}})(?!\w)"
    rf"|(?P<number>{_NUMBER})(?![\w%:]|\.\d|,\d|\s*(?:frames?\b|fps\b|percent\b|%)))",
    re.IGNORECASE | re.ASCII,
)
_MEASURE = re.compile(rf"({_NUMBER})\s*({_UNIT})", re.IGNORECASE | re.ASCII)
_BRACKETED = re.compile(
    rf"[\[(<{{]\s*({_DIGITS}|{_CLOCK})\s*({_UNIT})?\s*[,;]\s*({_DIGITS}|{_CLOCK})\s*({_UNIT})?\s*[\])>}}]",
    re.IGNORECASE | re.ASCII,
)
_MARKS = r"[*_`\"'\s]*"
_JOIN = re.compile(
    rf"{_MARKS}(?:-{{1,3}}>?|~|\bto\b|\buntil\b|\btill\b|\bthrough\b){_MARKS}(?:(?:the\s+)?seconds?\s+)?", re.IGNORECASE
)
_AND = re.compile(r"\s*\band\s*(?:the\s+)?(?:seconds?\s+)?", re.IGNORECASE)
_BETWEEN = re.compile(r"\bbetween\s*(?:the\s+)?(?:seconds?\s+)?\Z", re.IGNORECASE)
_STARTS = re.compile(r"(?:\b|_)(?:start|begin|began)", re.IGNORECASE)
_ENDS = re.compile(r"(?:\b|_)(?:end|finish|stop)", re.IGNORECASE)
_FRAME = re.compile(r"\bframes?\s*#?\s*\Z", re.IGNORECASE)
_NEGATIVE = re.compile(r"(?:\A|[\s\[(<{:=,;])-\Z")
_LONGEST_GAP = 120
# The most common answers in one match; whatever it takes, the rules above read the same way.
_PLAIN = re.compile(
    r"[A-Za-z ',<>]*?(?<!frame )(?<!frames )(?<![\w.])(\d{1,12}(?:\.\d{1,12})?)(?: ?s| seconds?)? ?(?:-| to ) ?"
    r"(\d{1,12}(?:\.\d{1,12})?)(?: ?s| seconds?)?[.!]?(?:</answer>)?\s*",
    re.ASCII,
)
# One event on one line. A caption in which the next event begins is an answer on one line, which is read by its spans.
_LINE = re.compile(rf"\s*({_DIGITS}) ?- ?({_DIGITS}) ?(?:seconds?|s), ?(.+)", re.ASCII)
_NEXT = re.compile(rf"{_DIGITS} ?- ?{_DIGITS} ?(?:seconds?|s),|[.;!?]\s+{_DIGITS}\s*{_UNIT}?\s*(?:-|to\b)", re.ASCII)
_LIST = rf"{_DIGITS}(?:, ?{_DIGITS})*"
_HIGHLIGHTS = re.compile(
    rf"\s*(?:There (?:are|is) (\d{{1,6}}) highlight moments?|The highlight timestamps are) in the ({_LIST}) seconds?\. "
    rf"Their saliency scores are ({_LIST})\.?\s*",
    re.ASCII,
)
_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u301c\uff0d", "-") | {"\uff5e": "~"})
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class _Time(NamedTuple):
    """One time in the text. ``unit`` is seconds per unit, or ``None`` where none was written."""

    value: float
    unit: float | None
    begin: int
    end: int

    def seconds(self, partner: float | None) -> float:
        return self.value * (self.unit or partner or 1.0)


def read_spans(text: str) -> list[Segment] | None:
    """Every (start_s, end_s) in a text under the strict rules above; ``None`` where there is none. Never raises."""
    plain = _PLAIN.fullmatch(text)
    if plain is not None:
        return [(float(plain[1]), float(plain[2]))]
    return [(start_s, end_s) for start_s, end_s, _, _ in _located_spans(_normal(text))] or None


def read_events(text: str) -> list[tuple[float, float, str]] | None:
    """Every (start_s, end_s, caption): a caption is the text from behind its span up to the next span."""
    text = _normal(text)
    lines = _events_on_lines(text)
    if lines is not None:
        return lines
    spans = _located_spans(text)
    until = [begin for _, _, begin, _ in spans[1:]] + [len(text)]
    captions = [_caption(text[span[3] : end]) for span, end in zip(spans, until, strict=False)]
    return [(span[0], span[1], caption) for span, caption in zip(spans, captions, strict=True)] or None


def read_highlights(text: str) -> list[tuple[float, float]] | None:
    """(seconds, score) of each highlight of TimeIT's answer; ``None`` for any other text, and where counts differ."""
    match = _HIGHLIGHTS.fullmatch(_normal(text))
    if match is None:
        return None
    times, scores = ([float(n) for n in match[group].split(",")] for group in (2, 3))
    if len(times) != len(scores) or (match[1] and int(match[1]) != len(times)):
        return None
    return list(zip(times, scores, strict=True))


def read_moment(text: str) -> float | None:
    """The first time in a text, in seconds; ``None`` where there is none or it is negative."""
    text = _normal(text)
    for match in _TIME.finditer(text):
        time = _time(match, text)
        if time is not None:
            return None if _NEGATIVE.search(text[max(0, time.begin - 2) : time.begin]) else time.seconds(None)
    return None


READINGS: Mapping[str, Callable[[str], list[Segment] | None]] = {
    "strict": read_spans,
    "timechat": reference.timechat,
    "etbench": reference.etbench,
    "museg": reference.museg,
    "lmms_eval": reference.lmms_eval,
    "timelens": reference.timelens,
}
EVENT_READINGS: Mapping[str, Callable[[str], list[tuple[float, float, str]] | None]] = {
    "strict": read_events,
    "timechat": reference.timechat_events,
    "etbench": reference.etbench_events,
}


def read_segments(text: str, reading: str = "strict") -> list[Segment] | None:
    """The segments that a reading finds in a text; ``None`` where it finds none. Raises on an unknown reading."""
    return chosen(READINGS, reading, "reading of segments")(text)


def _events_on_lines(text: str) -> list[tuple[float, float, str]] | None:
    """Events of a text whose every line is one; ``None`` for any other text."""
    events = []
    for line in text.splitlines():
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None or _NEXT.search(match[3]):
            return None
        events.append((float(match[1]), float(match[2]), match[3].strip().removesuffix(".").rstrip()))
    return events or None


def _normal(text: str) -> str:
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", text.translate(_DASHES)).translate(_DASHES)


def _located_spans(text: str) -> list[tuple[float, float, int, int]]:
    """(start_s, end_s, place of the span, place behind it), in the order of the text."""
    spans: list[tuple[float, float, int, int]] = []

    def bracketed(match: re.Match[str]) -> str:
        a, b = (_value(match[k], match[k + 1]) for k in (1, 3))
        if a is not None and b is not None:
            spans.append((a[0] * (a[1] or b[1] or 1.0), b[0] * (b[1] or a[1] or 1.0), match.start(), match.end()))
        return "|" * (match.end() - match.start())

    rest = _BRACKETED.sub(bracketed, text)
    times = [time for match in _TIME.finditer(rest) if (time := _time(match, rest)) is not None]
    joined = [_joined(rest, a, b) for a, b in zip(times, times[1:], strict=False)]
    k = 0
    while k < len(joined):
        if not joined[k]:
            k += 1
            continue
        run = k
        while run + 1 < len(joined) and joined[run + 1]:
            run += 1
        if run == k and not _NEGATIVE.search(rest[max(0, times[k].begin - 2) : times[k].begin]):
            spans.append(_span(times[k], times[k + 1]))
        k = run + 2  # both times of the last join are used up
    used = {time.begin for k, both in enumerate(joined) if both for time in times[k : k + 2]}
    spans += _start_to_end(rest, [time for time in times if time.begin not in used])
    return sorted(spans, key=lambda span: span[2])


def _span(a: _Time, b: _Time) -> tuple[float, float, int, int]:
    return a.seconds(b.unit), b.seconds(a.unit), a.begin, b.end


def _joined(text: str, a: _Time, b: _Time) -> bool:
    if b.begin - a.end > _LONGEST_GAP:
        return False
    gap = text[a.end : b.begin]
    if _JOIN.fullmatch(gap):
        return True
    return _AND.fullmatch(gap) is not None and _BETWEEN.search(text[max(0, a.begin - 30) : a.begin]) is not None


def _start_to_end(text: str, times: list[_Time]) -> list[tuple[float, float, int, int]]:
    """Spans told as ``start ... A ... end ... B``."""
    spans = []
    behind = k = 0
    while k + 1 < len(times):
        a, b = times[k], times[k + 1]
        ahead, gap = text[max(behind, a.begin - _LONGEST_GAP) : a.begin], text[a.end : b.begin][: _LONGEST_GAP + 1]
        told = _STARTS.search(ahead) is not None and len(gap) <= _LONGEST_GAP and _ENDS.search(gap) is not None
        if told and not _NEGATIVE.search(ahead[-2:]) and not _NEGATIVE.search(gap[-2:]):
            spans.append(_span(a, b))
        behind, k = (b.end, k + 2) if told else (a.end, k + 1)
    return spans


def _time(match: re.Match[str], text: str) -> _Time | None:
    if _FRAME.search(text[max(0, match.start() - 12) : match.start()]):
        return None
    value: float | None
    unit: float | None = None
    if match["clock"]:
        value, unit = _clock(match["clock"]), 1.0
    elif match["measured"]:
        value, unit = sum(_plain(n) * _SECONDS[u[0].lower()] for n, u in _MEASURE.findall(match["measured"])), 1.0
        parts = _MEASURE.findall(match["measured"])
        if len(parts) == 1:
            value, unit = _plain(parts[0][0]), _SECONDS[parts[0][1][0].lower()]
    else:
        value = _plain(match["number"])
    return None if value is None else _Time(value, unit, match.start(), match.end())


def _value(number: str, unit: str | None) -> tuple[float, float | None] | None:
    if ":" in number:
        seconds = _clock(number)
        return None if seconds is None else (seconds, 1.0)
    return float(number), _SECONDS[unit[0].lower()] if unit else None


def _plain(number: str) -> float:
    return float(number.replace(",", ""))


def _clock(text: str) -> float | None:
    *larger, seconds = (float(part) for part in text.split(":"))
    if seconds >= 60 or (len(larger) == 2 and larger[1] >= 60):
        return None
    return seconds + 60 * larger[-1] + (3600 * larger[0] if len(larger) == 2 else 0.0)


def _caption(text: str) -> str:
    return text.strip().lstrip(",.:;)]}>- \t\n").strip()
