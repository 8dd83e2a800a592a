from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from timeexpert.checkpoint import (
    CheckpointError,
    load_optimizers,
    load_trainer,
    optimizer_tensors,
    recover,
    save_trainer,
    verify,
    write_folder,
)


def fill(folder: Path) -> None:
    (folder / "a.txt").write_text("a")
    (folder / "sub").mkdir()
    (folder / "sub" / "b.bin").write_bytes(b"bb")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_folder(tmp_path / "sft-0000001", fill)
    return tmp_path / "sft-0000001"


def test_the_manifest_lists_size_and_sha256_of_every_file(checkpoint: Path) -> None:
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    assert files == {
        "a.txt": {"bytes": 1, "sha256": hashlib.sha256(b"a").hexdigest()},
        "sub/b.bin": {"bytes": 2, "sha256": hashlib.sha256(b"bb").hexdigest()},
    }
    verify(checkpoint)
    assert [p.name for p in checkpoint.parent.iterdir()] == ["sft-0000001"]


def test_every_file_of_a_real_model_folder_is_in_its_manifest(tiny_run: Path) -> None:
    folder = tiny_run / "models" / "sft"
    verify(folder)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert set(files) == {p.name for p in folder.iterdir()} - {"manifest.json"}
    assert {"model.safetensors", "config.json", "inference.json", "sentencepiece.model"} <= set(files)
    assert not [p for p in tiny_run.rglob("*") if p.suffix in (".pt", ".pth", ".pkl", ".bin")]  # nothing pickled


def test_each_kind_of_damage_is_named(checkpoint: Path) -> None:
    (checkpoint / "a.txt").write_text("b")
    with pytest.raises(CheckpointError, match=r"a\.txt: its bytes differ from the manifest \(damaged\)\. Use another"):
        verify(checkpoint)
    (checkpoint / "a.txt").unlink()
    with pytest.raises(CheckpointError, match=r"a\.txt: missing, though the manifest lists it\."):
        verify(checkpoint)
    (checkpoint / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json: missing; .* is not a finished checkpoint\."):
        verify(checkpoint)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"files": 1}',
        '{"files": ["a.txt"]}',
        '{"files": {"a.txt": 1}}',
        '{"files": {"a.txt": {"bytes": 1}}}',
        '{"files": {"a.txt": {"bytes": "x", "sha256": ""}}}',
        '{"files": {"a.txt": {"bytes": Infinity, "sha256": ""}}}',
        "\ufeff{}",
        "[" * 100_000,
    ],
)
def test_a_manifest_that_is_none_is_an_error_and_no_crash(text: str, checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"manifest\.json: not a manifest"):
        verify(checkpoint)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/../../secret"])
def test_a_manifest_cannot_point_outside_its_folder(name: str, checkpoint: Path) -> None:
    row = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    (checkpoint.parent / "secret").touch()
    (checkpoint / "manifest.json").write_text(json.dumps({"files": {name: row}}))
    with pytest.raises(CheckpointError, match="leaves the folder"):
        verify(checkpoint)


def test_a_second_write_replaces_the_first_whole(checkpoint: Path) -> None:
    write_folder(checkpoint, lambda folder: (folder / "c.txt").write_text("c") and None)
    assert sorted(p.name for p in checkpoint.iterdir()) == ["c.txt", "manifest.json"]
    verify(checkpoint)


def test_a_failed_write_leaves_what_was_there(checkpoint: Path) -> None:
    def full(folder: Path) -> None:
        (folder / "a.txt").write_text("half")
        with open("/dev/full", "w") as disk:
            disk.write("x")

    with pytest.raises(CheckpointError, match=r"sft-0000001: cannot be saved: .*No space left on device\. Earlier"):
        write_folder(checkpoint, full)
    verify(checkpoint)
    assert (checkpoint / "a.txt").read_text() == "a"
    assert [p.name for p in checkpoint.parent.iterdir()] == ["sft-0000001"]


def test_leftovers_of_a_kill_are_put_right(checkpoint: Path) -> None:
    parent = checkpoint.parent
    shutil.copytree(checkpoint, parent / ".sft-0000002.part")  # killed while writing
    checkpoint.rename(parent / ".sft-0000001.old")  # killed between the two renames
    recover(parent)
    assert [p.name for p in parent.iterdir()] == ["sft-0000001"]
    verify(checkpoint)
    shutil.copytree(checkpoint, parent / ".sft-0000001.old")  # killed after both renames
    recover(parent)
    assert [p.name for p in parent.iterdir()] == ["sft-0000001"]
    verify(checkpoint)


def test_the_trainers_state_comes_back_to_the_bit(tmp_path: Path) -> None:
    def trained() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return model, optimizer

    model, optimizer = trained()
    save_trainer(tmp_path, optimizer_tensors(model, [optimizer]), {"step": 1})
    tensors, state = load_trainer(tmp_path)
    assert state == {"step": 1}
    assert sorted(tensors)[:3] == ["optimizer.bias.exp_avg", "optimizer.bias.exp_avg_sq", "optimizer.bias.step"]
    fresh = torch.optim.AdamW(model.parameters(), lr=0.1)
    load_optimizers(model, [fresh], tensors)
    for parameter in model.parameters():
        for name, value in optimizer.state[parameter].items():
            assert torch.as_tensor(value).equal(fresh.state[parameter][name]), name


def test_a_trainer_state_of_another_model_or_none_at_all_is_refused(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(CheckpointError, match="names 'head.weight', which this stage does not train"):
        load_optimizers(model, [optimizer], {"optimizer.head.weight.exp_avg": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="the trainer state cannot be read: .*Use another checkpoint"):
        load_trainer(tmp_path)
    (tmp_path / "trainer.json").write_text("{}")
    (tmp_path / "trainer.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    with pytest.raises(CheckpointError, match="the trainer state cannot be read: .*Use another checkpoint"):
        load_trainer(tmp_path)
