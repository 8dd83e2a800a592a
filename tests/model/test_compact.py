"""Dropping empty slots changes tensors and config, and no answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from timeexpert.data.collate import pad_rows
from timeexpert.model import TimeExpert
from timeexpert.model.compact import compact
from timeexpert.predict import load_model
from timeexpert.tokenization import EventCodec
from timeexpert.tokenization.text import SentencePieceText

from .conftest import Make, questions, row_of


def with_holes(make: Make, **moe: object) -> TimeExpert:
    """Eight slots; experts 1, 3 and 6 of the first layer, five of the second."""
    settings = {"num_experts": 8, "top_k": 2, "logit_scale": 10.0, "alpha": 0.5, "threshold_update": "mean_k", **moe}
    model = make(moe=settings)
    for gate, active in zip(model.gates, ([1, 3, 6], [0, 2, 3, 5, 7]), strict=True):
        gate.active_experts[:] = False
        gate.active_experts[active] = True
        gate.activation_rates.uniform_(0, 1)
        if gate.threshold is not None:
            gate.threshold.data.uniform_(-1, 3)
    return model


def logits(model: TimeExpert, codec: EventCodec, text: SentencePieceText) -> Tensor:
    batch = pad_rows([row_of(codec, text, [sample], 3, i) for i, sample in enumerate(questions())], 0)
    return model(batch.input_ids, batch.pixel_values, batch.decoder_mask, batch.position_ids).logits


@pytest.mark.parametrize("fallback", ["top1", "least_utilised", "skip"])
def test_logits_are_the_same_to_the_bit(make: Make, codec: EventCodec, text: SentencePieceText, fallback: str):
    model = with_holes(make, fallback=fallback)
    small = compact(model)
    assert torch.equal(logits(small, codec, text), logits(model, codec, text))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


def test_logits_of_a_topk_router_are_the_same_but_for_rounding(make: Make, codec: EventCodec, text: SentencePieceText):
    # its weights are a softmax over a product with fewer rows, which may round otherwise
    model = with_holes(make, router="topk", threshold_update="gradient")
    assert_close(logits(compact(model), codec, text), logits(model, codec, text), atol=1e-5, rtol=1e-5)


def test_layers_get_the_slots_of_the_fullest_one_and_keep_the_order_of_their_experts(make: Make):
    model = with_holes(make)
    small = compact(model)
    assert small.config.moe_config.slots == 5 and small.config.moe_config.max_experts is None
    assert small.gates[1].active_experts.all()
    assert small.gates[0].active_experts.tolist() == [False, True, False, True, True]  # 0 and 2 fill it up
    assert torch.equal(small.gates[0].weight, model.gates[0].weight[[0, 1, 2, 3, 6]])
    assert torch.equal(small.gates[0].activation_rates, model.gates[0].activation_rates[:, [0, 1, 2, 3, 6]])
    assert torch.equal(small.moe_layers[1].experts.down_proj, model.moe_layers[1].experts.down_proj[[0, 2, 3, 5, 7]])
    assert model.config.moe_config.num_experts == 8  # the model itself stays as it is


def test_a_token_keeps_as_many_slots_as_top_k_asks_for(make: Make):
    model = with_holes(make, top_k=7)
    assert compact(model).config.moe_config.slots == 7


def test_a_compact_model_is_saved_and_loaded_like_any_other(make: Make, tmp_path: Path):
    small = compact(with_holes(make, learn_scale=True, alpha_warmup_steps=3, max_experts=9))
    small.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    ids = torch.randint(0, again.ids.output_size, (1, 7))
    assert torch.equal(again.eval()(ids).logits, small(ids).logits)
