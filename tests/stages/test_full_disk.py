"""A disk without room is one clear line, and costs nothing that was written before."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.test_resume import assert_same_run
from tests.tiny import command, run_config, train, write_config

FULL_AT = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes}, {bytes}))
"""


def test_a_full_disk_is_one_clear_line_and_the_run_continues_once_there_is_room(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    config, run = write_config(tiny_data, tmp_path / "tiny.yaml"), tmp_path / "run"
    train(run_config(tiny_data), run, only=["backbone"])
    model = (run / "models" / "backbone" / "model.safetensors").read_bytes()
    process = command("train", config, "--out", run, "--device", "cpu", code=FULL_AT.format(bytes=len(model) // 2))
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 2, said
    assert "Traceback" not in said
    assert "sft-0000003: cannot be saved: " in said and "File too large" in said
    assert "Earlier checkpoints are untouched; free some space" in said
    assert (run / "models" / "backbone" / "model.safetensors").read_bytes() == model
    assert list((run / "checkpoints").iterdir()) == []  # nothing half-written is left
    train(run_config(tiny_data), run)
    assert_same_run(run, tiny_run)


def test_a_full_disk_while_writing_metrics_is_a_clear_error_too(tiny_data: Path, tmp_path: Path) -> None:
    from timeexpert.stages.run_folder import RunError

    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"run: cannot be written: No space left on device. Free some space and run"):
        train(run_config(tiny_data), run)
