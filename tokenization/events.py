"""Events: what every part of TimeExpert says about time, and how answers are written as tokens.

An answer is a causal event sequence (paper 3.1): per event ``<sync>`` times scores text, then the end of
sequence. Times and scores are number lists that end with their own ``<sync>`` and may be empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from typing import Any, Protocol

from timeexpert.errors import UserError

from .number_format import NumberFormat, NumberFormatError
from .vocabulary import SYNC, IdSpace, NumericVocab, TokenType

MAX_TIMES, MAX_SCORES = 2, 1


class EventError(UserError):
    """An event that cannot be: end before start, NaN, a time without its partner, two scores in an answer."""


@dataclass(frozen=True)
class Event:
    """Something that happens from ``start_s`` to ``end_s`` (seconds from the first frame).

    A point in time has ``end_s == start_s``; an answer without time (general questions) has both ``None``.
    ``scores`` holds saliency scores (usually none or one).
    """

    start_s: float | None = None
    end_s: float | None = None
    scores: tuple[float, ...] = ()
    text: str = ""

    def __post_init__(self) -> None:
        if (self.start_s is None) != (self.end_s is None):
            raise EventError(f"start_s ({self.start_s}) and end_s ({self.end_s}) must both be given or both be absent.")
        for name in ("start_s", "end_s"):
            value = getattr(self, name)
            if value is None:
                continue
            if not _is_finite(value):
                raise EventError(f"{name} ({value!r}) must be a finite number of seconds.")
            if value < 0:
                raise EventError(f"{name} ({value!r}) must not be negative.")
            object.__setattr__(self, name, float(value))
        if self.start_s is not None and self.end_s is not None and self.start_s > self.end_s:
            raise EventError(f"start_s ({self.start_s}) must not be after end_s ({self.end_s}).")
        for score in self.scores:
            if not _is_finite(score):
                raise EventError(f"scores: {score!r} must be a finite number.")
        object.__setattr__(self, "scores", tuple(float(s) for s in self.scores))
        if not isinstance(self.text, str):
            raise EventError(f"text ({self.text!r}) must be a string.")

    @property
    def times_s(self) -> tuple[float, ...]:
        """No time, one (a point) or two (start, end)."""
        if self.start_s is None or self.end_s is None:
            return ()
        return (self.start_s,) if self.start_s == self.end_s else (self.start_s, self.end_s)

    def to_json(self) -> dict[str, Any]:
        """A JSON object: start_s and end_s in seconds or null, scores, text."""
        return {"start_s": self.start_s, "end_s": self.end_s, "scores": list(self.scores), "text": self.text}

    @classmethod
    def from_json(cls, row: Any) -> Event:
        """The event of :meth:`to_json`. Raises :class:`EventError` on unknown fields and bad values."""
        if not isinstance(row, dict):
            raise EventError(f"an event must be an object with start_s, end_s, scores, text, not {row!r}.")
        unknown = sorted(set(row) - {"start_s", "end_s", "scores", "text"})
        if unknown:
            raise EventError(f"unknown field {unknown[0]!r}; an event has start_s, end_s, scores, text.")
        scores = [] if row.get("scores") is None else row["scores"]
        if not isinstance(scores, (list, tuple)):
            raise EventError(f"scores ({scores!r}) must be a list of numbers.")
        return cls(row.get("start_s"), row.get("end_s"), tuple(scores), row.get("text", ""))


def _is_finite(value: Any) -> bool:
    """Whether ``value`` is a number that a float64 holds (not bool, NaN, infinite or an int past 1e308)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return isfinite(value)
    except OverflowError:
        return False


@dataclass(frozen=True)
class EventSequence:
    """The events of one answer, in the order in which they are written."""

    events: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "events", tuple(self.events))

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, i: int) -> Event:
        return self.events[i]

    @property
    def segments_s(self) -> list[tuple[float, float]]:
        """(start, end) in seconds of each event that has a time."""
        return [(e.start_s, e.end_s) for e in self.events if e.start_s is not None and e.end_s is not None]

    def to_json(self) -> list[dict[str, Any]]:
        """A list of :meth:`Event.to_json`."""
        return [e.to_json() for e in self.events]

    @classmethod
    def from_json(cls, rows: Any) -> EventSequence:
        """The sequence of :meth:`to_json`. Raises :class:`EventError`."""
        if not isinstance(rows, list):
            raise EventError(f"events must be a list, not {rows!r}.")
        return cls(tuple(Event.from_json(row) for row in rows))


class TextCodec(Protocol):
    """What events need of a text tokenizer (see :mod:`timeexpert.tokenization.text`)."""

    vocab_size: int
    eos_id: int
    special_ids: frozenset[int]  # control pieces, the end of sequence among them: never inside an event's text

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class Problem:
    """Something in a generated answer that is not an event: where (token position) and why."""

    position: int
    reason: str


@dataclass(frozen=True)
class EventCodec:
    """Writes events as token ids and reads them back, with a report of what did not parse."""

    text: TextCodec
    time_format: NumberFormat = field(default_factory=NumberFormat)
    score_format: NumberFormat = field(default_factory=lambda: NumberFormat(1, 1))

    @property
    def ids(self) -> IdSpace:
        """The id space of this text vocabulary."""
        return IdSpace(self.text.vocab_size)

    @property
    def times(self) -> NumericVocab:
        """The 13 time symbols."""
        return NumericVocab(self.time_format)

    @property
    def scores(self) -> NumericVocab:
        """The 13 score symbols."""
        return NumericVocab(self.score_format)

    def encode_event(self, event: Event, *, pair: bool = False) -> list[int]:
        """Ids of one event: ``<sync>`` times scores text. ``pair`` writes a point as start and end, too.

        Raises :class:`NumberFormatError` for a number outside its format, :class:`EventError` for a second score.
        """
        if len(event.scores) > MAX_SCORES:
            raise EventError(
                f"scores ({list(event.scores)}) of an event in an answer: at most {MAX_SCORES}, because the decoder "
                "reads no more. Average them, or keep the others in the sample's meta."
            )
        ids = self.ids
        times = event.times_s
        if pair and len(times) == 1:
            times *= 2
        elif (
            not pair and len(times) == 2 and self.time_format.quantize(times[0]) == self.time_format.quantize(times[1])
        ):
            times = times[:1]  # shorter than the format's step: a point
        out = [ids.sync]
        out += [ids.time + i for i in self.times.encode_list(times)]
        out += [ids.score + i for i in self.scores.encode_list(event.scores)]
        return out + self.text.encode(event.text)

    def encode(self, events: Iterable[Event], *, end: bool = True, pairs: bool = False) -> list[int]:
        """Ids of a whole answer, closed by the end of sequence unless ``end`` is false.

        ``pairs``: every time is written as start and end, also where both are the same: the form of tasks whose
        answers are segments, whatever the frames let one see of them.
        """
        out = [i for event in events for i in self.encode_event(event, pair=pairs)]
        return [*out, self.text.eos_id] if end else out

    def encode_frame_time(self, time_s: float) -> list[int]:
        """The frame-time ids of one sampled frame: ``time_format.width`` of them (paper: 6)."""
        return [self.ids.frame_time + i for i in self.times.encode_number(time_s)]

    def transcript(self, token_ids: Iterable[int]) -> str:
        """An answer as it was written, up to its end: ``<sync>0012.3<sep>0015.6<sync><sync>a dog jumps``.

        Symbols stand by their names and text as text, so what did not parse can be read. Never raises.
        """
        parts: list[str] = []
        run: list[int] = []
        ids = self.ids
        for token in [*token_ids, self.text.eos_id]:
            if 0 <= token < self.text.vocab_size and token != self.text.eos_id:
                run.append(token)
                continue
            if run:
                parts.append(self.text.decode(run))
                run = []
            if token == self.text.eos_id:
                break
            first = ids.score if token >= ids.score else ids.time
            symbol = token - first
            named = 0 <= symbol < self.times.size
            parts.append(SYNC if token == ids.sync else self.times.symbols[symbol] if named else f"<{token}>")
        return "".join(parts)

    def decode(self, token_ids: Iterable[int]) -> tuple[EventSequence, list[Problem]]:
        """Events of a generated answer and what did not parse. Never raises on any list of ints.

        Reading stops at the end of sequence. An event with a malformed number, reversed times or a token of
        the wrong kind is left out and reported; the next ``<sync>`` starts afresh.
        """
        tokens = [int(t) for t in token_ids]
        ids, problems = self.ids, []
        if self.text.eos_id in tokens:
            tokens = tokens[: tokens.index(self.text.eos_id)]
        else:
            problems.append(Problem(len(tokens), "the answer has no end of sequence"))
        starts = [i for i, t in enumerate(tokens) if t == ids.sync]
        head = starts[0] if starts else len(tokens)
        if head > 0:
            problems.append(Problem(0, "tokens before the first <sync>"))
        elif not starts:
            problems.append(Problem(0, "an empty answer"))
        events = []
        for begin, stop in pairwise([*starts, len(tokens)]):
            try:
                events.append(self._decode_event(tokens[begin:stop]))
            except _Malformed as error:
                problems.append(Problem(begin + error.offset, error.reason))
        return EventSequence(tuple(events)), problems

    def _decode_event(self, tokens: list[int]) -> Event:
        times, offset = self._decode_list(tokens, 1, TokenType.TIME, self.times, MAX_TIMES)
        scores, offset = self._decode_list(tokens, offset, TokenType.SCORE, self.scores, MAX_SCORES)
        for i in range(offset, len(tokens)):
            if not 0 <= tokens[i] < self.text.vocab_size or tokens[i] in self.text.special_ids:
                raise _Malformed(i, f"token {tokens[i]} inside the text of an event")
        if len(times) == 2 and times[0] > times[1]:
            raise _Malformed(1, f"start {times[0]} after end {times[1]}")
        text = self.text.decode(tokens[offset:])
        return Event(times[0], times[-1], tuple(scores), text) if times else Event(None, None, tuple(scores), text)

    def _decode_list(
        self, tokens: list[int], offset: int, kind: TokenType, vocab: NumericVocab, most: int
    ) -> tuple[list[float], int]:
        start = self.ids.starts[kind]
        local: list[int] = []
        i = offset
        while True:
            if i >= len(tokens):
                raise _Malformed(i, f"a {kind.name.lower()} list is not closed")
            symbol = tokens[i] - start
            if not 0 <= symbol < vocab.size:
                raise _Malformed(i, f"token {tokens[i]} inside a {kind.name.lower()} list")
            i += 1
            if symbol == vocab.sync:
                break
            local.append(symbol)
        if not local:
            return [], i
        values: list[float] = []
        chunk: list[int] = []
        for symbol in [*local, vocab.sep]:
            if symbol != vocab.sep:
                chunk.append(symbol)
                continue
            try:
                values.append(vocab.decode_number(chunk))
            except NumberFormatError as error:
                raise _Malformed(offset, f"a {kind.name.lower()} is not a number: {error}") from None
            chunk = []
        if len(values) > most:
            raise _Malformed(offset, f"{len(values)} {kind.name.lower()}s in one event; at most {most}")
        return values, i


class _Malformed(Exception):
    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset, self.reason = offset, reason
