"""Floating-point operations of one micro-batch: matrix products and convolutions, forward and backward.

As ``torch.utils.flop_counter`` counts them with ``attention: eager``: two per multiply-add, and attention over the
whole square of a row. (A kernel that skips the masked half does less, one that recomputes its scores more.)
scripts/check_planner.py compares the two; they are equal.
"""

from __future__ import annotations

from dataclasses import dataclass

from .workload import Batch, Dimensions


@dataclass(frozen=True)
class Flops:
    """Of one part and micro-batch. ``recompute``: what gradient checkpointing does again."""

    forward: float
    backward: float
    recompute: float = 0.0

    @property
    def total(self) -> float:
        """All that is done."""
        return self.forward + self.backward + self.recompute

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.forward + other.forward, self.backward + other.backward, self.recompute + other.recompute)

    def __mul__(self, times: float) -> Flops:
        return Flops(self.forward * times, self.backward * times, self.recompute * times)


@dataclass(frozen=True)
class Trains:
    """Which gradients a stage needs: of the weights of its parts, and of what flows into them."""

    parts: frozenset[str]

    @property
    def tower(self) -> bool:
        """The vision tower's weights."""
        return "vision_tower" in self.parts

    @property
    def compression(self) -> bool:
        """The projector's and the slots' weights."""
        return "compression" in self.parts

    @property
    def decoder(self) -> bool:
        """The decoder's weights."""
        return "decoder" in self.parts

    @property
    def frames(self) -> bool:
        """Anything in the frame encoder."""
        return self.tower or self.compression

    @property
    def embeddings(self) -> bool:
        """Whether the gradient flows through the whole decoder, to what enters it."""
        return self.frames or bool(self.parts & {"number_encoders", "text"})

    @property
    def hidden(self) -> bool:
        """Whether the heads' input has a gradient."""
        return self.decoder or self.embeddings

    @property
    def text_head(self) -> bool:
        """Whether the text head's matrix gets one: <sync> is its last row."""
        return bool(self.parts & {"number_heads", "text"})


def _product(flops: float, inputs: bool, weights: bool) -> Flops:
    """A product of activations with weights: one more of the same size for each gradient that is needed."""
    return Flops(flops, flops * (inputs + weights))


def flops(d: Dimensions, batch: Batch, trains: Trains, checkpointing: bool) -> dict[str, Flops]:
    """By part of the model; the sum is one micro-batch."""
    attention, moe = decoder_layer(d, batch, trains)
    layer = attention["attention"] + attention["scores"] + moe["gate"] + moe["experts"] + moe["shared"]
    if checkpointing and trains.hidden:
        # recomputation stops when the last tensor that is needed is there: before the shared experts' last product
        last = moe["shared"].forward / 3 if d.shared_dim else 0.0
        layer = Flops(layer.forward, layer.backward, layer.forward - last)
    head = 2.0 * batch.videos * batch.labels * d.dim * d.vocabulary
    return {
        **frame_encoder(d, batch, trains),
        "decoder": layer * d.layers,
        "heads": _product(head, trains.hidden, trains.text_head),
    }


def frame_encoder(d: Dimensions, batch: Batch, trains: Trains) -> dict[str, Flops]:
    """Vision tower, ARIA's projector and the slots."""
    n, p, c = batch.num_frames, d.patches, d.vision_dim
    tower, compression = trains.tower, trains.compression
    patches = _product(2.0 * n * p * 3 * d.patch_size**2 * c, False, tower)
    linear = 2.0 * n * p * (4 * c * c + 2 * c * d.vision_mlp)
    scores = 4.0 * n * p * p * c
    layer = _product(linear, tower, tower) + Flops(scores, 2 * scores if tower else 0.0)
    parts = {"vision tower": patches + layer * d.vision_layers, "projector": Flops(0, 0), "slots": Flops(0, 0)}
    flows = trains.frames
    into, width = p, c
    if d.queries:
        q = d.queries
        keys = 2.0 * n * p * 4 * c * c  # k_proj, v_proj, and the projections inside MultiheadAttention
        query = 2.0 * n * q * (4 * c * c + c * d.dim + d.dim * d.dim)
        scores = 4.0 * n * q * p * c
        parts["projector"] = _product(keys + query, flows, compression) + Flops(scores, 2 * scores if flows else 0.0)
        into, width = q, d.dim
    if d.slotted:
        mix = 4.0 * n * into * width * d.slots  # logits, and the weighted sums
        readout = 2.0 * n * d.slots * width * d.dim
        # the sums' weights are activations too: both of their gradients are needed wherever one is
        sums = Flops(mix / 2, mix if flows else 0.0)
        parts["slots"] = _product(mix / 2, flows, compression) + sums + _product(readout, flows, compression)
    return parts


def decoder_layer(d: Dimensions, batch: Batch, trains: Trains) -> tuple[dict[str, Flops], dict[str, Flops]]:
    """Attention, and the MoE layer, of one layer."""
    t, weights, inputs = float(batch.tokens), trains.decoder, trains.hidden
    kv = d.dim * d.kv_heads // d.heads
    linear = 2.0 * t * (2 * d.dim * d.dim + 2 * d.dim * kv)
    scores = 4.0 * t * batch.row_tokens * d.dim
    attention = {
        "attention": _product(linear, inputs, weights),
        "scores": Flops(scores, 2 * scores if inputs else 0.0),
    }
    moe = {
        "gate": _product(2.0 * t * d.dim * d.experts, inputs, weights),
        "experts": _product(6.0 * batch.pairs * d.dim * d.expert_dim, inputs, weights),
        "shared": _product(6.0 * t * d.dim * d.shared_dim, inputs, weights),
    }
    return attention, moe
