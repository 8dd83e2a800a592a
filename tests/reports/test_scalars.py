from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import rows
from timeexpert.reports import ReportError
from timeexpert.reports.scalars import expert_scalars

from .fake_run import experts_row

RECORD = {
    "kind": "experts",
    "stage": "sft",
    "step": 4,
    "global_step": 4,
    "token_types": ["text", "time", "score"],
    "layers": [
        {
            "layer": 0,
            "active": [True, True, True],
            "rates": [[0.5, 0.5, 0.0], [1.0, 0.5, 0.0], [0.0, 0.0, 0.0]],
            "load": [0.6, 0.4, 0.0],
            "mean_k": 1.25,
            "fallback": 0.1,
            "flipped": 0.01,
            "tokens": [10, 10, 0],
            "fallback_by_type": [0.2, 0.0, 0.0],
        },
        {
            "layer": 1,
            "active": [True, False, False],
            "rates": [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
            "load": [1.0, 0.0, 0.0],
            "mean_k": 1.0,
            "fallback": 0.0,
            "flipped": 0.0,
            "tokens": [10, 10, 0],
            "fallback_by_type": [0.0, 0.0, 0.0],
        },
    ],
}


def test_scalars_of_a_record_by_layer_and_by_token_type():
    scalars = expert_scalars(RECORD)
    by_hand = {
        "experts/mean_k/0": 1.25,
        "experts/mean_k/1": 1.0,
        "experts/mean_k/mean": 1.125,
        "experts/fallback/0": 0.1,
        "experts/fallback/mean": 0.05,
        "experts/flipped/0": 0.01,
        "experts/active/0": 3.0,
        "experts/active/1": 1.0,
        "experts/dead/0": 1.0,  # expert 2 has no load
        "experts/dead/1": 0.0,
        "experts/entropy/1": 1.0,
        "experts_by_type/mean_k/text": 1.0,
        "experts_by_type/mean_k/time": 1.25,
        "experts_by_type/fallback/text": 0.1,
    }
    assert {tag: scalars[tag] for tag in by_hand} == pytest.approx(by_hand)
    assert not [tag for tag in scalars if "score" in tag]  # no such token was seen


def test_a_figure_that_a_record_does_not_have_gets_no_tag():
    row = experts_row("sft", 0, layers=1)
    for key in ("flipped", "fallback_by_type", "tokens"):
        del row["layers"][0][key]
    row["layers"][0]["fallback"] = None
    tags = expert_scalars(row)
    assert not [tag for tag in tags if "flipped" in tag or "fallback" in tag]
    assert {"experts/mean_k/0", "experts/entropy/0", "experts_by_type/mean_k/time"} <= tags.keys()


def test_every_record_of_a_real_run_has_scalars(tiny_run: Path):
    for row in rows(tiny_run / "metrics.jsonl", "experts"):
        scalars = expert_scalars(row)
        assert scalars["experts/mean_k/0"] == row["layers"][0]["mean_k"]
        assert {tag for tag in scalars if tag.startswith("experts/mean_k/")} == {
            "experts/mean_k/0",
            "experts/mean_k/1",
            "experts/mean_k/mean",
        }


def test_a_record_that_is_none_is_refused():
    with pytest.raises(ReportError, match=r"token_types \(None\) must be a list of names."):
        expert_scalars({"kind": "train"})
