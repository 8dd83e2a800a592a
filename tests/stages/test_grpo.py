"""GRPO's advantages and loss: by hand, and against TRL's trainer."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from timeexpert.stages.grpo import group_advantages, grpo_terms

needs_trl = pytest.mark.skipif(find_spec("trl") is None, reason="needs TRL: pip install -e '.[rl]'")


def test_advantages_are_relative_to_the_group():
    rewards = torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    advantages = group_advantages(rewards)
    torch.testing.assert_close(advantages[0], torch.tensor([-1.0, 0.0, 1.0]) / (1 + 1e-4))
    assert advantages[1].tolist() == [0.0, 0.0, 0.0]


def test_the_first_update_pushes_each_token_by_its_answers_advantage():
    logprobs = torch.tensor([[-1.0, -2.0], [-1.0, -9.0]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, False]])
    grpo_terms(logprobs, mask, torch.tensor([1.0, -2.0])).loss.sum().backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-0.5, -0.5], [2.0, 0.0]]))


def test_a_ratio_outside_the_clip_has_no_gradient_where_it_would_gain():
    old = torch.zeros(2, 1)
    logprobs = torch.tensor([[0.5], [0.5]], requires_grad=True)  # ratio 1.65
    terms = grpo_terms(logprobs, torch.ones(2, 1, dtype=torch.bool), torch.tensor([1.0, -1.0]), old_BT=old, epsilon=0.2)
    terms.loss.sum().backward()
    assert terms.clipped.tolist() == [1.0, 0.0]
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, torch.tensor([[0.0], [0.5]]).exp() * torch.tensor([[0.0], [1.0]]))


def test_kl_is_zero_at_the_reference_and_positive_elsewhere():
    logprobs = torch.tensor([[-1.0, -2.0, -3.0]])
    reference = torch.tensor([[-1.0, -2.5, -2.5]])
    terms = grpo_terms(logprobs, torch.ones(1, 3, dtype=torch.bool), torch.zeros(1), reference_BT=reference, beta=0.04)
    k3 = torch.tensor([0.0, torch.e**-0.5 - 0.5, torch.e**0.5 - 1.5])
    torch.testing.assert_close(terms.kl, k3.mean()[None])
    torch.testing.assert_close(terms.loss, 0.04 * terms.kl)


def test_what_stands_behind_an_answer_changes_nothing():
    logprobs, mask = torch.tensor([[-1.0, float("inf")]]), torch.tensor([[True, False]])
    assert grpo_terms(logprobs, mask, torch.ones(1)).loss.tolist() == [-1.0]


@needs_trl
@pytest.mark.parametrize(("beta", "epsilon", "updates"), [(0.04, 0.2, 1), (0.04, 0.2, 2), (0.0, 0.1, 2)])
def test_our_loss_and_gradient_equal_trls(beta: float, epsilon: float, updates: int) -> None:
    from collections import defaultdict

    from trl import GRPOTrainer

    generator = torch.Generator().manual_seed(updates)

    def table() -> torch.Tensor:
        return -torch.rand(6, 5, generator=generator, dtype=torch.float64) * 3

    ours = table().requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    old, reference = (ours.detach() + 0.4 * table() + 0.5 if updates > 1 else None), table()
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4, 5, 2])[:, None]
    advantages = group_advantages(torch.rand(2, 3, generator=generator, dtype=torch.float64)).reshape(-1)

    trainer = object.__new__(GRPOTrainer)  # its loss alone: no model, no data
    settings = {
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "beta": beta,
        "loss_type": "grpo",
        "epsilon_low": epsilon,
        "epsilon_high": epsilon,
        "use_vllm": False,
        "_entropy_bonus_enabled": False,
        "current_gradient_accumulation_steps": 1,
        "args": SimpleNamespace(use_bias_correction_kl=False, delta=None),
        "model": SimpleNamespace(training=True),
        "_metrics": {"train": defaultdict(list)},
        "accelerator": SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, **_: x),
        "_get_per_token_logps_and_entropies": lambda *_, **__: (theirs, torch.zeros_like(theirs), None),
    }
    for name, value in settings.items():
        setattr(trainer, name, value)
    inputs = {
        "prompt_ids": torch.zeros(6, 1, dtype=torch.long),
        "prompt_mask": torch.ones(6, 1, dtype=torch.long),
        "completion_ids": torch.zeros(6, 5, dtype=torch.long),
        "completion_mask": mask.long(),
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
    }
    trl_loss = trainer._compute_loss(None, inputs)
    trl_loss.backward()
    terms = grpo_terms(ours, mask, advantages, old_BT=old, reference_BT=reference, beta=beta, epsilon=epsilon)
    terms.loss.mean().backward()
    assert terms.loss.mean().item() == pytest.approx(trl_loss.item(), abs=1e-9)
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-9, rtol=0)
    if updates > 1:
        assert terms.clipped.sum() > 0
