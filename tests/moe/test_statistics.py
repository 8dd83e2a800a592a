"""Who was used for what: rates per token type, and the moving average that the gate reads."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from timeexpert.moe import ExpertStatistics, Gate, MoEConfig, Routing

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
    window = statistics.window[0]
    assert window.tokens.tolist() == [2, 1, 0]
    assert window.rates.tolist() == [[1.0, 0.5], [0.0, 1.0], [0.0, 0.0]]
    record = statistics.to_json()[0]
    assert record["layer"] == 0 and record["active"] == [True, True]
    assert record["load"] == [0.5, 0.5] and record["mean_k"] == pytest.approx(4 / 3, abs=1e-4)
    assert record["fallback"] == pytest.approx(1 / 3, abs=1e-4) and record["flipped"] == 0


def test_micro_steps_add_up():
    gate = make_gate()
    statistics = ExpertStatistics([gate])
    for _ in range(3):
        statistics.update([route(gate)], TYPE_T, VALID_T)
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
    assert statistics.window[0].tokens.tolist() == [600, 300, 0]


def test_an_open_window_survives_a_checkpoint():
    gate = make_gate()
    before, after = ExpertStatistics([gate]), ExpertStatistics([gate])
    before.update([route(gate)], TYPE_T, VALID_T)
    after.load_state_tensors(before.state_tensors())
    assert after.to_json() == before.to_json()
    after.update([route(gate)], TYPE_T, VALID_T)
    before.update([route(gate)], TYPE_T, VALID_T)
    assert after.to_json() == before.to_json()
