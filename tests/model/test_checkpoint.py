"""A saved model is the same model: weights, switched-off experts, history, settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from timeexpert.config import ConfigError
from timeexpert.model import TimeExpert, TimeExpertConfig

from .conftest import IDEFICS, Make, tiny_config


def test_saving_and_loading_is_exact_buffers_included(make: Make, tmp_path: Path):
    model = make(vision=IDEFICS, moe={"max_experts": 6}, compressor="projector", time_digits=(3, 2))
    for gate in model.gates:
        gate.active_experts[1], gate.active_experts[5] = False, True
        gate.activation_rates.uniform_(0, 1)
        gate.threshold.data.uniform_(-1, 1)  # type: ignore[union-attr]
    model.save_pretrained(tmp_path)
    again = TimeExpert.from_pretrained(tmp_path)
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert again.config.moe_config == model.config.moe_config
    assert again.config.time_format.frac_digits == 2 and again.config.projector_queries == {16: 4}
    ids = torch.randint(0, model.ids.output_size, (1, 7))
    assert torch.equal(again.eval()(ids).logits, model(ids).logits)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}


def test_a_bf16_model_keeps_history_and_thresholds_in_float32(make: Make, tmp_path: Path):
    make().to(torch.bfloat16).save_pretrained(tmp_path)
    model = TimeExpert.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.gates[0].weight.dtype == torch.bfloat16
    assert model.gates[0].activation_rates.dtype == torch.float32
    assert model.gates[0].threshold.dtype == torch.float32  # type: ignore[union-attr]
    ids = torch.randint(0, model.ids.output_size, (1, 7))
    assert model(ids).logits.isfinite().all()


LEARNED = {
    "learn_scale": True,
    "logit_scale": 5.0,
    "alpha_warmup_steps": 10,
    "adaptive": {"enabled": True, "noise": 0.5},
}


def test_a_learned_scale_a_warm_up_and_the_adaptive_settings_are_kept(make: Make, tmp_path: Path):
    model = make(moe=LEARNED)
    for gate in model.gates:
        gate.after_step()
        gate.log_scale.data += 0.25  # type: ignore[union-attr]
    model.save_pretrained(tmp_path)
    again = TimeExpert.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for ours, theirs in zip(again.gates, model.gates, strict=True):
        assert torch.equal(ours.scale, theirs.scale) and float(ours.alpha) == float(theirs.alpha) > 0  # type: ignore[arg-type]
    assert again.config.moe_config == model.config.moe_config
    assert again.config.moe_config.adaptive.noise == 0.5


def test_a_warm_up_and_a_scale_start_anew_where_a_folder_has_none(make: Make, tmp_path: Path):
    plain = make()
    plain.gates[0].activation_rates.uniform_(0, 1)
    plain.save_pretrained(tmp_path)
    model = TimeExpert.from_pretrained(tmp_path, config=make(moe=LEARNED).config)
    gate = model.gates[0]
    assert float(gate.alpha) == 0.0 and gate.scale.item() == pytest.approx(5.0)  # type: ignore[union-attr]
    assert torch.equal(gate.activation_rates, plain.gates[0].activation_rates)
    assert torch.equal(gate.weight, plain.gates[0].weight) and gate.active_experts.all()


def test_transformers_knows_a_model_folder(make: Make, tmp_path: Path):
    from transformers import AutoModel

    make().save_pretrained(tmp_path)
    assert isinstance(AutoModel.from_pretrained(tmp_path), TimeExpert)


def test_active_slots_come_first_in_a_new_model(make: Make):
    gate = make(moe={"max_experts": 6}).gates[0]
    assert gate.active_experts.tolist() == [True] * 4 + [False] * 2
    assert gate.activation_rates.shape == (6, 6) and gate.activation_rates.count_nonzero() == 0


def test_the_vocabulary_that_can_be_generated_has_27_ids_more_than_text():
    config = tiny_config(40)
    assert config.vocab_size == 40 + 1 + 13 + 13


def test_impossible_configs_are_refused():
    with pytest.raises(ValueError, match=r"compressor \('slots'\) must be one of vision, projector, queries"):
        TimeExpertConfig(compressor="slots")
    with pytest.raises(ConfigError, match="unknown key 'moe.experts'. Did you mean 'moe.num_experts'?"):
        _ = TimeExpertConfig(moe={"experts": 3}).moe_config


@pytest.mark.parametrize("compressor", ["vision", "projector", "queries"])
def test_tower_and_decoder_use_the_attention_that_is_asked_for(make: Make, compressor: str):
    for asked, got in ((None, "sdpa"), ("eager", "eager")):
        model = make(compressor=compressor, attn_implementation=asked)
        assert model.decoder.layers[0].self_attn.config._attn_implementation == got  # type: ignore[union-attr]
        assert model.frame_encoder.vision_tower.config._attn_implementation == got
