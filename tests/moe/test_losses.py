"""z-loss and task-dependent loss: values by hand, and that they have gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from timeexpert.moe import Gate, MoEConfig, Routing, auxiliary_losses
from timeexpert.moe.losses import balance_loss, diversity_loss, simplicity_loss, task_dependent_loss, z_loss

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


def test_printed_counts_have_the_same_value_and_no_gradient_but_for_the_norms():
    gate, routing = gate_and_routing()
    gate.activation_rates[:] = torch.tensor([0.2, 0.6])
    printed = replace(CONFIG, task_loss_counts="printed")
    assert_close(
        task_dependent_loss(gate, routing, TYPES, printed), task_dependent_loss(gate, routing, TYPES, CONFIG).detach()
    )
    task_dependent_loss(gate, routing, TYPES, replace(printed, norm_loss=1.0)).backward()
    assert gate.threshold is not None and gate.threshold.grad is None
    assert_close(gate.weight.grad, torch.eye(2))  # the rows at length 1


def test_diversity_is_the_distance_of_the_rows_cosines_from_the_identity():
    gate, _ = gate_and_routing()
    assert diversity_loss(gate).item() == 0.0
    gate.weight.data = torch.tensor([[3.0, 0.0], [2.0, 2.0]])  # 45 degrees
    loss = diversity_loss(gate)
    assert loss.item() == pytest.approx(1.0)  # two entries of 0.5 squared
    loss.backward()
    assert gate.weight.grad is not None
    turned = gate.weight.detach() - 0.1 * gate.weight.grad
    gate.weight.data = turned
    assert diversity_loss(gate) < loss  # further apart


def test_rows_at_right_angles_give_a_finite_gradient():
    gate, _ = gate_and_routing()
    diversity_loss(gate).backward()
    assert gate.weight.grad is not None and gate.weight.grad.isfinite().all()


def test_simplicity_is_the_mean_length_of_the_rows():
    gate, _ = gate_and_routing()
    assert simplicity_loss(gate).item() == pytest.approx((3 + 4) / 2)


def test_dynmoes_terms_look_at_active_experts_only():
    gate = Gate(replace(CONFIG, max_experts=3), model_dim=2, num_token_types=1)
    gate.weight.data = torch.tensor([[3.0, 0.0], [0.0, 4.0], [100.0, 100.0]])
    assert diversity_loss(gate).item() == 0.0 and simplicity_loss(gate).item() == pytest.approx(3.5)


def test_balance_is_one_for_even_load_and_more_for_uneven_load():
    gate = Gate(CONFIG, model_dim=2, num_token_types=1)
    gate.weight.data = torch.eye(2)
    even = gate(torch.eye(2), TYPES[:2])
    assert even.mask_TE.tolist() == [[True, False], [False, True]]
    assert balance_loss(gate, even).item() == pytest.approx(1.0)
    gate.threshold.data.fill_(0.5)  # type: ignore[union-attr]
    all_to_one = gate(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), TYPES[:2])
    # scores (1, 0) against 0.5: sigmoids 0.622 and 0.378, which add up to 1; expert 0 has every pair
    assert balance_loss(gate, all_to_one).item() == pytest.approx(2 * 0.62246, abs=1e-4)
    # with the second token left out as padding, and one expert each, nothing changes for the first
    assert balance_loss(gate, all_to_one, torch.tensor([True, False])).item() == pytest.approx(1.24492, abs=1e-4)


def test_balance_pushes_the_crowded_expert_away():
    gate = Gate(CONFIG, model_dim=2, num_token_types=1)
    gate.weight.data = torch.eye(2)
    gate.threshold.data.fill_(0.5)  # type: ignore[union-attr]
    balance_loss(gate, gate(torch.tensor([[1.0, 0.0]]), TYPES[:1])).backward()
    assert gate.threshold is not None and gate.threshold.grad is not None
    assert gate.threshold.grad[0] < 0 < gate.threshold.grad[1]  # a step raises expert 0's threshold


def test_balance_of_a_topk_router_is_that_of_switch():
    config = MoEConfig(num_experts=4, max_experts=5, top_k=1, router="topk")
    gate = Gate(config, model_dim=8, num_token_types=1)
    torch.manual_seed(0)
    torch.nn.init.normal_(gate.weight)
    routing = gate(torch.randn(30, 8), torch.zeros(30, dtype=torch.long))
    probabilities = routing.score_TE[:, :4].softmax(-1)
    chosen = torch.nn.functional.one_hot(probabilities.argmax(-1), 4).float()
    want = 4 * (chosen.mean(0) * probabilities.mean(0)).sum()  # Switch Transformer, equation 4
    assert_close(balance_loss(gate, routing), want)


def test_a_batch_without_pairs_has_no_load_to_balance():
    gate, _ = gate_and_routing()
    routing = gate(torch.tensor([[-1.0, -1.0]]), TYPES[:1])
    assert balance_loss(gate, routing).item() == 0.0


def test_options_are_left_out_until_they_have_a_weight():
    gate, routing = gate_and_routing()
    valid = torch.ones(3, dtype=torch.bool)
    assert auxiliary_losses([gate, gate], [routing, routing], TYPES, valid).keys() == {"z", "task"}
    gate.config = replace(CONFIG, diversity_loss=0.1, simplicity_loss=0.2, balance_loss=0.3, z_loss=0.5)
    losses = auxiliary_losses([gate, gate], [routing, routing], TYPES, valid, share=0.5)
    assert losses["simplicity"].item() == pytest.approx(0.5 * 0.2 * 2 * 3.5)  # two layers, half the step
    assert losses["balance"].item() == pytest.approx(0.5 * 0.3 * 2 * balance_loss(gate, routing).item())
    assert losses["z"].item() == pytest.approx(0.5 * 0.5 * 2 * z_loss(routing).item())
    assert losses["diversity"].item() == 0.0
