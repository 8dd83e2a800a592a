"""Who was used for what: counts per token type and expert, and the activation rates the gate reads.

The caller counts each micro-step from the ``Routing`` records of its forward pass, never inside a layer, so
activation recomputation does not count twice; once per optimizer step the counts are folded into the gates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from math import log
from typing import Any

import torch
from torch import Tensor

from timeexpert.errors import UserError

from .gate import Gate, Routing, TokenRole
from .thresholds import hold_thresholds


class StatisticsError(UserError):
    """Counts of a checkpoint that do not fit this model."""


@dataclass
class LayerStatistics:
    """Counts of one layer. All are sums: micro-steps, optimizer steps and data-parallel ranks add up.

    A token types, E expert slots, D model dim. ``routed`` (A, E): tokens of each type that expert e computed;
    ``tokens``, ``fallback`` (A,): tokens of each type, and those that no expert accepted; ``flipped`` (): sum of the
    tokens' shares of decisions that the history changed; ``accepted`` (E,): tokens that passed e's threshold;
    ``scores`` (2, E): sums of the scores and of their squares; ``answers`` (2,): tokens of answers, and those that
    no expert accepted; ``directions`` (2, D): as :class:`Routing`. Padding is in none of them.
    """

    routed: Tensor
    tokens: Tensor
    fallback: Tensor
    flipped: Tensor
    accepted: Tensor
    scores: Tensor
    answers: Tensor
    directions: Tensor

    @classmethod
    def zeros(cls, gate: Gate) -> LayerStatistics:
        types, experts = gate.activation_rates.shape
        device = gate.activation_rates.device

        def new(*shape: int) -> Tensor:  # float32 whatever the model's type: bf16 counts whole numbers up to 256
            return torch.zeros(shape, device=device)

        counts = (new(types, experts), new(types), new(types), new(), new(experts), new(2, experts), new(2))
        return cls(*counts, new(2, gate.weight.shape[1]))

    @torch.no_grad()
    def update(self, routing: Routing, type_T: Tensor, role_T: Tensor) -> None:
        """Add one micro-step. ``role_T``: see :class:`TokenRole`, or a mask that is false for padding."""
        valid_T = role_T != TokenRole.PADDING
        kind = self.routed.dtype
        mask_TE, fallback_T = routing.mask_TE[valid_T], routing.fallback_T[valid_T]
        one_hot = torch.nn.functional.one_hot(type_T[valid_T], len(self.tokens)).to(kind)
        self.routed += one_hot.t() @ mask_TE.to(kind)
        self.tokens += one_hot.sum(0)
        self.fallback += one_hot[fallback_T].sum(0)
        self.flipped += routing.flipped_T[valid_T].sum()
        self.accepted += (mask_TE & ~fallback_T[:, None]).sum(0)
        score_TE = routing.score_TE[valid_T]
        self.scores += torch.stack([score_TE.sum(0), score_TE.square().sum(0)])
        answer_T = role_T == TokenRole.ANSWER
        self.answers += torch.stack([answer_T.sum(), (answer_T & routing.fallback_T).sum()])
        if routing.directions_2D is not None:
            self.directions += routing.directions_2D

    def __iadd__(self, other: LayerStatistics) -> LayerStatistics:
        for name, value in self.tensors().items():
            value += getattr(other, name)
        return self

    def tensors(self) -> dict[str, Tensor]:
        """Every count by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def rates(self) -> Tensor:
        """(A, E): share of the tokens of type a that used expert e; 0 where there were none."""
        return self.routed / self.tokens.clamp(min=1)[:, None]

    def entropy(self, active_E: Tensor) -> float:
        """Evenness of the load over active experts: 1 is even, 0 means that one of several takes all."""
        load_E = self.routed.sum(0)[active_E]
        if len(load_E) < 2 or not bool(load_E.any()):
            return float(len(load_E) == 1)
        return float(torch.special.entr(load_E / load_E.sum()).sum()) / log(len(load_E))

    @torch.no_grad()
    def to_json(self, gate: Gate, layer: int) -> dict[str, Any]:
        """The record that metrics.jsonl keeps of this layer (docs/experts.md)."""
        total = self.routed.sum().clamp(min=1)
        tokens, per_type = float(self.tokens.sum().clamp(min=1)), self.tokens.clamp(min=1)
        return {
            "layer": layer,
            "active": gate.active_experts.tolist(),
            "rates": [_rounded(row) for row in self.rates],
            "load": _rounded(self.routed.sum(0) / total),
            "entropy": round(self.entropy(gate.active_experts), 5),
            "mean_k": round(float(self.routed.sum()) / tokens, 4),
            "fallback": round(float(self.fallback.sum()) / tokens, 5),
            "flipped": round(float(self.flipped) / tokens, 5),
            "tokens": [int(n) for n in self.tokens],
            "mean_k_by_type": _rounded(self.routed.sum(1) / per_type),
            "fallback_by_type": _rounded(self.fallback / per_type),
            "alpha": round(float(gate.alpha), 6),
            "scale": round(float(gate.scale), 4),
        }


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 5) for value in values.tolist()]


def save_counts(kind: str, counts: list[LayerStatistics]) -> dict[str, Tensor]:
    """Counts of every layer as named tensors, for a checkpoint."""
    named = ((i, *item) for i, layer in enumerate(counts) for item in layer.tensors().items())
    return {f"{kind}.{i}.{name}": value.detach().cpu().clone() for i, name, value in named}


def load_counts(kind: str, counts: list[LayerStatistics], saved: dict[str, Tensor]) -> None:
    """Put back what :func:`save_counts` gave. Raises :class:`StatisticsError`."""
    for i, layer in enumerate(counts):
        for name, value in layer.tensors().items():
            key = f"{kind}.{i}.{name}"
            if key not in saved or saved[key].shape != value.shape:
                found = (
                    "missing" if key not in saved else f"of shape {tuple(saved[key].shape)}, not {tuple(value.shape)}"
                )
                raise StatisticsError(
                    f"the checkpoint's expert statistics do not fit: {key} is {found}. It was written by another "
                    "version or with other settings; finish the stage with those, or train it again in a new folder."
                )
            value.copy_(saved[key])


@dataclass
class ExpertStatistics:
    """Statistics of all layers: the open optimizer step, the report's window, and the tracker in each gate.

    ``sum_over_ranks`` adds up tensors over data-parallel ranks in place; every decision (rates, thresholds,
    experts) is made of counts that went through it. None: there is one rank.
    """

    gates: list[Gate]
    sum_over_ranks: Callable[[list[Tensor]], None] | None = None
    step: list[LayerStatistics] = field(init=False)
    window: list[LayerStatistics] = field(init=False)
    tracked: list[LayerStatistics] = field(init=False)  # since the last update of a windowed tracker
    tracked_steps: int = 0

    def __post_init__(self) -> None:
        self.step, self.tracked = self._zeros(), self._zeros()
        self.reset()

    def _zeros(self) -> list[LayerStatistics]:
        return [LayerStatistics.zeros(gate) for gate in self.gates]

    def reset(self) -> None:
        """Start a new reporting window."""
        self.window = self._zeros()

    def update(self, routings: list[Routing], type_T: Tensor, role_T: Tensor) -> None:
        """Count one micro-step of every layer (see :meth:`LayerStatistics.update`)."""
        for counts, routing in zip(self.step, routings, strict=True):
            counts.update(routing, type_T, role_T)

    def discard(self) -> None:
        """End an optimizer step that was not made: its counts go nowhere."""
        self.step = self._zeros()

    @torch.no_grad()
    def fold(self) -> list[LayerStatistics]:
        """End an optimizer step: its counts go into the report's window, the rates and the thresholds.

        Returns the counts of this step, of all ranks.
        """
        done, self.step = self.step, self._zeros()
        if self.sum_over_ranks is not None:
            self.sum_over_ranks([value for counts in done for value in counts.tensors().values()])
        for i, (gate, counts) in enumerate(zip(self.gates, done, strict=True)):
            self.window[i] += counts
            if gate.config.tracker == "ema":
                new = gate.config.rate_decay * gate.activation_rates + (1 - gate.config.rate_decay) * counts.rates
                _set_rates(gate, new, counts)
            else:
                self.tracked[i] += counts
            hold_thresholds(gate, counts.accepted, counts.tokens.sum(), counts.scores)
            gate.after_step()
        self.tracked_steps += 1
        if self.gates and self.tracked_steps == self.gates[0].config.tracker_window:
            self._end_window()
        return done

    def _end_window(self) -> None:
        for gate, counts in zip(self.gates, self.tracked, strict=True):
            if gate.config.tracker == "window":
                _set_rates(gate, counts.rates, counts)
        self.tracked, self.tracked_steps = self._zeros(), 0

    def forget(self, layer: int, slot: int) -> None:
        """Another expert is in a slot: what the tracker has counted of the one before is not its history."""
        self.tracked[layer].routed[:, slot] = 0

    def state_tensors(self) -> dict[str, Tensor]:
        """The open windows, for a checkpoint (the rates are a buffer of each gate)."""
        steps = {"statistics.tracked_steps": torch.tensor(self.tracked_steps)}
        return {**save_counts("statistics", self.window), **save_counts("tracker", self.tracked), **steps}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`state_tensors` gave. Raises :class:`StatisticsError`."""
        load_counts("statistics", self.window, tensors)
        load_counts("tracker", self.tracked, tensors)
        self.tracked_steps = int(tensors["statistics.tracked_steps"])

    def to_json(self) -> list[dict[str, Any]]:
        """One record per layer for the window."""
        return [s.to_json(g, i) for i, (s, g) in enumerate(zip(self.window, self.gates, strict=True))]


def _set_rates(gate: Gate, new_AE: Tensor, counts: LayerStatistics) -> None:
    """Types that did not occur keep their rates."""
    seen = (counts.tokens > 0)[:, None]
    gate.activation_rates.copy_(torch.where(seen, new_AE, gate.activation_rates))
