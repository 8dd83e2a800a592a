"""The paper's stage through the same commands: tower and LLaMA frozen, LoRA beside LLaMA's matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from timeexpert.families.temporal_vlm.family import FAMILY
from timeexpert.predict import Predictor, Request
from timeexpert.stages.loop import StageRun, Stopped

from ..ranks import run_ranks, train_ranks
from ..tiny import config_tree, rows, run_config, train
from .test_temporal_vlm_runs import MODEL, changes, weights

pytest.importorskip("peft", reason="PEFT is not installed: pip install -e '.[peft]'")


def tuning(data: Path, **parallel: Any) -> dict[str, Any]:
    """The stage of ``changes`` as instruction tuning with LoRA of rank 2."""
    tree = changes(data, **parallel)
    model = {**MODEL, "lora": {**MODEL["lora"], "rank": 2, "dropout": 0.0}}
    return {**tree, "model": model, "stages": [{**tree["stages"][0], "kind": "instruction_tuning", "lr": 1e-2}]}


@pytest.fixture(scope="module")
def tuned(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("temporal_vlm_lora")
    train(run_config(tiny_data, **tuning(tiny_data)), folder)
    return folder


def test_an_interrupted_run_ends_as_an_unbroken_one_and_moves_only_the_papers_parts(
    tuned: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = StageRun._record

    def stop(self: StageRun, *args: Any) -> None:
        record(self, *args)
        self.stop = self.step == 3

    config = run_config(tiny_data, **tuning(tiny_data))
    with monkeypatch.context() as patched:
        patched.setattr(StageRun, "_record", stop)
        with pytest.raises(Stopped):
            train(config, tmp_path)
    early = load_file(tmp_path / "checkpoints" / "tuning-0000003" / "model.safetensors")
    train(config, tmp_path)
    ours, theirs = weights(tmp_path), weights(tuned)
    assert [name for name in theirs if not ours[name].equal(theirs[name])] == []
    moved = {name for name in early if not early[name].equal(ours[name])}
    parts = {"frame_qformer", "clip_encoder", "aggregator", "projection", "lora"}
    assert early.keys() == ours.keys() and {FAMILY.part_of(name) for name in moved} == parts
    assert {name for name in ours if ".lora_" in name} <= moved


def test_the_saved_model_answers_alone_as_in_company(tuned: Path, tiny_data: Path) -> None:
    predictor = Predictor.from_pretrained(tuned, device="cpu")
    clips = [predictor.clip(path) for path in sorted((tiny_data / "held_out.raw" / "media").glob("*.mp4"))[:3]]
    requests = [Request(clip, "When does it grow?", "moment_retrieval") for clip in clips]
    assert predictor.answer(requests) == [predictor.answer([one])[0] for one in requests]
    assert any("lora_B" in name and value.any() for name, value in predictor.model.named_parameters())


@pytest.mark.slow
def test_two_ranks_that_share_the_model_train_as_one_process_does(tuned: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = tuning(tiny_data, shard=2, expert=1)
    config["data"] = {**config_tree(tiny_data)["data"], "eval": None}
    run_ranks(2, train_ranks, run_config(tiny_data, **config), tmp_path)
    for ours, theirs in zip(
        rows(tmp_path / "metrics.jsonl", "train"), rows(tuned / "metrics.jsonl", "train"), strict=True
    ):
        for name in ("loss", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), (ours["step"], name)
    single, shared = weights(tuned), weights(tmp_path)
    assert single.keys() == shared.keys()
    for name, value in single.items():
        assert (value - shared[name]).abs().max() <= 1e-3 * value.abs().max() + 1e-6, name
