"""Who computes each token: the task-aware top-any gate of TimeExpert, and ARIA's top-k router.

T tokens, D model dim, E expert slots, P routed (token, expert) pairs, A token types.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import MoEConfig


@dataclass(frozen=True)
class Routing:
    """What the gate decided. Losses, statistics and expert edits read it; nothing else is kept.

    ``token_P``/``expert_P`` (P,) int64: the routed pairs, sorted by expert, then token. ``weight_P`` (P,):
    what each expert's output is multiplied by (differentiable). ``mask_TE`` bool: who computes whom.
    ``gate_TE`` float: the differentiable 0/1 gate. ``score_TE`` float: scores before the threshold.
    ``fallback_T`` bool: tokens that no expert accepted. ``flipped``: share of the decisions that the
    history term changed. ``z_logits_TE``: what the z-loss is taken of.
    """

    token_P: Tensor
    expert_P: Tensor
    weight_P: Tensor
    mask_TE: Tensor
    gate_TE: Tensor
    score_TE: Tensor
    fallback_T: Tensor
    flipped: Tensor
    z_logits_TE: Tensor

    @property
    def tokens_per_expert_E(self) -> Tensor:
        """(E,) int64."""
        return self.mask_TE.sum(0)


class _Sign(torch.autograd.Function):
    """1 where positive, else 0; the gradient passes through unchanged (straight-through)."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0]


class Gate(nn.Module):
    """Chooses experts per token. Parameters: one row per expert, and one threshold each for ``topany``.

    ``topany`` (Algorithm 1): s = cos(x, W_e) * scale; expert e is kept when
    (s + alpha * A[t, e]) / (1 + alpha) > G_e, where A[t, e] is the share of the tokens of type t that used
    e so far (a buffer, frozen at inference). The output is the mean over the kept experts.
    ``topk``: softmax over the k largest logits x . W_e, as ARIA.
    """

    active_experts: Tensor
    activation_rates: Tensor

    def __init__(self, config: MoEConfig, *, model_dim: int, num_token_types: int) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.slots, model_dim))
        self.threshold = nn.Parameter(torch.zeros(config.slots)) if config.router == "topany" else None
        self.register_buffer("active_experts", torch.arange(config.slots) < config.num_experts)
        self.register_buffer("activation_rates", torch.zeros(num_token_types, config.slots))

    def scores(self, x_TD: Tensor) -> Tensor:
        """(T, E) float32: scaled cosines for ``topany``, plain logits for ``topk``."""
        # float32: rounding to bf16 moves tokens across thresholds and changes the top k.
        x, w = x_TD.float(), self.weight.float()
        if self.config.router == "topk":
            return F.linear(x, w)
        return F.linear(F.normalize(x, dim=-1), F.normalize(w, dim=-1)) * self.config.logit_scale

    def forward(self, x_TD: Tensor, type_T: Tensor) -> Routing:
        """Route tokens x_TD (T, D) of types type_T (T,) int64 (see ``TokenType``)."""
        with torch.autocast(x_TD.device.type, enabled=False):
            score_TE = self.scores(x_TD)
            if self.config.router == "topk":
                return self._topk(score_TE)
            return self._topany(score_TE, type_T)

    def _with_history(self, score_TE: Tensor, type_T: Tensor) -> Tensor:
        """(s + alpha * A[t, e]) / (1 + alpha): what is compared with the thresholds."""
        alpha = self.config.alpha
        return (score_TE + alpha * self.activation_rates[type_T].float()) / (1 + alpha)

    def _topk(self, logits_TE: Tensor) -> Routing:
        masked = logits_TE.masked_fill(~self.active_experts, float("-inf"))
        top_TK, index_TK = masked.topk(self.config.top_k, dim=-1)
        gate_TE = torch.zeros_like(logits_TE).scatter(1, index_TK, top_TK.softmax(-1))
        mask_TE = torch.zeros_like(logits_TE, dtype=torch.bool).scatter(1, index_TK, True)
        none_T = torch.zeros_like(mask_TE[:, 0])
        z_logits_TE = logits_TE[:, self.active_experts]
        return self._routing(mask_TE, gate_TE, gate_TE, logits_TE, none_T, logits_TE.new_zeros(()), z_logits_TE)

    def _topany(self, score_TE: Tensor, type_T: Tensor) -> Routing:
        assert self.threshold is not None
        active = self.active_experts
        task_TE = self._with_history(score_TE, type_T)
        # sigma is monotone: it does not change who passes, it shapes the gradient
        margin_TE = torch.sigmoid(task_TE) - torch.sigmoid(self.threshold.float())
        hard_TE = (margin_TE > 0) & active
        if self.config.straight_through == "selected":
            margin_TE = F.relu(margin_TE)
        gate_TE = _Sign.apply(margin_TE) * active
        fallback_T = ~hard_TE.any(-1)
        mask_TE = hard_TE
        if self.config.fallback != "skip":
            chosen = task_TE.masked_fill(~active, float("-inf"))
            if self.config.fallback == "least_utilised":
                chosen = (-self.activation_rates.sum(0)).masked_fill(~active, float("-inf")).expand_as(chosen)
            one_TE = F.one_hot(chosen.argmax(-1), active.numel()).bool() & fallback_T[:, None]
            mask_TE = hard_TE | one_TE
        count_T = mask_TE.sum(-1).clamp(min=1)
        # a fallback expert was not accepted, so its weight 1 carries no gradient to the gate
        soft_TE = torch.where(hard_TE, gate_TE, mask_TE.to(gate_TE.dtype))
        with torch.no_grad():
            plain_TE = (score_TE / (1 + self.config.alpha) > self.threshold) & active
            flipped = (plain_TE != hard_TE)[:, active].float().mean()
        return self._routing(
            mask_TE, gate_TE, soft_TE / count_T[:, None], task_TE, fallback_T, flipped, score_TE[:, active]
        )

    @staticmethod
    def _routing(
        mask_TE: Tensor,
        gate_TE: Tensor,
        weight_TE: Tensor,
        score_TE: Tensor,
        fallback_T: Tensor,
        flipped: Tensor,
        z_logits_TE: Tensor,
    ) -> Routing:
        expert_P, token_P = mask_TE.t().nonzero(as_tuple=True)
        weight_P = weight_TE[token_P, expert_P]
        return Routing(token_P, expert_P, weight_P, mask_TE, gate_TE, score_TE, fallback_T, flipped, z_logits_TE)

    @torch.no_grad()
    def calibrate(self, x_TD: Tensor, type_T: Tensor) -> None:
        """Set each threshold so that expert e accepts top_k / num_experts of the tokens x_TD of types type_T (A7.4).

        Zero thresholds would accept half of all experts; after this the mean number per token is ``top_k``.
        """
        if self.threshold is None:
            return
        share = 1 - self.config.top_k / int(self.active_experts.sum())
        with torch.autocast(x_TD.device.type, enabled=False):
            task_TE = self._with_history(self.scores(x_TD), type_T)
        self.threshold.copy_(torch.quantile(task_TE, max(0.0, share), dim=0))
