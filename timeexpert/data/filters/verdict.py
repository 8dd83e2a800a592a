"""What a filter says about a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from timeexpert.data.records import Sample


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``fault`` names the kind of fault, or is ``None`` for a sample that passes.

    ``value`` is what was measured and ``threshold`` what it was held against, in the unit that the filter's docs name.
    ``measured`` is false where the filter could see nothing, which passes and is counted apart. ``detail`` holds more
    fields for the row of a dropped sample.
    """

    fault: str | None = None
    reason: str = ""
    value: float | None = None
    threshold: float | None = None
    measured: bool = True
    detail: dict[str, Any] = field(default_factory=dict)


PASS = Verdict()


def unseen(why: str) -> Verdict:
    """A pass without a measurement. ``why`` is counted in the report."""
    return Verdict(measured=False, reason=why)


class Filter(Protocol):
    """One stage: a verdict for each sample, in order."""

    name: str

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Judge samples of any videos. Raises ``UserError`` only where nothing can be judged at all."""
        ...
