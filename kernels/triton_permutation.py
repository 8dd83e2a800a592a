"""Triton: the permutation of variable-k routing by per-block histograms and prefix sums, as a custom op.

T tokens, E expert slots, P pairs, B blocks of tokens. Block b writes its pairs of expert e from
start_EB[e, b], the number of pairs that come before them in the order expert, block, token: one prefix sum over
(E, B) gives every place, and no two programs write to the same one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor


def tokens_per_block(num_tokens: int) -> int:
    """Tokens that one program counts or places; the gate's kernel counts in the same blocks."""
    return 64 if num_tokens < 16384 else 128  # many programs for few tokens, few loads of the gate's rows for many


@triton.jit
def _count_kernel(mask, block_counts, count, T, E, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr):
    """Pairs per (block, expert) and per token."""
    block = tl.program_id(0)
    t = block * BLOCK_T + tl.arange(0, BLOCK_T)
    e = tl.arange(0, BLOCK_E)
    inside = (t < T)[:, None] & (e < E)[None, :]
    routed = tl.load(mask + t.to(tl.int64)[:, None] * E + e[None, :], mask=inside, other=0).to(tl.int32)
    tl.store(block_counts + block * E + e, tl.sum(routed, 0), mask=e < E)
    tl.store(count + t, tl.sum(routed, 1), mask=t < T)


@triton.jit
def _place_kernel(mask, start, token_start, token, expert, pair, T, E, P, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr):
    """Write each pair of one block to its place in both orders."""
    block = tl.program_id(0)
    blocks = tl.num_programs(0)
    t = block * BLOCK_T + tl.arange(0, BLOCK_T)
    e = tl.arange(0, BLOCK_E)
    inside = (t < T)[:, None] & (e < E)[None, :]
    routed = tl.load(mask + t.to(tl.int64)[:, None] * E + e[None, :], mask=inside, other=0).to(tl.int32)
    first_e = tl.load(start + e * blocks + block, mask=e < E, other=0)
    first_t = tl.load(token_start + t, mask=t < T, other=0)
    by_expert = first_e[None, :] + tl.cumsum(routed, 0) - routed
    by_token = first_t[:, None] + tl.cumsum(routed, 1) - routed
    here = (routed != 0) & (by_expert < P) & (by_token < P)
    tl.store(token + by_expert, tl.broadcast_to(t.to(tl.int64)[:, None], (BLOCK_T, BLOCK_E)), mask=here)
    tl.store(expert + by_expert, tl.broadcast_to(e.to(tl.int64)[None, :], (BLOCK_T, BLOCK_E)), mask=here)
    tl.store(pair + by_token, by_expert, mask=here)


def count_pairs(mask_TE: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs per block and expert (B, E), and per token (T,), int32."""
    T, E = mask_TE.shape
    block_t = tokens_per_block(T)
    block_counts_BE = mask_TE.new_empty(triton.cdiv(T, block_t), E, dtype=torch.int32)
    count_T = mask_TE.new_empty(T, dtype=torch.int32)
    if T:
        _count_kernel[(triton.cdiv(T, block_t),)](
            mask_TE, block_counts_BE, count_T, T, E, BLOCK_T=block_t, BLOCK_E=triton.next_power_of_2(E), num_warps=8
        )
    return block_counts_BE, count_T


@torch.library.custom_op("timeexpert::permute", mutates_args=())
def permute(
    mask_TE: Tensor, num_pairs: int | None, block_counts_BE: Tensor | None, count_T: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """token_P, expert_P, expert_offsets_E1, pair_P, token_offsets_T1 of ``permutation.Permutation``."""
    T, E = mask_TE.shape
    mask_TE = mask_TE.contiguous().view(torch.uint8)
    if block_counts_BE is None or count_T is None:
        with torch.cuda.device_of(mask_TE):
            block_counts_BE, count_T = count_pairs(mask_TE)
    blocks = block_counts_BE.shape[0]
    start_EB = F.pad(block_counts_BE.t().reshape(-1).cumsum(0), (1, 0)).int()
    expert_offsets_E1 = start_EB[::blocks].contiguous() if blocks else start_EB.new_zeros(E + 1)
    token_offsets_T1 = F.pad(count_T.cumsum(0), (1, 0)).int()
    if num_pairs is None:
        P = int(token_offsets_T1[-1])
    else:
        P = num_pairs
        torch._assert_async(token_offsets_T1[-1] <= P, f"permute: num_pairs ({P}) is less than the mask holds")
    token_P, expert_P = (mask_TE.new_zeros(P, dtype=torch.int64) for _ in range(2))
    pair_P = mask_TE.new_zeros(P, dtype=torch.int32)
    if P and T:
        with torch.cuda.device_of(mask_TE):
            _place_kernel[(blocks,)](
                mask_TE, start_EB, token_offsets_T1, token_P, expert_P, pair_P, T, E, P,
                BLOCK_T=tokens_per_block(T), BLOCK_E=triton.next_power_of_2(E), num_warps=8,
            )  # fmt: skip
    return token_P, expert_P, expert_offsets_E1, pair_P, token_offsets_T1


@permute.register_fake
def _(
    mask_TE: Tensor, num_pairs: int | None, block_counts_BE: Tensor | None, count_T: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    T, E = mask_TE.shape
    P = torch.library.get_ctx().new_dynamic_size() if num_pairs is None else num_pairs
    token_P, expert_P = (mask_TE.new_empty(P, dtype=torch.int64) for _ in range(2))
    expert_offsets_E1, pair_P, token_offsets_T1 = (mask_TE.new_empty(n, dtype=torch.int32) for n in (E + 1, P, T + 1))
    return token_P, expert_P, expert_offsets_E1, pair_P, token_offsets_T1
