"""ARIA's weights as ours and back: equal numbers, nothing lost, clear words where something does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close
from transformers import AriaConfig, AriaForConditionalGeneration, AriaTextConfig, AriaTextForCausalLM

from timeexpert.model import TimeExpert, TimeExpertConfig
from timeexpert.model.weights import (
    WeightsError,
    aria_config,
    aria_name,
    from_aria,
    left_out,
    our_name,
    to_aria,
)

from .conftest import DECODER, IDEFICS, tiny_config

EXPERTS = {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1}
TEXT = {**DECODER, "vocab_size": 40, "pad_token_id": 0, "eos_token_id": 2}
QUERIES = {4: 3, 16: 5}


def randomise(model: torch.nn.Module) -> None:
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


@pytest.fixture
def aria() -> AriaForConditionalGeneration:
    config = AriaConfig(
        vision_config=IDEFICS,
        text_config={**TEXT, **EXPERTS},
        projector_patch_to_query_dict=QUERIES,
        image_token_index=9,
    )
    model = AriaForConditionalGeneration(config)
    randomise(model)
    return model.eval()


def config(**settings: Any) -> TimeExpertConfig:
    """Ours for the fixture's ARIA, with its router unless told."""
    moe = {"router": "topk", **settings.pop("moe", {})}
    return tiny_config(vision=settings.pop("vision", IDEFICS), moe=moe, projector_queries=QUERIES, **settings)


def released(aria: AriaForConditionalGeneration) -> dict[str, Tensor]:
    """The names of the published checkpoint, as transformers' own conversion writes them."""
    out = {}
    for name, tensor in aria.state_dict().items():
        name = name.replace("model.language_model.", "language_model.model.").replace(
            "lm_head.", "language_model.lm_head."
        )
        name = name.replace("mlp.experts.gate_up_proj", "mlp.experts.fc1.weight").replace(
            "mlp.experts.down_proj", "mlp.experts.fc2.weight"
        )
        out[name.removeprefix("model.")] = tensor
    return out


def write_shards(folder: Path, state: dict[str, Tensor]) -> None:
    """Three files and their index, as large checkpoints are published."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(state)
    weight_map = {}
    for i in range(3):
        file = f"model-{i + 1:05d}-of-00003.safetensors"
        part = {name: state[name].contiguous() for name in names[i::3]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_the_decoder_equals_arias_forward_and_backward():
    theirs = AriaTextForCausalLM(AriaTextConfig(**TEXT, **EXPERTS))
    randomise(theirs)
    ours, report = from_aria(theirs, config(), text_only=True)
    assert not report.unused and "decoder.layers.1.moe.experts.down_proj" in report.loaded
    ids = torch.randint(0, 40, (2, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 11, dtype=torch.long)
    mask[1, :4] = 0  # padded on the left
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    got = ours(ids, attention_mask=mask, position_ids=positions).logits[..., :40]
    want = theirs(ids, attention_mask=mask, position_ids=positions).logits
    assert_close(got[mask.bool()], want[mask.bool()], atol=1e-5, rtol=1e-5)

    weights = torch.randn(want.shape, generator=torch.Generator().manual_seed(2)) * mask[..., None]
    (want * weights).sum().backward()
    (got * weights).sum().backward()
    expected = {our_name(name): p.grad for name, p in theirs.named_parameters()}
    gradients = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None and name in expected}
    assert gradients.keys() == expected.keys() and len(gradients) == 3 + 2 * 12
    for name, grad in gradients.items():
        scale = expected[name].abs().max()
        assert_close(grad / scale, expected[name] / scale, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("pixels", "tokens"), [(16, 5), (8, 3)])  # 16 and 4 patches: two of ARIA's picture sizes
def test_frames_become_arias_image_features(aria: AriaForConditionalGeneration, pixels: int, tokens: int):
    vision = {**IDEFICS, "image_size": pixels}
    ours, _ = from_aria(aria, config(vision=vision, compressor="queries", tokens_per_frame=tokens))
    x = torch.rand(2, 3, pixels, pixels) * 2 - 1
    want = aria.get_image_features(x).pooler_output
    assert_close(ours.eval().frame_encoder(x), want, atol=1e-5, rtol=1e-5)


def test_slots_sit_on_arias_projector_output(aria: AriaForConditionalGeneration):
    ours, report = from_aria(aria, config(compressor="projector"))
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    encoder = ours.eval().frame_encoder
    assert encoder.compressor is not None
    want = encoder.compressor(aria.get_image_features(x).pooler_output)
    assert_close(encoder(x), want, atol=1e-5, rtol=1e-5)
    assert "frame_encoder.compressor.slots" in report.new


@pytest.mark.parametrize(("frame", "table"), [(490, 980), (490, 490), (980, 980)])
def test_position_rows_are_those_that_aria_reads_at_its_real_picture_sizes(frame: int, table: int):
    from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionConfig, Idefics3VisionEmbeddings

    from timeexpert.model.weights import _positions

    def embeddings(size: int) -> Idefics3VisionEmbeddings:
        return Idefics3VisionEmbeddings(
            Idefics3VisionConfig(hidden_size=1, image_size=size, patch_size=14, num_attention_heads=1)
        )

    theirs, ours = embeddings(table), embeddings(frame)
    theirs.position_embedding.weight.data = torch.arange((table // 14) ** 2).float()[:, None]
    rows = _positions((frame // 14) ** 2, (table // 14) ** 2)
    ours.position_embedding.weight.data = theirs.position_embedding.weight.data[rows]
    ours.patch_embedding.load_state_dict(theirs.patch_embedding.state_dict())
    side = frame // 14
    mask, picture = torch.ones(1, side, side, dtype=torch.bool), torch.zeros(1, 3, frame, frame)
    assert torch.equal(ours(picture, mask), theirs(picture, mask))


@pytest.mark.parametrize("spelling", ["released", "transformers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_aria_ours_aria_is_bit_identical(aria: AriaForConditionalGeneration, spelling: str, dtype: torch.dtype):
    aria.to(dtype)
    state = released(aria) if spelling == "released" else aria.state_dict()
    model, report = from_aria(state, config(compressor="projector"))
    assert not report.unused and model.dtype == dtype
    assert model.gates[0].activation_rates.dtype == torch.float32  # steps of 1% would be lost in bf16
    back = to_aria(model, spelling)  # type: ignore[arg-type]
    assert back.keys() == state.keys()
    assert all(back[name].dtype == dtype and torch.equal(back[name], tensor) for name, tensor in state.items())
    assert set(left_out(model)) == set(report.new)


def test_a_published_folder_loads_shard_by_shard(aria: AriaForConditionalGeneration, tmp_path: Path):
    state = released(aria.to(torch.bfloat16))
    write_shards(tmp_path, state)
    model, report = from_aria(tmp_path, config())
    assert len(report.loaded) == len(state) and model.dtype == torch.bfloat16
    assert all(torch.equal(to_aria(model)[name], tensor) for name, tensor in state.items())
    assert all(bool(tensor.float().isfinite().all()) for tensor in model.state_dict().values())  # nothing left empty
    assert from_aria(tmp_path, config(), dtype=torch.float32)[0].dtype == torch.float32


def test_what_transformers_saves_loads(aria: AriaForConditionalGeneration, tmp_path: Path):
    aria.save_pretrained(tmp_path)
    model, _ = from_aria(tmp_path, config())
    assert torch.equal(model.heads.text.weight, aria.lm_head.weight)


def test_transformers_reads_what_we_write(aria: AriaForConditionalGeneration, tmp_path: Path):
    model, _ = from_aria(aria, config(compressor="projector"))
    save_file(to_aria(model), tmp_path / "model.safetensors", metadata={"format": "pt"})
    aria_config(model).save_pretrained(tmp_path)
    again = AriaForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in aria.state_dict().items())
    ids = torch.randint(10, 40, (1, 5))
    assert torch.equal(again(ids).logits, aria(ids).logits)


def test_names_of_the_first_release_are_read(aria: AriaForConditionalGeneration):
    state = {}
    for name, tensor in released(aria).items():
        name = name.replace("vision_tower.", "vision_tower.vision_model.").replace("feed_forward.", "ffn.")
        name = name.replace("layer_norm_kv.", "ln_kv.").replace("projector.layer_norm.", "projector.ln_ffn.")
        if "post_layernorm" not in name:  # that release had none
            state[name] = tensor
    state["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    model, report = from_aria(state, config())
    assert torch.equal(
        model.frame_encoder.projector.layer_norm.weight, aria.model.multi_modal_projector.layer_norm.weight
    )  # type: ignore[union-attr]
    assert report.unused == ("language_model.model.layers.0.self_attn.rotary_emb.inv_freq",)
    assert "frame_encoder.vision_tower.post_layernorm.weight" in report.new


def test_the_report_says_what_is_new_and_what_was_not_used(aria: AriaForConditionalGeneration):
    _, report = from_aria(released(aria), config(moe={"router": "topany"}, compressor="vision"))
    assert {name.split(".")[0] for name in report.unused} == {"multi_modal_projector"}
    new = {name.replace("layers.0", "layers.*").replace("layers.1", "layers.*") for name in report.new}
    gate = {f"decoder.layers.*.moe.gate.{name}" for name in ("threshold", "active_experts", "activation_rates")}
    slots = {f"frame_encoder.compressor.{name}" for name in ("slots", "norm.weight", "norm.bias", "readout.weight")}
    numbers = {"embedding.sync.weight", "embedding.time_encoder.weight", "embedding.score_encoder.weight"}
    assert new == gate | slots | numbers | {"heads.sync.weight", "heads.time.weight", "heads.score.weight"}
    small = config(vision={**IDEFICS, "image_size": 8}, compressor="queries", tokens_per_frame=2)
    assert from_aria(released(aria), small)[1].unused == (
        "vision_tower.embeddings.position_embedding.weight (12 of 16 rows)",
        "multi_modal_projector.query (3 of 5 rows)",
    )


def test_new_parts_are_initialised_as_in_a_new_model(aria: AriaForConditionalGeneration):
    model, _ = from_aria(aria, config(moe={"router": "topany", "max_experts": 6}))
    gate, experts = model.gates[0], model.decoder.layers[0].moe.experts  # type: ignore[union-attr]
    assert gate.threshold.tolist() == [0.0] * 6 and gate.active_experts.tolist() == [True] * 4 + [False] * 2  # type: ignore[union-attr]
    assert torch.equal(experts.down_proj[:4], aria.model.language_model.layers[0].mlp.experts.down_proj)
    for part in (experts.down_proj[4:], gate.weight[4:], model.heads.time.weight, model.embedding.sync.weight):
        assert 0.05 < part.std() < 0.5  # initializer_range 0.2
    assert model.frame_encoder.compressor.slots.std().item() == pytest.approx(1, abs=0.3)  # type: ignore[union-attr]
    assert model.frame_encoder.compressor.norm.weight.tolist() == [1.0] * 32  # type: ignore[union-attr]


def test_only_active_experts_go_back(aria: AriaForConditionalGeneration):
    model, _ = from_aria(aria, config())
    for gate in model.gates:
        gate.active_experts[1] = False
    back = to_aria(model)
    assert back["language_model.model.layers.0.mlp.router.weight"].shape == (3, 32)
    assert aria_config(model).text_config.moe_num_experts == 3
    model.gates[0].active_experts[0] = False
    with pytest.raises(WeightsError, match="layers have 2 to 3 active experts; ARIA needs the same in all"):
        to_aria(model)


def test_without_a_projector_there_is_no_way_back(aria: AriaForConditionalGeneration):
    model, _ = from_aria(aria, config(compressor="vision"))
    with pytest.raises(WeightsError, match=r"compressor \('vision'\) replaces ARIA's projector"):
        to_aria(model)


def test_every_name_translates_there_and_back(aria: AriaForConditionalGeneration):
    model = TimeExpert(config(compressor="projector"))
    for spelling in ("released", "transformers"):
        pairs = {name: aria_name(name, spelling) for name in model.state_dict()}  # type: ignore[arg-type]
        assert all(our_name(theirs) == name for name, theirs in pairs.items() if theirs)
    assert our_name("optimizer.step") is None


def drop(state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if part not in name}


def test_weights_that_do_not_fit_are_named(aria: AriaForConditionalGeneration):
    state = released(aria)
    with pytest.raises(
        WeightsError, match=r"missing: language_model.model.layers.1.mlp.router.weight. Give the config"
    ):
        from_aria(drop(state, "layers.1.mlp.router"), config())
    with pytest.raises(WeightsError, match=r"missing: vision_tower.embeddings.patch_embedding.weight, .* and \d+ more"):
        from_aria(drop(state, "vision_tower"), config())
    with pytest.raises(WeightsError, match="language_model.model.layers.7.norm: the model has no such tensor"):
        from_aria({**state, "language_model.model.layers.7.norm": torch.ones(1)}, config())
    with pytest.raises(WeightsError, match=r"mlp.router.weight \[4, 32\] must be \[5, 32\].* and 3 more"):
        from_aria(state, config(moe={"num_experts": 5}))
    with pytest.raises(WeightsError, match=r"embed_tokens.weight \[40, 32\] must be \[41, 32\]"):
        from_aria(state, config(decoder={"vocab_size": 41}))
    with pytest.raises(WeightsError, match="lm_head.weight is there twice, in two spellings"):
        from_aria({**state, "lm_head.weight": state["language_model.lm_head.weight"]}, config())


def test_a_folder_that_is_damaged_or_unsafe_is_refused(aria: AriaForConditionalGeneration, tmp_path: Path):
    index = tmp_path / "model.safetensors.index.json"
    with pytest.raises(WeightsError, match="neither model.safetensors nor model.safetensors.index.json. Give a folder"):
        from_aria(tmp_path, config())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match="pytorch_model.bin is a pickle, which is never read"):
        from_aria(tmp_path, config())

    write_shards(tmp_path, released(aria))
    good = json.loads(index.read_text())
    name = next(iter(good["weight_map"]))
    for file in ("../model-00001-of-00003.safetensors", "/etc/passwd", "weights.bin"):
        index.write_text(json.dumps({"weight_map": {**good["weight_map"], name: file}}))
        with pytest.raises(WeightsError, match="must be a .safetensors file in this folder"):
            from_aria(tmp_path, config())
    for text in ("[]", "{", '{"weight_map": {"a": 1}}', "[" * 100_000):
        index.write_text(text)
        with pytest.raises(WeightsError, match="not an index of safetensors"):
            from_aria(tmp_path, config())
    index.write_text(json.dumps({"weight_map": {n: f for n, f in good["weight_map"].items() if n != name}}))
    with pytest.raises(WeightsError, match=f"{name}: the index does not list it"):
        from_aria(tmp_path, config())
    index.write_text(json.dumps({"weight_map": {**good["weight_map"], "more": good["weight_map"][name]}}))
    with pytest.raises(WeightsError, match="more: the index lists it, the file lacks it"):
        from_aria(tmp_path, config())

    index.write_text(json.dumps(good))
    shard = tmp_path / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:500])
    with pytest.raises(WeightsError, match="model-00002-of-00003.safetensors: cannot be read"):
        from_aria(tmp_path, config())
    shard.unlink()
    with pytest.raises(WeightsError, match="model-00002-of-00003.safetensors: cannot be read"):
        from_aria(tmp_path, config())


def test_quantised_weights_are_refused(tmp_path: Path):
    save_file({"lm_head.weight": torch.zeros(2, 2, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="weights of type I8; only F64, F32, F16, BF16"):
        from_aria(tmp_path, config())
