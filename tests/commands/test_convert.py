"""``timeexpert convert``: a published ARIA folder becomes a model to ask and to train from, and goes back."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file
from transformers import AriaConfig, AriaForConditionalGeneration

from tests.data.media import write_video
from timeexpert.checkpoint import write_folder
from timeexpert.cli import main
from timeexpert.config import ConfigError, load
from timeexpert.predict import Predictor
from timeexpert.stages.config import RunConfig
from timeexpert.stages.models import build_model
from timeexpert.stages.run_folder import RunFolder
from timeexpert.stages.train import Trainer

PIECES = ["<pad>", "<|im_start|>", "<|im_end|>", "<fim_prefix>", "<fim_suffix>", "<|img|>"]
VOCABULARY = 320  # some rows more than the tokenizer has pieces, as published
CONFIG = {
    "name": "small",
    "data": {"train": {"videos": "videos"}},
    "model": {
        "vision": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
                   "image_size": 28, "patch_size": 7},
        "decoder": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
                    "rope_theta": 10000.0, "max_position_embeddings": 512},
        "moe": {"num_experts": 4, "expert_dim": 16, "num_shared_experts": 2, "top_k": 2},
        "projector_queries": {16: 4},
    },
    "stages": [{"name": "sft", "kind": "sft", "steps": 1, "mix": {"videos": 1}}],
    "eval": {"num_frames": 3, "max_new_tokens": 40, "max_events": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def aria(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ARIA's folder, tiny: safetensors in bf16 and a byte-level tokenizer with its control pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("aria")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=PIECES, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["when does it grow?"], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<pad>")
    wrapped.save_pretrained(folder)

    model = CONFIG["model"]
    decoder = {k: v for k, v in model["decoder"].items() if k != "rope_theta"}  # type: ignore[index]
    moe = {"intermediate_size": 16, "moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 2}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "vocab_size": VOCABULARY}
    config = AriaConfig(
        vision_config={"model_type": "idefics3_vision", **model["vision"]},  # type: ignore[index]
        text_config={**decoder, **moe, **rope},
        projector_patch_to_query_dict={16: 4},
    )
    torch.manual_seed(0)
    AriaForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


def convert(*arguments: object) -> int:
    return main(["convert", *map(str, arguments)])


def test_a_converted_model_answers_and_goes_back_bit_identical(
    aria: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert convert(aria, "-o", ours, "--config", small, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert "frame_encoder.compressor.slots" in report["new"] and report["left_out"] == []
    assert len(report["loaded"]) == len(load_file(aria / "model.safetensors")) and report["dtype"] == "bfloat16"

    predictor = Predictor.from_pretrained(ours, device="cpu")  # checks the manifest
    assert predictor.config.num_frames == 3 and predictor.model.config.text_config.vocab_size == VOCABULARY
    answer = predictor.ask(write_video(tmp_path / "a.mp4"), "When does it grow?", task="moment_retrieval")
    assert answer.problems == [] and len(answer.frame_times_s) == 3
    digits = predictor.text.digit_ids()
    tables = predictor.model.embedding
    assert torch.equal(tables.time_encoder.weight[2:12], tables.text.weight[digits])

    assert convert(ours, "-o", back, "--to-aria") == 0
    told = capsys.readouterr().out
    assert "left out: tensors" in told and "decoder.layers.*.moe.gate.threshold" in told
    before, after = load_file(aria / "model.safetensors"), load_file(back / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
    again = AriaForConditionalGeneration.from_pretrained(back)
    assert again.config.text_config.moe_num_experts == 4 and again.dtype == torch.bfloat16
    assert convert(back, "-o", tmp_path / "twice", "--config", small) == 0  # its tokenizer came along


def test_settings_shape_the_model_and_the_spelling_names_arias_tensors(aria: Path, small: Path, tmp_path: Path):
    settings = [
        "model.moe.router=topk",
        "model.moe.max_experts=6",
        "model.compressor=queries",
        "model.tokens_per_frame=3",
    ]
    assert convert(aria, *settings, "-o", tmp_path / "ours", "--config", small, "--dtype", "float32") == 0
    model = Predictor.from_pretrained(tmp_path / "ours", device="cpu").model
    assert model.config.moe_config.slots == 6 and model.frame_encoder.compressor is None
    assert model.dtype == torch.float32
    assert convert(tmp_path / "ours", "-o", tmp_path / "back", "--to-aria", "--spelling", "transformers") == 0
    state = load_file(tmp_path / "back" / "model.safetensors")
    assert state["model.language_model.layers.1.mlp.experts.gate_up_proj"].shape == (4, 32, 32)
    assert state["model.multi_modal_projector.query"].shape == (3, 16)


def test_aria_gets_a_learned_scale_and_free_slots_and_goes_back_without_them(aria: Path, small: Path, tmp_path: Path):
    learned = ["model.moe.learn_scale=true", "model.moe.logit_scale=5", "model.moe.alpha_warmup_steps=9"]
    settings = [*learned, "model.moe.max_experts=6", "model.moe.adaptive.enabled=true"]
    assert convert(aria, *settings, "-o", tmp_path / "ours", "--config", small) == 0
    gate = Predictor.from_pretrained(tmp_path / "ours", device="cpu").model.gates[0]
    assert gate.scale.item() == pytest.approx(5.0) and gate.alpha == 0.0  # type: ignore[union-attr]
    assert gate.log_scale is not None and gate.log_scale.dtype == torch.float32
    assert gate.active_experts.tolist() == [True] * 4 + [False] * 2
    assert convert(tmp_path / "ours", "-o", tmp_path / "back", "--to-aria") == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (aria, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_a_large_aria_is_written_in_shards(aria: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from timeexpert.commands import convert as command

    monkeypatch.setattr(command, "SHARD_BYTES", 50_000)
    assert convert(aria, "-o", tmp_path / "ours", "--config", small) == 0
    assert convert(tmp_path / "ours", "-o", tmp_path / "back", "--to-aria") == 0
    assert len(list((tmp_path / "back").glob("model-*.safetensors"))) > 1
    assert convert(tmp_path / "back", "-o", tmp_path / "again", "--config", small) == 0
    AriaForConditionalGeneration.from_pretrained(tmp_path / "back")


def test_a_run_starts_from_a_converted_folder(aria: Path, small: Path, tmp_path: Path):
    ours = tmp_path / "ours"
    assert convert(aria, "-o", ours, "--config", small) == 0
    settings = [f"model.pretrained={ours}", f"text.tokenizer={ours}"]
    config = load(RunConfig, small, settings)
    trainer = Trainer(config, RunFolder(tmp_path / "run"), "cpu", Console(quiet=True))
    trainer.run.path.mkdir()
    text = trainer._text()
    model = build_model(config, text)
    assert text.vocab_size == VOCABULARY
    assert all(p.dtype == torch.float32 for p in model.parameters())  # bfloat16 weights would swallow small steps
    saved = load_file(aria / "model.safetensors")["language_model.lm_head.weight"]
    assert torch.equal(model.heads.text.weight.to(torch.bfloat16), saved)
    with pytest.raises(ConfigError, match=r"has 320 text pieces, the tokenizer has 9. Set text.tokenizer"):
        build_model(config, SimpleNamespace(vocab_size=9, pad_id=0, eos_id=1))  # type: ignore[arg-type]
    other = load(RunConfig, small, [*settings, "model.tokens_per_frame=4", "model.moe.expert_dim=24"])
    with pytest.raises(ConfigError, match=r"other shapes than model: .*expert_dim is \d+ there, 24 here.*tokens"):
        build_model(other, text)


def test_a_run_is_made_compact_and_answers_as_before(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = Predictor.from_pretrained(tiny_run, device="cpu").model
    loose, out = tmp_path / "loose", tmp_path / "out"
    source = tiny_run / "models" / "sft"

    def fill(folder: Path) -> None:
        for gate in model.gates:  # as the adaptive process would leave them: the first expert is gone
            gate.active_experts[0] = False
        model.save_pretrained(folder)
        for path in source.iterdir():
            if path.name not in ("model.safetensors", "manifest.json"):
                (folder / path.name).write_bytes(path.read_bytes())

    write_folder(loose, fill)
    capsys.readouterr()
    assert convert(loose, "--compact", "-o", out, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["left_out"] == ["layer 0: 1 empty slots", "layer 1: 1 empty slots"]
    video = next((tiny_data / "held_out.raw" / "media").glob("*.mp4"))
    answers = [
        Predictor.from_pretrained(folder, device="cpu").ask(video, "What happens, and when?") for folder in (loose, out)
    ]
    assert answers[0] == answers[1]
    state = load_file(out / "model.safetensors")
    assert state["decoder.layers.0.moe.experts.down_proj"].shape[0] == 2
    assert convert(out, "--compact", "-o", tmp_path / "again") == 0
    assert "left out: 0 tensors" in capsys.readouterr().out  # nothing is empty any more


def test_mistakes_are_answered_in_one_line(aria: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def told(*arguments: object) -> str:
        assert convert(*arguments) == 2
        return capsys.readouterr().err

    out = ["-o", tmp_path / "out", "--config", small]
    assert "mlp.router.weight [4, 32] must be [3, 32]" in told(aria, "model.moe.num_experts=3", *out)
    assert "unknown key 'model.moe.expert'" in told(aria, "model.moe.expert=3", *out)
    assert "text_config.vocab_size cannot be read" in told(tmp_path, *out)
    assert not (tmp_path / "out").exists()
    assert "exists already. Give a new folder" in told(aria, "-o", aria)
    assert "neither a model folder" in told(aria, *out, "--to-aria")
    assert "with --compact there is nothing to set" in told(aria, "model.moe.alpha=1", *out, "--compact")
    assert "--compact leaves the weights as they are stored" in told(aria, *out, "--compact", "--dtype", "float32")
    assert "with --to-aria there is nothing to set" in told(aria, "model.moe.alpha=1", *out, "--to-aria")
