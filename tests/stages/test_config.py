"""Configs that cannot be: each is one line on stderr and exit code 2, before anything is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny import ROOT, config_tree
from timeexpert.cli import main
from timeexpert.config import dump, load, read_tree
from timeexpert.families.temporal_vlm.settings import ModelConfig as TemporalVLMConfig
from timeexpert.paths import configs_folder
from timeexpert.stages.config import RunConfig
from timeexpert.stages.trl_data import PHASES


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.moe.num_expert=4", "unknown key 'model.moe.num_expert'. Did you mean 'model.moe.num_experts'?"),
        ("stages.sft.step=4", "unknown key 'stages[1].step'. Did you mean 'stages[1].steps'?"),
        ("stages.sft.steps=many", "stages[1].steps ('many') must be of type int, not str."),
        ("stages.sft.lr=fast", "stages[1].lr ('fast') must be of type float, not str."),
        (
            "stages.sft.kind=stf",
            "stages[1].kind ('stf') must be one of backbone, task_modules, moe_pretraining, sft, rl",
        ),
        ("stages.sft.lr=0", "stages[1]: lr (0.0) must be positive."),
        ("stages.sft.steps=0", "stages[1]: steps (0) must be 1 or more."),
        ("stages.sft.num_frames=[]", "stages[1]: num_frames ([]) must list numbers of 1 or more."),
        ("stages.sft.tasks=[moments]", "stages[1]: tasks: 'moments' is not one of general, dense_captioning, "),
        ("stages.sft.trains=[heads]", "stages[1].trains: 'heads' is not one of vision_tower, compression, "),
        ("stages.sft.trains=[]", "stages[1]: trains is empty; name at least one part, or leave it out."),
        ("stages.sft.matrix_lr=0", "stages[1]: matrix_lr (0.0) must be positive."),
        ("stages.sft.gate_lr=-1e-3", "stages[1]: gate_lr (-0.001) must be positive."),
        ("synth.videos.seed=-1", "synth.videos: seed (-1) must be 0 or more."),
        ("stages.sft.mix={}", "mix of stage 'sft' is empty; name at least one data set of data.train."),
        ("stages.sft.mix={videos: -1}", "mix of stage 'sft' ({'videos': -1.0}): weights are 0 or more, and not all 0."),
        ("stages.sft.mix={vidoes: 1}", "stages.sft.mix names 'vidoes', which data.train lacks (images, videos)."),
        ("stages.sft.batch_videos=null", "batch_videos and batch_tokens are both null: a batch would never end."),
        ("stages.sft.batch_videos=0", "stages[1]: batch_videos (0) must be 1 or more."),
        ("stages.sft.batch_tokens=100", "batch_tokens (100) is less than max_tokens (4096), the longest row: "),
        ("stages.sft.name=backbone", "stages: the name 'backbone' occurs twice; checkpoints are named after stages."),
        ("stages.sft.name=../sft", "stages: the name '../sft' must be letters, digits, '-' and '_': it names folders."),
        ("stages=[]", "stages is empty; list at least one."),
        ("model.moe.top_k=4", "model.moe: top_k (4) is more than num_experts (3)."),
        (
            "model.decoder.hidden_size=33",
            "model.decoder: hidden_size (33) is not divisible by num_attention_heads",
        ),
        ("model.decoder.num_attention_heads=0", "model.decoder: num_attention_heads (0) must be 1 or more."),
        ("model.decoder.num_key_value_heads=3", "num_attention_heads (2) is not divisible by num_key_value_heads (3)."),
        ("model.decoder.hidden_size=6", "hidden_size / num_attention_heads (3) must be even: rotary embeddings turn"),
        (
            "model.vision.num_attention_heads=3",
            "model.vision: hidden_size (16) is not divisible by",
        ),
        ("model.vision.patch_size=32", "model.vision: patch_size (32) is more than image_size (16)."),
        ("model.compressor=projector", "compressor ('projector') needs projector_queries for 4 patches "),
        ("model.time_digits=[0, 1]", "model: int_digits (0)"),
        ("train.threads=0", "train: threads (0) must be 1 or more."),
        ("train.seed=-1", "train: seed (-1) must be 0 or more."),
        ("train.max_grad_norm=0", "train: max_grad_norm (0.0) must be positive."),
        ("data.num_workers=-1", "data: num_workers (-1) must be 0 or more."),
        ("eval.batch_size=0", "eval: batch_size (0) must be 1 or more."),
        (
            "eval.max_new_tokens=16",
            "eval.max_new_tokens (16) must be 17 or more: that many tokens take",
        ),
    ],
)
def test_a_config_that_cannot_be_is_one_line_and_exit_code_2(
    override: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(config_tree(tmp_path), sort_keys=False), encoding="utf-8")
    assert main(["train", str(file), override, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {file}: ") and said.count("\n") == 1
    assert words in said
    assert not (tmp_path / "run").exists()


def test_the_merged_config_can_be_printed_and_loaded_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(config_tree(tmp_path), sort_keys=False), encoding="utf-8")
    assert main(["train", str(file), "stages.sft.steps=7", "--print-config"]) == 0
    (tmp_path / "merged.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    merged = load(RunConfig, tmp_path / "merged.yaml")
    assert merged.stages[1].steps == 7
    assert dump(merged) == (tmp_path / "merged.yaml").read_text(encoding="utf-8")


def test_a_run_folder_that_is_a_file_is_refused(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "tiny.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(config_tree(tiny_data), sort_keys=False), encoding="utf-8")
    out.write_text("mine")
    assert main(["train", str(file), "--out", str(out)]) == 2
    assert f"{out}: not a usable run folder: File exists. Choose another with --out." in capsys.readouterr().err
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "device", "words"),
    [
        ({}, "cuda:99", "device 'cuda:99' cannot be used: "),
        ({}, "gpu", "device 'gpu' cannot be used: "),
        (
            {"data": {"train": {"images": "images", "videos": "nowhere"}}},
            "cpu",
            "nowhere: no dataset.json",
        ),
        ({"text": {"tokenizer": "/nowhere"}}, "cpu", "/nowhere"),
        (
            {"model": {"attention": "flsh"}},
            "cpu",
            "Check model.vision.model_type ('siglip_vision_model'), model.vision.extra and model.attention ('flsh').",
        ),
        ({"model": {"pretrained": "/nowhere"}}, "cpu", "model.pretrained (/nowhere): no config.json there. Give the"),
    ],
)
def test_what_a_config_names_must_exist(
    changes: dict[str, Any],
    device: str,
    words: str,
    tiny_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = config_tree(tiny_data)
    for key, value in changes.items():
        tree[key] = {**tree[key], **value}
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    assert main(["train", str(file), "--out", str(tmp_path / "run"), "--device", device]) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said


@pytest.mark.parametrize("model_type", ["siglp_vision_model", "bert"])
def test_a_vision_tower_that_transformers_lacks_is_a_clear_error(
    model_type: str, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = config_tree(tiny_data)
    tree["model"]["vision"]["model_type"] = model_type
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    assert main(["train", str(file), "--out", str(tmp_path / "run"), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "model: cannot be built: " in said
    assert f"Check model.vision.model_type ('{model_type}'), model.vision.extra and model.attention ('auto')." in said


def test_a_growing_number_of_frames_needs_batches_of_a_fixed_number_of_videos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(config_tree(tmp_path), sort_keys=False), encoding="utf-8")
    growing = ["train", str(file), "stages.sft.frame_schedule=growing", "--print-config"]
    assert main(growing) == 0
    assert main([*growing, "stages.sft.batch_tokens=8192"]) == 2
    assert "stages[1]: frame_schedule growing needs batch_tokens: null, not 8192: batches" in capsys.readouterr().err


def test_held_out_data_without_a_scored_question_are_refused_before_training(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, run = tmp_path / "tiny.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(config_tree(tiny_data), sort_keys=False), encoding="utf-8")
    assert main(["train", str(file), "data.eval=images", "--out", str(run), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert (
        "images: holds no moment retrieval, dense captioning, highlight detection or action segmentation question. "
        in said
    )
    assert not (run / "config.yaml").exists()  # so the corrected command may use the same folder


def test_shards_without_a_question_of_the_stages_tasks_are_refused(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(config_tree(tiny_data), sort_keys=False), encoding="utf-8")
    assert (
        main(["train", str(file), "stages.backbone.tasks=[action_segmentation]", "--out", str(tmp_path / "run")]) == 2
    )
    assert "images: no video has a question of the tasks action_segmentation." in capsys.readouterr().err


# data/: mixes; files with rows: lists of scripts/ablate.py
FILES = [path for path in sorted(configs_folder().rglob("*.yaml")) if path.parent.name != "data"]
RUNS = [path for path in FILES if "rows" not in read_tree(path)[0]]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_config_of_the_package_loads(path: Path) -> None:
    assert load(RunConfig, path).stages


def named(name: str) -> RunConfig:
    return load(RunConfig, configs_folder() / f"{name}.yaml")


def test_the_tiny_rl_configs_have_the_model_that_they_start_from() -> None:
    shipped = load(RunConfig, ROOT / "checkpoints" / "tiny" / "config.yaml").model
    for name in ("rl_tiny_sft", "rl_tiny", "ablations/rl_unphased"):
        model = named(name).model
        assert model.pretrained == "checkpoints/tiny"
        assert replace(model, pretrained=None) == shipped


def test_the_config_of_both_phases_has_those_of_the_two_that_train_them_apart() -> None:
    both, apart = named("rl"), [named("rl_phase1"), named("rl_phase2")]
    assert both.model == apart[0].model
    for stage, config, mix in zip(both.stages, apart, ({"museg": 1}, {"museg2": 1}), strict=True):
        (alone,) = config.stages
        assert stage == replace(alone, mix=mix)
        assert [both.data.train[name] for name in mix] == list(config.data.train.values())


def test_the_phases_of_a_model_that_answers_in_words_differ_as_musegs_do() -> None:
    config = named("temporal_vlm_rl")
    phase1, phase2 = config.stages
    assert phase1.rl is not None and phase2.rl is not None
    assert phase1 == replace(phase2, name="phase1", steps=400, mix={"museg": 1}, rl=phase1.rl)
    assert phase1.rl == replace(phase2.rl, rewards=phase1.rl.rewards, prompt=phase1.rl.prompt)
    for rl, phase in zip((phase1.rl, phase2.rl), PHASES.values(), strict=True):
        assert (rl.answers, rl.rewards, rl.prompt) == ("thinking", dict.fromkeys(phase.rewards, 1.0), phase.prompt)
    assert phase1.rl.rewards != phase2.rl.rewards and phase1.rl.prompt != phase2.rl.prompt
    tuned = named("temporal_vlm").model
    assert isinstance(tuned, TemporalVLMConfig) and isinstance(config.model, TemporalVLMConfig)
    assert replace(config.model, pretrained=None) == replace(tuned, instructblip=None, llama=None)


def test_one_long_phase_has_the_steps_and_settings_of_the_two_it_is_compared_with() -> None:
    (_, phase1, phase2), (_, unphased) = named("rl_tiny").stages, named("ablations/rl_unphased").stages
    assert unphased == replace(phase2, name="unphased", steps=phase1.steps + phase2.steps)
    assert phase1 == replace(phase2, name="phase1", steps=phase1.steps, rl=phase1.rl)
    assert phase1.rl == replace(phase2.rl, rewards={"format": 1.0, "global_matching": 1.0})
