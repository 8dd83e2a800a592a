"""Who was used for what: counts per token type and expert, and the activation rates the gate reads.

The caller updates once per micro-step from the ``Routing`` records of the forward pass, never inside a layer,
so activation recomputation does not count twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .gate import Gate, Routing


@dataclass
class LayerStatistics:
    """Counts of one layer since the last :meth:`reset`. ``routed`` (A, E): tokens of each type that used
    expert e; ``tokens`` (A,): tokens of each type; ``fallback``: tokens that no expert accepted."""

    routed: Tensor
    tokens: Tensor
    fallback: Tensor
    flipped: Tensor
    steps: int = 0

    @classmethod
    def zeros(cls, gate: Gate) -> LayerStatistics:
        types, experts = gate.activation_rates.shape
        device = gate.activation_rates.device

        def new(*shape: int) -> Tensor:  # float32 whatever the model's type: bf16 counts whole numbers up to 256
            return torch.zeros(shape, device=device)

        return cls(new(types, experts), new(types), new(), new())

    @torch.no_grad()
    def update(self, routing: Routing, type_T: Tensor, valid_T: Tensor) -> None:
        """Add one micro-step. ``valid_T`` is false for padding."""
        kinds, experts = self.routed.shape
        type_T = type_T[valid_T]
        one_hot = torch.nn.functional.one_hot(type_T, kinds).to(self.routed.dtype)
        self.routed += one_hot.t() @ routing.mask_TE[valid_T].to(self.routed.dtype)
        self.tokens += one_hot.sum(0)
        self.fallback += routing.fallback_T[valid_T].sum()
        self.flipped += routing.flipped
        self.steps += 1

    @property
    def rates(self) -> Tensor:
        """(A, E): share of the tokens of type a that used expert e; 0 where there were none."""
        return self.routed / self.tokens.clamp(min=1)[:, None]

    def to_json(self, gate: Gate, layer: int) -> dict[str, Any]:
        """The record that metrics.jsonl keeps of this layer."""
        total = self.routed.sum().clamp(min=1)
        tokens = float(self.tokens.sum().clamp(min=1))
        return {
            "layer": layer,
            "active": gate.active_experts.tolist(),
            "rates": [[round(v, 5) for v in row] for row in self.rates.tolist()],
            "load": [round(v, 5) for v in (self.routed.sum(0) / total).tolist()],
            "mean_k": round(float(self.routed.sum()) / tokens, 4),
            "fallback": round(float(self.fallback) / tokens, 5),
            "flipped": round(float(self.flipped) / max(1, self.steps), 5),
        }


@dataclass
class ExpertStatistics:
    """Statistics of all layers: the window since the last report, and the moving average in each gate."""

    gates: list[Gate]
    window: list[LayerStatistics] = field(init=False)
    step: list[LayerStatistics] = field(init=False)

    def __post_init__(self) -> None:
        self.reset()
        self.step = [LayerStatistics.zeros(gate) for gate in self.gates]

    def reset(self) -> None:
        """Start a new reporting window."""
        self.window = [LayerStatistics.zeros(gate) for gate in self.gates]

    def update(self, routings: list[Routing], type_T: Tensor, valid_T: Tensor) -> None:
        """Count one micro-step of every layer."""
        for i, routing in enumerate(routings):
            self.window[i].update(routing, type_T, valid_T)
            self.step[i].update(routing, type_T, valid_T)

    @torch.no_grad()
    def fold(self) -> None:
        """Move this optimizer step's rates into each gate's moving average (types that did not occur keep theirs)."""
        for i, gate in enumerate(self.gates):
            seen = (self.step[i].tokens > 0)[:, None]
            decay = gate.config.rate_decay
            new = decay * gate.activation_rates + (1 - decay) * self.step[i].rates
            gate.activation_rates.copy_(torch.where(seen, new, gate.activation_rates))
            self.step[i] = LayerStatistics.zeros(gate)

    def state_tensors(self) -> dict[str, Tensor]:
        """The open window, for a checkpoint (the moving average is a buffer of each gate)."""
        out = {}
        for i, s in enumerate(self.window):
            values = {"routed": s.routed, "tokens": s.tokens, "fallback": s.fallback, "flipped": s.flipped}
            values["steps"] = torch.tensor(s.steps)
            out.update({f"statistics.{i}.{name}": value.detach().cpu().contiguous() for name, value in values.items()})
        return out

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`state_tensors` gave."""
        for i, s in enumerate(self.window):
            for name in ("routed", "tokens", "fallback", "flipped"):
                getattr(s, name).copy_(tensors[f"statistics.{i}.{name}"])
            s.steps = int(tensors[f"statistics.{i}.steps"])

    def to_json(self) -> list[dict[str, Any]]:
        """One record per layer for the window."""
        return [s.to_json(g, i) for i, (s, g) in enumerate(zip(self.window, self.gates, strict=True))]
