"""The MoE layer equals a loop over tokens and experts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from timeexpert.kernels.backend import use_triton
from timeexpert.moe import MoEConfig, MoELayer, Routing


def make_layer(**settings: object) -> MoELayer:
    torch.manual_seed(0)
    config = MoEConfig(**{"num_experts": 6, "expert_dim": 8, "top_k": 2, "num_shared_experts": 1, **settings})  # type: ignore[arg-type]
    layer = MoELayer(config, model_dim=16, num_token_types=3)
    torch.nn.init.normal_(layer.gate.weight)
    torch.nn.init.normal_(layer.experts.gate_up_proj, std=0.3)
    torch.nn.init.normal_(layer.experts.down_proj, std=0.3)
    return layer


def token_by_token(layer: MoELayer, x: Tensor, routing: Routing) -> Tensor:
    out = []
    for t, token in enumerate(x.reshape(-1, 16)):
        y = torch.zeros(16)
        for e in routing.mask_TE[t].nonzero()[:, 0].tolist():
            gate, up = (token @ layer.experts.gate_up_proj[e]).chunk(2)
            pair = (routing.token_P == t) & (routing.expert_P == e)
            y = y + routing.weight_P[pair] * ((F.silu(gate) * up) @ layer.experts.down_proj[e])
        if layer.shared_experts is not None:
            y = y + layer.shared_experts(token)
        out.append(y)
    return torch.stack(out).view_as(x)


@pytest.mark.parametrize("fallback", ["skip", "top1", "least_utilised"])
@pytest.mark.parametrize("shared", [0, 2])
def test_the_layer_equals_a_loop_over_tokens_and_experts(fallback: str, shared: int):
    layer = make_layer(fallback=fallback, num_shared_experts=shared)
    layer.gate.threshold.data.fill_(0.2)  # type: ignore[union-attr]
    x = torch.randn(2, 20, 16)
    y, routing = layer(x, torch.randint(0, 3, (2, 20)))
    assert_close(y, token_by_token(layer, x, routing), atol=1e-5, rtol=1e-5)
    counts = routing.mask_TE.sum(1)
    assert len(counts.unique()) >= 3  # k varies
    assert (int(counts.min()) == 0) == (fallback == "skip")


def test_a_token_without_experts_passes_the_shared_ones_only():
    layer = make_layer(fallback="skip")
    layer.gate.threshold.data.fill_(2.0)  # type: ignore[union-attr]  # no cosine is above 2
    x = torch.randn(1, 4, 16)
    y, routing = layer(x, torch.zeros(1, 4, dtype=torch.long))
    assert routing.token_P.numel() == 0
    assert layer.shared_experts is not None
    assert_close(y, layer.shared_experts(x))


@pytest.mark.parametrize("backend", ["fused", "grouped_mm"])
def test_backends_agree_on_the_whole_layer_and_on_every_gradient(backend: str):
    results = []
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(1))
    for name in ("loop", backend):
        layer = make_layer(backend=name)
        y, _ = layer(x, torch.zeros(2, 9, dtype=torch.long))
        y.square().sum().backward()
        results.append({key: p.grad for key, p in layer.named_parameters()})
    assert all(grad is not None for grad in results[0].values())
    assert_close(results[1], results[0])


@pytest.mark.parametrize("router", ["topany", "topk"])
def test_training_gives_the_same_losses_as_with_the_loop(router: str):
    def losses(backend: str) -> list[float]:
        layers = [make_layer(router=router, backend=backend) for _ in range(2)]
        parameters = [p for layer in layers for p in layer.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=1e-2)
        generator, out = torch.Generator().manual_seed(2), []
        target = torch.randn(16, 16, generator=generator) / 4
        for _ in range(30):
            x = torch.randn(2, 20, 16, generator=generator)
            y = x
            for layer in layers:
                y = y + layer(y, torch.zeros(2, 20, dtype=torch.long))[0]
            loss = (y - x @ target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            out.append(loss.item())
        return out

    want = losses("loop")
    assert want[-1] < 0.8 * want[0]
    assert losses("auto") == pytest.approx(want, abs=1e-5)


def test_topk_layer_is_arias_moe_block():
    from transformers import AriaTextConfig
    from transformers.models.aria.modeling_aria import AriaTextMoELayer

    config = AriaTextConfig(
        hidden_size=16,
        intermediate_size=8,
        num_attention_heads=2,
        moe_num_experts=6,
        moe_topk=2,
        moe_num_shared_experts=1,
    )
    theirs, layer = AriaTextMoELayer(config), make_layer(router="topk")
    state = {name.replace("gate.", "router.", 1) if name.startswith("gate.") else name: t for name, t in
             layer.state_dict().items() if not name.endswith(("active_experts", "activation_rates"))}  # fmt: skip
    theirs.load_state_dict(state)
    x = torch.randn(2, 9, 16)
    assert_close(layer(x, torch.zeros(2, 9, dtype=torch.long))[0], theirs(x), atol=1e-6, rtol=1e-5)


def test_the_package_cannot_be_imported_under_a_second_name():
    with pytest.raises(ImportError, match="import timeexpert.moe, not moe"):
        __import__("moe")


@pytest.mark.parametrize("fallback", ["skip", "top1", "least_utilised"])
def test_a_layer_by_the_kernels_equals_one_in_torch(fallback: str, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("triton")
    from tests.kernels.conftest import DEVICE  # imports our kernels for the interpreter where there is no GPU

    monkeypatch.setenv("TRITON_INTERPRET", str(int(DEVICE.type == "cpu")))
    called: list[bool] = []
    choose = use_triton
    monkeypatch.setattr("timeexpert.kernels.gate.use_triton", lambda *args: called.append(choose(*args)) or called[-1])
    x, d_y, types = torch.randn(2, 20, 16), torch.randn(2, 20, 16), torch.randint(0, 3, (2, 20))
    results = []
    for backend in ("triton", "loop"):
        layer = make_layer(fallback=fallback, backend=backend, alpha=0.2).to(DEVICE)
        layer.gate.activation_rates.copy_(torch.rand(3, 6, generator=torch.Generator().manual_seed(1)))
        layer.gate.threshold.data.fill_(0.2)  # type: ignore[union-attr]
        own = x.to(DEVICE).requires_grad_()
        y, routing = layer(own, types.to(DEVICE))
        grads = torch.autograd.grad(y, [own, *layer.parameters()], d_y.to(DEVICE))
        decided = (routing.mask_TE, routing.fallback_T, routing.flipped_T, routing.score_TE, routing.z_logits_TE)
        results.append([y, *grads, *decided])
    assert called == [True, False]
    for ours, reference in zip(*results, strict=True):
        assert_close(ours, reference, atol=1e-5, rtol=1e-5)
