"""The decoding grammar: which token may come next, so that every generated answer parses.

``<sync>`` -> time list -> score list -> text -> ``<sync>`` or end of sequence. Digits and the point stand
where the number format says; an event has at most two times (the second not before the first) and one
score; the number of events is capped; and the answer always closes within its token budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .events import MAX_SCORES, MAX_TIMES, EventCodec
from .number_format import NumberFormat
from .vocabulary import NumericVocab, TokenType


@dataclass(frozen=True)
class GrammarLimits:
    """What one answer may hold. ``times`` and ``scores`` are the allowed counts per event: (2,) asks for
    segments only, (0, 1, 2) for any. ``max_tokens`` is the budget within which the answer must close."""

    times: tuple[int, ...] = (0, 1, 2)
    scores: tuple[int, ...] = (0, 1)
    max_events: int = 64
    max_tokens: int | None = None
    max_time_s: float | None = None

    def __post_init__(self) -> None:
        for name, most in (("times", MAX_TIMES), ("scores", MAX_SCORES)):
            counts = getattr(self, name)
            if not counts or any(c not in range(most + 1) for c in counts):
                raise ValueError(f"{name} ({counts}) must list counts between 0 and {most}.")
        if self.max_events < 1:
            raise ValueError(f"max_events ({self.max_events}) must be 1 or more.")


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
        self.shortest_event = 1 + self._shortest_list(codec.time_format, self.limits.times)
        self.shortest_event += self._shortest_list(codec.score_format, self.limits.scores)
        if self.limits.max_tokens is not None and self.limits.max_tokens < self.shortest_event + 1:
            raise ValueError(
                f"max_tokens ({self.limits.max_tokens}) is less than the shortest answer "
                f"({self.shortest_event + 1} tokens). Allow more new tokens."
            )

    @staticmethod
    def _shortest_list(number_format: NumberFormat, counts: tuple[int, ...]) -> int:
        return max(1, min(counts) * (number_format.width + 1))

    def allowed(self, answer: Sequence[int]) -> Allowed:
        """What may follow ``answer`` (the generated ids so far, a prefix that this grammar allowed)."""
        ids, eos = self.codec.ids, self.codec.text.eos_id
        if answer and answer[-1] == eos:
            return Allowed((eos,))
        left = None if self.limits.max_tokens is None else self.limits.max_tokens - len(answer)
        begin = next((i for i in range(len(answer) - 1, -1, -1) if answer[i] == ids.sync), None)
        if begin is None:
            return Allowed((ids.sync,))
        events = sum(token == ids.sync for token in answer)
        event = answer[begin + 1 :]
        times = [t - ids.time for t in event if ids.time <= t < ids.score]
        scores = [t - ids.score for t in event if ids.score <= t < ids.output_size]
        if not times or times[-1] != NumericVocab.sync:
            rest = self._shortest_list(self.codec.score_format, self.limits.scores) + 1
            local = self._list(times, self.codec.time_format, self.limits.times, left, rest, TokenType.TIME)
            return Allowed(tuple(ids.time + i for i in local))
        if not scores or scores[-1] != NumericVocab.sync:
            local = self._list(scores, self.codec.score_format, self.limits.scores, left, 1, TokenType.SCORE)
            return Allowed(tuple(ids.score + i for i in local))
        more = events < self.limits.max_events and (left is None or left > self.shortest_event + 1)
        return Allowed((ids.sync, eos) if more else (eos,), text=left is None or left > 1)

    def _list(
        self,
        local: list[int],
        number_format: NumberFormat,
        counts: tuple[int, ...],
        left: int | None,
        rest: int,
        kind: TokenType,
    ) -> list[int]:
        """Local symbols that may follow ``local`` in a number list; ``rest``: tokens owed after the list."""
        numbers: list[list[int]] = [[]]
        for symbol in local:
            if symbol == NumericVocab.sep:
                numbers.append([])
            else:
                numbers[-1].append(symbol)
        current, width = numbers[-1], number_format.width
        if len(current) == width:
            done = len(numbers)
            out = [NumericVocab.sync] if done in counts else []
            again = any(c > done for c in counts)
            # one more number costs <sep>, its symbols and the closing <sync>
            if again and (not out or left is None or left >= width + 2 + rest):
                out.append(NumericVocab.sep)
            return out
        if not current and len(numbers) == 1:  # the list has not begun
            out = [NumericVocab.sync] if 0 in counts else []
            wanted = any(counts)
            if not wanted or (out and left is not None and left < width + 1 + rest):
                return out
            return out + self._digits(number_format, numbers, kind)
        return self._digits(number_format, numbers, kind)

    def _digits(self, number_format: NumberFormat, numbers: list[list[int]], kind: TokenType) -> list[int]:
        current = numbers[-1]
        place = len(current)
        symbols = [NumericVocab.symbols.index(s) for s in number_format.allowed(place)]
        if len(numbers) == 2 and current == numbers[0][:place]:  # so far equal to the start: not below it
            symbols = [s for s in symbols if s >= numbers[0][place]]
        if kind is TokenType.TIME and self.limits.max_time_s is not None:
            cap = NumericVocab(number_format).encode_number(min(self.limits.max_time_s, number_format.max_value))
            if current == cap[:place]:
                symbols = [s for s in symbols if s <= cap[place]]
        return symbols
