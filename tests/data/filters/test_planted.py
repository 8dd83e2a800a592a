"""Planted faults, 5% of each in made-up data: at least 90% found, at most 5% false alarms; and the page about it."""

import json
from pathlib import Path

import pytest

from scripts.check_filters import FILTER_OF, Planted, plant, score
from timeexpert.cli import main
from timeexpert.data.scenes import SynthConfig

SMALL = SynthConfig(videos=48, seed=2, min_duration_s=22, max_duration_s=28, frame_rates=(4, 5))


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"), SMALL)


@pytest.fixture(scope="module")
def out(planted, tmp_path_factory) -> Path:
    """Filtered by the command, with the planted faults as labels."""
    folder = tmp_path_factory.mktemp("filtered")
    labels = folder / "labels.jsonl"
    rows = [{"video": v, "cuts_s": c} for v, c in planted.labels.cuts_s.items()]
    rows += [{"id": i, "aligned": a} for i, a in planted.labels.aligned.items()]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["data", "filter", planted.samples, "--media", planted.media, "-o", folder / "out", "--labels", labels]
    assert main([str(word) for word in [*words, "--workers", "1"]]) == 0
    return folder / "out"


@pytest.mark.parametrize("fault", FILTER_OF)
def test_nine_of_ten_planted_faults_are_found_with_few_false_alarms(planted, out, fault):
    (row,) = [row for row in score(planted, out) if row.fault == fault]
    assert row.planted >= 6 and row.good >= 100
    assert row.found >= 0.9 * row.planted
    assert row.false_alarms <= 0.05 * row.good


def test_the_curves_hold_the_labels_and_the_page_shows_them(out):
    cuts = json.loads((out / "curve-cuts.json").read_text())
    assert cuts["labelled"]["at"]["recall"] >= 0.9 and cuts["labelled"]["best"]["false_alarms"] <= 0.05
    recalls = [point["recall"] for point in cuts["labelled"]["points"]]
    assert recalls[0] == max(recalls) and recalls[-1] == min(recalls) < 0.5
    page = (out / "filter.html").read_text()
    assert "<script" not in page and "recall" in page and "abrupt cut" in page and "data:image/jpeg" in page


def test_a_run_with_another_threshold_decodes_nothing_and_drops_more(planted, out, capsys):
    before = json.loads((out / "filter.json").read_text())
    words = [
        "data",
        "filter",
        planted.samples,
        "--media",
        planted.media,
        "-o",
        out,
        "alignment.threshold=0.9",
        "--json",
    ]
    assert main([str(word) for word in words]) == 0
    after = json.loads(capsys.readouterr().out)
    assert after["decoded_now"] == 0
    found = [sum(report["stages"]["alignment"]["faults"].values()) for report in (before, after)]
    assert found[1] > found[0]
