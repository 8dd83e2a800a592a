"""The memory of one GPU over one optimizer step: moments of the step, each with what is allocated then."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from timeexpert.parallel import Degrees

from .activations import STREAM, Arithmetic, Part, decoder_layer, frame_encoder, heads
from .flops import Trains
from .sizes import ModelSizes
from .workload import Batch, Dimensions

MASTER = 4  # bytes of a weight, of its gradient, and of each number the optimizer keeps: float32


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Bytes on one GPU at the fullest point of one phase of a step."""

    phase: str
    parameters: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    gathered: float = 0.0  # weights of the units in use, their casts, and gradients on their way
    exchange: float = 0.0  # buffers of the expert all-to-all
    batches: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return sum(getattr(self, name) for name in KINDS)

    def to_json(self) -> dict[str, Any]:
        """The phase, and bytes by kind."""
        return {"phase": self.phase, **{name: round(getattr(self, name)) for name in (*KINDS, "total")}}


KINDS = tuple(field.name for field in fields(Moment) if field.name != "phase")


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """``degrees`` of sharding. ``offload``: weights, gradients and optimizer states in the host's memory."""

    degrees: Degrees = Degrees()
    offload: bool = False

    def local(self, dense: float, experts: float) -> float:
        """Numbers on one rank, of so many sharded ones in all."""
        return dense / self.degrees.shard + experts / (self.degrees.expert * self.degrees.expert_shard)

    def numbers(self, sizes: ModelSizes, attribute: str) -> float:
        """``weights``, ``trained`` or ``states`` of one rank; gates are whole on every one."""
        experts, gates = (getattr(unit, attribute) * sizes.num_layers for unit in (sizes.experts, sizes.gate))
        return self.local(getattr(sizes.dense, attribute), experts) + gates


def timeline(
    sizes: ModelSizes,
    d: Dimensions,
    batch: Batch,
    trains: Trains,
    arithmetic: Arithmetic,
    *,
    checkpointing: bool,
    accumulate: int = 1,
    busiest: float = 0.0,
    imbalance: float = 1.0,
    sharing: Sharing | None = None,
) -> list[Moment]:
    """The moments of one optimizer step's last micro-batch, in order. ``busiest``: rows of the busiest expert (fused
    kernels). ``imbalance``: rows of this rank's experts over the mean of all ranks."""
    return _Step(
        sizes, d, batch, trains, arithmetic, checkpointing, accumulate, busiest, imbalance, sharing or Sharing()
    ).moments()


def peak(moments: list[Moment]) -> Moment:
    """The fullest."""
    return max(moments, key=lambda moment: moment.total)


@dataclass(frozen=True)
class _Step:
    sizes: ModelSizes
    d: Dimensions
    batch: Batch
    trains: Trains
    arithmetic: Arithmetic
    checkpointing: bool
    accumulate: int
    busiest: float
    imbalance: float
    sharing: Sharing

    @property
    def _expert_parallel(self) -> bool:
        return self.sharing.degrees.expert > 1

    def _bytes(self, attribute: str) -> float:
        """Of one kind of numbers on one rank."""
        return MASTER * self.sharing.numbers(self.sizes, attribute)

    def _layer(self) -> Part:
        pairs = self.batch.pairs * self.imbalance
        return decoder_layer(
            self.d, self.batch, self.trains, self.arithmetic, pairs, self.busiest, self._expert_parallel
        )

    def _exchange(self) -> float:
        """Send and receive buffers of one exchange of rows."""
        pairs = self.batch.pairs
        return self.arithmetic.compute * self.d.dim * pairs * (1 + self.imbalance) if self._expert_parallel else 0.0

    def _unit(self, attribute: str) -> float:
        """Numbers of one layer that stand on a rank while the layer is computed."""
        experts = getattr(self.sizes.experts, attribute) / self.sharing.degrees.expert
        return getattr(self.sizes.layer, attribute) + experts

    def _gathered(self) -> float:
        """FSDP's buffers while layers are computed: the root, a layer, and the next one before and after it is copied
        from the buffer that it was gathered into."""
        if self.sharing.degrees.ranks == 1:
            return 0.0
        return MASTER * (self.sizes.root.weights + 3 * self._unit("weights"))

    def _casts(self) -> tuple[float, float, float]:
        """Copies of weights in the products' type: in the forward pass, in the backward pass, and per layer from one
        to the other. Autocast keeps those of dense trained weights until the forward pass ends."""
        if not self.arithmetic.mixed:
            return 0.0, 0.0, 0.0
        c, layer = self.arithmetic.compute, self.arithmetic.compute * self._unit("weights")
        if not self.trains.hidden:
            return layer, 0.0, 0.0
        if not self.checkpointing:
            return 0.0, 0.0, layer
        cached = c * self.sizes.layer.weights * self.sizes.num_layers if self.trains.decoder else 0.0
        return cached + layer, layer, 0.0

    def _on_the_way(self) -> float:
        """Gradients of one layer before they are where they stay."""
        degrees, experts = self.sharing.degrees, self.sizes.experts.trained / self.sharing.degrees.expert
        casts = self.arithmetic.compute * experts if self.arithmetic.mixed else 0.0
        if degrees.ranks > 1:  # whole gradients, and the buffer that is reduced
            return casts + 2 * MASTER * self._unit("trained")
        return casts if self.arithmetic.mixed else (MASTER * experts if self.accumulate > 1 else 0.0)

    def moments(self) -> list[Moment]:
        """Forward pass part by part, backward pass, optimizer."""
        share, layers = self.sharing, self.sizes.num_layers
        gradients = 0.0 if share.offload else self._bytes("trained")
        before = gradients if self.accumulate > 1 else 0.0
        batch_bytes = self.batch.num_frames * 3 * self.d.image_size**2 + 17 * self.batch.tokens
        mask = self.batch.tokens * self.batch.row_tokens if self.batch.masked else 0
        at_rest = Moment(
            phase="",
            parameters=0.0 if share.offload else self._bytes("weights"),
            optimizer=0.0 if share.offload else self._bytes("states"),
            batches=batch_bytes * self.accumulate,
        )
        frames = frame_encoder(self.d, self.batch, self.trains, self.arithmetic)
        layer, head = self._layer(), heads(self.d, self.batch, self.trains, self.arithmetic)
        gathered, (cast_forward, cast_back, cast) = self._gathered(), self._casts()
        stream = STREAM * self.batch.tokens * self.d.dim
        kept = (stream if self.checkpointing and self.trains.hidden else layer.kept) + cast
        forward = replace(at_rest, gradients=before, gathered=gathered + cast_forward)
        encoded = frames.kept + mask + (0 if self.trains.embeddings and not self.checkpointing else stream)
        whole = MASTER * (self.sizes.frames.weights + self.sizes.root.weights) if gathered else 0.0
        out = [replace(forward, phase="frames", activations=frames.kept + frames.forward, gathered=whole)]
        at_end = encoded + layers * kept
        out.append(
            replace(
                forward,
                phase="decoder forward",
                activations=at_end + layer.forward,
                exchange=self._exchange(),
            )
        )
        out.append(replace(forward, phase="heads forward", activations=at_end + head.kept + head.forward))
        back = replace(at_rest, gradients=before, gathered=gathered + cast_back)
        out.append(replace(back, phase="heads backward", activations=at_end + head.kept + head.backward))
        if self.trains.hidden:
            out += self._backward(back, encoded, kept, layer, before, gradients)
        if self.trains.frames:
            done = replace(back, gradients=gradients)
            out.append(replace(done, phase="frames backward", activations=encoded + frames.backward))
        temporary = self._bytes("trained") if self.arithmetic.kernels == "triton" else 2 * MASTER * self.sizes.largest
        rest = replace(at_rest, gradients=gradients, gathered=0.0)
        out.append(replace(rest, phase="optimizer", activations=0.0 if share.offload else temporary))
        return out

    def _backward(
        self, back: Moment, encoded: float, kept: float, layer: Part, before: float, gradients: float
    ) -> list[Moment]:
        """From the last layer to the first: activations go, gradients come."""
        out, stays = [], not (before or self.sharing.offload)
        experts = MASTER * self.sharing.local(0, self.sizes.experts.trained)
        per_layer = MASTER * (self.sharing.local(self.sizes.layer.trained, 0) + self.sizes.gate.trained) + experts
        again = layer.kept if self.checkpointing else 0.0
        gradients = gradients - self.sizes.num_layers * per_layer if stays else before  # of the heads
        for left in range(self.sizes.num_layers, 0, -1):
            at = encoded + left * kept + again
            moment = replace(back, phase="decoder backward", gradients=gradients, exchange=self._exchange())
            out.append(replace(moment, activations=at + layer.backward))
            moment = replace(moment, gathered=back.gathered + self._on_the_way())
            out.append(replace(moment, activations=at + layer.late, gradients=gradients + (experts if stays else 0.0)))
            gradients += per_layer if stays else 0.0
        return out
