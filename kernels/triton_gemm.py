"""Triton: matrix products over rows sorted by expert, with rows gathered on the way in and SwiGLU on the way out.

P rows, E expert slots, K inner dim, N columns. Each program computes one tile of one expert and finds out which from
the experts' offsets: nothing is prepared on the host, no row is padded, and loads may be of any size. Products are
summed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_common import autotune, dot, precision

SMALL = {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 32}


def _config(m: int, n: int, k: int, warps: int, stages: int) -> triton.Config:
    return triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k}, num_warps=warps, num_stages=stages)


def _fitting(configs: list[Any], args: dict[str, Any], **constants: Any) -> list[Any]:
    """Tiles of 16 rows where experts have few rows, as in decoding, larger ones where they have many.

    Exact float32 is not for the matrix units: each product is an instruction, and a large tile a very long program.
    """
    tiles = [config for config in configs if (config.kwargs["BLOCK_M"] <= 16) == (args["rows_each"] <= 32)]
    if args["a"].dtype == torch.float32 and constants["PRECISION"] == "ieee":
        tiles = [config for config in tiles if config.kwargs["BLOCK_K"] <= 32 and config.kwargs["BLOCK_N"] <= 64]
    return tiles


def _largest(configs: list[Any], args: dict[str, Any], **constants: Any) -> list[Any]:
    """As for many rows: a weight's gradient is a large tile however few rows there are."""
    return _fitting(configs, {**args, "rows_each": 1024}, **constants)


# For Hopper (H100, H200)
SMALL_TILE = _config(64, 64, 32, 4, 3)  # for exact float32, and for GPUs with 99 KiB of shared memory
FEW_ROWS = [_config(16, 64, 128, 4, 4), _config(16, 128, 64, 4, 4), _config(16, 64, 32, 4, 3)]
ROWS = [
    _config(128, 256, 64, 8, 3),
    _config(128, 256, 64, 8, 4),
    _config(128, 256, 32, 8, 4),
    _config(128, 128, 64, 8, 4),
    _config(128, 128, 64, 4, 4),
    _config(64, 256, 64, 4, 3),
    _config(64, 128, 64, 4, 4),
    SMALL_TILE,
    *FEW_ROWS,
]
SWIGLU = [  # two accumulators: half the columns
    _config(128, 128, 64, 8, 3),
    _config(128, 128, 64, 8, 4),
    _config(128, 128, 32, 8, 4),
    _config(128, 64, 64, 4, 4),
    _config(64, 128, 64, 4, 3),
    _config(64, 64, 64, 4, 4),
    SMALL_TILE,
    *FEW_ROWS,
]
WEIGHTS = [  # BLOCK_K is the step along the rows that are summed, BLOCK_M x BLOCK_N a tile of the weight
    _config(128, 256, 64, 8, 3),
    _config(128, 256, 64, 8, 4),
    _config(128, 256, 32, 8, 4),
    _config(128, 128, 64, 8, 4),
    _config(128, 128, 64, 4, 3),
    _config(128, 128, 32, 4, 4),
    _config(64, 128, 64, 4, 4),
    SMALL_TILE,
]


@triton.jit
def _locate(offsets, E, tiles_n, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr):
    """This program's expert (E or more: nothing is left to do), its first row, the expert's last row, column tile.

    Tiles of rows are numbered through all experts. Programs that follow each other share a column of up to 8 tiles of
    rows, so that a tile of the weight stays in the cache.
    """
    pid = tl.program_id(0)
    group = pid // (8 * tiles_n)
    height = tl.minimum(tl.num_programs(0) // tiles_n - group * 8, 8)
    within = pid % (8 * tiles_n)
    tile = group * 8 + within % height

    e = tl.arange(0, BLOCK_E)
    start_e = tl.load(offsets + e, mask=e < E, other=0)
    end_e = tl.load(offsets + e + 1, mask=e < E, other=0)
    tiles_e = (end_e - start_e + BLOCK_M - 1) // BLOCK_M
    expert = tl.sum((tl.cumsum(tiles_e, 0) <= tile).to(tl.int32), 0)
    earlier = tl.sum(tl.where(e < expert, tiles_e, 0), 0)
    start = tl.load(offsets + expert, mask=expert < E, other=0)
    end = tl.load(offsets + expert + 1, mask=expert < E, other=0)
    return expert.to(tl.int64), start + (tile - earlier) * BLOCK_M, end, within // height


@triton.jit
def _row_pointers(a, token, row, end, K, GATHER: tl.constexpr):
    """Where each row of ``a`` starts: row p, or row token[p]. Rows at ``end`` and beyond point to row 0."""
    source = row.to(tl.int64)
    if GATHER:
        source = tl.load(token + row, mask=row < end, other=0)
    return a + tl.where(row < end, source, 0) * K


@autotune(ROWS, ["N", "K", "rows_each", "stride_bn", "PRECISION"], interpreter=SMALL, prune=_fitting)
@triton.heuristics({"EVEN_K": lambda args: args["K"] % args["BLOCK_K"] == 0})
@triton.jit(do_not_specialize=["rows_each"])
def _rows_kernel(
    a, b, out, token, offsets, E, N, K, rows_each, stride_be, stride_bk, stride_bn,
    GATHER: tl.constexpr, PRECISION: tl.constexpr, BLOCK_E: tl.constexpr, EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out[p] = a[token[p]] @ b[expert of p]."""
    expert, first, end, column = _locate(offsets, E, tl.cdiv(N, BLOCK_N), BLOCK_E, BLOCK_M)
    if expert >= E:
        return
    row = first + tl.arange(0, BLOCK_M)
    n = column * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    a_mk = _row_pointers(a, token, row, end, K, GATHER)[:, None] + k[None, :]
    b_kn = b + expert * stride_be + k[:, None] * stride_bk + n[None, :] * stride_bn
    row_in, n_in = (row < end)[:, None], (n < N)[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for done in range(0, K, BLOCK_K):
        a_in, b_in = row_in, n_in
        if not EVEN_K:
            k_in = k < K - done
            a_in, b_in = row_in & k_in[None, :], n_in & k_in[:, None]
        acc = dot(tl.load(a_mk, mask=a_in, other=0.0), tl.load(b_kn, mask=b_in, other=0.0), acc, PRECISION)
        a_mk += BLOCK_K
        b_kn += BLOCK_K * stride_bk
    out_mn = out + row.to(tl.int64)[:, None] * N + n[None, :]
    tl.store(out_mn, acc.to(out.dtype.element_ty), mask=row_in & n_in)


@autotune(SWIGLU, ["N", "K", "rows_each", "stride_bn", "PRECISION"], interpreter=SMALL, prune=_fitting)
@triton.heuristics({"EVEN_K": lambda args: args["K"] % args["BLOCK_K"] == 0})
@triton.jit(do_not_specialize=["rows_each"])
def _swiglu_kernel(
    a, b, hidden, gate_up, token, offsets, E, N, K, rows_each, stride_be, stride_bk, stride_bn,
    GATHER: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr, BLOCK_E: tl.constexpr, EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """hidden[p] = silu(g) * u with (g, u) = a[token[p]] @ b[expert of p]; KEEP writes g and u to gate_up too."""
    expert, first, end, column = _locate(offsets, E, tl.cdiv(N, BLOCK_N), BLOCK_E, BLOCK_M)
    if expert >= E:
        return
    row = first + tl.arange(0, BLOCK_M)
    n = column * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    a_mk = _row_pointers(a, token, row, end, K, GATHER)[:, None] + k[None, :]
    gate_kn = b + expert * stride_be + k[:, None] * stride_bk + n[None, :] * stride_bn
    up_kn = gate_kn + N * stride_bn
    row_in, n_in = (row < end)[:, None], (n < N)[None, :]
    gate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for done in range(0, K, BLOCK_K):
        a_in, b_in = row_in, n_in
        if not EVEN_K:
            k_in = k < K - done
            a_in, b_in = row_in & k_in[None, :], n_in & k_in[:, None]
        rows = tl.load(a_mk, mask=a_in, other=0.0)
        gate = dot(rows, tl.load(gate_kn, mask=b_in, other=0.0), gate, PRECISION)
        up = dot(rows, tl.load(up_kn, mask=b_in, other=0.0), up, PRECISION)
        a_mk += BLOCK_K
        gate_kn += BLOCK_K * stride_bk
        up_kn += BLOCK_K * stride_bk
    kind = hidden.dtype.element_ty
    place = row.to(tl.int64)[:, None]
    if KEEP:
        tl.store(gate_up + place * (2 * N) + n[None, :], gate.to(kind), mask=row_in & n_in)
        tl.store(gate_up + place * (2 * N) + N + n[None, :], up.to(kind), mask=row_in & n_in)
    tl.store(hidden + place * N + n[None, :], (gate * tl.sigmoid(gate) * up).to(kind), mask=row_in & n_in)


@autotune(WEIGHTS, ["M", "N", "rows_each", "stride_on", "PRECISION"], interpreter=SMALL, prune=_largest)
@triton.jit(do_not_specialize=["rows_each"])
def _weights_kernel(
    a, b, out, token, offsets, M, N, rows_each, stride_oe, stride_om, stride_on,
    GATHER: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out[e] = sum over the rows p of expert e of a[token[p]]^T b[p]: the gradient of a weight."""
    tiles_n = tl.cdiv(N, BLOCK_N)
    tiles = tl.cdiv(M, BLOCK_M) * tiles_n
    expert = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    m = tile // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    start, end = tl.load(offsets + expert), tl.load(offsets + expert + 1)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    a_k = _row_pointers(a, token, start + tl.arange(0, BLOCK_K), end, M, GATHER)
    for first in range(start, end, BLOCK_K):
        row = first + tl.arange(0, BLOCK_K)
        part_a = tl.load(a_k[None, :] + m[:, None], mask=(m < M)[:, None] & (row < end)[None, :], other=0.0)
        b_kn = _row_pointers(b, token, row, end, N, False)[:, None] + n[None, :]
        part_b = tl.load(b_kn, mask=(row < end)[:, None] & (n < N)[None, :], other=0.0)
        # one step ahead: with a load that waits for another in the same step, Triton keeps fewer in flight
        a_k = _row_pointers(a, token, row + BLOCK_K, end, M, GATHER)
        acc = dot(part_a, part_b, acc, PRECISION)
    out_mn = out + expert.to(tl.int64) * stride_oe + m[:, None] * stride_om + n[None, :] * stride_on
    tl.store(out_mn, acc.to(out.dtype.element_ty), mask=(m < M)[:, None] & (n < N)[None, :])


@triton.jit
def _swiglu_backward_kernel(
    gate_up, d_hidden, hidden, d_gate_up, offsets, E, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """From d_hidden and the saved g, u: hidden = silu(g) u again, and the gradients of g and u."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (row < tl.load(offsets + E))[:, None] & (n < N)[None, :]
    one = row.to(tl.int64)[:, None] * N + n[None, :]
    two = row.to(tl.int64)[:, None] * (2 * N) + n[None, :]
    gate = tl.load(gate_up + two, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + two + N, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(d_hidden + one, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    kind = hidden.dtype.element_ty
    tl.store(hidden + one, (silu * up).to(kind), mask=inside)
    tl.store(d_gate_up + two, (grad * up * (sigmoid + silu * (1 - sigmoid))).to(kind), mask=inside)
    tl.store(d_gate_up + two + N, (grad * silu).to(kind), mask=inside)


def _rows_each(num_rows: int, num_experts: int) -> int:
    """The power of two that is the mean load, within bounds: configs are timed once for each."""
    return min(1024, max(16, triton.next_power_of_2(num_rows // max(1, num_experts))))


def _row_grid(num_rows: int, num_experts: int, N: int) -> Callable[[dict[str, int]], tuple[int]]:
    """Programs for every tile there can be: each expert may add one that is not full."""

    def grid(meta: dict[str, int]) -> tuple[int]:
        tiles_m = min(num_rows, num_rows // meta["BLOCK_M"] + num_experts)
        return (tiles_m * triton.cdiv(N, meta["BLOCK_N"]),)

    return grid


def rows_times_weight(a: Tensor, weight_EKN: Tensor, offsets_E1: Tensor, token_P: Tensor | None) -> Tensor:
    """(P, N): row p of ``a``, or row token_P[p] of it, times the matrix of its expert. Weights of any strides."""
    E, K, N = weight_EKN.shape
    P = a.shape[0] if token_P is None else token_P.shape[0]
    out = a.new_empty(P, N)
    if P:
        _rows_kernel[_row_grid(P, E, N)](
            a, weight_EKN, out, token_P, offsets_E1, E, N, K, _rows_each(P, E), *weight_EKN.stride(),
            GATHER=token_P is not None, PRECISION=precision(), BLOCK_E=triton.next_power_of_2(E),
        )  # fmt: skip
    return out


def swiglu_rows(
    a: Tensor, gate_up_EK2N: Tensor, offsets_E1: Tensor, token_P: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor]:
    """hidden (P, N) = silu(gate) * up, and gate and up side by side, (P, 2N), or (0, 2N) where they are not kept."""
    E, K, N = gate_up_EK2N.shape[0], gate_up_EK2N.shape[1], gate_up_EK2N.shape[2] // 2
    P = a.shape[0] if token_P is None else token_P.shape[0]
    hidden, gate_up = a.new_empty(P, N), a.new_empty(P if keep else 0, 2 * N)
    if P:
        _swiglu_kernel[_row_grid(P, E, N)](
            a, gate_up_EK2N, hidden, gate_up, token_P, offsets_E1, E, N, K, _rows_each(P, E), *gate_up_EK2N.stride(),
            GATHER=token_P is not None, KEEP=keep, PRECISION=precision(), BLOCK_E=triton.next_power_of_2(E),
        )  # fmt: skip
    return hidden, gate_up


def weight_gradient(a: Tensor, b_PN: Tensor, offsets_E1: Tensor, token_P: Tensor | None, weight_EMN: Tensor) -> Tensor:
    """Per expert a^T b over its rows, in the type and layout of ``weight_EMN``; 0 for an expert without rows."""
    E, M, N = weight_EMN.shape
    if not len(b_PN):  # nor must configs be chosen by how fast they do nothing
        return torch.zeros_like(weight_EMN)
    out = torch.empty_like(weight_EMN)
    _weights_kernel[lambda meta: (E * triton.cdiv(M, meta["BLOCK_M"]) * triton.cdiv(N, meta["BLOCK_N"]),)](
        a, b_PN, out, token_P, offsets_E1, M, N, _rows_each(b_PN.shape[0], E), *out.stride(),
        GATHER=token_P is not None, PRECISION=precision(),
    )  # fmt: skip
    return out


def swiglu_backward(gate_up_P2N: Tensor, d_hidden_PN: Tensor, offsets_E1: Tensor) -> tuple[Tensor, Tensor]:
    """hidden (P, N) again, and the gradient of gate and up (P, 2N)."""
    P, N = d_hidden_PN.shape
    hidden, d_gate_up = torch.empty_like(d_hidden_PN), torch.empty_like(gate_up_P2N)
    if P:
        block_m, block_n = 16, 128
        _swiglu_backward_kernel[(triton.cdiv(P, block_m), triton.cdiv(N, block_n))](
            gate_up_P2N, d_hidden_PN, hidden, d_gate_up, offsets_E1, offsets_E1.numel() - 1, N,
            BLOCK_M=block_m, BLOCK_N=block_n,
        )  # fmt: skip
    return hidden, d_gate_up
