"""Experts come and go: which are removed and added, why, and what is written where (Algorithm 1, DynMoE).

A decision is made of counts of the last optimizer steps, which are the same on every data-parallel rank, and
changes slots in place: shapes, optimizer and checkpoints stay as they are. docs/experts.md has the readings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .layer import MoELayer
from .rows import read_row, whole, write_row
from .statistics import LayerStatistics, load_counts, save_counts


@dataclass(frozen=True)
class ExpertEdit:
    """One expert that was removed from, or added to, a slot of a layer.

    ``rate``: of a removed one its share of the counted tokens, of an added one the share of the answers' tokens
    that no expert accepted; ``tokens``: how many these were. ``parent``: whose MLP was copied (None: removed).
    ``active``: experts of the layer afterwards.
    """

    layer: int
    action: Literal["remove", "add"]
    expert: int
    reason: str
    rate: float
    tokens: int
    parent: int | Literal["shared"] | None
    active: int


class AdaptiveExperts:
    """The adaptive process over all layers of one stage.

    After each optimizer step :meth:`record` takes that step's counts; every ``update_every`` steps :meth:`edit`
    removes and adds. ``optimizers``: their moments follow the experts. ``seed``: of the noise on copied weights.
    ``editing``: a context in which these weights may be read and edited, for engines that need one.
    """

    def __init__(
        self,
        layers: list[MoELayer],
        optimizers: Sequence[torch.optim.Optimizer],
        seed: int,
        editing: Callable[[list[Tensor]], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        self.layers, self.optimizers, self.seed, self.editing = layers, optimizers, seed, editing
        self.config = layers[0].gate.config.adaptive
        self.steps = self.config.record_steps or self.config.update_every
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self.counts = [LayerStatistics.zeros(layer.gate) for layer in self.layers]

    def record(self, step: int, counts: list[LayerStatistics]) -> None:
        """Take the counts of the stage's optimizer step ``step`` (from 1), if it is one of those that are counted."""
        if (step - 1) % self.config.update_every >= self.config.update_every - self.steps:
            for own, new in zip(self.counts, counts, strict=True):
                own += new

    @torch.no_grad()
    def edit(self, step: int) -> list[ExpertEdit]:
        """Decide and carry out, if ``step`` is one of the schedule; returns what was changed."""
        if step % self.config.update_every:
            return []
        edits = []
        for index, (layer, counts) in enumerate(zip(self.layers, self.counts, strict=True)):
            for slot in removable(layer, counts):
                edits.append(self._remove(index, layer, counts, slot))
            if (free := addable(layer, counts)) is not None:
                edits.append(self._add(index, layer, counts, free, step))
        self.reset()
        return edits

    def state_tensors(self) -> dict[str, Tensor]:
        """What was counted since the last decision, for a checkpoint."""
        return save_counts("adaptive", self.counts)

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`state_tensors` gave."""
        load_counts("adaptive", self.counts, tensors)

    def _remove(self, index: int, layer: MoELayer, counts: LayerStatistics, slot: int) -> ExpertEdit:
        gate, total = layer.gate, float(counts.tokens.sum())
        used = float(counts.routed[:, slot].sum())
        gate.active_experts[slot] = False
        gate.activation_rates[:, slot] = 0
        for state, name, moment in self._moments(layer):
            write_row(moment, slot, 0.0)
            state[name] = moment  # which may have been a copy
        reason = (
            f"computed {_percent(used / total)} of {total:.0f} tokens in {self.steps} steps, "
            f"less than tau_min ({_percent(self.config.tau_min)})"
        )
        active = int(gate.active_experts.sum())
        return ExpertEdit(index, "remove", slot, reason, round(used / total, 6), int(used), None, active)

    def _add(self, index: int, layer: MoELayer, counts: LayerStatistics, slot: int, step: int) -> ExpertEdit:
        gate, config = layer.gate, self.config
        answers, unassigned = counts.answers.tolist()
        direction_D = F.normalize(counts.directions[1], dim=0)
        nearest = int(_similarity(layer, direction_D).argmax())
        assert gate.threshold is not None
        gate.threshold[slot] = 0.0 if config.threshold == "zero" else midway_threshold(layer, counts)
        # cosines see the direction only; the length sets how fast Adam turns the row, as it does its parent's
        gate.weight[slot] = (direction_D * gate.weight[nearest].float().norm()).to(gate.weight.dtype)
        gate.active_experts[slot] = True
        gate.activation_rates[:, slot] = 0
        mlps = [layer.experts] if layer.shared_experts is None else [layer.experts, layer.shared_experts]
        with self.editing([p for mlp in mlps for p in mlp.parameters()]):
            self._copy_mlp(layer, slot, nearest, torch.Generator().manual_seed(_mix(self.seed, step, index, slot)))
        for state, name, moment in self._moments(layer):
            write_row(moment, slot, read_row(moment, nearest))
            state[name] = moment
        share = unassigned / answers
        reason = (
            f"{_percent(share)} of {answers:.0f} tokens of answers in {self.steps} steps were accepted by no expert, "
            f"add_share is {_percent(config.add_share)}"
        )
        parent: int | Literal["shared"] = "shared" if config.copy_from == "shared" else nearest
        active = int(gate.active_experts.sum())
        return ExpertEdit(index, "add", slot, reason, round(share, 6), int(unassigned), parent, active)

    def _copy_mlp(self, layer: MoELayer, slot: int, nearest: int, generator: torch.Generator) -> None:
        experts, shared = layer.experts, layer.shared_experts
        gate_up, down = read_row(experts.gate_up_proj, nearest), read_row(experts.down_proj, nearest)
        if self.config.copy_from == "shared":
            assert shared is not None
            width = len(down)
            gate, up, out = (whole(p.weight) for p in (shared.gate_proj, shared.up_proj, shared.down_proj))
            gate_up, down = torch.cat([gate[:width], up[:width]]).t(), out[:, :width].t()
        for stacked, source in ((experts.gate_up_proj, gate_up), (experts.down_proj, down)):
            noise = torch.randn(source.shape, generator=generator).to(source)
            write_row(stacked, slot, source + self.config.noise * source.float().std().to(source) * noise)

    def _moments(self, layer: MoELayer) -> Iterator[tuple[MutableMapping[str, Any], str, Tensor]]:
        """Optimizer state with a row per expert slot, of the gate's rows and thresholds and of the experts: the state
        of a parameter, the name of a moment in it, the moment."""
        parameters = (layer.gate.weight, layer.gate.threshold, layer.experts.gate_up_proj, layer.experts.down_proj)
        slots = layer.gate.active_experts.shape
        for optimizer in self.optimizers:
            for parameter in parameters:
                if parameter is None or parameter not in optimizer.state:
                    continue
                state = optimizer.state[parameter]
                for name, value in list(state.items()):
                    if isinstance(value, Tensor) and value.shape[:1] == slots:
                        yield state, name, value


def removable(layer: MoELayer, counts: LayerStatistics) -> list[int]:
    """Active experts with less than ``tau_min`` of the tokens, least used first.

    The most used expert of a token type stays whatever its share is, and so do ``min_active`` experts.
    """
    gate, config = layer.gate, layer.gate.config.adaptive
    active = gate.active_experts.nonzero()[:, 0].tolist()
    share_E = (counts.routed.sum(0) / counts.tokens.sum().clamp(min=1)).tolist()
    top = {int(row_E.argmax()) for row_E in counts.routed if bool(row_E.any())}
    rare = sorted((e for e in active if share_E[e] < config.tau_min and e not in top), key=lambda e: share_E[e])
    return rare[: max(0, len(active) - (config.min_active or gate.config.top_k))]


def addable(layer: MoELayer, counts: LayerStatistics) -> int | None:
    """The slot for a new expert: the first free one, if enough of the answers' tokens were unassigned."""
    free = (~layer.gate.active_experts).nonzero()[:, 0].tolist()
    answers, unassigned = counts.answers.tolist()
    enough = unassigned > 0 and unassigned / answers >= layer.gate.config.adaptive.add_share
    return free[0] if free and enough and bool(counts.directions[1].any()) else None


def midway_threshold(layer: MoELayer, counts: LayerStatistics) -> float:
    """A threshold that the unassigned tokens pass and most others do not.

    With the row w = R_S / |R_S| and inputs of length 1 the unassigned tokens' mean cosine is |R_S| / n, and
    all tokens' is w . (their sum) / N: the threshold lies half-way between, and never above the first. The printed
    G = 0 would accept every token on w's side, which is half of all or, with inputs that share a direction, all.
    """
    gate, unassigned = layer.gate, float(counts.answers[1])
    length = float(counts.directions[1].norm())
    own = length / unassigned
    others = float(counts.directions[1] @ counts.directions[0]) / length / float(counts.tokens.sum())
    return float(gate.scale) * min(own, (own + others) / 2) / (1 + float(gate.alpha))


def _similarity(layer: MoELayer, direction_D: Tensor) -> Tensor:
    """(E,) cosines of the gate's rows with ``direction_D``; inactive slots -inf."""
    cosine_E = F.normalize(layer.gate.weight.float(), dim=-1) @ direction_D
    return cosine_E.masked_fill(~layer.gate.active_experts, float("-inf"))


def _mix(*numbers: int) -> int:
    """One seed of several numbers, the same in every process."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number) % 2**63
    return mixed


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
