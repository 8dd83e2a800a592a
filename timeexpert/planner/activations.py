"""Bytes of activations: what each part keeps for its backward pass, and what it needs for a moment beside that.

Derived from the modules' code operation by operation, in the way of Korthikanti et al. (2022, "Reducing Activation
Recomputation in Large Transformer Models", section 4), and held to measured peaks by scripts/check_planner.py
(docs/planner.md has the errors). T tokens, D model dim, E expert slots, P routed pairs, F expert dim, N frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .flops import Trains
from .workload import Batch, Dimensions

STREAM = 4  # bytes of a number in the residual stream, norms, gates and losses: float32 also under autocast
INDEX = 8


@dataclass(frozen=True)
class Part:
    """Bytes of one part. ``kept``: from its forward to its backward pass. ``forward``, ``backward``: the most that is
    there besides while the pass runs. ``late``: besides, when the gradients of a layer's experts are there."""

    kept: float
    forward: float
    backward: float
    late: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """``compute``: bytes of a number in matrix products (2 under bf16 autocast). ``kernels``: routed experts are
    computed by ``fused`` (one expert after the other, a CPU's way) or by ``triton`` (all at once). ``experts``: bytes
    of what routed experts keep (None: ``compute``; CPUs without bf16 instructions multiply in float32)."""

    compute: int = 4
    kernels: Literal["fused", "triton"] = "triton"
    experts: int | None = None

    @property
    def mixed(self) -> bool:
        """Whether products run in another type than the residual stream."""
        return self.compute < STREAM

    def inputs(self, products: int) -> int:
        """Bytes per number of one tensor that enters ``products`` products: a cast copy for each under autocast."""
        return products * self.compute if self.mixed else STREAM


def frame_encoder(d: Dimensions, batch: Batch, trains: Trains, a: Arithmetic) -> Part:
    """Vision tower, projector and slots, all frames of the micro-batch at once."""
    n, c = batch.num_frames, a.compute
    pixels = STREAM * n * 3 * d.image_size**2
    x, hidden = n * d.patches * d.vision_dim, n * d.patches * d.vision_mlp
    if trains.tower:
        layer = (2 * STREAM + a.inputs(3) + 4 * c + a.inputs(1)) * x + 2 * c * hidden
        tower_kept = d.vision_layers * layer + pixels
        tower = tower_kept + STREAM * x
    else:  # in the last layer's MLP; the states after the embeddings and every layer are collected until the end
        tower_kept = 0.0
        tower = pixels + (d.vision_layers + 2) * STREAM * x + (c * x if a.mixed else 0) + 2 * c * hidden
    projector, slots, scores = _projector(d, n, a), _slots(d, n, a), 2 * STREAM * _attention_weights(d, n)
    kept = tower_kept + projector + slots if trains.frames else 0.0
    later = pixels + 2 * STREAM * x + scores + projector + slots
    out = STREAM * n * d.slots * d.dim
    backward = scores + 2 * STREAM * x if trains.frames else 0.0
    if trains.tower:
        backward = max(backward, 2 * STREAM * x + 2 * c * hidden)
    return Part(kept + out, max(tower, tower_kept + later) - kept, backward)


def _attention_weights(d: Dimensions, frames: float) -> float:
    """Numbers of the projector's attention weights: it asks for them, so they exist as a tensor."""
    return frames * d.vision_heads * d.queries * d.patches


def _projector(d: Dimensions, frames: float, a: Arithmetic) -> float:
    """What ARIA's projector keeps: cross-attention with projections before and in MultiheadAttention, then an MLP."""
    if not d.queries:
        return 0.0
    c, x = a.compute, frames * d.patches * d.vision_dim
    asked, after = frames * d.queries * d.vision_dim, frames * d.queries * d.dim
    # a GPU's autocast takes the softmax in float32 and casts it for the product
    weight = STREAM + c if a.mixed and a.kernels == "triton" else c
    keys = STREAM * x + (6 if a.mixed else 5) * c * x
    return keys + weight * _attention_weights(d, frames) + (STREAM + 7 * c) * asked + 5 * c * after


def _slots(d: Dimensions, frames: float, a: Arithmetic) -> float:
    """What the slot compressor keeps."""
    if not d.slotted:
        return 0.0
    width = d.dim if d.queries else d.vision_dim
    into = frames * (d.queries or d.patches) * width
    return (STREAM + a.inputs(2 if a.mixed else 1)) * into + a.compute * frames * d.slots * width


def decoder_layer(
    d: Dimensions, batch: Batch, trains: Trains, a: Arithmetic, pairs: float, busiest: float, expert_parallel: bool
) -> Part:
    """One layer without recomputation. ``pairs``: rows that this rank's experts compute; ``busiest``: of its busiest
    expert. ``expert_parallel``: rows come from and go to other ranks."""
    t, c, w = float(batch.tokens), a.compute, trains.decoder
    kept = sum(layer_parts(d, batch, trains, a, pairs, expert_parallel).values()) if trains.hidden else 0.0
    x = STREAM * t * d.dim
    sums = x + (x + c * t * d.dim if d.shared_dim else 0)
    shared = c * t * d.shared_dim
    if a.kernels == "fused":
        buffers = busiest * (d.dim + d.expert_dim) * (a.experts or c)
        back = busiest * (2 * d.dim + 5 * d.expert_dim) * (a.experts or c)
    else:
        buffers = c * pairs * (d.expert_dim + (0 if trains.hidden else d.dim + 2 * d.expert_dim))
        back = c * pairs * (2 * d.dim + 4 * d.expert_dim)
    if expert_parallel and a.mixed:  # results are summed in float32
        buffers += STREAM * batch.pairs * d.dim
    cast = c * t * d.dim if a.mixed else 0.0
    if not trains.hidden:
        return Part(0.0, max(sums, x + buffers), 0.0)
    # the shared experts go first; what they kept is free again when the routed ones start
    freed = (3 + w) * shared + (2 * c * t * d.dim if w and a.mixed else 0)
    return Part(kept, max(sums, x + buffers), x + 3 * shared + cast, 3 * x + cast + back - freed)


def layer_parts(
    d: Dimensions, batch: Batch, trains: Trains, a: Arithmetic, pairs: float, expert_parallel: bool
) -> dict[str, float]:
    """What one decoder layer keeps for its backward pass, by part."""
    t, c, w = float(batch.tokens), a.compute, trains.decoder
    kv = d.dim * d.kv_heads // d.heads
    norms = 2 * STREAM * t * d.dim * (1 + w)
    attention = (a.inputs(3) if w else 0) * t * d.dim + c * t * (2 * d.dim + 2 * kv) + STREAM * t * d.heads
    if batch.masked:  # each layer's own, as numbers to add
        attention += c * batch.tokens * batch.row_tokens
    gate = STREAM * t * d.dim  # the norm's output, in float32
    if d.topany:
        gate += STREAM * t * d.dim * w + 18 * t * d.experts
    else:
        gate += 17 * t * d.experts
    experts = 2 * (a.experts or c) * pairs * d.expert_dim + (2 * INDEX + STREAM) * batch.pairs
    if a.kernels == "triton":  # the experts' results, for the gradients of their weights in the sum
        experts += c * pairs * d.dim
    if expert_parallel:
        experts += c * pairs * d.dim  # rows that came
    elif a.mixed:
        experts += c * t * d.dim
    shared = t * (3 + w) * c * d.shared_dim
    if w and a.mixed and d.shared_dim:
        shared += a.inputs(2) * t * d.dim
    return {"norms": norms, "attention": attention, "gate": gate, "routed experts": experts, "shared experts": shared}


def heads(d: Dimensions, batch: Batch, trains: Trains, a: Arithmetic) -> Part:
    """The last norm, the heads and the losses; all labels are text, the widest head."""
    n, c, t = float(batch.videos * batch.labels), a.compute, float(batch.tokens)
    hidden = trains.hidden or trains.text_head
    norm = STREAM * t * d.dim * (2 if trains.decoder else 1)
    matrix = d.vocabulary * d.dim
    logits = n * d.vocabulary
    kept = (STREAM * logits + a.inputs(1) * n * d.dim) if hidden else 0.0
    kept += (norm if trains.hidden else 0.0) + (c * matrix if trains.hidden else 0.0)
    picked = 2 * STREAM * n * d.dim + STREAM * t * d.dim
    forward = (STREAM + (c if a.mixed else 0)) * logits + picked + (STREAM * matrix if a.mixed else 0)
    gradient = STREAM * matrix if trains.text_head else 0.0
    backward = max(2 * STREAM * logits, gradient + (c * matrix if a.mixed else 0) + STREAM * n * d.dim)
    return Part(kept, forward, backward)
