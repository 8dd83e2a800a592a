"""Optimizers: what is decayed, and that a slot without an expert stays as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from timeexpert.moe import MoEConfig, MoELayer
from timeexpert.stages.config import StageConfig
from timeexpert.stages.muon import Muon, orthogonalised
from timeexpert.stages.optim import build_optimizers

DIM = 8


def make(seed: int = 0) -> tuple[MoELayer, torch.optim.Optimizer]:
    """One MoE layer of four experts as part of a model, and AdamW with strong decay."""
    torch.manual_seed(seed)
    layer = MoELayer(MoEConfig(num_experts=4, expert_dim=8, top_k=2), model_dim=DIM, num_token_types=1)
    for parameter in (layer.gate.weight, *layer.experts.parameters()):
        nn.init.normal_(parameter)
    stage = StageConfig(name="s", kind="sft", steps=10, mix={"v": 1}, lr=1e-2, weight_decay=0.5)
    (optimizer,) = build_optimizers(nn.ModuleDict({"moe": layer}), stage)
    return layer, optimizer


def slots(layer: MoELayer) -> list[nn.Parameter]:
    assert layer.gate.threshold is not None
    return [layer.gate.weight, layer.gate.threshold, *layer.experts.parameters()]


def train(layer: MoELayer, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for seed in range(steps):
        x = torch.randn(1, 64, DIM, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        layer(x, torch.zeros(1, 64, dtype=torch.long))[0].square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("was_trained", [False, True])
def test_a_slot_without_an_expert_does_not_move_while_the_others_train(was_trained: bool) -> None:
    layer, optimizer = make()
    if was_trained:
        train(layer, optimizer, 1)
        for parameter in slots(layer):  # what removing does
            for name in ("exp_avg", "exp_avg_sq"):
                optimizer.state[parameter][name][1] = 0
    layer.gate.active_experts[1] = False
    before = [p.detach().clone() for p in slots(layer)]
    train(layer, optimizer, 3)
    for parameter, old in zip(slots(layer), before, strict=True):
        assert torch.equal(parameter[1], old[1])
        assert all(not torch.equal(parameter[e], old[e]) for e in (0, 2, 3))


def test_a_removed_expert_would_go_on_moving_with_its_moments() -> None:
    layer, optimizer = make()
    train(layer, optimizer, 1)
    layer.gate.active_experts[1] = False
    before = layer.experts.down_proj[1].detach().clone()
    train(layer, optimizer, 1)
    assert not torch.equal(layer.experts.down_proj[1], before)


def test_the_decay_of_active_experts_is_that_of_adamw() -> None:
    (layer, ours), (plain, _) = make(), make()
    theirs = torch.optim.AdamW(plain.experts.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.5)
    for made, optimizer in ((layer, ours), (plain, theirs)):
        for stacked in made.experts.parameters():
            stacked.grad = torch.randn(stacked.shape, generator=torch.Generator().manual_seed(3))
        optimizer.step()
    for a, b in zip(layer.experts.parameters(), plain.experts.parameters(), strict=True):
        assert torch.equal(a, b)


def test_experts_without_a_gradient_are_not_decayed() -> None:
    layer, optimizer = make()
    before = layer.experts.down_proj.detach().clone()
    optimizer.step()
    assert torch.equal(layer.experts.down_proj, before)


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (32, 32)])
def test_muon_without_bfloat16_is_torchs_but_for_the_rounding_of_its_iteration(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timeexpert.stages.muon.has_bfloat16", lambda: False)
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(3, *shape)
    settings = {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    own = Muon([{"params": [ours], "weight_decay": 0.1}], lr=0.01)
    pairs = [(ours, own), (theirs, torch.optim.Muon([theirs], **settings))]
    for gradient in gradients:
        for parameter, optimizer in pairs:
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.01 * moved  # bfloat16 keeps 8 bits
    momenta = [optimizer.state[parameter]["momentum_buffer"] for parameter, optimizer in pairs]
    torch.testing.assert_close(*momenta)


def test_orthogonalised_has_singular_values_near_one() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalised(torch.randn(24, 64), (3.4445, -4.7750, 2.0315), 5, 1e-7))
    assert 0.6 < values.min() and values.max() < 1.3
