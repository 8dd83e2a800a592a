"""The 13 number symbols and the one id space that text, times, scores and frames share.

Layout (paper 3.1 and TRACE's time encoder; V text pieces)::

    [0 .. V)        text
    V               <sync> of the text stream: an event starts
    V+1  .. V+13    time symbols      <sync> <sep> 0-9 .
    V+14 .. V+26    score symbols     <sync> <sep> 0-9 .
    V+27            vision            one visual token of a frame (input only)
    V+28 .. V+40    frame-time        a frame's own timestamp, same symbols (input only)

A token's kind follows from its id, so the gate's task id, the loss's three streams and the decoding
grammar need no side channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from .number_format import DIGITS, POINT, NumberFormat

SYNC, SEP = "<sync>", "<sep>"


class TokenType(IntEnum):
    """What a token is; the row of the gate's per-task activation rates."""

    TEXT = 0
    SYNC = 1
    TIME = 2
    SCORE = 3
    VISION = 4
    FRAME_TIME = 5


class NumericVocab:
    """13 symbols: ``<sync>`` 0, ``<sep>`` 1, digits 2 to 11, ``.`` 12. Numbers in a list are joined by
    ``<sep>`` and the list ends with ``<sync>``; an empty list is ``<sync>`` alone."""

    symbols: tuple[str, ...] = (SYNC, SEP, *DIGITS, POINT)
    size: int = len(symbols)
    sync: int = 0
    sep: int = 1

    def __init__(self, number_format: NumberFormat) -> None:
        self.format = number_format
        self._index = {symbol: i for i, symbol in enumerate(self.symbols)}

    def index(self, symbol: str) -> int:
        """The local id of ``symbol``: '0' -> 2."""
        return self._index[symbol]

    def encode_number(self, value: float) -> list[int]:
        """Local ids of one number, without separator: always ``format.width`` of them."""
        return [self._index[s] for s in self.format.encode(value)]

    def encode_list(self, values: Iterable[float]) -> list[int]:
        """Local ids of a list: numbers joined by ``<sep>``, then ``<sync>``."""
        ids: list[int] = []
        for value in values:
            ids += [*self.encode_number(value), self.sep]
        if ids:
            ids.pop()
        return [*ids, self.sync]

    def decode_number(self, ids: Sequence[int]) -> float:
        """The number that local ids write; raises :class:`NumberFormatError` where they do not."""
        return self.format.decode([self.symbols[i] for i in ids])


@dataclass(frozen=True)
class IdSpace:
    """Where each block of ids starts, for a text vocabulary of ``text_size`` pieces."""

    text_size: int

    @property
    def sync(self) -> int:
        """The text stream's ``<sync>``: an event starts."""
        return self.text_size

    @property
    def time(self) -> int:
        """First id of the 13 time symbols."""
        return self.text_size + 1

    @property
    def score(self) -> int:
        """First id of the 13 score symbols."""
        return self.time + NumericVocab.size

    @property
    def output_size(self) -> int:
        """Number of ids that can be generated: text, sync, time and score."""
        return self.score + NumericVocab.size

    @property
    def vision(self) -> int:
        """The placeholder of one visual token."""
        return self.output_size

    @property
    def frame_time(self) -> int:
        """First id of the 13 frame-time symbols."""
        return self.vision + 1

    @property
    def size(self) -> int:
        """Number of ids in all, input-only ones included."""
        return self.frame_time + NumericVocab.size

    @property
    def starts(self) -> tuple[int, ...]:
        """First id of each :class:`TokenType`, in its order."""
        return (0, self.sync, self.time, self.score, self.vision, self.frame_time)

    def type_of(self, token_id: int) -> TokenType:
        """The kind of one id. Raises ``ValueError`` outside the space."""
        if not 0 <= token_id < self.size:
            raise ValueError(f"token id {token_id} is outside 0..{self.size - 1}.")
        return TokenType(sum(token_id >= start for start in self.starts) - 1)
