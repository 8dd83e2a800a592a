"""The gate: Algorithm 1 read slowly, who passes, and where gradients go."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from timeexpert.moe import Gate, MoEConfig, Routing, TokenRole

TEXT, TIME = 0, 1


def make_gate(config: MoEConfig, model_dim: int = 8, types: int = 2, seed: int = 0) -> Gate:
    torch.manual_seed(seed)
    gate = Gate(config, model_dim=model_dim, num_token_types=types)
    torch.nn.init.normal_(gate.weight)
    return gate


def two_axes(**settings: object) -> Gate:
    """Two experts that look along the two axes of the plane; threshold 0.5 each."""
    settings = {"alpha": 0.0, "fallback": "skip", **settings}
    gate = make_gate(MoEConfig(num_experts=2, top_k=1, **settings), model_dim=2)  # type: ignore[arg-type]
    gate.weight.data = torch.tensor([[3.0, 0.0], [0.0, 0.2]])  # lengths do not matter
    if gate.threshold is not None:
        gate.threshold.data.fill_(0.5)
    return gate


def algorithm_1(gate: Gate, x: list[list[float]], types: list[int]) -> list[dict[int, float]]:
    """Per token: expert -> weight, in plain Python, one token and one expert at a time (FACTS A6)."""
    out = []
    for token, kind in zip(x, types, strict=True):
        chosen = []
        scores = {}
        for e in range(len(gate.weight)):
            if not bool(gate.active_experts[e]):
                continue
            row = gate.weight[e].tolist()
            dot = sum(a * b for a, b in zip(token, row, strict=True))
            cosine = dot / math.sqrt(sum(a * a for a in token)) / math.sqrt(sum(a * a for a in row))
            history = float(gate.activation_rates[kind, e])
            scores[e] = (cosine * gate.config.logit_scale + gate.config.alpha * history) / (1 + gate.config.alpha)
            assert gate.threshold is not None
            if 1 / (1 + math.exp(-scores[e])) - 1 / (1 + math.exp(-gate.threshold[e].item())) > 0:
                chosen.append(e)
        if not chosen and gate.config.fallback == "top1":
            chosen = [max(scores, key=lambda e: scores[e])]
        elif not chosen and gate.config.fallback == "least_utilised":
            chosen = [min(scores, key=lambda e: float(gate.activation_rates[:, e].sum()))]
        out.append({e: 1 / len(chosen) for e in chosen})
    return out


def as_rows(routing: Routing) -> list[dict[int, float]]:
    rows: list[dict[int, float]] = [{} for _ in routing.mask_TE]
    pairs = zip(routing.token_P.tolist(), routing.expert_P.tolist(), routing.weight_P.tolist(), strict=True)
    for token, expert, weight in pairs:
        rows[token][expert] = weight
    return rows


@pytest.mark.parametrize("fallback", ["least_utilised", "top1", "skip"])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_routing_equals_a_slow_reading_of_algorithm_1(fallback: str, alpha: float):
    config = MoEConfig(num_experts=5, max_experts=7, top_k=2, alpha=alpha, logit_scale=2.0, fallback=fallback)  # type: ignore[arg-type]
    gate = make_gate(config)
    gate.threshold.data.uniform_(0.2, 0.9)  # type: ignore[union-attr]
    gate.activation_rates.uniform_(0, 1)
    x, types = torch.randn(60, 8), torch.randint(0, 2, (60,))
    routing = gate(x, types)
    want = algorithm_1(gate, x.tolist(), types.tolist())
    got = as_rows(routing)
    assert [set(row) for row in got] == [set(row) for row in want]
    assert all(math.isclose(row[e], w[e], rel_tol=1e-6) for row, w in zip(got, want, strict=True) for e in w)
    assert len({len(row) for row in want}) >= 2 and routing.fallback_T.any()  # k varies, and some pass nowhere


def test_an_expert_takes_a_token_whose_cosine_is_above_its_threshold():
    routing = two_axes()(torch.tensor([[5.0, 0.0], [1.0, 1.0], [-1.0, 0.1]]), torch.zeros(3, dtype=torch.long))
    # cosines (1, 0), (0.71, 0.71), (-1, 0.1) against 0.5
    assert routing.mask_TE.tolist() == [[True, False], [True, True], [False, False]]
    assert routing.fallback_T.tolist() == [False, False, True]
    assert as_rows(routing) == [{0: 1.0}, {0: 0.5, 1: 0.5}, {}]
    assert routing.tokens_per_expert_E.tolist() == [2, 1]


def test_pairs_are_sorted_by_expert_then_token():
    routing = two_axes()(torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]]), torch.zeros(3, dtype=torch.long))
    assert routing.expert_P.tolist() == [0, 0, 1, 1, 1]
    assert routing.token_P.tolist() == [0, 2, 0, 1, 2]


def test_history_of_the_tokens_own_type_lets_it_pass():
    gate = two_axes(alpha=1.0)
    gate.activation_rates[TIME] = torch.tensor([0.0, 1.0])
    x = torch.tensor([[1.0, 0.6], [1.0, 0.6]])  # cosines (0.86, 0.51), halved by 1 + alpha: below 0.5
    routing = gate(x, torch.tensor([TEXT, TIME]))
    assert routing.mask_TE.tolist() == [[False, False], [False, True]]  # (0.51 + 1) / 2 = 0.76
    assert routing.flipped_T.tolist() == [0.0, 0.5]  # without its history that one pair would not pass


def test_history_is_not_written_by_the_gate():
    gate = make_gate(MoEConfig(num_experts=4, top_k=2, alpha=0.1))
    for mode in (gate.train(), gate.eval()):
        mode(torch.randn(9, 8), torch.zeros(9, dtype=torch.long))
        assert gate.activation_rates.count_nonzero() == 0


@pytest.mark.parametrize(("fallback", "expected"), [("top1", {1: 1.0}), ("least_utilised", {0: 1.0}), ("skip", {})])
def test_a_token_that_nobody_accepts(fallback: str, expected: dict[int, float]):
    gate = two_axes(fallback=fallback)
    gate.activation_rates[:] = torch.tensor([[0.1, 0.3], [0.1, 0.0]])  # expert 0: 0.2, expert 1: 0.3
    routing = gate(torch.tensor([[-1.0, 0.1]]), torch.tensor([TEXT]))  # nearer to expert 1
    assert as_rows(routing) == [expected]
    assert routing.fallback_T.tolist() == [True]
    assert routing.gate_TE.count_nonzero() == 0  # not accepted: no gradient through the fallback


@pytest.mark.parametrize("fallback", ["least_utilised", "top1", "skip"])
@pytest.mark.parametrize("router", ["topany", "topk"])
def test_inactive_slots_are_never_chosen(router: str, fallback: str):
    gate = make_gate(MoEConfig(num_experts=3, max_experts=6, top_k=2, router=router, fallback=fallback))  # type: ignore[arg-type]
    gate.weight.data[3:] = gate.weight.data[:3] * 2  # just as attractive
    routing = gate(torch.randn(50, 8), torch.zeros(50, dtype=torch.long))
    assert not routing.mask_TE[:, 3:].any() and routing.z_logits_TE.shape == (50, 3)
    assert not routing.gate_TE[:, 3:].any()  # nor counted by the losses


def sigmoid_slope(value: float) -> float:
    s = 1 / (1 + math.exp(-value))
    return s * (1 - s)


@pytest.mark.parametrize("reach", ["selected", "all"])
def test_the_thresholds_gradient_is_minus_one_per_pair_behind_the_sigmoid(reach: str):
    gate = two_axes(straight_through=reach)
    gate(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.zeros(2, dtype=torch.long)).gate_TE.sum().backward()
    passed = torch.tensor([2.0, 1.0]) if reach == "selected" else torch.tensor([2.0, 2.0])  # tokens of experts 0, 1
    assert gate.threshold is not None
    assert_close(gate.threshold.grad, -passed * sigmoid_slope(0.5))


def test_gradient_of_a_score_reaches_the_gates_rows_through_accepted_pairs_only():
    gate = two_axes(straight_through="selected")
    gate(torch.tensor([[1.0, 0.5]]), torch.zeros(1, dtype=torch.long)).gate_TE.sum().backward()
    assert gate.weight.grad is not None
    assert gate.weight.grad[0].count_nonzero() > 0 and gate.weight.grad[1].count_nonzero() == 0


def test_weights_are_a_mean_whose_count_carries_no_gradient():
    gate = two_axes()
    routing = gate(torch.tensor([[1.0, 1.0]]), torch.zeros(1, dtype=torch.long))
    (routing.weight_P * torch.tensor([3.0, 5.0])).sum().backward()
    assert gate.threshold is not None
    assert_close(gate.threshold.grad, -torch.tensor([3.0, 5.0]) / 2 * sigmoid_slope(0.5))


def test_calibration_gives_the_wanted_mean_number_of_experts():
    gate = make_gate(MoEConfig(num_experts=16, top_k=4, alpha=0.5, fallback="skip"), model_dim=32)
    gate.activation_rates.uniform_(0, 0.2)
    x, types = torch.randn(2000, 32), torch.randint(0, 2, (2000,))
    assert gate(x, types).mask_TE.sum(1).float().mean() > 6  # zero thresholds accept half of all experts
    gate.calibrate(x, types)
    mask = gate(x, types).mask_TE
    assert mask.sum(1).float().mean() == pytest.approx(4, abs=0.02)
    assert mask.sum(0).tolist() == pytest.approx([500] * 16, abs=2)  # every expert has its share


def test_calibration_counts_active_experts_only_and_leaves_topk_alone():
    gate = make_gate(MoEConfig(num_experts=8, max_experts=16, top_k=2, fallback="skip"), model_dim=32)
    x, types = torch.randn(1000, 32), torch.zeros(1000, dtype=torch.long)
    gate.calibrate(x, types)
    assert gate(x, types).mask_TE.sum(1).float().mean() == pytest.approx(2, abs=0.02)
    topk = make_gate(MoEConfig(num_experts=4, top_k=2, router="topk"))
    topk.calibrate(torch.randn(5, 8), torch.zeros(5, dtype=torch.long))
    assert topk.threshold is None


def test_topk_is_arias_router():
    from transformers import AriaTextConfig
    from transformers.models.aria.modeling_aria import AriaTextTopKRouter

    theirs = AriaTextTopKRouter(AriaTextConfig(hidden_size=8, num_attention_heads=2, moe_num_experts=6, moe_topk=3))
    gate = make_gate(MoEConfig(num_experts=6, top_k=3, router="topk"))
    theirs.weight.data = gate.weight.data
    x = torch.randn(20, 8)
    logits, weights, index = theirs(x)
    routing = gate(x, torch.zeros(20, dtype=torch.long))
    assert_close(routing.gate_TE, torch.zeros(20, 6).scatter(1, index, weights))
    assert_close(routing.z_logits_TE, logits)
    assert not routing.fallback_T.any()


def test_the_gate_computes_in_float32_under_bf16_autocast():
    gate = make_gate(MoEConfig(num_experts=32, top_k=4))
    x, types = torch.randn(100, 8), torch.zeros(100, dtype=torch.long)
    want = gate(x, types)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = gate(x, types)
        gate.calibrate(x, types)
    assert got.score_TE.dtype == torch.float32 and torch.equal(got.score_TE, want.score_TE)
    assert torch.equal(got.mask_TE, want.mask_TE)


def test_the_gate_of_a_bf16_model_computes_in_float32():
    gate = make_gate(MoEConfig(num_experts=32, top_k=4)).to(torch.bfloat16)
    x = torch.randn(100, 8, dtype=torch.bfloat16)
    cosine = torch.nn.functional.cosine_similarity(x.float()[:, None], gate.weight.float()[None], dim=-1)
    assert_close(gate(x, torch.zeros(100, dtype=torch.long)).score_TE, cosine / 1.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": 0}, r"num_experts \(0\) must be 1 or more"),
        ({"top_k": 65}, r"top_k \(65\) is more than num_experts \(64\)"),
        ({"max_experts": 3}, r"max_experts \(3\) is less than num_experts \(64\)"),
        ({"rate_decay": 1.0}, r"rate_decay \(1.0\) must be in \[0, 1\)"),
        ({"alpha": -0.1}, r"alpha \(-0.1\) must be 0 or more"),
        ({"num_shared_experts": -1}, r"num_shared_experts \(-1\) must be 0 or more"),
        ({"alpha_warmup_steps": -1}, r"alpha_warmup_steps \(-1\) must be 0 or more"),
        ({"tracker_window": 0}, r"tracker_window \(0\) must be 1 or more"),
        ({"logit_scale": 0.0}, r"logit_scale \(0.0\) must be positive"),
        ({"logit_scale": 0.5, "learn_scale": True}, r"logit_scale \(0.5\) must be 1 to 100, where learn_scale keeps"),
        ({"balance_loss": -1.0}, r"balance_loss \(-1.0\) must be 0 or more"),
        ({"router": "topk", "learn_scale": True}, "learn_scale is for router topany; topk has no scale"),
        ({"router": "topk", "threshold_update": "balance"}, "threshold_update is for router topany"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        replace(MoEConfig(), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("fallback", ["least_utilised", "top1", "skip"])
def test_at_inference_a_tokens_experts_depend_on_no_other_token(fallback: str):
    gate = make_gate(MoEConfig(num_experts=6, top_k=2, alpha=0.5, fallback=fallback)).eval()  # type: ignore[arg-type]
    gate.threshold.data.fill_(0.3)  # type: ignore[union-attr]
    gate.activation_rates.uniform_(0, 1)
    x, types = torch.randn(40, 8), torch.randint(0, 2, (40,))
    together = gate(x, types)
    assert together.fallback_T.any()
    for order in (range(40), reversed(range(40))):  # one request after the other, either way round
        for t in order:
            assert torch.equal(gate(x[t : t + 1], types[t : t + 1]).mask_TE[0], together.mask_TE[t])


def test_alpha_grows_from_zero_over_its_warm_up():
    gate = make_gate(MoEConfig(num_experts=4, top_k=2, alpha=0.4, alpha_warmup_steps=4))
    alphas = []
    for _ in range(6):
        alphas.append(float(gate.alpha))
        gate.after_step()
    assert alphas == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.4])
    again = make_gate(gate.config)
    again.load_state_dict(gate.state_dict())
    assert float(again.alpha) == pytest.approx(0.4)
    assert "trained_steps" not in make_gate(MoEConfig(num_experts=4, top_k=2, alpha=0.4)).state_dict()


def test_alpha_in_its_warm_up_is_what_routes():
    x, types = torch.randn(50, 8), torch.randint(0, 2, (50,))
    warm = make_gate(MoEConfig(num_experts=4, top_k=2, alpha=0.4, alpha_warmup_steps=4))
    plain = make_gate(MoEConfig(num_experts=4, top_k=2, alpha=0.1))  # a quarter of the way
    plain.activation_rates.uniform_(0, 1)
    warm.activation_rates.copy_(plain.activation_rates)
    assert torch.equal(
        warm(x, types).score_TE, make_gate(MoEConfig(num_experts=4, top_k=2, alpha=0.0))(x, types).score_TE
    )
    warm.after_step()
    assert_close(warm(x, types).score_TE, plain(x, types).score_TE)


def test_a_learned_scale_starts_as_the_fixed_one_and_stays_between_1_and_100():
    x, types = torch.randn(50, 8), torch.zeros(50, dtype=torch.long)
    fixed = make_gate(MoEConfig(num_experts=4, top_k=2, logit_scale=5.0))
    learned = make_gate(MoEConfig(num_experts=4, top_k=2, logit_scale=5.0, learn_scale=True))
    assert_close(learned(x, types).score_TE, fixed(x, types).score_TE)
    assert learned.log_scale is not None
    learned(x, types).gate_TE.sum().backward()
    assert learned.log_scale.grad is not None and learned.log_scale.grad.any()
    for step, bound in ((100.0, 100.0), (-100.0, 1.0)):
        learned.log_scale.data += step
        learned.after_step()
        assert learned.scale.item() == pytest.approx(bound)


@pytest.mark.parametrize("learn", [False, True])
def test_large_scores_pass_although_their_sigmoids_are_equal(learn: bool):
    gate = two_axes(logit_scale=100.0, learn_scale=learn)
    gate.threshold.data.fill_(30.0)  # type: ignore[union-attr]  # sigmoid(30) is 1 in float32, as sigmoid(100) is
    routing = gate(torch.tensor([[1.0, 0.1]]), torch.zeros(1, dtype=torch.long))
    assert routing.mask_TE.tolist() == [[True, False]]  # 99.5 and 9.95 against 30


def test_calibrated_thresholds_are_the_quantiles_of_each_expert():
    gate = make_gate(MoEConfig(num_experts=4, top_k=1, alpha=0.0))
    x = torch.randn(400, 8)
    types = torch.zeros(400, dtype=torch.long)
    gate.calibrate(x, types)
    assert gate.threshold is not None
    assert torch.equal(gate.threshold.data, torch.quantile(gate(x, types).score_TE, 0.75, dim=0))


def test_directions_are_summed_over_tokens_and_over_unassigned_tokens_of_answers():
    gate = two_axes()
    x = torch.tensor([[2.0, 0.0], [-3.0, 0.0], [0.0, -5.0], [-7.0, 0.0], [-1.0, 0.0]])  # the first is accepted
    roles = torch.tensor([TokenRole.ANSWER, TokenRole.ANSWER, TokenRole.CONTEXT, TokenRole.ANSWER, TokenRole.PADDING])
    types = torch.zeros(5, dtype=torch.long)
    assert gate(x, types).directions_2D is None
    directions = gate(x, types, roles).directions_2D
    assert directions is not None
    assert_close(directions, torch.tensor([[1.0 - 1 + 0 - 1, -1.0], [-2.0, 0.0]]))


def test_scores_do_not_depend_on_the_length_of_a_token():
    gate = make_gate(MoEConfig(num_experts=4, top_k=2))
    x, types = torch.randn(6, 8), torch.zeros(6, dtype=torch.long)
    assert_close(gate(x, types).score_TE, gate(x * 7, types).score_TE)
