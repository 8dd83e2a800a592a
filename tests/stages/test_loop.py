from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import STAGE, TIMED, config_tree, rows, run_config, train
from timeexpert.checkpoint import optimizer_tensors
from timeexpert.families.timeexpert.settings import PREFIXES as PARTS
from timeexpert.parallel import OneProcess
from timeexpert.stages.config import StageConfig
from timeexpert.stages.feed import FeedError
from timeexpert.stages.loop import StageRun, TrainingError
from timeexpert.stages.optim import rate


def one_stage(tiny_data: Path, pretrained: Path | None = None, moe: dict[str, Any] | None = None, **stage: Any) -> Any:
    """A run of one stage, from the weights and the tokenizer of ``pretrained``."""
    tree = config_tree(tiny_data)
    stages = [{**STAGE, "name": "sft", "kind": "sft", "steps": 1, "tasks": TIMED, "num_frames": [2], **stage}]
    model = {**tree["model"], "pretrained": pretrained and str(pretrained)}
    model["moe"] = {**model["moe"], **(moe or {})}
    data = {**tree["data"], "eval": None}
    text = {"tokenizer": str(pretrained)} if pretrained else tree["text"]
    return run_config(tiny_data, stages=stages, model=model, data=data, text=text)


# The paper's table: what each stage trains.
@pytest.mark.parametrize(
    ("kind", "trained"),
    [
        ("backbone", {"vision_tower", "compression", "number_encoders", "number_heads", "text", "decoder"}),
        ("task_modules", {"compression", "number_encoders", "number_heads"}),
        ("moe_pretraining", {"decoder"}),
        ("sft", {"compression", "number_encoders", "number_heads", "text", "decoder"}),
    ],
)
def test_each_kind_of_stage_trains_exactly_its_parts(
    kind: str, trained: set[str], tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    before_folder = tiny_run / "models" / "backbone"
    train(one_stage(tiny_data, before_folder, kind=kind, steps=2), tmp_path)
    before, after = (load_file(f / "model.safetensors") for f in (before_folder, tmp_path / "models" / "sft"))
    buffers = ("activation_rates", "active_experts")
    changed = {n for n in before if not before[n].equal(after[n]) and not n.endswith(buffers)}
    parts = {part for part, prefixes in PARTS.items() if any(n.startswith(prefixes) for n in changed)}
    assert parts == trained
    assert [n for n in changed if not any(n.startswith(PARTS[p]) for p in trained)] == []


def test_named_parts_override_the_kind(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    before_folder = tiny_run / "models" / "backbone"
    train(one_stage(tiny_data, before_folder, trains=["number_heads"]), tmp_path)
    before, after = (load_file(f / "model.safetensors") for f in (before_folder, tmp_path / "models" / "sft"))
    changed = {n for n in before if not before[n].equal(after[n]) and not n.endswith("activation_rates")}
    assert changed and all(n.startswith(("heads.sync", "heads.time", "heads.score")) for n in changed)


def test_the_rate_rises_over_the_warm_up_and_falls_along_a_cosine() -> None:
    stage = StageConfig(name="s", kind="sft", steps=10, mix={"v": 1}, lr=1.0, warmup_ratio=0.2, final_lr_ratio=0.1)
    rates = [rate(stage, step) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]  # two steps of warm-up; the cosine starts at its top
    assert rates[6] == pytest.approx(0.1 + 0.9 * 0.5)  # half-way between steps 2 and 10
    assert rates[8] == pytest.approx(0.1 + 0.9 * 0.5 * (1 - 0.5**0.5))  # three quarters: cos(3/4 pi) = -0.7071
    assert sorted(rates[2:], reverse=True) == rates[2:] and rates[9] > 0.1


def test_the_rate_that_was_used_is_recorded(tiny_run: Path) -> None:
    used = [row["lr"] for row in rows(tiny_run / "metrics.jsonl", "train") if row["stage"] == "sft"]
    stage = StageConfig(name="sft", kind="sft", steps=8, mix={"v": 1}, lr=1e-2, warmup_ratio=0.0)
    assert used == [1e-2 * rate(stage, step) for step in range(8)]
    assert used[0] == 1e-2 and used[4] == pytest.approx(0.5e-2)


def test_two_half_batches_give_the_losses_and_gradients_of_one_batch(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = OneProcess.clip_grad_norm_
    gradients: list[list[Any]] = []

    def keep(self: OneProcess, parameters: list[Any], most: float) -> float:
        gradients.append([None if p.grad is None else p.grad.clone() for p in parameters])
        return clip(self, parameters, most)

    monkeypatch.setattr(OneProcess, "clip_grad_norm_", keep)
    # the z- and the task loss are means over a micro-batch's tokens, so only the mean of equal halves agrees
    moe = {"z_loss": 0.0, "task_loss": 0.0}
    for name, sizes in (("one", {"batch_videos": 4}), ("two", {"batch_videos": 2, "accumulate": 2})):
        config = one_stage(tiny_data, None, moe, sampling="uniform", questions_per_video=2, **sizes)
        train(config, tmp_path / name)  # the same seed: the same weights
    one, two = (rows(tmp_path / name / "metrics.jsonl", "train")[0] for name in ("one", "two"))
    assert one["samples"] == two["samples"] == 8
    for name in ("loss", "loss_text", "loss_time", "loss_score", "aux_loss", "grad_norm"):
        assert two[name] == pytest.approx(one[name], rel=1e-5), name
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a - b).abs().max() <= 1e-5 * a.abs().max() + 1e-7


def test_losses_that_stay_not_finite_end_the_run_before_they_reach_a_checkpoint(
    tiny_data: Path, tmp_path: Path
) -> None:
    config = one_stage(tiny_data, steps=20, lr=1e30)
    words = (
        r"the (loss|gradient norm) is (nan|inf) at step \d+ of stage 'sft', the last of 5 in a row \(samples .*"
        r"Lower stages.sft.lr \(1e\+30\)"
    )
    with pytest.raises(TrainingError, match=words):
        train(config, tmp_path)
    assert len(rows(tmp_path / "metrics.jsonl", "nonfinite")) == 5
    for folder in (tmp_path / "checkpoints").iterdir():
        assert all(t.isfinite().all() for t in load_file(folder / "model.safetensors").values())


@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_a_step_that_is_not_finite_is_skipped_counted_and_written_down(
    what: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third of five steps: it changes no weight, no moment and no statistic; the next one goes on."""
    ids: list[list[str]] = []
    states: list[dict[str, Any]] = []
    forward, clip = StageRun._forward_backward, OneProcess.clip_grad_norm_

    def broken(self: StageRun, step: Any) -> dict[str, float]:
        state = {**self.model.state_dict(), **optimizer_tensors(self.model, self.optimizers)}
        states.append({name: value.clone() for name, value in state.items()})
        ids.append(step.sample_ids)
        figures = forward(self, step)
        return figures | {"loss": float("nan")} if what == "loss" and len(ids) == 3 else figures

    def norm(self: OneProcess, parameters: list[Any], most: float) -> float:
        value = clip(self, parameters, most)
        return float("inf") if what == "gradient norm" and len(ids) == 3 else value

    monkeypatch.setattr(StageRun, "_forward_backward", broken)
    monkeypatch.setattr(OneProcess, "clip_grad_norm_", norm)
    train(one_stage(tiny_data, steps=5), tmp_path)
    (row,) = rows(tmp_path / "metrics.jsonl", "nonfinite")
    assert (row["step"], row["samples"]) == (3, ids[2])
    assert row["problem"] == f"the {what} is {'nan' if what == 'loss' else 'inf'}"
    told = rows(tmp_path / "metrics.jsonl", "train")
    assert [(r["step"], r["skipped_steps"]) for r in told] == [(1, 0), (2, 0), (4, 1), (5, 1)]
    assert all(torch.equal(states[2][name], states[3][name]) for name in states[3])
    assert any(not torch.equal(states[3][name], states[4][name]) for name in states[3])


def test_data_of_which_nothing_can_be_read_is_an_error_with_the_reason(tiny_data: Path, tmp_path: Path) -> None:
    for name in ("images", "videos"):
        shutil.copytree(tiny_data / name, tmp_path / name)
    (shard,) = (tmp_path / "videos").glob("*.tar")
    shard.write_bytes(shard.read_bytes().replace(b"ftyp", b"pytf"))  # every MP4 has one
    words = r"stage 'sft': 100 batches in a row held nothing readable; the last reason: .*the bytes of .* have changed"
    with pytest.raises(FeedError, match=words):
        train(one_stage(tmp_path), tmp_path / "run")


def test_expert_records_count_a_window_and_start_again(tiny_run: Path) -> None:
    records = [r for r in rows(tiny_run / "metrics.jsonl", "experts") if r["stage"] == "sft"]
    assert [r["step"] for r in records] == [4, 8]  # checkpoints after 3 and 6 fall inside a window
    for layer in (layer for record in records for layer in record["layers"]):
        assert layer["active"] == [True] * 3
        assert 1.0 <= layer["mean_k"] <= 3.0
        assert sum(layer["load"]) == pytest.approx(1.0, abs=1e-4)


def test_every_loss_is_recorded_and_their_sum_is_the_loss(tiny_data: Path, tmp_path: Path) -> None:
    moe = {"diversity_loss": 0.1, "simplicity_loss": 0.2, "balance_loss": 0.3, "learn_scale": True}
    train(one_stage(tiny_data, None, moe, steps=2, accumulate=2), tmp_path)
    terms = {"loss_text", "loss_time", "loss_score", "z_loss", "aux_loss"}
    terms |= {"loss_diversity", "loss_simplicity", "loss_balance"}
    for row in rows(tmp_path / "metrics.jsonl", "train"):
        assert terms == {k for k in row if k.startswith("loss_") or k.endswith("_loss")}
        assert sum(row[name] for name in terms) == pytest.approx(row["loss"], rel=1e-6)
        assert 0.3 * 2 <= row["loss_balance"] < 0.3 * 2 * 3  # two layers of three experts, 1 to 3 each


def test_gates_are_calibrated_on_as_many_batches_as_the_stage_says(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timeexpert.model import TimeExpert

    seen: list[list[tuple[str, ...]]] = []
    calibrate = TimeExpert.calibrate_gates

    def spy(self: TimeExpert, *batches: Any) -> None:
        seen.append([batch.sample_ids for batch in batches])
        calibrate(self, *batches)

    monkeypatch.setattr(TimeExpert, "calibrate_gates", spy)
    train(one_stage(tiny_data, calibrate_gates=True, calibrate_batches=3), tmp_path)
    assert [len(batches) for batches in seen] == [3] and len(set(seen[0])) > 1


def test_bfloat16_holds_for_calibration_and_evaluation_as_for_training(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from timeexpert.model import TimeExpert
    from timeexpert.predict import Predictor

    seen: dict[str, set[bool]] = {}

    def watch(owner: type, name: str) -> None:
        plain = getattr(owner, name)

        def spy(*args: Any, **kwargs: Any) -> Any:
            seen.setdefault(name, set()).add(torch.is_autocast_enabled("cpu"))
            return plain(*args, **kwargs)

        monkeypatch.setattr(owner, name, spy)

    for owner, name in ((TimeExpert, "training_step"), (TimeExpert, "calibrate_gates"), (Predictor, "answer")):
        watch(owner, name)
    tree = config_tree(tiny_data)
    train(run_config(tiny_data, train={**tree["train"], "precision": "bf16"}), tmp_path / "bf16")
    assert seen == {"training_step": {True}, "calibrate_gates": {True}, "answer": {True}}


def test_a_run_folder_explains_itself(tiny_run: Path) -> None:
    start = rows(tiny_run / "starts.jsonl")[0]
    assert {"argv", "versions", "git", "platform"} <= start.keys()
    assert {"timeexpert", "python", "torch", "transformers", "numpy"} <= start["versions"].keys()
    assert list((tiny_run / "tensorboard").glob("events.out.tfevents.*"))
    summary = json.loads((tiny_run / "summary.json").read_text())
    assert {"stages", "controls", "parse_rate", "seconds", "peak_rss_gib"} <= summary.keys()
    assert [s["name"] for s in summary["stages"]] == ["sft"]  # the backbone asked for no evaluation
    assert {"r1_0.5", "miou"} <= summary["stages"][0].keys()
    assert summary["controls"].keys() == {"noise_frames", "mean_segment"}
    assert summary["parse_rate"] == 100.0
    assert {"backbone", "sft", "evaluate sft"} <= summary["seconds"].keys()
    assert 0.05 < summary["peak_rss_gib"] < 16
