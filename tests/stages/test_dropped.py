"""Samples that cannot be read: counted, named, and told once, also by a run that was cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.stages.test_resume import figures, wait_for_saves
from tests.tiny import STAGE, TIMED, config_tree, rows, run_config, train


def test_samples_that_cannot_be_read_are_counted_and_named_and_training_goes_on(
    tiny_data: Path, tmp_path: Path, stopped_config: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    train(run_config(tiny_data, **stopped_config), run)
    dropped = rows(run / "dropped.jsonl")
    assert {row["sample"] for row in dropped} == {"empty/0"}
    assert {row["reason"] for row in dropped} == {"empty.mp4: the file is empty (0 bytes). Download or copy it again."}
    counts = [row["skipped"] for row in rows(run / "metrics.jsonl", "train")]
    assert counts == sorted(counts) and counts[-1] == len(dropped)
    assert counts[-1] == 2  # 4 videos, 2 per batch, 4 steps: 2 epochs, each meets the empty one once
    read = sum(row["samples"] for row in rows(run / "metrics.jsonl", "train"))
    assert read == 8 - 2  # one question per video, and nothing in place of the lost ones


def test_rows_of_dropped_jsonl_are_not_written_twice_after_a_kill(
    tiny_data: Path, tmp_path: Path, stopped_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from timeexpert.stages.loop import StageRun, Stopped

    train(run_config(tiny_data, **stopped_config), tmp_path / "unbroken")
    record = StageRun._record

    def stop_at_3(self: StageRun, *args: Any) -> None:
        record(self, *args)
        if self.step == 3:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "_record", stop_at_3)
        with pytest.raises(Stopped):
            train(run_config(tiny_data, **stopped_config), tmp_path / "run")
    wait_for_saves()
    train(run_config(tiny_data, **stopped_config), tmp_path / "run")
    assert rows(tmp_path / "run" / "dropped.jsonl") == rows(tmp_path / "unbroken" / "dropped.jsonl")
    assert figures(tmp_path / "run") == figures(tmp_path / "unbroken")


@pytest.fixture
def stopped_config(tiny_data: Path, with_empty_video: Path) -> dict[str, Any]:
    """One stage of four steps, a checkpoint after the second, on videos of which one is an empty file."""
    tree = config_tree(tiny_data)
    stage = {**STAGE, "name": "sft", "kind": "sft", "steps": 4, "tasks": TIMED, "num_frames": [2]}
    data = {"root": str(tiny_data), "train": {"videos": str(with_empty_video)}, "eval": None}
    return {"stages": [stage], "data": data, "train": {**tree["train"], "checkpoint_every": 2}}
