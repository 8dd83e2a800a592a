from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from timeexpert.reports import ReportError
from timeexpert.reports.expert_sources import read_experts

from .fake_run import experts_row, make_run, write_lines
from .weights import expert_tensors, write_model


def test_a_run_is_read_with_its_newest_weights(tiny_run: Path):
    report, weights = read_experts(tiny_run)
    assert weights is not None and report.notes == []
    assert (weights.folder, weights.stage, weights.global_step) == ("sft", "sft", 12)
    assert len(weights.similarity) == 2 and report.last.global_step == 12
    assert read_experts(tiny_run, "backbone")[1].folder == "backbone"


def test_a_model_of_a_run_stands_for_the_run_up_to_its_step(tiny_run: Path):
    report, weights = read_experts(tiny_run / "models" / "backbone")
    assert report.run == "tiny" and report.last.global_step == 4
    assert weights is not None and weights.folder == "backbone"


def test_a_model_folder_with_its_log_is_enough(tiny_run: Path, tmp_path: Path):
    folder = tmp_path / "shipped"
    shutil.copytree(tiny_run / "models" / "sft", folder)
    shutil.copy(tiny_run / "metrics.jsonl", folder)
    report, weights = read_experts(folder)
    assert report.run == "shipped" and weights is not None and weights.folder == "shipped"
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(ReportError, match=r"shipped: a model folder without metrics.jsonl, and none in .*Give the run"):
        read_experts(folder)


def test_damaged_weights_are_a_note_and_not_the_end(tmp_path: Path):
    run = make_run(tmp_path / "run")
    folder = write_model(run / "models" / "sft", expert_tensors(2, 8))
    (folder / "model.safetensors").write_bytes(b"broken")
    report, weights = read_experts(run)
    assert weights is None and len(report.snapshots) == 10
    [note] = report.notes
    assert "similarity of experts and savings are left out: " in note and "model.safetensors: cannot be read" in note


@pytest.mark.parametrize(
    ("slots", "moe", "words"),
    [
        (8, {"router": "topk"}, "router topk: every token gets its 2 best experts. There are no thresholds"),
        (7, {}, "the records have 8 expert slots per layer and the weights of sft have 7"),
    ],
)
def test_what_a_reader_should_know_is_said(tmp_path: Path, slots: int, moe: dict[str, str], words: str):
    run = make_run(tmp_path / "run")
    write_model(run / "models" / "sft", expert_tensors(2, slots), **moe)
    [note] = read_experts(run)[0].notes
    assert words in note


def test_a_run_of_one_expert_per_layer_says_that_evenness_means_nothing(tmp_path: Path):
    row = experts_row("sft", 0, layers=1)
    row["layers"][0] |= {"active": [True], "load": [1.0], "rates": [[1.0]] * 6, "mean_k": 1.0}
    write_lines(tmp_path / "run" / "metrics.jsonl", [row])
    write_model(tmp_path / "run" / "models" / "sft", expert_tensors(1, 1), top_k=1)
    report, weights = read_experts(tmp_path / "run")
    assert any("each layer has one expert" in note for note in report.notes)
    assert weights is not None and weights.similarity[0].nearest(weights.similarity[0].gate) == []


def test_paths_that_hold_no_run_are_refused(tmp_path: Path):
    with pytest.raises(ReportError, match="nowhere: no such run folder"):
        read_experts(tmp_path / "nowhere")
    write_lines(tmp_path / "metrics.jsonl", [])
    with pytest.raises(ReportError, match="no readable expert records; training writes one every train.experts_every"):
        read_experts(tmp_path)
