"""The same commands for a model that answers in words: train, resume, ranks, eval, predict, serve, checkpoints."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import openai
import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from timeexpert.cli import main
from timeexpert.config import ConfigError, load
from timeexpert.data.build import build
from timeexpert.errors import UserError
from timeexpert.feature_cache import FeatureClips, load_tower
from timeexpert.predict import Predictor, Request
from timeexpert.serving.engine import Engine, Question, Video
from timeexpert.serving.limits import RequestError
from timeexpert.stages.config import RunConfig
from timeexpert.stages.loop import StageRun, Stopped

from ..ranks import run_ranks, train_ranks
from ..served import served
from ..tiny import STAGE, TIMED, config_tree, rows, run_config, train, write_config
from .conftest import settings

MODEL = {k: v for k, v in asdict(settings(initializer_range=0.05)).items() if k not in ("pretrained", "attention")}
STEPS = 4


def changes(data: Path, **parallel: Any) -> dict[str, Any]:
    """One stage of a tiny TemporalVLM, two batches a step, a checkpoint after each second one."""
    tree = config_tree(data)
    stage = {
        **STAGE,
        "name": "tuning",
        "kind": "from_scratch",
        "steps": STEPS,
        "tasks": TIMED,
        "num_frames": [4, 6],
        "questions_per_video": 2,
        "batch_videos": 1,
        "accumulate": 2,
    }
    return {
        "model": MODEL,
        "stages": [stage],
        "train": {**tree["train"], "checkpoint_every": 2},
        "eval": {"num_frames": 6, "batch_size": 8, "max_new_tokens": 24},
        "parallel": parallel,
    }


@pytest.fixture(scope="module")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, by ``timeexpert train``."""
    folder = tmp_path_factory.mktemp("temporal_vlm")
    config = write_config(tiny_data, folder / "config.yaml", **changes(tiny_data))
    assert main(["train", str(config), "--out", str(folder / "run"), "--device", "cpu"]) == 0
    return folder / "run"


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "models" / "tuning" / "model.safetensors")


def test_training_records_its_loss_evaluates_and_reports_without_experts(run: Path) -> None:
    train_rows = rows(run / "metrics.jsonl", "train")
    assert [row["step"] for row in train_rows] == list(range(1, STEPS + 1))
    assert all(row["loss"] == pytest.approx(row["loss_text"]) for row in train_rows)
    assert train_rows[-1]["loss"] < train_rows[0]["loss"]
    assert rows(run / "metrics.jsonl", "experts") == []
    evals = rows(run / "metrics.jsonl", "eval")
    assert [row["control"] for row in evals] == [None, "noise_frames", "mean_segment"]
    assert evals[0]["unreadable"] == 0 and evals[0]["questions"] > 0
    answers = rows(run / "predictions" / "tuning.jsonl")
    assert all(row["text"] and (row["problems"] or row["prediction"]) for row in answers)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "after tuning" in page and "<h2>Experts</h2>" not in page and "no expert statistics" not in page
    assert json.loads((run / "models" / "tuning" / "config.json").read_text())["model_type"] == "temporal_vlm"


def test_an_interrupted_run_ends_with_the_weights_of_an_unbroken_one(
    run: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = StageRun._record

    def stop(self: StageRun, *args: Any) -> None:
        record(self, *args)
        self.stop = self.step == 3

    config = run_config(tiny_data, **changes(tiny_data))
    with monkeypatch.context() as patched:
        patched.setattr(StageRun, "_record", stop)
        with pytest.raises(Stopped):
            train(config, tmp_path)
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())][-1] == "tuning-0000003"
    train(config, tmp_path)
    ours, theirs = weights(tmp_path), weights(run)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not ours[name].equal(theirs[name])] == []


def test_two_ranks_that_share_the_model_train_as_one_process_does(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = changes(tiny_data, shard=2, expert=1)
    config["data"] = {**config_tree(tiny_data)["data"], "eval": None}
    run_ranks(2, train_ranks, run_config(tiny_data, **config), tmp_path)
    for ours, theirs in zip(
        rows(tmp_path / "metrics.jsonl", "train"), rows(run / "metrics.jsonl", "train"), strict=True
    ):
        for name in ("loss", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), (ours["step"], name)
    single, shared = weights(run), weights(tmp_path)
    assert single.keys() == shared.keys()
    for name, value in single.items():
        assert (value - shared[name]).abs().max() <= 1e-3 * value.abs().max() + 1e-6, name


def test_eval_predict_and_checkpoint_commands_take_the_run(
    run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["eval", str(run), "--out", "answers", "--device", "cpu", "--json", "--no-intervals"]) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == rows(run / "metrics.jsonl", "eval")[0]["questions"]
    video = next((tiny_data / "held_out.raw" / "media").glob("*.mp4"))
    asked = ["predict", str(run), str(video), "When does it grow?", "--device", "cpu", "--json", "--no-png"]
    assert main(asked) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["frame_times_s"]) == 6 and told["problems"]
    checkpoint = run / "models" / "tuning"
    assert main(["checkpoint", "verify", str(checkpoint)]) == 0
    assert main([*asked, "--num-frames", "16"]) == 2
    assert "16 frames: this model takes 1 to 15" in capsys.readouterr().err


@pytest.mark.slow  # it starts the command
def test_the_command_serves_it(run: Path, tiny_data: Path) -> None:
    video = next((tiny_data / "held_out.raw" / "media").glob("*.mp4"))
    with served(model=run) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)
        file = client.files.create(file=video, purpose="user_data")
        content = [{"type": "file", "file": {"file_id": file.id}}, {"type": "text", "text": "When does it grow?"}]
        asked: Any = {"model": "run", "messages": [{"role": "user", "content": content}]}
        answer = client.chat.completions.create(**asked)
        with client.chat.completions.create(**asked, stream=True) as stream:
            told = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    text = answer.choices[0].message.content
    assert text and told == text


def test_a_server_answers_streams_and_says_that_there_are_no_experts(run: Path, tiny_data: Path) -> None:
    predictor = Predictor.from_pretrained(run, device="cpu")
    path = next((tiny_data / "held_out.raw" / "media").glob("*.mp4"))
    video = Video(path, "0" * 64)
    with Engine(predictor, "tiny") as engine:
        question = Question(video, "When does it grow?", "general")
        ticket = engine.submit(question)
        streamed = "".join(ticket.events())
        reply = ticket.result(60)
        assert streamed == " ".join(reply.prediction.text.split()) != ""
        clip = predictor.clip(path)
        (alone,) = predictor.answer([Request(clip, question.prompt, "general")])
        assert reply.prediction == alone and reply.confidences == []
        assert engine.answer(question).prediction == alone  # from the cache
        assert engine.stats()["cache_hits"] == 1
        with pytest.raises(RequestError, match="experts: this model has none"):
            engine.answer(Question(video, "When?", experts=True))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.tuning.num_frames=[16]", r"num_frames \(16\) is more than model.clips \(3\) of model.frames_per_clip"),
        ("stages.tuning.kind=sft", r"stages\[0\].kind \('sft'\) must be one of instruction_tuning, from_scratch."),
        (
            "stages.tuning.trains=[decoder]",
            r"stages\[0\].trains: 'decoder' is not one of vision_tower, frame_qformer, ",
        ),
        ("stages.tuning.trains=[lora]", r"stages\[0\].trains names lora, and model.lora.rank is 0"),
        ("model.aggregator=gru", r"model.aggregator \('gru'\) must be one of bilstm, lstm1, lstm2, transformer, "),
        ("model.overlap=7", r"model: overlap \(7\) must be less than window \(3\)"),
        (
            "stages.tuning.calibrate_gates=true",
            r"stages\[0\].calibrate_gates is true, and models of model.family 'temp",
        ),
        ("eval.num_frames=16", r"eval.num_frames \(16\) is more than model.clips"),
    ],
)
def test_configs_that_do_not_fit_are_refused(override: str, words: str, tiny_data: Path, tmp_path: Path) -> None:
    config = write_config(tiny_data, tmp_path / "config.yaml", **changes(tiny_data))
    with pytest.raises(ConfigError, match=words):
        load(RunConfig, config, [override])


@pytest.fixture(scope="module")
def kept(run: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of the videos by the run's tower, and in ``shards`` a shard folder of them."""
    raw, out, folder = tiny_data / "videos.raw", tmp_path_factory.mktemp("kept"), run / "models" / "tuning"
    form = FeatureClips(folder, load_tower(folder).identity(), "float32", None, (4, 6), "cpu", 1)
    (out / "media").mkdir()
    for video in (raw / "media").glob("*.mp4"):
        form.write(video, video.name, out / "media" / form.name(video.name))
    samples = [{**row, "video": form.name(row["video"])} for row in rows(raw / "samples.jsonl")]
    (out / "samples.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in samples), encoding="utf-8")
    build(out / "samples.jsonl", out / "media", out / "shards")
    return out


def frozen(run: Path, data: Path, shards: Path, **stage: Any) -> RunConfig:
    """Two steps from the run's weights whose tower is not trained."""
    folder, tree = str(run / "models" / "tuning"), changes(data)
    parts = ["frame_qformer", "clip_encoder", "aggregator", "projection", "llm"]
    own = {**tree["stages"][0], "steps": 2, "sampling": "uniform", "evaluate": False, "trains": parts, **stage}
    source = {"root": str(data), "train": {"videos": str(shards)}, "eval": None}
    started = {"model": {**MODEL, "pretrained": folder}, "text": {"tokenizer": folder}}
    config: RunConfig = run_config(data, **{**tree, **started, "stages": [own], "data": source})
    return config


def test_training_from_kept_features_of_the_tower_is_that_from_frames(
    run: Path, kept: Path, tiny_data: Path, tmp_path: Path
) -> None:
    for name, shards in (("frames", tiny_data / "videos"), ("features", kept / "shards")):
        train(frozen(run, tiny_data, shards), tmp_path / name)
    want, got = (rows(tmp_path / name / "metrics.jsonl", "train") for name in ("frames", "features"))
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in got] == pytest.approx([row[name] for row in want], rel=1e-5)
    assert len(got) == 2 and not (tmp_path / "features" / "dropped.jsonl").exists()
    with pytest.raises(ConfigError, match=r"mix: videos holds features, and stages.tuning trains vision_tower"):
        train(frozen(run, tiny_data, kept / "shards", trains=None), tmp_path / "trained")


def test_a_question_about_kept_features_is_answered_as_about_the_video(run: Path, kept: Path, tiny_data: Path) -> None:
    predictor = Predictor.from_pretrained(run, device="cpu")
    path = next((tiny_data / "videos.raw" / "media").glob("*.mp4"))
    clips = [predictor.clip(p) for p in (path, kept / "media" / f"{path.name}.features")]
    assert clips[1].frames.shape == (6, 5, 16)  # a class token and 2 x 2 patches
    seen = [predictor.answering.visual_tokens(clip) for clip in clips]
    assert_close(seen[1], seen[0])
    answers = [predictor.answer([Request(clip, "When does it grow?", "general")])[0] for clip in clips]
    assert answers[0].text == answers[1].text
    next(predictor.model.frame_encoder.vision_model.parameters()).data[0] += 1e-3
    del predictor.__dict__["_tower"]
    with pytest.raises(UserError, match="its features are of another vision tower than the model's: weights"):
        predictor.clip(kept / "media" / f"{path.name}.features")


def test_the_planner_says_that_it_knows_timeexpert_only(tiny_data: Path) -> None:
    from timeexpert.planner.plan import stage_model
    from timeexpert.planner.utilisation import flops_per_token

    config = run_config(tiny_data, **changes(tiny_data))
    with pytest.raises(UserError, match="the planner has figures of the family timeexpert only, not of temporal_vlm"):
        stage_model(config, config.stages[0], 320)
    with pytest.raises(UserError, match="the planner has figures"):
        flops_per_token(config, config.stages[0], 320)
