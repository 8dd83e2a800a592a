"""Other people's mixtures with our experts: the same answers and gradients as their eager code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    AriaTextConfig,
    AriaTextForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tests.kernels.cases import randn
from timeexpert.kernels.backend import KernelError
from timeexpert.kernels.transformers_experts import NAME, forward, register, use_timeexpert_experts

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def aria(**more: Any) -> Any:
    experts = {"moe_num_experts": 6, "moe_topk": 3, "moe_num_shared_experts": 1}
    return AriaTextForCausalLM(AriaTextConfig(**SIZES, **experts, **more))


def qwen3_moe() -> Any:
    experts = {"moe_intermediate_size": 24, "head_dim": 8, "num_experts": 5, "num_experts_per_tok": 2}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **experts))


def mixtral() -> Any:
    return MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2))


def large_weights(model: Any, device: torch.device) -> Any:
    """Logits near 1: with the weights that models begin with, experts hardly matter."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.to(device)


def logits_and_gradients(model: Any, ids: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    logits = model(ids).logits
    logits.backward(randn(*logits.shape).to(logits) / 10)
    return {"logits": logits.detach(), **{name: p.grad for name, p in model.named_parameters()}}


@pytest.mark.parametrize("make", [aria, qwen3_moe, mixtral])
def test_outputs_and_gradients_are_those_of_eager(make: Any, device: torch.device) -> None:
    model = large_weights(make(), device)
    ids = torch.randint(0, 50, (2, 11), device=device)
    model.set_experts_implementation("eager")
    want = logits_and_gradients(model, ids)
    use_timeexpert_experts(model)
    assert model.get_experts_implementation()[""] == NAME
    got = logits_and_gradients(model, ids)
    assert 0.3 < want["logits"].std() < 30
    for name in want:
        assert_close(got[name], want[name], atol=1e-5, rtol=1e-5, msg=lambda words, name=name: f"{name}: {words}")
    assert any(want[name].any() for name in want if "gate_up_proj" in name)


def test_without_triton_the_reference_computes_them(no_interpreter: None) -> None:
    model = large_weights(aria(), torch.device("cpu"))
    ids = torch.randint(0, 50, (2, 11))
    model.set_experts_implementation("eager")
    want = model(ids).logits
    use_timeexpert_experts(model)
    assert_close(model(ids).logits, want, atol=1e-5, rtol=1e-5)


def test_a_config_may_ask_for_them_by_name(device: torch.device) -> None:
    register()
    model = large_weights(aria(experts_implementation=NAME), device)
    assert model.get_experts_implementation()[""] == NAME
    ids = torch.randint(0, 50, (1, 5), device=device)
    got = model(ids).logits
    model.set_experts_implementation("eager")
    assert_close(got, model(ids).logits, atol=1e-5, rtol=1e-5)


def test_a_whole_model_compiles_into_one_graph(device: torch.device) -> None:
    model = large_weights(aria(), device)
    use_timeexpert_experts(model)
    ids = torch.randint(0, 50, (1, 5), device=device)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert_close(compiled(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)


def test_an_expert_that_is_elsewhere_adds_nothing(device: torch.device) -> None:
    """Expert parallelism hands over indices of E and more for the experts of other ranks, at weight 0."""
    experts = large_weights(aria(), device).model.layers[0].mlp.experts
    x, index = randn(9, 32).to(device), torch.arange(18, device=device).view(9, 2) % 6
    here, weight = index < 4, torch.full((9, 2), 0.5, device=device)
    want = forward(experts, x, index, weight * here)
    experts._is_expert_parallel, experts.num_experts = True, 4
    experts.gate_up_proj.data, experts.down_proj.data = experts.gate_up_proj.data[:4], experts.down_proj.data[:4]
    assert_close(forward(experts, x, index, weight * here), want)


def test_an_expert_named_twice_counts_twice(device: torch.device) -> None:
    experts = large_weights(aria(), device).model.layers[0].mlp.experts
    x = randn(3, 32).to(device)
    index, weight = torch.tensor([[1, 1], [0, 1], [2, 2]], device=device), torch.full((3, 2), 0.5, device=device)
    want = type(experts).forward.__wrapped__(experts, x, index, weight)
    assert_close(forward(experts, x, index, weight), want, atol=1e-5, rtol=1e-5)


def test_experts_of_another_kind_are_refused_before_anything_runs() -> None:
    sizes = {**SIZES, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}
    model = GptOssForCausalLM(GptOssConfig(**sizes))
    words = r"GptOssExperts of this model have a bias and interleave gate and up .*'grouped_mm'"
    with pytest.raises(KernelError, match=words):
        use_timeexpert_experts(model)


def test_a_model_without_experts_is_refused() -> None:
    with pytest.raises(KernelError, match="LlamaForCausalLM has no experts"):
        use_timeexpert_experts(LlamaForCausalLM(LlamaConfig(**SIZES)))
