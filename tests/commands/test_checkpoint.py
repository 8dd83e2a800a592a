"""``timeexpert checkpoint``: damage is found and named, and the model of a checkpoint of two ranks comes out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks import run_ranks, train_ranks
from tests.stages.test_loop import one_stage
from timeexpert.cli import main
from timeexpert.parallel import ParallelConfig
from timeexpert.predict import load_model, resolve_model


@pytest.fixture(scope="module")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that kept its checkpoints after steps 2 and 4 of five."""
    config = one_stage(tiny_data, None, {"num_experts": 4}, steps=5, accumulate=2)
    config = replace(config, train=replace(config.train, checkpoint_every=2), parallel=ParallelConfig(expert=2))
    out = tmp_path_factory.mktemp("ranks") / "run"
    run_ranks(2, keep_checkpoints, config, out)
    return out


def keep_checkpoints(config: Any, out: Path) -> None:
    """A job: :func:`train_ranks`, which removes no checkpoint."""
    from timeexpert.stages.run_folder import RunFolder

    RunFolder.prune = lambda *_: None  # type: ignore[method-assign, assignment]
    train_ranks(config, out)


@pytest.fixture
def damaged(run: Path, tmp_path: Path) -> Path:
    """A copy to do harm to."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def verified(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    code = main(["checkpoint", "verify", *map(str, words), "--json"])
    return code, {Path(row["folder"]).name: row for row in json.loads(capsys.readouterr().out)}


def test_a_whole_run_is_said_to_be_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows = verified(capsys, run)
    assert code == 0 and list(rows) == ["sft-0000002", "sft-0000004", "sft"]
    assert [row["global_step"] for row in rows.values()] == [2, 4, None]
    assert [row["state"] for row in rows.values()] == ["whole", "whole; training goes on from here", "whole"]
    files = {p.name for p in (run / "checkpoints" / "sft-0000004").iterdir()}
    assert {"model-00000.safetensors", "model-00001.safetensors", "trainer-00001.safetensors"} < files
    assert main(["checkpoint", "verify", str(run)]) == 0
    assert "training goes on" in capsys.readouterr().out.replace("\n", " ")


def test_a_flipped_bit_and_a_missing_file_are_named_and_the_newest_whole_checkpoint_is_used(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = damaged / "checkpoints" / "sft-0000004"
    path = newest / "trainer-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, rows = verified(capsys, damaged)
    assert code == 1 and f"{path}: its bytes differ" in rows["sft-0000004"]["problem"]
    assert rows["sft-0000002"]["state"] == "whole; training goes on from here"
    path.unlink()
    code, rows = verified(capsys, newest)
    assert code == 1 and f"{path}: missing" in rows["sft-0000004"]["problem"]


def test_what_holds_no_checkpoint_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "verify", str(tmp_path)]) == 2
    assert "neither a checkpoint (no manifest.json) nor a run" in capsys.readouterr().err.replace("\n", " ")
    assert main(["checkpoint", "export", str(tmp_path), "-o", str(tmp_path / "model")]) == 2
    assert "is not a finished checkpoint" in capsys.readouterr().err.replace("\n", " ")


def test_the_model_of_two_ranks_is_exported_as_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = run / "checkpoints" / "sft-0000004", tmp_path / "model"
    assert main(["checkpoint", "export", str(checkpoint), "-o", str(out)]) == 0
    assert "stage sft, step 4" in capsys.readouterr().out
    assert main(["checkpoint", "verify", str(out)]) == 0
    assert resolve_model(out) == out
    exported, direct = load_model(out).state_dict(), load_model(checkpoint).state_dict()
    assert exported.keys() == direct.keys() and all(torch.equal(exported[name], direct[name]) for name in exported)
    finished = load_model(run / "models" / "sft").state_dict()
    assert any(not torch.equal(exported[name], finished[name]) for name in exported)  # a step further
    assert main(["checkpoint", "export", str(checkpoint), "-o", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_checkpoint_answers(run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = next((tiny_data / "held_out.raw" / "media").glob("*.mp4"))
    words = [str(run / "checkpoints" / "sft-0000004"), str(video), "What happens, and when?", "--device", "cpu"]
    assert main(["predict", *words, "--json", "--no-png"]) == 0
    assert "events" in json.loads(capsys.readouterr().out)
