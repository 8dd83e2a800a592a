"""Rules that made questions are held to: a time may stand in Where alone, and there it must."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from timeexpert.data.endpoint import unfenced
from timeexpert.data.records import SampleError, parse_json
from timeexpert.evaluation.loombench import Kind

MAX_QUESTION = 600  # characters
_DIGITS = r"\d+(?:[.,]\d+)?"
_ONES = "one two three four five six seven eight nine".split()
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_VALUES = dict(zip(_ONES + _TEENS + _TENS, [*range(1, 20), *range(20, 100, 10)], strict=True))
_WORDS = f"{'|'.join(_VALUES)}|hundred|few|several"
_ORDINAL = (
    rf"(?:{'|'.join(_TENS)})[\s-](?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth)"
    r"|first|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|\w+teenth|\w+tieth"
)  # without "second": "the second frame of the door"
_UNITS = r"(?:s|secs?|seconds?|ms|milliseconds?|mins?|minutes?|h|hrs?|hours?|frames?)"
_TIME = re.compile(
    rf"\b\d{{1,2}}:\d{{2}}(?::\d{{2}})?(?:\.\d+)?\b"  # 1:05
    rf"|\b(?:{_DIGITS}|{_WORDS})(?:st|nd|rd|th)?[\s-]*{_UNITS}\b"  # 12.5 s, three seconds
    rf"|\b(?:seconds?|minutes?|frames?|timestamps?|time|t)\s*(?:=|:|#|number|no\.?)?\s*{_DIGITS}\b"  # frame 12, t=3
    rf"|\b(?:from|between|at)\s+{_DIGITS}\s*(?:to|and|until|till|-|\u2013|\Z|[?!,]|\.(?!\d))"  # from 3 to 8, at 3?
    rf"|\bat\s+(?:the\s+)?(?:second|minute|frame|timestamp)\s+(?:number\s+)?(?:{_WORDS})\b"  # at frame thirty
    rf"|\b(?:{_ORDINAL})[\s-]+(?:seconds?|minutes?|frames?|hours?)\b"  # the thirty-first second
    r"|\b(?:half|quarter)[\s-]+(?:of[\s-]+)?(?:an?[\s-]+)?(?:minute|hour|second)s?\b"  # half a minute
    rf"|\b\d+\s*m(?:in)?\s*{_DIGITS}\s*s\b"  # 1m5s
    rf"|\b{_DIGITS}\s*(?:%|per\s?cent)\s+(?:mark|point|into|through|of\s+the\s+(?:video|clip|way|time))\b"  # 75% mark
    r"|\b(?:half-?way|(?:a|one|two|three)[\s-]+(?:thirds?|quarters?|fourths?|fifths?)(?:\s+of\s+the\s+way)?)"
    r"\s+(?:into|through)\s+the\s+(?:video|clip|footage|recording)\b",  # one third into the clip
    re.IGNORECASE,
)
_WHOLE = rf"(?:{'|'.join(_TENS)})(?:[\s-](?:{'|'.join(_ONES)}))?|{'|'.join(_TEENS + _ONES)}"  # twenty one, twelve
_NUMBER = rf"(?:{_DIGITS}|{_WHOLE})(?!\w|[.,]\d)"
# What follows a number that counts nothing: punctuation, the end, or a word that is no noun ("2 onions" are counted).
_ALONE = (
    r"(?=\s*(?:\Z|(?!-[A-Za-z])[^\w\s]|(?:in|of|to|and|or|on|by|for|from|into|until|till|as|while|when|where|then|with|the"
    r"|is|are|does|do|did|has|he|she|it|they|mark|point|range|interval|window|segment|section|span|stretch|period|onwards?)\b))"
)
_PAIR = re.compile(
    rf"(?P<lead>\b(?:from|between)\s+)?(?<![\w.])(?P<first>{_NUMBER})"
    rf"\s*(?P<join>-|\u2013|\u2014|\.\.+|&|,|/|\b(?:up\s+to|to|and|until|till|through)\b)\s*(?P<last>{_NUMBER}){_ALONE}",
    re.IGNORECASE,
)
_PLACED = re.compile(
    r"(?:\b(?:at|after|before|until|till|by|around|about|near|in|from|since|past|between|roughly|approximately|circa|exactly"
    r"|nearly|almost|start(?:s|ing)|end(?:s|ing)|begin(?:s|ning))\s+(?:the\s+)?|[\[(~@\u2248]\s*)"
    rf"(?P<time>{_NUMBER}){_ALONE}",
    re.IGNORECASE,
)
# Numbers below it that are written in words mostly count, or belong to a phrase: "one by one", "cut in two".
_SMALL = 13
_WHEN = re.compile(
    r"\bwhen\b|\b(?:what|which)\s+(?:time|point|moment|part|parts|segment|interval|stretch|period)\b", re.IGNORECASE
)
_WHERE = re.compile(r"\bwhere\b|\blocat\w*|\bposition\b|\b(?:what|which)\s+(?:place|area|region)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Refused:
    """Why a question cannot be used: ``kind`` for counting, ``reason`` for people and for the model."""

    kind: str
    reason: str


def read_answer(
    text: str, kinds: Sequence[Kind], start_s: float, end_s: float
) -> tuple[dict[Kind, str], dict[Kind, Refused]]:
    """The questions of an answer that follow the rules, and why each other one of ``kinds`` does not. Never raises."""
    row = answer_object(text)
    if isinstance(row, str):
        return {}, {kind: Refused("not the form asked for", row) for kind in kinds}
    good: dict[Kind, str] = {}
    refused: dict[Kind, Refused] = {}
    for kind in kinds:
        question = row.get(kind)
        found = _broken_rule(kind, question, start_s, end_s)
        if found is not None:
            refused[kind] = found
        else:
            good[kind] = " ".join(str(question).split())
    return good, refused


def answer_object(text: str) -> dict[str, object] | str:
    """The JSON object that an answer is, alone or in one code fence; or, in words, what it is instead."""
    try:
        row = parse_json(unfenced(text))
    except SampleError as error:
        return f"the answer is {error}"
    return row if isinstance(row, dict) else "the answer is not a JSON object."


def _broken_rule(kind: Kind, question: object, start_s: float, end_s: float) -> Refused | None:
    if not isinstance(question, str) or not question.strip():
        return Refused("not the form asked for", f"the answer has no text under {kind!r}.")
    if len(question) > MAX_QUESTION:
        return Refused("too long", f"the question has {len(question)} characters; at most {MAX_QUESTION} are taken.")
    if kind in ("when", "combined"):
        time = leaked_time(question, start_s, end_s)
        if time is not None:
            return Refused("leaks a time", f"{time!r} is a time, and the question must say none.")
        if not _WHEN.search(question):
            return Refused("does not ask when", "the question does not ask when, or in which part of the video.")
    if kind == "where":
        lacking = [time for time in (f"{start_s:.1f}", f"{end_s:.1f}") if not _says(question, float(time))]
        if lacking:
            return Refused("lacks its time range", f"the question does not say {' and '.join(lacking)}.")
    if kind in ("where", "combined") and not _WHERE.search(question):
        return Refused("does not ask where", "the question does not ask where the person is.")
    return None


def leaked_time(question: str, start_s: float, end_s: float) -> str | None:
    """A time that ``question`` says, or ``None``: a number with a unit, a clock time, a frame number, a range, one of
    the shot's own times with a decimal, or one of them in whole seconds behind "at", "after" and the like.

    Numbers that count something ("2 to 3 people", "in 31 pieces") are no times.
    """
    found = _TIME.search(question)
    if found is not None:
        return found[0].strip()
    for number in re.findall(r"\d+\.\d+", question):
        if any(abs(float(number) - own_s) < 0.05 for own_s in (start_s, end_s)):
            return str(number)
    return next(_bare_times(question, start_s, end_s), None)


def _bare_times(question: str, start_s: float, end_s: float) -> Iterator[str]:
    """Ranges, and the shot's own times in whole seconds, of numbers that stand alone."""
    for found in _PAIR.finditer(question):
        first, last = found["first"], found["last"]
        of_shot = abs(_value(first) - start_s) < 1 and abs(_value(last) - end_s) < 1
        in_digits = first[0].isdigit() and last[0].isdigit() and found["join"].lower() not in ("and", "&", ",", "/")
        if of_shot or in_digits or (found["lead"] and found["join"] != ","):
            yield found[0].strip()
    for found in _PLACED.finditer(question):
        time = found["time"]
        if (time[0].isdigit() or _value(time) >= _SMALL) and any(abs(_value(time) - s) < 1 for s in (start_s, end_s)):
            yield found[0].strip()


def _value(number: str) -> float:
    if number[0].isdigit():
        return float(number.replace(",", "."))
    return float(sum(_VALUES[word] for word in re.split(r"[\s-]", number.lower())))


def _says(question: str, time_s: float) -> bool:
    return any(abs(float(number) - time_s) < 0.05 for number in re.findall(r"\d+(?:\.\d+)?", question))
