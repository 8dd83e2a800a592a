"""The decoding grammar: which token may come next, so that every generated answer parses.

``<sync>`` -> time list -> score list -> text -> ``<sync>`` or end of sequence. Digits and the point stand
where the number format says; an event has at most two times (the second not before the first) and one
score; the number of events is capped; and the answer always closes within its token budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from timeexpert.errors import UserError

from .events import MAX_SCORES, MAX_TIMES, EventCodec
from .number_format import NumberFormat
from .vocabulary import IdSpace, NumericVocab


class GrammarError(UserError):
    """Limits that no answer can keep."""


@dataclass(frozen=True)
class GrammarLimits:
    """What one answer may hold. ``times`` and ``scores`` are the allowed counts per event: (2,) asks for
    segments only, (0, 1, 2) for any. ``max_tokens`` is the budget within which the answer must close, its end
    of sequence included. No time is after ``max_time_s``, rounded as the answers in training are."""

    times: tuple[int, ...] = (0, 1, 2)
    scores: tuple[int, ...] = (0, 1)
    max_events: int = 64
    max_tokens: int | None = None
    max_time_s: float | None = None

    def __post_init__(self) -> None:
        for name, most in (("times", MAX_TIMES), ("scores", MAX_SCORES)):
            counts = getattr(self, name)
            if not counts or any(c not in range(most + 1) for c in counts):
                raise GrammarError(f"{name} ({counts}) must list counts between 0 and {most}.")
        if self.max_events < 1:
            raise GrammarError(f"max_events ({self.max_events}) must be 1 or more.")
        if self.max_time_s is not None and not (isfinite(self.max_time_s) and self.max_time_s >= 0):
            raise GrammarError(f"max_time_s ({self.max_time_s}) must be 0 s or more, or absent.")


@dataclass(frozen=True)
class Allowed:
    """The ids that may come next: single ``ids``, and any plain text token when ``text`` is true."""

    ids: tuple[int, ...] = ()
    text: bool = False


class EventGrammar:
    """Next-token rules as a function of the answer so far, so that beams and batches need no state."""

    def __init__(self, codec: EventCodec, limits: GrammarLimits | None = None) -> None:
        self.codec = codec
        self.limits = limits or GrammarLimits()
        self._shortest_scores = self._shortest_list(codec.score_format, self.limits.scores)
        self.shortest_event = 1 + self._shortest_list(codec.time_format, self.limits.times) + self._shortest_scores
        if self.limits.max_tokens is not None and self.limits.max_tokens < self.shortest_event + 1:
            raise GrammarError(
                f"max_tokens ({self.limits.max_tokens}) is less than the shortest answer "
                f"({self.shortest_event + 1} tokens). Allow more new tokens."
            )
        self._time_cap: list[int] | None = None  # the local ids of max_time_s
        if self.limits.max_time_s is not None:
            self._time_cap = codec.times.encode_number(min(self.limits.max_time_s, codec.time_format.max_value))

    @property
    def max_tokens(self) -> int | None:
        """The budget within which the answer closes."""
        return self.limits.max_tokens

    @property
    def eos_id(self) -> int:
        """What ends an answer."""
        return self.codec.text.eos_id

    @staticmethod
    def _shortest_list(number_format: NumberFormat, counts: tuple[int, ...]) -> int:
        """Tokens of the shortest list: per number its symbols and one ``<sep>`` or the closing ``<sync>``."""
        return max(1, min(counts) * (number_format.width + 1))

    def allowed(self, answer: Sequence[int]) -> Allowed:
        """What may follow ``answer`` (the generated ids so far), in time linear in its length.

        Always at least one id and never an exception, also after ids that this grammar did not allow: a beam
        search keeps such rows, with a probability of zero, while fewer tokens are allowed than it has beams.
        """
        ids, eos = self.codec.ids, self.codec.text.eos_id
        if answer and answer[-1] == eos:
            return Allowed((eos,))
        left = None if self.limits.max_tokens is None else self.limits.max_tokens - len(answer)
        sync = ids.sync
        begin = next((i for i in range(len(answer) - 1, -1, -1) if answer[i] == sync), None)
        if begin is None:
            return Allowed((sync,))
        events = sum(token == sync for token in answer)
        event = answer[begin + 1 :]
        first_time, first_score, end = ids.time, ids.score, ids.output_size
        times = [t - first_time for t in event if first_time <= t < first_score]
        scores = [t - first_score for t in event if first_score <= t < end]
        if not times or times[-1] != NumericVocab.sync:
            spare = None if left is None else left - self._shortest_scores - 1
            local = self._list(times, self.codec.time_format, self.limits.times, spare, self._time_cap)
            return Allowed(tuple(first_time + i for i in local))
        if not scores or scores[-1] != NumericVocab.sync:
            spare = None if left is None else left - 1
            local = self._list(scores, self.codec.score_format, self.limits.scores, spare, None)
            return Allowed(tuple(first_score + i for i in local))
        more = events < self.limits.max_events and (left is None or left >= self.shortest_event + 1)
        return Allowed((sync, eos) if more else (eos,), text=left is None or left > 1)

    def _list(
        self,
        local: list[int],
        number_format: NumberFormat,
        counts: tuple[int, ...],
        spare: int | None,
        cap: list[int] | None,
    ) -> list[int]:
        """Local symbols that may follow ``local`` in a number list.

        ``spare``: tokens that the rest of this list may take. ``cap``: the largest number, as local symbols.
        """
        numbers: list[list[int]] = [[]]
        for symbol in local:
            if symbol == NumericVocab.sep:
                numbers.append([])
            else:
                numbers[-1].append(symbol)
        width, complete = number_format.width, len(numbers[-1]) == number_format.width
        if local and not complete:
            return self._digits(number_format, numbers, cap)
        done = len(numbers) if complete else 0
        out = [NumericVocab.sync] if done in counts else []
        further = [count - done for count in counts if count > done]
        if further:
            # each further number costs its symbols and one <sep> or <sync>; after a number, one <sep> more
            cost = min(further) * (width + 1) + (1 if complete else 0)
            if not out or spare is None or spare >= cost:
                out += [NumericVocab.sep] if complete else self._digits(number_format, numbers, cap)
        return out or [NumericVocab.sync]

    @staticmethod
    def _digits(number_format: NumberFormat, numbers: list[list[int]], cap: list[int] | None) -> list[int]:
        """Local symbols for the next place of the last of ``numbers``, between the one before it and ``cap``."""
        current, place = numbers[-1], len(numbers[-1])
        if place >= number_format.width:
            return [NumericVocab.sync]
        symbols = [NumericVocab.symbols.index(s) for s in number_format.allowed(place)]
        floor = numbers[-2] if len(numbers) > 1 else []
        if place < len(floor) and current == floor[:place]:  # so far equal to the number before: not below it
            symbols = [s for s in symbols if s >= floor[place]]
        if cap is not None and current == cap[:place]:
            symbols = [s for s in symbols if s <= cap[place]]
        return symbols or [NumericVocab.sync]


@dataclass(frozen=True)
class AnyToken:
    """No rule at all: any text piece, ``<sync>`` or number symbol of ``ids``, or the end, up to ``max_tokens``."""

    ids: IdSpace
    eos_id: int
    max_tokens: int

    def allowed(self, answer: Sequence[int]) -> Allowed:
        """What may follow ``answer``."""
        return Allowed((self.eos_id, *range(self.ids.sync, self.ids.output_size)), text=True)


@dataclass(frozen=True)
class TextGrammar:
    """The rule of answers in words: any text piece or the end of sequence, up to ``max_tokens``."""

    eos_id: int
    max_tokens: int

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise GrammarError(f"max_tokens ({self.max_tokens}) must be 1 or more.")

    def allowed(self, answer: Sequence[int]) -> Allowed:
        """What may follow ``answer``."""
        return Allowed((self.eos_id,), text=True)
