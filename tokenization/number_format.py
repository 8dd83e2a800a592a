"""Fixed-width decimal notation for times and scores (TimeExpert supplement 3.1; TRACE's time tokens)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from math import isfinite

from timeexpert.errors import UserError

DIGITS = tuple("0123456789")
POINT = "."


class NumberFormatError(UserError):
    """A number that the format cannot write, or symbols that are not a number of the format."""


@dataclass(frozen=True)
class NumberFormat:
    """``int_digits`` digits, a point, ``frac_digits`` digits: 12.34 in (4, 1) is ``0012.3``.

    The paper's text and TRACE write times as (4, 1); the supplement's example is (3, 2). Both take six
    symbols. Values are rounded half to even on their decimal notation (0.25 -> 0.2). What does not fit
    (negative, NaN, infinite, too large after rounding) is refused, never clamped.
    """

    int_digits: int = 4
    frac_digits: int = 1

    def __post_init__(self) -> None:
        if self.int_digits < 1:
            raise NumberFormatError(f"int_digits ({self.int_digits}) must be 1 or more.")
        if self.frac_digits < 0:
            raise NumberFormatError(f"frac_digits ({self.frac_digits}) must be 0 or more.")
        if self.int_digits + self.frac_digits > 15:
            raise NumberFormatError(
                f"int_digits + frac_digits ({self.int_digits + self.frac_digits}) must be 15 or less: "
                "a float64 does not hold more digits."
            )

    @property
    def width(self) -> int:
        """Symbols per number: 6 for (4, 1)."""
        return self.int_digits + (1 + self.frac_digits if self.frac_digits else 0)

    @property
    def resolution(self) -> float:
        """The smallest step between two numbers: 0.1 for (4, 1)."""
        return float(Decimal(1).scaleb(-self.frac_digits))

    @property
    def max_value(self) -> float:
        """The largest number that can be written: 9999.9 for (4, 1)."""
        return float(Decimal(10) ** self.int_digits - Decimal(1).scaleb(-self.frac_digits))

    def quantize(self, value: float) -> Decimal:
        """``value`` rounded to the format, or :class:`NumberFormatError` where it does not fit."""
        number = float(value)
        if not isfinite(number):
            raise NumberFormatError(f"{value!r} is not a finite number.")
        if number < 0:
            raise NumberFormatError(f"{value!r} is negative; numbers start at 0.")
        limit = Decimal(10) ** self.int_digits
        if number < limit:  # far larger numbers do not fit into Decimal's own precision
            exact = Decimal(repr(abs(number)))  # abs: -0.0 is 0
            rounded = exact.quantize(Decimal(1).scaleb(-self.frac_digits), rounding=ROUND_HALF_EVEN)
            if rounded < limit:
                return rounded
        raise NumberFormatError(
            f"{value!r} needs more than {self.int_digits} digits before the point; the largest number of "
            f"format ({self.int_digits}, {self.frac_digits}) is {self.max_value}. Use more int_digits."
        )

    def fits(self, value: float) -> bool:
        """Whether :meth:`encode` accepts ``value``."""
        try:
            self.quantize(value)
        except NumberFormatError:
            return False
        return True

    def encode(self, value: float) -> tuple[str, ...]:
        """The symbols of ``value``: 12.34 -> ('0', '0', '1', '2', '.', '3')."""
        text = f"{self.quantize(value):0{self.width}.{self.frac_digits}f}"
        return tuple(text)

    def decode(self, symbols: Sequence[str]) -> float:
        """The number that ``symbols`` write; :class:`NumberFormatError` where they are not of this format."""
        if len(symbols) != self.width:
            raise NumberFormatError(f"{len(symbols)} symbols where a number has {self.width}.")
        for place, symbol in enumerate(symbols):
            if symbol not in self.allowed(place):
                raise NumberFormatError(f"{symbol!r} at place {place} of {''.join(symbols)!r}.")
        return float("".join(symbols))

    def allowed(self, place: int) -> tuple[str, ...]:
        """The symbols that may stand at ``place`` (0-based): the point at ``int_digits``, else a digit."""
        return (POINT,) if self.frac_digits and place == self.int_digits else DIGITS
