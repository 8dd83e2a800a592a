from __future__ import annotations

from pathlib import Path

import pytest

from timeexpert.evaluation.oracle import run_family
from timeexpert.evaluation.oracles.trace_time_tokens import figures
from timeexpert.tokenization import NumberFormat, NumberFormatError


def test_traces_tokens_are_reproduced(shared: Path):
    rows = list(run_family(shared / "oracles", "trace_time_tokens"))
    assert [row.state for row in rows] == ["agreed"] * len(rows) and len(rows) >= 2


def test_where_trace_and_our_format_part():
    def time_ids(value: float) -> list[int]:
        return figures("time", {"times": [[value]]}, {})[0][:-1]

    symbols = "  0123456789."
    form = NumberFormat(4, 1)
    assert "".join(symbols[i] for i in time_ids(12.34)) == "0012.3" == "".join(form.encode(12.34))
    assert "".join(symbols[i] for i in time_ids(0.35)) == "0000.3"  # the float is a hair below 0.35
    assert "".join(form.encode(0.35)) == "0000.4"
    assert "".join(symbols[i] for i in time_ids(12345.6)) == "12345.6"  # seven symbols where a time has six
    for value in (12345.6, -1.0):
        with pytest.raises(NumberFormatError):
            form.encode(value)
