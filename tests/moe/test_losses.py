"""z-loss and task-dependent loss: values by hand, and that they have gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from timeexpert.moe import Gate, MoEConfig, Routing, task_dependent_loss, z_loss

CONFIG = MoEConfig(num_experts=2, top_k=1, alpha=0.0, fallback="skip", task_loss=1.0, norm_loss=0.0)
TYPES = torch.zeros(3, dtype=torch.long)  # three tokens of type 0


def gate_and_routing(config: MoEConfig = CONFIG) -> tuple[Gate, Routing]:
    """Three tokens: the first two go to expert 0, the third to expert 1."""
    gate = Gate(config, model_dim=2, num_token_types=2)
    gate.weight.data = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    gate.threshold.data.fill_(0.5)  # type: ignore[union-attr]
    x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    return gate, gate(x, torch.zeros(3, dtype=torch.long))


def test_z_loss_is_the_mean_squared_logsumexp_of_valid_tokens():
    _, routing = gate_and_routing()
    routing = replace(routing, z_logits_TE=torch.tensor([[0.0, 0.0], [0.0, 0.0], [5.0, 5.0]]))
    assert z_loss(routing, torch.tensor([True, True, False])) == pytest.approx(math.log(2) ** 2)
    assert z_loss(routing) == pytest.approx((2 * math.log(2) ** 2 + (5 + math.log(2)) ** 2) / 3)


def test_the_task_loss_is_the_squared_distance_of_load_and_history():
    gate, routing = gate_and_routing()
    gate.activation_rates[:] = torch.tensor([[0.2, 0.6], [0.9, 0.1]])  # no token here is of type 1
    loss = task_dependent_loss(gate, routing, TYPES, CONFIG)
    assert loss.item() == pytest.approx((0.25 - 2 / 3) ** 2 + (0.75 - 1 / 3) ** 2)
    valid = torch.tensor([True, False, True])  # then the load is even
    assert task_dependent_loss(gate, routing, TYPES, CONFIG, valid).item() == pytest.approx(2 * 0.25**2)


def test_the_task_loss_pulls_load_towards_history():
    gate, routing = gate_and_routing()
    gate.activation_rates[:] = torch.tensor([0.2, 0.6])
    task_dependent_loss(gate, routing, TYPES, CONFIG).backward()
    assert gate.threshold is not None and gate.threshold.grad is not None
    # a step against the gradient raises the threshold of expert 0 (too busy) and lowers that of expert 1
    assert gate.threshold.grad[0] < 0 < gate.threshold.grad[1]


def test_integer_counts_would_give_no_gradient():
    gate, routing = gate_and_routing()
    gate.activation_rates[:] = torch.tensor([0.2, 0.6])
    counted = replace(routing, gate_TE=routing.mask_TE.float())
    losses = [task_dependent_loss(gate, r, TYPES, CONFIG) for r in (routing, counted)]
    assert_close(losses[0], losses[1])
    found = [torch.autograd.grad(loss, [gate.threshold], allow_unused=True)[0] for loss in losses]  # type: ignore[list-item]
    assert found[0] is not None and found[1] is None


def test_history_is_weighted_by_the_types_of_the_batch():
    gate, routing = gate_and_routing()
    gate.activation_rates[:] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # type 0 used expert 0, type 1 expert 1
    steady = torch.tensor([0, 0, 1])  # as the batch does
    assert task_dependent_loss(gate, routing, steady, CONFIG).item() == pytest.approx(0)


def test_tokens_that_fell_back_count_as_load():
    gate, _ = gate_and_routing()
    gate.config = replace(CONFIG, fallback="top1")
    gate.activation_rates[:] = torch.tensor([1.0, 0.0])
    routing = gate(torch.tensor([[0.1, -1.0]]), TYPES[:1])  # nobody accepts it; expert 0 is nearest
    assert routing.fallback_T.all() and routing.mask_TE.tolist() == [[True, False]]
    assert task_dependent_loss(gate, routing, TYPES[:1], CONFIG).item() == pytest.approx(0)


def test_without_history_only_the_norms_remain():
    gate, routing = gate_and_routing()
    assert task_dependent_loss(gate, routing, TYPES, CONFIG) == 0
    assert task_dependent_loss(gate, routing, TYPES, replace(CONFIG, norm_loss=0.1)).item() == pytest.approx(
        0.1 * (3 + 4)
    )


def test_a_batch_that_no_expert_accepts_gives_a_finite_loss():
    gate, _ = gate_and_routing()
    gate.activation_rates[:] = torch.tensor([0.2, 0.6])
    routing = gate(torch.tensor([[-1.0, -1.0]]), TYPES[:1])
    loss = task_dependent_loss(gate, routing, TYPES[:1], CONFIG)
    assert_close(loss.detach(), torch.tensor(0.25**2 + 0.75**2))


def test_norms_of_inactive_slots_are_not_counted():
    config = replace(CONFIG, max_experts=3, norm_loss=1.0)
    gate = Gate(config, model_dim=2, num_token_types=1)
    gate.weight.data = torch.tensor([[3.0, 0.0], [0.0, 4.0], [100.0, 0.0]])
    routing = gate(torch.ones(1, 2), TYPES[:1])
    assert task_dependent_loss(gate, routing, TYPES[:1], config).item() == pytest.approx(7)
