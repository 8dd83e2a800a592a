"""How published scripts read times from text, written from their documented behaviour; reached by name through
:data:`.answer_text.READINGS` and :data:`.answer_text.EVENT_READINGS`.

``timechat``: ``utils/format_tvg.py`` and ``utils/format_dvc.py`` of TimeChat. ``etbench``: E.T. Bench's
``compute_metrics.py``. ``museg``: ``src/eval_grounding.py``. ``lmms_eval``: ``charades_sta/utils.py``.
``timelens``: ``timelens/utils.py`` of lmms-eval. All return ``None`` for an answer that did not parse. Where a
script crashes (a number with two dots) or starts its debugger, the answer did not parse.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Segment = tuple[float, float]
Event = tuple[float, float, str]

# Numbers as the scripts write them, in forms that cannot run away on long rows of digits: a number that is followed by
# the wrong thing is given up at once, and not tried again from its second digit.
_DOTTED = r"(?<!\d)\d++\.*+\d*+"
_ONE_DOT = r"(?<!\d)\d++\.?+\d*+"
_DASHED = re.compile(rf"({_DOTTED})\s*-\s*({_DOTTED})")
_TO = re.compile(rf"({_DOTTED}) to ({_DOTTED})")
_LOOSELY_DASHED = re.compile(rf"({_ONE_DOT})\s*s?\s*[-\u2013]\s*({_ONE_DOT})")
_PLAINLY_DASHED = re.compile(rf"({_ONE_DOT})\s*-\s*({_ONE_DOT})")
_SPACED_TO = re.compile(rf"({_ONE_DOT})\s+to\s+({_ONE_DOT})")
_LOOSE_NUMBER = re.compile(r"\b\d++(?:\.\d++\b|\.\b|\b)")  # as \b\d+\.?\d*\b
_WHOLE_NUMBER = re.compile(r"\b(?:\d+\.\d+|\d+)\b")
_ANY_CLOCK = re.compile(r"\b(?:\d{1,2}:)?\d{1,2}:\d{2}\b")
_FINE_CLOCK = re.compile(r"\b(?:\d{1,2}:)?\d{1,2}:\d{2}(?:\.\d+)?\b")
_SENTENCE_END = re.compile(r"[!?\n]")
_KEYWORDS = ("start", "end", "happen")
_EXAMPLE = "a specific example is : 20.8 - 30.0 seconds"


def timechat(text: str) -> list[Segment] | None:
    """The first ``a - b``; else the first number of the first two sentences that tell of a start, an end or a
    happening. Ends are put in order."""
    found = _told(text.lower(), (_DASHED,))
    return found[:1] if found else None


def etbench(text: str) -> list[Segment] | None:
    """Every ``a - b``; else every ``a to b``; else pairs of first numbers of sentences, as TimeChat. Ends in order."""
    return _told(text.lower(), (_DASHED, _TO)) or None


def lmms_eval(text: str) -> list[Segment] | None:
    """Without the prompt's example and with ``to`` as a dash: the first two clocks; else the first ``a - b`` (an
    ``s`` or an en dash may stand between); else sentences, as TimeChat. Ends are put in order."""
    text = text.lower().replace(_EXAMPLE, "").replace("to", "-")
    clocks = [_clock_s(clock) for clock in _ANY_CLOCK.findall(text)]
    found = _ordered(_pairs(clocks)) or _told(text, (_LOOSELY_DASHED,))
    return found[:1] if found else None


def timelens(text: str) -> list[Segment] | None:
    """Pairs of clocks; else every ``a - b``; else every ``a to b``; else all numbers in pairs. Ends stay as written."""
    text = text.lower()
    clocks = [_clock_s(clock) for clock in _FINE_CLOCK.findall(text)]
    if len(clocks) > 1:
        return _pairs(clocks)
    for pattern in (_PLAINLY_DASHED, _SPACED_TO):
        found = pattern.findall(text)
        if found:
            return [(float(a), float(b)) for a, b in found]
    return _pairs([float(number) for number in _LOOSE_NUMBER.findall(text)]) or None


def museg(text: str) -> list[Segment] | None:
    """All numbers in pairs; an odd count, or one start that is not before its end, voids the whole answer."""
    try:
        numbers = [float(number) for number in re.findall(_DOTTED, text)]
    except ValueError:
        return None
    spans = _pairs(numbers)
    return spans if spans and len(numbers) % 2 == 0 and all(a < b for a, b in spans) else None


def timechat_events(text: str) -> list[Event] | None:
    """Every ``a - b`` with the text behind it; else ``start time: a``, ``end time: b`` and ``description:``; else one
    event from the first sentence with a time, 20 s to each side where it tells a single moment."""
    try:
        return _paragraph_events(text.lower()) or _sentence_event(text)
    except ValueError:
        return None


def etbench_events(text: str) -> list[Event] | None:
    """As :func:`timechat_events`, with the ends of each span put in order."""
    events = timechat_events(text)
    return [(min(a, b), max(a, b), caption) for a, b, caption in events] if events else None


def first_number(text: str) -> float | None:
    """The first number of a text, a minus sign included: E.T. Bench's reading of a moment."""
    found = re.search(r"-?\d+(?:\.\d+)?", text)
    return float(found[0]) if found else None


def _told(text: str, patterns: Sequence[re.Pattern[str]]) -> list[Segment]:
    for pattern in patterns:
        found = pattern.findall(text)
        if found:
            try:
                return _ordered((float(a), float(b)) for a, b in found)
            except ValueError:  # a number such as "22.5..": the scripts stop here
                return []
    numbers = [
        float(number[0])
        for sentence in _SENTENCE_END.split(text)
        if any(word in sentence for word in _KEYWORDS) and (number := _WHOLE_NUMBER.search(sentence))
    ]
    return _ordered(_pairs(numbers))


def _pairs(numbers: Sequence[float]) -> list[Segment]:
    return list(zip(numbers[::2], numbers[1::2], strict=False))


def _ordered(spans: Iterable[Segment]) -> list[Segment]:
    return [(min(a, b), max(a, b)) for a, b in spans]


def _clock_s(clock: str) -> float:
    seconds = 0.0
    for part in clock.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def _paragraph_events(text: str) -> list[Event]:
    found = _DASHED.findall(text)
    if found:
        spans = [(float(a), float(b)) for a, b in found]
        rest = text
        for match in dict.fromkeys(match[0] for match in _DASHED.finditer(text)):
            rest = rest.replace(match, "\n")  # everywhere, also inside later numbers, as the scripts do
        captions = rest.replace("seconds", "").split("\n")
    else:
        starts, ends = (re.findall(rf"{word}(?:ing)? time: ({_DOTTED})", text) for word in ("start", "end"))
        spans = [(float(a), float(b)) for a, b in zip(starts, ends, strict=False)]
        if not spans and re.search(rf"start time {_DOTTED}, end time {_DOTTED}", text):
            raise ValueError(text)  # TimeChat starts its debugger here
        captions = re.findall(r"description: (.*)", text) or re.findall(r"\*\s*(.*)", text)
    captions = [caption.strip().strip(", ").rstrip() for caption in captions if len(caption) > 5]
    return [(a, b, caption) for (a, b), caption in zip(spans, captions, strict=False)]


def _sentence_event(text: str) -> list[Event] | None:
    lines = text.split("\n") if "\n" in text else [f"{part}." for part in text.split(".") if len(part) > 7]
    for line in lines:
        if len(line) <= 7:
            continue
        parts = [part.strip(",") for part in line.split("seconds")]
        try:
            span = _sentence_span(parts[0])
        except ValueError:
            continue
        if span is not None:
            return [(round(span[0], 2), round(span[1], 2), parts[-1].strip())]
    return None


def _sentence_span(text: str) -> Segment | None:
    dashed = _DASHED.search(text)
    if dashed:
        return float(dashed[1]), float(dashed[2])
    if text.count(":") in (1, 2):
        clocks = re.findall(rf"{_DOTTED}:{_DOTTED}", text)
        seconds = [60 * int(a) + int(b) for a, b in (clock.split(":") for clock in clocks)]
        if text.count(":") == 1 and seconds:
            return _around(seconds[0])
        if text.count(":") == 2 and len(seconds) == 2:
            return float(seconds[0]), float(seconds[1])
        raise ValueError(text)
    numbers = [float(number) for number in re.findall(r"\d+\.*\d*(?!\.)", text)]
    if len(numbers) == 1:
        return _around(numbers[0])
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


def _around(time_s: float) -> Segment:
    begin_s = time_s - 20.0 if time_s > 20 else time_s
    return begin_s, begin_s + 40.0
