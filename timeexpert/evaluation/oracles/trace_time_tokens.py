"""TRACE's time and score tokens through our number format.

Three habits of the reference are not our format's, and are made up for here. It rounds the float (0.35 is 0.3),
ours the written decimal (0.35 is 0.4). It writes a number that is too large with more digits, ours refuses it. It
drops a minus sign, which its width has counted, ours refuses negative numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timeexpert.tokenization import NumberFormat, NumericVocab

from ..oracle import NotCovered

FORMATS = {"time": NumberFormat(4, 1), "score": NumberFormat(1, 1)}  # '0>6.1f' and '0>3.1f'


def figures(reference: str, inputs: Mapping[str, Any], case: Mapping[str, Any]) -> Any:
    """Ids in the 13-symbol vocabulary: numbers joined by ``<sep>``, then ``<sync>``."""
    if reference not in FORMATS:
        raise NotCovered(f"no such reference: {reference}")
    return [_ids(numbers, FORMATS[reference]) for numbers in inputs[f"{reference}s"]]


def _ids(numbers: Sequence[float], form: NumberFormat) -> list[int]:
    ids: list[int] = []
    for number in numbers:
        rounded = f"{number:.{form.frac_digits}f}"
        negative, size = rounded.startswith("-"), rounded.lstrip("-")
        digits = max(form.int_digits - negative, len(size.split(".")[0]))
        ids += [*NumericVocab(NumberFormat(digits, form.frac_digits)).encode_number(float(size)), NumericVocab.sep]
    return [*ids[:-1], NumericVocab.sync]
