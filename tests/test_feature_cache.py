"""Training, evaluation and prediction from features of a frozen tower are those from pixels, or are refused by name."""

import contextlib
import io
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tests.data.media import read_rows
from tests.tiny import STAGE, config_tree, rows, run_config, train
from timeexpert.cli import main
from timeexpert.config import ConfigError, from_tree
from timeexpert.data.build import build
from timeexpert.data.cache import _cache_one
from timeexpert.data.features import FeatureFile, FeaturesError
from timeexpert.data.frames import FrameReader
from timeexpert.data.shards import ShardDataset
from timeexpert.data.video import Video
from timeexpert.errors import UserError
from timeexpert.feature_cache import FeatureClips, cache_features, load_tower
from timeexpert.predict import Predictor
from timeexpert.stages.config import StageConfig
from timeexpert.stages.rl import check_phase


@pytest.fixture(scope="module")
def backbone(tiny_run):
    return tiny_run / "models" / "backbone"


@pytest.fixture(scope="module")
def raw(tiny_data):
    return tiny_data / "videos.raw"


@pytest.fixture(scope="module")
def cached(tiny_data, raw, backbone, tmp_path_factory):
    """Features of the videos, cached by the command; beside them shards of them and of the videos."""
    out = tmp_path_factory.mktemp("cached")
    words = ["data", "cache", raw / "samples.jsonl", "--media", raw / "media", "-o", out / "raw", "--device", "cpu"]
    words += ["--features", backbone, "--dtype", "float32", "--num-frames", 4, 2, "--json"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main([str(word) for word in words]) == 0
    report = json.loads(said.getvalue())
    assert (report["clips"], report["reused"], report["failed"]) == (3, 0, 0) and report["samples"] > 3
    build(out / "raw" / "samples.jsonl", out / "raw" / "media", out / "features")
    (out / "videos").symlink_to(tiny_data / "videos")
    return out


@pytest.fixture
def clips(backbone):
    """``clips(**changes)``: the form that the command kept the videos in."""
    tower = load_tower(backbone).identity()
    return partial(FeatureClips, folder=backbone, tower=tower, device="cpu", threads=1)


def from_backbone(root, backbone, data, /, evaluated=None, **changes):
    """A run of the second stage alone, from the first one's weights."""
    stage = {**config_tree(root)["stages"][1], "sampling": "uniform", **changes}
    if evaluated is None:
        stage["evaluate"] = False
    return run_config(
        root,
        stages=[stage],
        model={**config_tree(root)["model"], "pretrained": str(backbone)},
        text={"tokenizer": str(backbone)},
        data={"root": str(root), "train": {"videos": data, "others": "videos"}, "eval": evaluated},
    )


def test_training_and_evaluation_from_features_are_those_from_pixels_to_the_last_bit(cached, backbone, tmp_path):
    for kind in ("videos", "features"):
        train(from_backbone(cached, backbone, kind, evaluated=kind), tmp_path / kind)
    names = ("loss", "loss_text", "loss_time", "loss_score", "grad_norm")
    want, got = (
        [[row[name] for name in names] for row in rows(tmp_path / kind / "metrics.jsonl", "train")]
        for kind in ("videos", "features")
    )
    assert len(got) == 8 and got == want
    want, got = (rows(tmp_path / kind / "metrics.jsonl", "eval") for kind in ("videos", "features"))
    assert [row["control"] for row in got] == [None, "noise_frames", "mean_segment"] and got == want
    for name in ("sft.jsonl", "sft.noise_frames.jsonl"):
        want, got = (read_rows(tmp_path / kind / "predictions" / name) for kind in ("videos", "features"))
        assert len(got) > 3 and [row["prediction"] for row in got] == [row["prediction"] for row in want]
        assert [row["frame_times_s"] for row in got] == [row["frame_times_s"] for row in want]
        assert not any(row["error"] for row in got)
    assert not (tmp_path / "features" / "dropped.jsonl").exists()


def test_a_tower_that_is_trained_cannot_use_features(cached, backbone, tmp_path):
    with pytest.raises(
        ConfigError, match=r"sft.mix: videos holds features, and stages.sft trains vision_tower.*trains"
    ):
        train(from_backbone(cached, backbone, "features", trains=["vision_tower", "decoder"]), tmp_path / "run")
    config = from_backbone(cached, backbone, "videos", evaluated="features", trains=["vision_tower"])
    with pytest.raises(ConfigError, match=r"data.eval: features holds features, and stages.sft trains vision_tower"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_stage_reads_frames_or_features_and_only_frames_that_are_kept(cached, backbone, tmp_path):
    mixed = from_backbone(cached, backbone, "features", mix={"videos": 1, "others": 1})
    with pytest.raises(ConfigError, match=r"sft.mix: videos holds features and others frames; a stage reads one kind"):
        train(mixed, tmp_path / "run")
    for changes, words in (
        ({"sampling": "random"}, r"mix: videos: .*\(--num-frames 2 4\), not of those of random sampling of 2, 4\. Set"),
        ({"num_frames": [2, 3]}, r"not of those of uniform sampling of 3\. .*--num-frames 3\."),
    ):
        with pytest.raises(FeaturesError, match=words):
            train(from_backbone(cached, backbone, "features", **changes), tmp_path / "run")


def test_a_server_that_draws_answers_is_not_sent_features(cached):
    server = {"rollouts": {"url": "http://localhost:9/v1", "model": "m", "weights": "w"}}
    tree = {**STAGE, "name": "phase1", "kind": "rl", "steps": 1, "tasks": ["moment_retrieval"], "rl": server}
    phase = from_tree(StageConfig, tree)
    check_phase(phase, {"videos": ShardDataset(cached / "videos")})
    with pytest.raises(ConfigError, match=r"phase1.mix: videos holds features, and the server of stages.phase1.rl.rol"):
        check_phase(phase, {"videos": ShardDataset(cached / "features")})


def test_features_of_another_tower_are_refused_before_the_first_step(cached, backbone, tmp_path, tiny_run, capsys):
    other = tmp_path / "other"
    shutil.copytree(backbone, other)
    predictor = Predictor.from_pretrained(backbone, device="cpu")
    weight = next(predictor.model.frame_encoder.vision_tower.parameters())
    weight.data[0] += 1e-3
    predictor.model.save_pretrained(other)
    (other / "manifest.json").unlink()
    with pytest.raises(
        FeaturesError, match=r"stages.sft.mix: videos: its features are of another vision tower.*weights"
    ):
        train(from_backbone(cached, other, "features"), tmp_path / "run")
    with pytest.raises(FeaturesError, match=r"v.*\.features: its features are of another vision tower"):
        predictor.clip(next((cached / "raw" / "media").glob("*.features")), num_frames=4)
    assert (
        main(["eval", str(tiny_run), "--data", str(cached / "features"), "--num-frames", "3", "--device", "cpu"]) == 2
    )
    assert "not of those of uniform sampling of 3" in " ".join(capsys.readouterr().err.split())


def test_a_question_about_features_is_answered_as_about_the_video(cached, raw, tiny_run, capsys):
    name = read_rows(raw / "samples.jsonl")[0]["video"]
    said = []
    for path in (raw / "media" / name, cached / "raw" / "media" / f"{name}.features"):
        words = ["predict", str(tiny_run), str(path), "What happens, and when?", "--device", "cpu", "--json"]
        assert main([*words, "--no-png"]) == 0
        said.append({**json.loads(capsys.readouterr().out), "video": None})
    assert said[0] == said[1] and len(said[0]["frame_times_s"]) == 4
    assert main(words) == 2
    assert "holds features, of which no picture can be made. Add --no-png." in capsys.readouterr().err


def test_the_same_command_goes_on_and_others_are_refused(cached, raw, backbone, clips, tmp_path):
    kept, media = clips(dtype="float32", fps=None, num_frames=(2, 4)), raw / "media"
    video = read_rows(raw / "samples.jsonl")[0]["video"]
    made = tmp_path / kept.name(video)
    shutil.copyfile(cached / "raw" / "media" / kept.name(video), made)
    done = made.read_bytes()
    assert _cache_one(kept, media, video, made)["reused"]
    made.write_bytes(done[:-1])
    assert not _cache_one(kept, media, video, made)["reused"]
    begun, again = FeatureFile(done), FeatureFile(made)
    assert again.kind == begun.kind and all(again.sample(n)[0].equal(begun.sample(n)[0]) for n in (2, 4))
    with pytest.raises(UserError, match=r"raw: was begun with other settings \(dtype float32, now bfloat16\)"):
        cache_features(backbone, raw / "samples.jsonl", media, cached / "raw", num_frames=[2, 4], device="cpu")


def test_a_rate_makes_a_clip_of_those_frames_which_any_sampling_may_draw(raw, clips, tmp_path):
    kind = clips(dtype="bfloat16", fps=2, num_frames=())
    video = next((raw / "media").glob("*.mp4"))
    kind.write(video, video.name, tmp_path / "v.features")
    file = FeatureFile(tmp_path / "v.features")
    with Video.open(video) as opened:
        assert file.duration_s == opened.info.duration_s
        assert file.frame_times_s.tolist() == opened.frame_times_s[::2].tolist()  # of 4 frames per second
        pixels, _ = opened.frames_at(file.times_s, (16, 16))
    tower = load_tower(kind.folder)
    want = tower.features(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    features, times_s, _ = FrameReader(16).read("", lambda: (tmp_path / "v.features", "v.features"), 999)
    assert features.dtype == torch.bfloat16 and times_s.tolist() == file.times_s.tolist()
    assert_close(features.float(), want, atol=0.05, rtol=0.02)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dtype", "float32"], "--dtype needs --features MODEL"),
        (["--features", "m", "--size", "98"], "--size is for frames as JPEG, not for --features"),
        (["--features", "m", "--fps", "1", "--num-frames", "4"], "--fps and --num-frames both say"),
        (["--features", "m"], "m: neither a model folder"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(words, said, tmp_path, capsys):
    assert main(["data", "cache", "s.jsonl", "--media", ".", "-o", str(tmp_path), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fps": None, "num_frames": ()}, "--fps or --num-frames says which"),
        ({"fps": None, "num_frames": (4, 0)}, r"--num-frames \(4 0\) must be 1 or more each"),
        ({"fps": -1.0, "num_frames": ()}, r"--fps \(-1.0\)"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        FeatureClips(folder=Path(), tower={}, dtype="float32", device="cpu", threads=1, **changes)


def test_a_family_that_takes_frames_only_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "video_loom"}))
    with pytest.raises(UserError, match="models of the family video_loom take frames only; features cannot be kept"):
        load_tower(tmp_path)


def test_a_folder_without_a_tower_is_refused(tmp_path, backbone):
    shutil.copyfile(backbone / "config.json", tmp_path / "config.json")
    with pytest.raises(UserError, match=r"there is no model.safetensors in it"):
        load_tower(tmp_path)


def test_a_clip_that_is_no_video_is_refused_by_name(clips, tmp_path):
    (tmp_path / "v.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"^v\.mp4: not a readable video"):
        _cache_one(clips(dtype="float32", fps=1, num_frames=()), tmp_path, "v.mp4", tmp_path / "v.mp4.features")
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]
