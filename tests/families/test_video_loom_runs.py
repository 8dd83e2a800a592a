"""The same commands for a model that answers in words and masks: train, resume, ranks, eval, predict, serve."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from timeexpert.cli import main
from timeexpert.config import ConfigError, load
from timeexpert.data.build import build
from timeexpert.data.scenes import SynthConfig
from timeexpert.data.synthetic import synthesise
from timeexpert.predict import Predictor, Request
from timeexpert.serving.engine import Engine, Question, Video
from timeexpert.stages.config import RunConfig
from timeexpert.stages.loop import StageRun, Stopped
from timeexpert.stages.models import build_model
from timeexpert.tokenization.text import load_text

from ..ranks import run_ranks, train_ranks
from ..tiny import STAGE, config_tree, rows, run_config, train, write_config
from .loom import settings

MODEL = {k: v for k, v in asdict(settings(initializer_range=0.05)).items() if k not in ("pretrained", "attention")}
STEPS = 4
VIDEOS = SynthConfig(
    videos=3,
    seed=1,
    masks=True,
    min_duration_s=4.0,
    max_duration_s=6.0,
    min_event_s=1.0,
    max_event_s=3.0,
    max_events=2,
    frame_rates=(4,),
    sizes=((64, 64),),
)


@pytest.fixture(scope="module")
def loom_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shard folders videos and held_out of seconds-long videos with masks, and what they were built from."""
    root = tmp_path_factory.mktemp("loom_data")
    for name, config in (("videos", VIDEOS), ("held_out", replace(VIDEOS, videos=1, seed=2))):
        raw = root / f"{name}.raw"
        for _ in synthesise(config, raw):
            pass
        build(raw / "samples.jsonl", raw / "media", root / name)
    return root


def changes(data: Path, **parallel: Any) -> dict[str, Any]:
    """One stage of a tiny VideoLoom, two batches a step, a checkpoint after each second one."""
    tree = config_tree(data)
    stage = {
        **STAGE,
        "name": "joint",
        "kind": "joint_from_scratch",
        "steps": STEPS,
        "tasks": ["moment_retrieval", "referring_segmentation"],
        "num_frames": [4, 6],
        "questions_per_video": 3,
        "batch_videos": 1,
        "accumulate": 2,
    }
    return {
        "data": {"root": str(data), "train": {"videos": "videos"}, "eval": "held_out"},
        "model": MODEL,
        "stages": [stage],
        "train": {**tree["train"], "checkpoint_every": 2},
        "eval": {"num_frames": 4, "batch_size": 8, "max_new_tokens": 8},
        "parallel": parallel,
    }


@pytest.fixture(scope="module")
def run(loom_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, by ``timeexpert train``."""
    folder = tmp_path_factory.mktemp("video_loom")
    config = write_config(loom_data, folder / "config.yaml", **changes(loom_data))
    assert main(["train", str(config), "--out", str(folder / "run"), "--device", "cpu"]) == 0
    return folder / "run"


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "models" / "joint" / "model.safetensors")


def test_training_records_each_loss_and_evaluates_masks(run: Path) -> None:
    train_rows = rows(run / "metrics.jsonl", "train")
    assert [row["step"] for row in train_rows] == list(range(1, STEPS + 1))
    for row in train_rows:
        parts = [value for name, value in row.items() if name.startswith("loss_")]
        assert row["loss"] == pytest.approx(sum(parts), rel=1e-4)
    assert {"loss_text", "loss_mask_bce", "loss_mask_dice"} <= train_rows[-1].keys()
    assert train_rows[-1]["loss"] < train_rows[0]["loss"]
    assert not (run / "dropped.jsonl").exists()
    evals = rows(run / "metrics.jsonl", "eval")
    assert [row["control"] for row in evals] == [None, "noise_frames", "mean_segment"]
    assert evals[0]["unreadable"] == 0 and evals[0]["loombench_where"] and evals[0]["loombench_combined"]
    (stage,) = json.loads((run / "summary.json").read_text())["stages"]
    assert {"where_jf", "combined_jf", "time_only_jf", "mask_only_jf"} <= stage.keys()
    assert json.loads((run / "models" / "joint" / "config.json").read_text())["model_type"] == "video_loom"


def test_a_run_may_start_from_the_weights_of_another(run: Path, loom_data: Path, tmp_path: Path) -> None:
    tree = changes(loom_data)
    tree["model"] = {**MODEL, "pretrained": str(run / "models" / "joint")}
    model = build_model(run_config(loom_data, **tree), load_text(run / "models" / "joint"))
    model.save_pretrained(tmp_path / "models" / "joint")
    ours = weights(tmp_path)
    assert all(ours.pop(name).equal(value) for name, value in weights(run).items()) and not ours


def test_an_interrupted_run_ends_with_the_weights_of_an_unbroken_one(
    run: Path, loom_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = StageRun._record

    def stop(self: StageRun, *args: Any) -> None:
        record(self, *args)
        self.stop = self.step == 3

    tree = changes(loom_data)
    tree["data"]["eval"] = None
    config = run_config(loom_data, **tree)
    with monkeypatch.context() as patched:
        patched.setattr(StageRun, "_record", stop)
        with pytest.raises(Stopped):
            train(config, tmp_path)
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())][-1] == "joint-0000003"
    train(config, tmp_path)
    ours, theirs = weights(tmp_path), weights(run)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not ours[name].equal(theirs[name])] == []


@pytest.mark.parametrize("visual", ["slowfast", "per_task"])
def test_a_phase_of_rewards_optimises_the_policy_that_draws_frame_ids(
    loom_data: Path, tmp_path: Path, visual: str
) -> None:
    tree = changes(loom_data)
    tuning = {**tree["stages"][0], "steps": 1, "accumulate": 1, "evaluate": False}
    own = {"kind": "rl", "tasks": ["moment_retrieval"], "questions_per_video": 1, "batch_videos": 2, "steps": 2}
    rl = {"rewards": {"format": 1, "global_matching": 1}, "group_size": 3, "max_new_tokens": 10}
    phase = {**tuning, **own, "name": "phase", "trains": ["llm", "embeddings"], "sampling": "uniform", "rl": rl}
    tree |= {"model": {**MODEL, "visual": visual}, "stages": [tuning, phase]}
    train(run_config(loom_data, **tree), tmp_path)
    steps = [row for row in rows(tmp_path / "metrics.jsonl", "train") if row["stage"] == "phase"]
    assert len(steps) == 2 and all(row["logprob_gap"] < 1e-4 and row["entropy"] > 0 for row in steps)
    told = [row["answers"] for row in rows(tmp_path / "rollouts.jsonl")]
    assert len(told) == 2 * 2 and all(len(answers) == 3 for answers in told)


def test_a_phase_of_rewards_needs_frame_ids(loom_data: Path) -> None:
    tree = changes(loom_data)
    phase = {**tree["stages"][0], "kind": "rl", "tasks": ["moment_retrieval"], "questions_per_video": 1, "rl": {}}
    tree |= {"model": {**MODEL, "visual": "slow"}, "stages": [phase]}
    with pytest.raises(ConfigError, match=r"stages\[0\].kind \('rl'\) rewards times, and with model.visual 'slow'"):
        run_config(loom_data, **tree)


def test_two_ranks_that_share_the_model_train_as_one_process_does(run: Path, loom_data: Path, tmp_path: Path) -> None:
    config = changes(loom_data, shard=2, expert=1)
    config["data"] = {**config["data"], "eval": None}
    run_ranks(2, train_ranks, run_config(loom_data, **config), tmp_path)
    for ours, theirs in zip(
        rows(tmp_path / "metrics.jsonl", "train"), rows(run / "metrics.jsonl", "train"), strict=True
    ):
        for name in ("loss", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3), (ours["step"], name)


def test_eval_predict_and_checkpoint_commands_take_the_run(
    run: Path, loom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["eval", str(run), "--out", "answers", "--device", "cpu", "--json", "--no-intervals"]
    assert main([*asked, "--task", "loombench", "--max-questions", "1"]) == 0
    assert {"loombench_when", "loombench_where", "loombench_combined"} <= json.loads(capsys.readouterr().out).keys()
    video = next((loom_data / "held_out.raw" / "media").glob("*.mp4"))
    asked = ["predict", str(run), str(video), "Segment the circle.", "--device", "cpu", "--json", "--no-png"]
    assert main(asked) == 0
    assert len(json.loads(capsys.readouterr().out)["frame_times_s"]) == 4
    assert main(["checkpoint", "verify", str(run / "models" / "joint")]) == 0
    capsys.readouterr()
    assert main([*asked, "--num-frames", "16"]) == 2
    assert "16 frames: this model takes 1 to 12 (max_frames)" in capsys.readouterr().err


def test_a_server_answers_as_the_predictor_does(run: Path, loom_data: Path) -> None:
    predictor = Predictor.from_pretrained(run, device="cpu")
    path = next((loom_data / "held_out.raw" / "media").glob("*.mp4"))
    video = Video(path, "0" * 64)
    with Engine(predictor, "tiny") as engine:
        question = Question(video, "Where is the circle?", "referring_segmentation", tracks=True)
        reply = engine.submit(question).result(120)
        (alone,) = predictor.answer([Request(predictor.clip(path), question.prompt, question.task)])
        assert reply.prediction == alone
        assert engine.answer(question).prediction == alone  # from the cache


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.joint.num_frames=[16]", r"num_frames \(16\) is more than model.max_frames \(12\)"),
        ("stages.joint.kind=sft", r"stages\[0\].kind \('sft'\) must be one of joint_tuning, joint_from_scratch."),
        ("stages.joint.trains=[decoder]", r"stages\[0\].trains: 'decoder' is not one of vision_tower, projector, "),
        ("stages.joint.trains=[lora]", r"stages\[0\].trains names lora, and model.lora.rank is 0"),
        ("model.visual=slowest", r"model.visual \('slowest'\) must be one of slowfast, slow, fast, per_task"),
        ("eval.num_frames=16", r"eval.num_frames \(16\) is more than model.max_frames"),
    ],
)
def test_configs_that_do_not_fit_are_refused(override: str, words: str, loom_data: Path, tmp_path: Path) -> None:
    config = write_config(loom_data, tmp_path / "config.yaml", **changes(loom_data))
    with pytest.raises(ConfigError, match=words):
        load(RunConfig, config, [override])
