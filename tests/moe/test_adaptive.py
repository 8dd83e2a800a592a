"""The adaptive process: who is removed and added by hand-made counts, and what an edit does to weights and moments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from timeexpert.moe import AdaptiveExperts, ExpertStatistics, LayerStatistics, MoEConfig, MoELayer, TokenRole
from timeexpert.moe.adaptive import addable, midway_threshold, removable
from timeexpert.moe.config import AdaptiveConfig

DIM, WIDTH, TYPES = 4, 3, 2


def make_layer(num_experts: int = 3, max_experts: int = 4, seed: int = 0, **settings: Any) -> MoELayer:
    """Gate rows along the axes of R^4 at length 2, threshold 0.5 each."""
    torch.manual_seed(seed)
    names = AdaptiveConfig.__dataclass_fields__
    adaptive = {k: settings.pop(k) for k in list(settings) if k in names}
    adaptive = {"enabled": True, "update_every": 10, "tau_min": 0.1, "min_active": 1, **adaptive}
    settings = {"alpha": 0.0, "fallback": "skip", "top_k": 1, "num_shared_experts": 2, **settings}
    config = MoEConfig(
        num_experts=num_experts,
        max_experts=max_experts,
        expert_dim=WIDTH,
        adaptive=AdaptiveConfig(**adaptive),
        **settings,
    )
    layer = MoELayer(config, model_dim=DIM, num_token_types=TYPES)
    layer.gate.weight.data = 2 * torch.eye(max_experts, DIM)
    assert layer.gate.threshold is not None
    layer.gate.threshold.data.fill_(0.5)
    for parameter in layer.experts.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def counts_of(layer: MoELayer, routed: list[list[float]], tokens: list[float], **more: Tensor) -> LayerStatistics:
    counts = LayerStatistics.zeros(layer.gate)
    return replace(counts, routed=torch.tensor(routed), tokens=torch.tensor(tokens), **more)


def unassigned(count: float, answers: float, direction: Tensor, everything: Tensor | None = None) -> dict[str, Tensor]:
    """Counts of ``answers`` tokens, ``count`` of them unassigned; the directions of these sum to ``direction``."""
    everything = torch.zeros(DIM) if everything is None else everything
    return {"answers": torch.tensor([answers, count]), "directions": torch.stack([everything, direction])}


def process(layer: MoELayer, *optimizers: torch.optim.Optimizer, seed: int = 0) -> AdaptiveExperts:
    return AdaptiveExperts([layer], optimizers, seed)


def test_an_expert_with_less_than_tau_min_of_the_tokens_is_removed_least_used_first():
    layer = make_layer()
    routed = [[90.0, 5.0, 3.0, 0.0], [9.0, 1.0, 1.0, 0.0]]  # 99, 6 and 4 of 110 tokens; tau_min 10 %
    assert removable(layer, counts_of(layer, routed, [100.0, 10.0])) == [2, 1]
    gentle = make_layer(tau_min=0.05)  # 5.5 stays
    assert removable(gentle, counts_of(gentle, routed, [100.0, 10.0])) == [2]


def test_the_most_used_expert_of_a_token_type_is_never_removed():
    layer = make_layer()
    routed = [[90.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]]  # expert 2 has 2 %, but all of type 1
    assert removable(layer, counts_of(layer, routed, [90.0, 10.0])) == [1]


def test_a_type_of_which_nobody_computed_a_token_protects_nobody():
    layer = make_layer()
    routed = [[0.0, 90.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    assert removable(layer, counts_of(layer, routed, [90.0, 10.0])) == [0, 2]


def test_some_experts_always_stay():
    routed, tokens = [[90.0, 1.0, 2.0, 0.0], [0.0] * 4], [90.0, 0.0]
    layer = make_layer(min_active=2)
    assert removable(layer, counts_of(layer, routed, tokens)) == [1]
    unset = make_layer(min_active=None, top_k=3)  # then top_k
    assert removable(unset, counts_of(unset, routed, tokens)) == []


def test_an_expert_is_added_where_enough_answer_tokens_were_unassigned():
    layer = make_layer(add_share=0.05)
    routed, tokens, axis = [[9.0] * 4] * 2, [50.0, 50.0], torch.eye(DIM)[3]
    assert addable(layer, counts_of(layer, routed, tokens, **unassigned(5, 100, axis))) == 3
    assert addable(layer, counts_of(layer, routed, tokens, **unassigned(4, 100, axis))) is None
    assert addable(layer, counts_of(layer, routed, tokens, **unassigned(0, 0, 0 * axis))) is None
    assert addable(layer, counts_of(layer, routed, tokens, **unassigned(5, 100, 0 * axis))) is None  # no direction
    full = make_layer(num_experts=4, add_share=0.0)
    assert addable(full, counts_of(full, routed, tokens, **unassigned(5, 100, axis))) is None  # no slot


def test_the_new_threshold_lies_half_way_between_unassigned_and_other_tokens():
    layer = make_layer(logit_scale=10.0, alpha=0.25)
    axis, other = torch.eye(DIM)[3], torch.eye(DIM)[0]
    # 10 unassigned tokens with a mean cosine of 0.8 to their sum; 100 tokens in all, with a mean cosine of 0.2
    counts = counts_of(layer, [[0.0] * 4] * 2, [60.0, 40.0], **unassigned(10, 50, 8 * axis, 20 * axis + 50 * other))
    assert midway_threshold(layer, counts) == pytest.approx(10 * 0.5 / 1.25)
    # where the others lie nearer than the unassigned tokens themselves, it is these tokens' own mean
    counts = counts_of(layer, [[0.0] * 4] * 2, [60.0, 40.0], **unassigned(10, 50, 8 * axis, 90 * axis))
    assert midway_threshold(layer, counts) == pytest.approx(10 * 0.8 / 1.25)


def clusters(count: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Context near axis 0, answers near axis 3, which no expert of :func:`make_layer` (experts 0 to 2) accepts."""
    generator = torch.Generator().manual_seed(5)
    noise = 0.1 * torch.randn(2 * count, DIM, generator=generator)
    x = noise + torch.eye(DIM)[[0] * count + [3] * count] + 0.3  # all share a direction
    roles = torch.tensor([TokenRole.CONTEXT] * count + [TokenRole.ANSWER] * count)
    return x, torch.zeros(2 * count, dtype=torch.long), roles


def run_steps(layer: MoELayer, adaptive: AdaptiveExperts, steps: range) -> list[Any]:
    x, types, roles = clusters()
    statistics, edits = ExpertStatistics([layer.gate]), []
    for step in steps:
        statistics.update([layer.gate(x, types, roles)], types, roles)
        adaptive.record(step, statistics.fold())
        edits += adaptive.edit(step)
    return edits


@pytest.mark.parametrize(("threshold", "context_taken"), [("midway", 0.0), ("zero", 1.0)])
def test_a_new_expert_takes_the_tokens_that_nobody_took(threshold: str, context_taken: float):
    layer = make_layer(threshold=threshold, tau_min=0.0)
    x, types, roles = clusters()
    before = layer.gate(x, types, roles)
    assert before.fallback_T.tolist() == [False] * 40 + [True] * 40  # recorded before any fallback
    (edit,) = run_steps(layer, process(layer), range(1, 11))
    assert (edit.action, edit.expert, edit.rate, edit.tokens, edit.active) == ("add", 3, 1.0, 400, 4)
    assert edit.reason == ("100 % of 400 tokens of answers in 10 steps were accepted by no expert, add_share is 5 %")
    taken = layer.gate(x, types).mask_TE[:, 3].float()
    assert taken[40:].mean() == 1.0 and taken[:40].mean() == context_taken  # zero: a half-space, so nearly all
    sums = F.normalize(x[40:], dim=-1).sum(0)
    assert_close(layer.gate.weight[3], 2 * F.normalize(sums, dim=0))  # as long as its parent's row


def test_only_the_last_steps_before_a_decision_are_counted():
    layer = make_layer(record_steps=3, tau_min=0.0)
    edits = run_steps(layer, process(layer), range(1, 21))
    assert [e.tokens for e in edits] == [120]  # 3 steps of 40; at step 20 everything is assigned
    assert "in 3 steps" in edits[0].reason


def test_nothing_is_decided_between_the_steps_of_the_schedule():
    layer = make_layer(tau_min=0.0)
    assert run_steps(layer, process(layer), range(1, 10)) == []
    assert layer.gate.active_experts.tolist() == [True, True, True, False]


def trained(layer: MoELayer) -> torch.optim.AdamW:
    """The layer after two steps of AdamW in which every expert has had tokens, so that all moments are there."""
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3, weight_decay=0.0)
    for seed in range(2):
        x = 2 * torch.eye(DIM).repeat(4, 1)[None] + 0.3 * torch.randn(
            1, 16, DIM, generator=torch.Generator().manual_seed(seed)
        )
        optimizer.zero_grad()
        y, routing = layer(x, torch.zeros(1, 16, dtype=torch.long))
        (y.square().sum() + routing.gate_TE.sum()).backward()
        optimizer.step()
    return optimizer


def slot_tensors(layer: MoELayer) -> list[torch.nn.Parameter]:
    assert layer.gate.threshold is not None
    return [layer.gate.weight, layer.gate.threshold, layer.experts.gate_up_proj, layer.experts.down_proj]


def test_removing_clears_the_bit_the_history_and_the_moments_and_leaves_the_weights():
    layer = make_layer(num_experts=4)
    optimizer = trained(layer)
    layer.gate.activation_rates[:] = 0.5
    weights = [p.detach().clone() for p in slot_tensors(layer)]
    moments = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in slot_tensors(layer)]
    adaptive = process(layer, optimizer)
    adaptive.counts = [counts_of(layer, [[9.0, 0.0, 9.0, 9.0], [9.0, 0.0, 9.0, 9.0]], [50.0, 50.0])]
    (edit,) = adaptive.edit(10)
    assert (edit.action, edit.expert, edit.parent, edit.rate, edit.tokens, edit.active) == ("remove", 1, None, 0, 0, 3)
    assert edit.reason == "computed 0 % of 100 tokens in 10 steps, less than tau_min (10 %)"
    assert layer.gate.active_experts.tolist() == [True, False, True, True]
    assert layer.gate.activation_rates.tolist() == [[0.5, 0.0, 0.5, 0.5]] * 2
    kept = torch.tensor([0, 2, 3])
    for parameter, weight, old in zip(slot_tensors(layer), weights, moments, strict=True):
        assert torch.equal(parameter, weight)
        for name in ("exp_avg", "exp_avg_sq"):
            state = optimizer.state[parameter][name]
            assert old[name][1].any() and not state[1].any()
            assert torch.equal(state[kept], old[name][kept])
        assert optimizer.state[parameter]["step"] == old["step"]


def add_along(layer: MoELayer, direction: Tensor, *optimizers: torch.optim.Optimizer, seed: int = 0) -> Any:
    adaptive = process(layer, *optimizers, seed=seed)
    more = unassigned(20, 100, direction)
    adaptive.counts = [counts_of(layer, [[30.0] * 3 + [0.0]] * 2, [50.0, 50.0], **more)]
    (edit,) = adaptive.edit(10)
    return edit


NEAR_1 = torch.tensor([0.1, 6.0, 0.2, 6.0])  # nearest to expert 1


def test_adding_copies_the_most_similar_expert_and_its_moments():
    layer = make_layer(noise=0.01)
    optimizer = trained(layer)
    layer.gate.activation_rates[:] = 0.5
    edit = add_along(layer, NEAR_1, optimizer)
    assert (edit.action, edit.expert, edit.parent, edit.active) == ("add", 3, 1, 4)
    assert layer.gate.active_experts.all() and layer.gate.activation_rates[:, 3].tolist() == [0, 0]
    for parameter in slot_tensors(layer):
        for name in ("exp_avg", "exp_avg_sq"):
            state = optimizer.state[parameter][name]
            assert state[1].any() and torch.equal(state[3], state[1])
    for stacked in (layer.experts.gate_up_proj, layer.experts.down_proj):
        change = (stacked[3] - stacked[1]) / stacked[1].std()
        assert 0 < change.abs().max() < 0.05  # a hundredth of a standard deviation, drawn from a normal distribution


def test_noise_is_the_same_in_every_process_and_differs_with_the_seed():
    copies = []
    for seed in (0, 0, 1):
        layer = make_layer(noise=0.5)
        torch.manual_seed(len(copies))  # whatever the process has drawn before
        add_along(layer, NEAR_1, seed=seed)
        copies.append(layer.experts.down_proj[3].detach().clone())
    assert torch.equal(copies[0], copies[1]) and not torch.equal(copies[0], copies[2])
    exact = make_layer(noise=0.0)
    add_along(exact, NEAR_1)
    assert torch.equal(exact.experts.down_proj[3], exact.experts.down_proj[1])


def test_adding_from_the_shared_experts_takes_their_first_columns():
    layer = make_layer(noise=0.0, copy_from="shared")
    assert layer.shared_experts is not None
    edit = add_along(layer, NEAR_1)
    assert edit.parent == "shared"
    x = torch.randn(5, DIM)
    shared = layer.shared_experts
    half = F.silu(x @ shared.gate_proj.weight[:WIDTH].t()) * (x @ shared.up_proj.weight[:WIDTH].t())
    want = half @ shared.down_proj.weight[:, :WIDTH].t()
    gate, up = (x @ layer.experts.gate_up_proj[3]).chunk(2, -1)
    assert_close((F.silu(gate) * up) @ layer.experts.down_proj[3], want)


def test_a_slot_that_was_freed_is_used_again_at_once():
    layer = make_layer(num_experts=4)  # no slot is free
    adaptive = process(layer)
    more = unassigned(20, 100, NEAR_1)
    adaptive.counts = [counts_of(layer, [[30.0, 30.0, 0.0, 30.0]] * 2, [50.0, 50.0], **more)]
    edits = adaptive.edit(10)
    assert [(e.action, e.expert, e.active) for e in edits] == [("remove", 2, 3), ("add", 2, 4)]


def test_an_open_record_survives_a_checkpoint():
    first, second = make_layer(tau_min=0.0), make_layer(tau_min=0.0)
    before, after = process(first), process(second)
    run_steps(first, before, range(1, 7))
    after.load_state_tensors(before.state_tensors())
    x, _, _ = clusters()
    assert run_steps(first, before, range(7, 11)) == run_steps(second, after, range(7, 11)) != []
    assert torch.equal(first.gate.weight, second.gate.weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"update_every": 0}, r"update_every \(0\) must be 1 or more"),
        ({"record_steps": 11}, r"record_steps \(11\) must be 1 to update_every \(10\)"),
        ({"tau_min": 1.5}, r"tau_min \(1.5\) must be between 0 and 1"),
        ({"add_share": -0.1}, r"add_share \(-0.1\) must be between 0 and 1"),
        ({"min_active": 0}, r"min_active \(0\) must be 1 or more"),
        ({"min_active": 4}, r"adaptive.min_active \(4\) is more than num_experts \(3\)"),
        ({"noise": -1.0}, r"noise \(-1.0\) must be 0 or more"),
        ({"router": "topk"}, "adaptive.enabled is for router topany"),
        ({"copy_from": "shared", "num_shared_experts": 0}, "copy_from is shared, but num_shared_experts is 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make_layer(**settings)
