"""Reference cases of dense captioning, without what needs Java (``test_meteor.py`` runs them whole)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from timeexpert.evaluation.oracles import dvc_youcook2, soda_and_anet_dvc

ADAPTERS = {"dvc_youcook2": dvc_youcook2, "soda_and_anet_dvc": soda_and_anet_dvc}


def leaves(ours: Any, expected: Any, path: str = "") -> Iterator[tuple[str, float, float]]:
    """Figures that both have; only METEOR's may lack."""
    for key, value in expected.items():
        if key not in ours:
            assert key in ("METEOR", "SODA_c_2", "Para_METEOR"), f"{path}/{key}"
        elif isinstance(value, dict):
            yield from leaves(ours[key], value, f"{path}/{key}")
        else:
            yield f"{path}/{key}", ours[key], value


@pytest.mark.parametrize(("family", "least"), [("dvc_youcook2", 3000), ("soda_and_anet_dvc", 450)])
def test_figures_without_meteor_equal_the_published_scripts(shared: Path, family: str, least: int):
    compared = 0
    for file in sorted((shared / "oracles" / family).glob("*.json")):
        for case in json.loads(file.read_text("utf-8"))["cases"]:
            for reference, expected in case["expected"].items():
                ours = ADAPTERS[family].figures_with(None, reference, case["inputs"])
                if not ours or "raises" in expected or "hangs" in expected:
                    continue
                for path, our_value, their_value in leaves(ours, expected):
                    assert our_value == pytest.approx(their_value, abs=1e-6), (file.stem, case["id"], reference, path)
                    compared += 1
    assert compared >= least
