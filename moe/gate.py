"""Who computes each token: the task-aware top-any gate of TimeExpert, and ARIA's top-k router.

T tokens, D model dim, E expert slots, P routed (token, expert) pairs, A token types.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timeexpert.kernels.backend import without_autocast
from timeexpert.kernels.gate import GateOutput, gate

from .config import MAX_SCALE, MoEConfig


class TokenRole(IntEnum):
    """What a token is to the statistics. An answer's tokens are what training puts a label on."""

    PADDING = 0
    CONTEXT = 1
    ANSWER = 2


@dataclass(frozen=True)
class Pairs:
    """Which experts compute which tokens: what the experts need of a routing.

    ``token_P``/``expert_P`` (P,) int64: the routed pairs, sorted by expert, then token. ``weight_P`` (P,):
    what each expert's output is multiplied by (differentiable). ``mask_TE`` bool: who computes whom.
    """

    token_P: Tensor
    expert_P: Tensor
    weight_P: Tensor
    mask_TE: Tensor

    @property
    def tokens_per_expert_E(self) -> Tensor:
        """(E,) int64."""
        return self.mask_TE.sum(0)


@dataclass(frozen=True)
class Routing(Pairs):
    """What the gate decided. Losses, statistics and expert edits read it; nothing else is kept.

    ``gate_TE`` float: the differentiable 0/1 gate. ``score_TE`` float: scores before the threshold.
    ``fallback_T`` bool: tokens that no expert accepted. ``flipped_T``: share of each token's decisions that the
    history term changed. ``z_logits_TE``: what the z-loss is taken of. ``directions_2D``: sums of the inputs at
    length 1, over all tokens and over the answers' tokens that no expert accepted (only where roles are given).
    """

    gate_TE: Tensor
    score_TE: Tensor
    fallback_T: Tensor
    flipped_T: Tensor
    z_logits_TE: Tensor
    directions_2D: Tensor | None = None


class Gate(nn.Module):
    """Chooses experts per token. Parameters: one row per expert, and one threshold each for ``topany``.

    ``topany`` (Algorithm 1): s = cos(x, W_e) * scale; expert e is kept when
    (s + alpha * A[t, e]) / (1 + alpha) > G_e, where A[t, e] is the share of the tokens of type t that used
    e so far (a buffer, frozen at inference). The output is the mean over the kept experts.
    ``topk``: softmax over the k largest logits x . W_e, as ARIA.
    """

    active_experts: Tensor
    activation_rates: Tensor
    trained_steps: Tensor | None

    def __init__(self, config: MoEConfig, *, model_dim: int, num_token_types: int) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.slots, model_dim))
        self.threshold = nn.Parameter(torch.zeros(config.slots)) if config.router == "topany" else None
        self.log_scale = nn.Parameter(torch.full((1,), math.log(config.logit_scale))) if config.learn_scale else None
        self.register_buffer("active_experts", torch.arange(config.slots) < config.num_experts)
        self.register_buffer("activation_rates", torch.zeros(num_token_types, config.slots))
        steps = torch.zeros((), dtype=torch.int64) if config.alpha_warmup_steps else None
        self.register_buffer("trained_steps", steps)  # how far alpha's warm-up is

    @property
    def alpha(self) -> float | Tensor:
        """Weight of the history now: it grows from 0 over the first ``alpha_warmup_steps`` optimizer steps."""
        if self.trained_steps is None:
            return self.config.alpha
        return self.config.alpha * (self.trained_steps / self.config.alpha_warmup_steps).clamp(max=1.0)

    @property
    def scale(self) -> float | Tensor:
        """What cosines are multiplied by."""
        return self.config.logit_scale if self.log_scale is None else self.log_scale.float().exp()

    @property
    def target_share(self) -> float:
        """Share of the tokens that an expert accepts when a token has ``top_k`` experts on average."""
        return min(1.0, self.config.top_k / int(self.active_experts.sum()))

    def decayed(self, share: float) -> Tensor:
        """(E,) what is left of each slot's weights after a decay by ``share``: a slot without an expert keeps them."""
        return torch.where(self.active_experts, 1 - share, 1.0)

    @torch.no_grad()
    def after_step(self) -> None:
        """To be called once per optimizer step: the warm-up goes on, a learned scale stays between 1 and 100."""
        if self.trained_steps is not None:
            self.trained_steps += 1
        if self.log_scale is not None:
            self.log_scale.clamp_(0.0, math.log(MAX_SCALE))

    def forward(self, x_TD: Tensor, type_T: Tensor, role_T: Tensor | None = None) -> Routing:
        """Route tokens x_TD (T, D) of types type_T (T,) int64 (see ``TokenType``).

        ``role_T`` (T,) int64: see :class:`TokenRole`; with it the routing holds ``directions_2D``.
        """
        if self.config.router == "topk":
            with without_autocast(x_TD.device):
                # float32: rounding to bf16 changes the top k
                return self._topk(F.linear(x_TD.float(), self.weight.float()))
        return self._topany(x_TD, type_T, role_T)

    def _topk(self, logits_TE: Tensor) -> Routing:
        masked = logits_TE.masked_fill(~self.active_experts, float("-inf"))
        top_TK, index_TK = masked.topk(self.config.top_k, dim=-1)
        gate_TE = torch.zeros_like(logits_TE).scatter(1, index_TK, top_TK.softmax(-1))
        mask_TE = torch.zeros_like(logits_TE, dtype=torch.bool).scatter(1, index_TK, True)
        pairs = _pairs(mask_TE, gate_TE)
        none_T = torch.zeros_like(mask_TE[:, 0])
        z_logits_TE = logits_TE[:, self.active_experts]
        return Routing(*pairs, mask_TE, gate_TE, logits_TE, none_T, none_T.float(), z_logits_TE)

    def _decide(self, x_TD: Tensor, type_T: Tensor) -> GateOutput:
        """Algorithm 1, by one kernel on a GPU."""
        assert self.threshold is not None
        by_kernel = self.config.backend == "triton" or (self.config.backend == "auto" and x_TD.is_cuda)
        return gate(
            x_TD,
            self.weight,
            self.threshold.detach() if self.config.threshold_update == "balance" else self.threshold,
            self.activation_rates,
            type_T,
            self.active_experts,
            scale=self.scale,
            alpha=self.alpha,
            fallback=self.config.fallback,
            straight_through=self.config.straight_through,
            backend="auto" if by_kernel else "torch",
        )

    def _topany(self, x_TD: Tensor, type_T: Tensor, role_T: Tensor | None) -> Routing:
        made = self._decide(x_TD, type_T)
        # a fallback expert was not accepted, so its weight 1 carries no gradient to the gate
        soft_TE = torch.where(made.fallback_T[:, None], made.mask_TE.to(made.gate_TE.dtype), made.gate_TE)
        pairs = _pairs(made.mask_TE, soft_TE / made.mask_TE.sum(-1, keepdim=True).clamp(min=1))
        with without_autocast(x_TD.device):
            directions_2D = None if role_T is None else _directions(x_TD, role_T, made.fallback_T)
        z_logits_TE = made.score_TE[:, self.active_experts]
        decided = (made.mask_TE, made.gate_TE, made.task_TE, made.fallback_T, made.flipped_T)
        return Routing(*pairs, *decided, z_logits_TE, directions_2D)

    @torch.no_grad()
    def calibrate(self, x_TD: Tensor, type_T: Tensor) -> None:
        """Set each threshold so that expert e accepts top_k / num_experts of the tokens x_TD of types type_T.

        Zero thresholds would accept half of all experts; after this the mean number per token is ``top_k``.
        """
        if self.threshold is None:
            return
        task_TE = self._decide(x_TD, type_T).task_TE
        # expert by expert: torch.quantile takes 16 million numbers at most
        columns = [torch.quantile(column_T, 1 - self.target_share) for column_T in task_TE.unbind(1)]
        self.threshold.copy_(torch.stack(columns))


def _pairs(mask_TE: Tensor, weight_TE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    expert_P, token_P = mask_TE.t().nonzero(as_tuple=True)
    return token_P, expert_P, weight_TE[token_P, expert_P]


@torch.no_grad()
def _directions(x_TD: Tensor, role_T: Tensor, fallback_T: Tensor) -> Tensor:
    """(2, D) float32: sums of inputs at length 1, over all tokens and over unassigned tokens of answers (R_S)."""
    groups_2T = torch.stack([role_T != TokenRole.PADDING, (role_T == TokenRole.ANSWER) & fallback_T])
    return groups_2T.float() @ F.normalize(x_TD.float(), dim=-1)
