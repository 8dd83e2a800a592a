"""Who was used for what: rates per token type, and the moving average that the gate reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from timeexpert.errors import UserError
from timeexpert.moe import ExpertStatistics, Gate, LayerStatistics, MoEConfig, Routing

TYPE_T = torch.tensor([0, 0, 1, 1])
VALID_T = torch.tensor([True, True, True, False])  # the last is padding


def make_gate(**settings: object) -> Gate:
    """Two experts along the axes, three token types."""
    gate = Gate(
        MoEConfig(num_experts=2, top_k=1, alpha=0.0, fallback="top1", rate_decay=0.9, **settings),  # type: ignore[arg-type]
        model_dim=2,
        num_token_types=3,
    )
    gate.weight.data = torch.eye(2)
    gate.threshold.data.fill_(0.5)  # type: ignore[union-attr]
    return gate


def route(gate: Gate) -> Routing:
    """Expert 0; both; none (falls back to expert 1); padding to expert 0."""
    return gate(torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0], [1.0, 0.0]]), TYPE_T)


def test_rates_are_shares_of_each_types_tokens_without_padding():
    gate = make_gate()
    statistics = ExpertStatistics([gate])
    statistics.update([route(gate)], TYPE_T, VALID_T)
    statistics.fold()
    window = statistics.window[0]
    assert window.tokens.tolist() == [2, 1, 0]
    assert window.rates.tolist() == [[1.0, 0.5], [0.0, 1.0], [0.0, 0.0]]
    record = statistics.to_json()[0]
    assert record["layer"] == 0 and record["active"] == [True, True]
    assert record["load"] == [0.5, 0.5] and record["mean_k"] == pytest.approx(4 / 3, abs=1e-4)
    assert record["fallback"] == pytest.approx(1 / 3, abs=1e-4) and record["flipped"] == 0
    assert record["tokens"] == [2, 1, 0]
    assert record["mean_k_by_type"] == [1.5, 1.0, 0.0] and record["fallback_by_type"] == [0.0, 1.0, 0.0]
    assert record["entropy"] == 1.0 and (record["alpha"], record["scale"]) == (0.0, 1.0)


def test_decisions_that_history_changed_are_counted_without_padding():
    gate = make_gate()
    gate.config = replace(gate.config, alpha=1.0)
    gate.activation_rates[1] = torch.tensor([0.0, 1.0])
    x = torch.tensor([[1.0, 0.6], [1.0, 0.6], [1.0, 0.6], [1.0, 0.6]])  # (0.86, 0.51), halved by 1 + alpha
    statistics = ExpertStatistics([gate])
    statistics.update([gate(x, TYPE_T)], TYPE_T, VALID_T)  # types 0 0 1 1, the last is padding
    statistics.fold()
    # expert 1 accepts the third token for its history; so one decision of six
    assert statistics.to_json()[0]["flipped"] == pytest.approx(1 / 6, abs=1e-5)


@pytest.mark.parametrize(
    ("routed", "active", "entropy"),
    [
        ([3.0, 3.0, 0.0], [True, True, False], 1.0),
        ([6.0, 0.0, 0.0], [True, True, False], 0.0),
        ([3.0, 1.0, 0.0], [True, True, True], 0.5623 / 1.0986),  # -3/4 ln 3/4 - 1/4 ln 1/4 over ln 3
        ([5.0, 0.0, 0.0], [True, False, False], 1.0),
        ([0.0, 0.0, 9.0], [True, True, False], 0.0),  # no active expert was used
    ],
)
def test_entropy_is_the_evenness_of_active_experts(routed: list[float], active: list[bool], entropy: float):
    counts = LayerStatistics.zeros(Gate(MoEConfig(num_experts=3, top_k=1), model_dim=2, num_token_types=1))
    counts.routed[0] = torch.tensor(routed)
    assert counts.entropy(torch.tensor(active)) == pytest.approx(entropy, abs=1e-4)


def test_micro_steps_add_up():
    gate = make_gate()
    statistics = ExpertStatistics([gate])
    for _ in range(3):
        statistics.update([route(gate)], TYPE_T, VALID_T)
    statistics.fold()
    assert statistics.window[0].routed.tolist() == [[6, 3], [0, 3], [0, 0]]
    statistics.reset()
    assert statistics.window[0].tokens.sum() == 0


def test_folding_moves_the_average_of_types_that_occurred():
    gate = make_gate()
    gate.activation_rates[:] = 0.5
    statistics = ExpertStatistics([gate])
    statistics.update([route(gate)], TYPE_T, VALID_T)
    statistics.fold()
    want = [[0.9 * 0.5 + 0.1, 0.9 * 0.5 + 0.05], [0.9 * 0.5, 0.9 * 0.5 + 0.1], [0.5, 0.5]]
    assert_close(gate.activation_rates, torch.tensor(want))
    statistics.fold()  # nothing new
    assert_close(gate.activation_rates, torch.tensor(want))
    assert statistics.window[0].tokens.sum() == 3  # the report's window goes on


def test_counts_stay_exact_in_a_bf16_model():
    gate = make_gate().to(torch.bfloat16)
    statistics = ExpertStatistics([gate])
    for _ in range(300):  # bf16 counts whole numbers up to 256
        statistics.update([route(gate)], TYPE_T, VALID_T)
    statistics.fold()
    assert statistics.window[0].tokens.tolist() == [600, 300, 0]


def test_a_windowed_tracker_takes_the_rates_since_its_last_update():
    gate = make_gate(tracker="window", tracker_window=2)
    statistics = ExpertStatistics([gate])
    one_T = torch.tensor([True, False, False, False])  # only the token that expert 0 takes
    for valid_T in (VALID_T, one_T):
        assert gate.activation_rates.count_nonzero() == 0  # nothing before the window is whole
        statistics.update([route(gate)], TYPE_T, valid_T)
        statistics.fold()
    want = torch.tensor([[1.0, 1 / 3], [0.0, 1.0], [0.0, 0.0]])
    assert_close(gate.activation_rates, want)
    for _ in range(2):
        statistics.update([route(gate)], TYPE_T, one_T)
        statistics.fold()
    want[0] = torch.tensor([1.0, 0.0])  # type 1 did not occur in the second window: it keeps its rates
    assert_close(gate.activation_rates, want)


def test_another_expert_in_a_slot_starts_without_history():
    gate = make_gate(tracker="window", tracker_window=2)
    statistics = ExpertStatistics([gate])
    statistics.update([route(gate)], TYPE_T, VALID_T)
    statistics.fold()
    statistics.forget(0, 1)
    statistics.fold()
    assert_close(gate.activation_rates, torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))


def test_two_ranks_that_add_up_their_counts_agree_with_one_that_saw_everything():
    halves = [torch.tensor([True, True, False, False]), torch.tensor([False, False, True, False])]
    gates, sent = [make_gate(threshold_update="balance") for _ in range(3)], []
    whole = ExpertStatistics([gates[0]])
    whole.update([route(gates[0])], TYPE_T, VALID_T)
    whole.fold()
    first, second = ExpertStatistics([gates[1]], sent.extend), ExpertStatistics([gates[2]])
    first.update([route(gates[1])], TYPE_T, halves[0])
    first.fold()

    def add(tensors: list[Tensor]) -> None:
        for own, other in zip(tensors, sent, strict=True):
            own += other

    second.sum_over_ranks = add
    second.update([route(gates[2])], TYPE_T, halves[1])
    second.fold()
    assert_close(gates[2].activation_rates, gates[0].activation_rates)
    assert_close(gates[2].threshold, gates[0].threshold)
    assert second.to_json() == whole.to_json() != first.to_json()


@pytest.mark.parametrize("settings", [{}, {"tracker": "window", "tracker_window": 3, "alpha_warmup_steps": 5}])
def test_open_windows_survive_a_checkpoint(settings: dict[str, Any]):
    gates = [make_gate(**settings) for _ in range(2)]
    before, after = ExpertStatistics([gates[0]]), ExpertStatistics([gates[1]])
    for _ in range(2):
        before.update([route(gates[0])], TYPE_T, VALID_T)
        before.fold()
    after.load_state_tensors(before.state_tensors())
    gates[1].load_state_dict(gates[0].state_dict())
    for statistics, gate in ((before, gates[0]), (after, gates[1])):
        statistics.update([route(gate)], TYPE_T, VALID_T)
        statistics.fold()
    assert after.to_json() == before.to_json()
    assert torch.equal(gates[0].activation_rates, gates[1].activation_rates)
    assert gates[0].activation_rates.any()


@pytest.mark.parametrize(("name", "value"), [("tokens", None), ("fallback", torch.zeros(()))])
def test_counts_that_do_not_fit_are_refused_by_name(name: str, value: Tensor | None):
    statistics = ExpertStatistics([make_gate()])
    saved = statistics.state_tensors()
    if value is None:
        del saved[f"statistics.0.{name}"]
    else:
        saved[f"statistics.0.{name}"] = value
    with pytest.raises(
        UserError, match=rf"statistics.0.{name} is (missing|of shape \(\), not \(3,\)).*another version"
    ):
        statistics.load_state_tensors(saved)
