from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import threading
import time
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from timeexpert.checkpoint import (
    CheckpointError,
    Pieces,
    load_optimizers,
    load_trainer,
    optimizer_tensors,
    recover,
    verify,
    write_folder,
)
from timeexpert.checkpoint.pieces import Block, file_name, write_blocks
from timeexpert.checkpoint.saver import Saver
from timeexpert.parallel import OneProcess


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


def saved(folder: Path, tensors: dict[str, Tensor], state: dict[str, object]) -> Path:
    """A checkpoint of one process with ``tensors`` as its trainer's."""
    saver = Saver(OneProcess())
    saver.save(folder, {"trainer": tensors}, state, lambda root: None, lambda: None)
    saver.wait()
    return folder


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_whoever_may_read_the_folder_may_read_its_files(tmp_path: Path, mask: int, mode: int) -> None:
    was = os.umask(mask)
    try:
        folder = saved(tmp_path / "sft-0000001", {"w": torch.ones(3)}, {})
    finally:
        os.umask(was)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {mode}


def test_the_trainers_state_comes_back_to_the_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    folder = saved(tmp_path / "sft-0000001", optimizer_tensors(model, [optimizer]), {"step": 1})
    verify(folder)
    stored, state = load_trainer(folder)
    assert state == {"step": 1}
    assert sorted(stored.names)[:3] == ["optimizer.bias.exp_avg", "optimizer.bias.exp_avg_sq", "optimizer.bias.step"]
    fresh = torch.optim.AdamW(model.parameters(), lr=0.1)
    load_optimizers(model, [fresh], stored)
    for parameter in model.parameters():
        for name, value in optimizer.state[parameter].items():
            assert torch.as_tensor(value).equal(fresh.state[parameter][name]), name


def test_a_trainer_state_of_another_model_or_none_at_all_is_refused(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    folder = saved(tmp_path / "sft-0000001", {"optimizer.head.weight.exp_avg": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="names 'head.weight', which this stage does not train"):
        load_optimizers(model, [optimizer], load_trainer(folder)[0])
    with pytest.raises(CheckpointError, match=r"trainer\.json: cannot be read: .*Use another checkpoint"):
        load_trainer(tmp_path)
    (folder / "trainer.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    with pytest.raises(CheckpointError, match=r"trainer\.safetensors: cannot be read: .*Use another checkpoint"):
        load_trainer(folder)
    (folder / "trainer.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"there is no trainer\.safetensors in it"):
        load_trainer(folder)


def test_what_is_saved_is_what_was_there_when_saving_began(tmp_path: Path) -> None:
    written = threading.Event()

    def slow(root: Path) -> None:
        assert written.wait(30)

    saver, weight = Saver(OneProcess()), torch.zeros(3)
    saver.prepare({"model": {"w": weight}})
    weight.add_(1)
    saver.save(tmp_path / "a-0000001", {"model": {"w": weight}}, {}, slow, lambda: None)
    weight.add_(1)  # training goes on
    assert not (tmp_path / "a-0000001").exists() and not saver.done()
    written.set()
    saver.wait()
    assert Pieces(tmp_path / "a-0000001", "model").read("w").tolist() == [1, 1, 1]
    (done,) = saver.done()
    assert done.folder.name == "a-0000001" and done.size == 12 and 0 <= done.stalled_s <= done.seconds
    assert saver.done() == []


def test_a_save_that_fails_in_the_background_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    def full(root: Path) -> None:
        with open("/dev/full", "w") as disk:
            disk.write("x")

    saver = Saver(OneProcess())
    saver.save(tmp_path / "a-0000001", {"model": {"w": torch.ones(3)}}, {}, full, lambda: None)
    while not saver.failed:
        time.sleep(0.01)
    with pytest.raises(CheckpointError, match=r"a-0000001: cannot be saved: .*No space left on device\. Earlier"):
        saver.save(tmp_path / "a-0000002", {"model": {"w": torch.ones(3)}}, {}, full, lambda: None)
    assert list(tmp_path.iterdir()) == []
    saver.wait()  # told once


@st.composite
def cuttings(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[slice, ...]], tuple[slice, ...]]:
    """A shape, a grid of blocks that fill it, and a part of it."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=0, max_size=3)))
    cuts = [sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=2))}) for size in shape]
    blocks = [tuple(cell) for cell in product(*[[slice(a, b) for a, b in pairwise(cut)] for cut in cuts])]
    part = []
    for size in shape:
        begin = draw(st.integers(0, size - 1))
        part.append(slice(begin, draw(st.integers(begin, size))))
    return shape, draw(st.permutations(blocks)), tuple(part)


@given(cuttings())
def test_any_part_is_read_from_any_blocks(
    cutting: tuple[tuple[int, ...], list[tuple[slice, ...]], tuple[slice, ...]],
) -> None:
    shape, blocks, part = cutting
    full = torch.arange(math.prod(shape)).reshape(shape)
    with tempfile.TemporaryDirectory() as scratch:
        for rank, where in enumerate(blocks):
            values = full[where].contiguous() if shape else full
            own = {"x": Block(values, shape, tuple(s.start for s in where))}
            write_blocks(Path(scratch, file_name("model", rank, len(blocks))), own)
        stored = Pieces(Path(scratch), "model")
        assert stored.shape("x") == shape and stored.read("x").equal(full)
        got, want = stored.read("x", part), full[part] if shape else full
        assert got.shape == want.shape and (not got.numel() or got.equal(want))


def test_a_block_that_nobody_wrote_or_that_lies_outside_is_an_error(tmp_path: Path) -> None:
    write_blocks(tmp_path / "model-00001.safetensors", {"x": Block(torch.ones(2), (4,), (2,))})
    stored = Pieces(tmp_path, "model")
    assert stored.read("x", (slice(3, 4),)).tolist() == [1]
    with pytest.raises(CheckpointError, match="a part of 'x' is in none of its model files"):
        stored.read("x")
    for shape, offset in (((4,), (3,)), ((4,), (-1,)), ((4, 1), (0, 0))):
        write_blocks(tmp_path / "model-00001.safetensors", {"x": Block(torch.ones(2), shape, offset)})
        with pytest.raises(
            CheckpointError, match=r"model-00001\.safetensors: cannot be read: the block of 'x' lies out"
        ):
            Pieces(tmp_path, "model")
