"""The reference cases of the grounding families all agree, or are named as faults with their reason."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from timeexpert.evaluation.oracle import run_family
from timeexpert.evaluation.oracles import etbench_and_multi_segment as etbench

AT_LEAST = {"qvh_moment_retrieval": 100, "qvh_highlight": 40, "highlight_tvsum_youtube": 10, "tvg_recall_at_1": 90}


@pytest.mark.parametrize("family", AT_LEAST)
def test_every_figure_equals_its_reference(shared: Path, family: str) -> None:
    rows = list(run_family(shared / "oracles", family))
    assert [row for row in rows if row.state not in ("agreed", "no figure")] == []
    assert Counter(row.state for row in rows)["agreed"] >= AT_LEAST[family]


def test_every_figure_of_etbench_and_museg_but_meteor_equals_its_reference(shared: Path) -> None:
    (file,) = (shared / "oracles" / "etbench_and_multi_segment").glob("*.json")
    document = json.loads(file.read_text("utf-8"))
    seen = 0
    for case in document["cases"]:
        for reference, expected in case["expected"].items():
            ours = etbench.figures_with(None, reference, case["inputs"], case)
            tolerance = document["tolerance"].get(f"{reference}_abs", document["tolerance"]["default_abs"])
            for name, value in expected.items() if "raises" not in expected else ():
                if name != "METEOR":
                    wanted = float(value)  # "NaN" stands for that float
                    assert ours[name] == pytest.approx(wanted, abs=tolerance, nan_ok=True), (case["id"], name)
                    seen += 1
    assert seen > 300
