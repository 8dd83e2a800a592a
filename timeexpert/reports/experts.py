"""How the experts of a run are used: load against a fair share, dead experts, who serves which token type.

Everything is read from the ``experts`` and ``expert_edit`` records of metrics.jsonl; :mod:`expert_weights` adds what
only a checkpoint knows. A token type is a task of the gate: text, sync, time, score, vision, frame time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from typing import Any

from .errors import ReportError
from .run_files import Record, RunFiles, add_note, number, numbers, read_run, records_in, stage_of

DEAD_BELOW = 0.01  # of a fair share: an expert that gets one in a hundred of its share learns nothing
RANKED = 3  # experts named at the top and at the bottom

Values = list[float | None]  # one per expert slot; None where the slot is not active or the type was not seen


@dataclass(frozen=True)
class LayerUse:
    """One MoE layer at one step. Lists have one item per expert slot; inactive slots are ``False`` in ``active``.

    ``load`` is each expert's share of the routed (token, expert) pairs; ``rates[type]`` the share of that
    type's tokens that each expert received (``None`` where no such token was seen). ``fallback`` is the share of
    tokens that no expert accepted, ``fallback_by_type`` and ``tokens`` the same and the number of tokens per type
    (empty in records of runs before they were written). ``flipped``: share of decisions changed by the history term.
    """

    layer: int
    active: list[bool]
    load: list[float]
    rates: dict[str, list[float] | None]
    mean_k: float | None
    fallback: float | None
    flipped: float | None = None
    fallback_by_type: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    @property
    def utilization(self) -> Values:
        """Load over the fair load 1/active: 1 is fair, 0 is dead; ``None`` for inactive slots."""
        count = sum(self.active)
        return [share * count if on else None for share, on in zip(self.load, self.active, strict=True)]

    @property
    def dead(self) -> list[int]:
        """Active experts with less than a hundredth of their fair share."""
        return [i for i, used in enumerate(self.utilization) if used is not None and used < DEAD_BELOW]

    @property
    def entropy(self) -> float:
        """Evenness of the load over active experts: 1 is even, 0 means one expert takes all."""
        return evenness(self.load, self.active)

    def entropy_of(self, token_type: str) -> float | None:
        """The same for the tokens of one type; ``None`` where it was not seen."""
        rates = self.rates.get(token_type)
        return None if rates is None else evenness(rates, self.active)

    def mean_k_of(self, token_type: str) -> float | None:
        """Experts per token of one type: the sum of its rates; ``None`` where it was not seen."""
        rates = self.rates.get(token_type)
        return None if rates is None else sum(rates)

    def relative_rates(self, token_type: str) -> Values:
        """Rates of one token type over their mean across active experts (1 is fair); ``None`` if not active or seen."""
        rates = self.rates.get(token_type)
        if rates is None:
            return [None] * len(self.active)
        mean = sum(r for r, on in zip(rates, self.active, strict=True) if on) / max(1, sum(self.active))
        return [(r / mean if mean > 0 else 0.0) if on else None for r, on in zip(rates, self.active, strict=True)]

    def ranked(self, token_type: str) -> list[int]:
        """Active experts by their rate for one token type, most used first; empty where it was not seen."""
        rates = self.rates.get(token_type)
        if rates is None:
            return []
        return sorted((i for i, on in enumerate(self.active) if on), key=lambda i: (-rates[i], i))


@dataclass(frozen=True)
class Snapshot:
    """All layers at one step. Its figures are means over the layers that have them, else ``None``."""

    stage: str
    step: int
    global_step: int
    token_types: list[str]
    layers: list[LayerUse]

    @property
    def mean_k(self) -> float | None:
        """Experts per token."""
        return mean(layer.mean_k for layer in self.layers)

    @property
    def fallback(self) -> float | None:
        """Share of tokens that no expert accepted."""
        return mean(layer.fallback for layer in self.layers)

    @property
    def entropy(self) -> float | None:
        """Evenness of the load."""
        return mean(layer.entropy for layer in self.layers)

    def mean_k_of(self, token_type: str) -> float | None:
        """Experts per token of one type."""
        return mean(layer.mean_k_of(token_type) for layer in self.layers)

    def fallback_of(self, token_type: str) -> float | None:
        """Share of one type's tokens that no expert accepted."""
        return mean(layer.fallback_by_type.get(token_type) for layer in self.layers)

    def entropy_of(self, token_type: str) -> float | None:
        """Evenness of the use of one type's tokens."""
        return mean(layer.entropy_of(token_type) for layer in self.layers)

    @property
    def seen_types(self) -> list[str]:
        """Token types of which some layer saw a token."""
        return [t for t in self.token_types if any(layer.rates[t] is not None for layer in self.layers)]


@dataclass(frozen=True)
class ExpertReport:
    """Expert use over a run: snapshots in order (at least one), edits, and what could not be read."""

    run: str
    snapshots: list[Snapshot]
    edits: list[Record]
    notes: list[str]

    @property
    def last(self) -> Snapshot:
        return self.snapshots[-1]

    @property
    def seen_types(self) -> list[str]:
        """Token types that occur in any snapshot, in the order of the last."""
        seen = {t for snapshot in self.snapshots for t in snapshot.seen_types}
        return [t for t in self.last.token_types if t in seen]

    def to_json(self) -> dict[str, Any]:
        """A JSON object: the last snapshot in full, history in brief, edits and notes."""
        last = self.last
        return {
            "run": self.run,
            "stage": last.stage,
            "global_step": last.global_step,
            "token_types": last.token_types,
            "layers": [_layer_json(layer, last.token_types) for layer in last.layers],
            "history": [
                {"stage": s.stage, "global_step": s.global_step, "layers": [_layer_brief(layer) for layer in s.layers]}
                for s in self.snapshots
            ],
            "edits": [{key: value for key, value in edit.items() if key != "kind"} for edit in self.edits],
            "notes": self.notes,
        }


def evenness(shares: Sequence[float], active: Sequence[bool]) -> float:
    """Entropy of shares over active experts, over the log of their number: 1 is even, 0 means one takes all.
    One active expert alone is even; no active expert, or no use at all, is 0."""
    used = [s for s, on in zip(shares, active, strict=True) if on and s > 0]
    total, count = sum(used), sum(active)
    if count < 2 or total <= 0:
        return 1.0 if count == 1 else 0.0
    return max(0.0, -sum(s / total * log(s / total) for s in used) / log(count))


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are there."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def expert_report(
    run: str | Path | RunFiles, stage: str | None = None, *, up_to_step: int | None = None
) -> ExpertReport:
    """Read a run's expert records, of one ``stage`` or of all, as far as global step ``up_to_step``.

    Raises :class:`ReportError` where there are none."""
    files = run if isinstance(run, RunFiles) else read_run(run)

    def wanted(row: Record) -> bool:
        late = up_to_step is not None and (number(row, "global_step") or 0) > up_to_step
        return not late and (stage is None or stage_of(row) == stage)

    found = dict.fromkeys(stage_of(row) for row in files.experts)
    if stage is not None and stage not in found:
        names = ", ".join(found) or "none yet"
        raise ReportError(f"{files.path}: stage {stage!r} has no expert records. Stages with records: {names}.")
    notes = list(files.notes)
    snapshots = []
    for row in filter(wanted, files.experts):
        try:
            snapshots.append(read_snapshot(row))
        except ReportError as error:
            add_note(notes, f"expert record of step {row.get('global_step')!r} is left out: {error}")
    if not snapshots:
        why = f" {' '.join(notes)}" if notes else ""
        when = f" up to step {up_to_step}" if up_to_step is not None else ""
        raise ReportError(
            f"{files.path}: metrics.jsonl holds no readable expert records{when}; training writes one every "
            f"train.experts_every steps.{why}"
        )
    return ExpertReport(files.path.resolve().name, snapshots, list(filter(wanted, files.edits)), notes)


def read_snapshot(row: Record) -> Snapshot:
    """One ``experts`` record. Raises :class:`ReportError` that names the field which is not as it should be."""
    types = row.get("token_types")
    if not isinstance(types, list) or not types or not all(isinstance(t, str) for t in types):
        raise ReportError(f"token_types ({types!r}) must be a list of names.")
    layers = [_layer(item, types) for item in records_in(row.get("layers"))]
    if not layers:
        raise ReportError("layers must hold at least one object.")
    step, global_step = number(row, "step"), number(row, "global_step")
    return Snapshot(stage_of(row), int(step or 0), int(global_step or step or 0), list(types), layers)


def _layer(item: Record, types: list[str]) -> LayerUse:
    layer, active, load, rates = number(item, "layer"), item.get("active"), numbers(item.get("load")), item.get("rates")
    where = f"layers[layer={item.get('layer')!r}]"
    if layer is None or not isinstance(active, list) or not active or not all(isinstance(a, bool) for a in active):
        raise ReportError(f"{where}: layer must be a number and active a list of booleans.")
    if load is None or len(load) != len(active) or min(load) < 0:
        raise ReportError(f"{where}: load must hold {len(active)} finite shares, one per expert slot.")
    if not isinstance(rates, list) or len(rates) != len(types):
        raise ReportError(f"{where}: rates must hold one list for each of {', '.join(types)}.")
    read = [numbers(r) for r in rates]
    if any(r is not None and len(r) != len(active) for r in read):
        raise ReportError(f"{where}: each list of rates must hold {len(active)} numbers, one per expert slot.")
    tokens = _by_type(item, "tokens", types, where)
    seen = [tokens.get(t, 0) > 0 if tokens else bool(r and sum(r) > 0) for t, r in zip(types, read, strict=True)]
    return LayerUse(
        int(layer),
        active,
        load,
        {name: r if on else None for name, r, on in zip(types, read, seen, strict=True)},
        number(item, "mean_k"),
        number(item, "fallback"),
        number(item, "flipped"),
        {t: v for t, v in _by_type(item, "fallback_by_type", types, where).items() if not tokens or tokens.get(t)},
        {t: int(v) for t, v in tokens.items()},
    )


def _by_type(item: Record, key: str, types: list[str], where: str) -> dict[str, float]:
    """One number per token type, without those that are null; empty where the record does not have them."""
    if key not in item:
        return {}
    values = item[key]
    if not isinstance(values, list) or len(values) != len(types):
        raise ReportError(f"{where}: {key} must hold one number (or null) for each of {', '.join(types)}.")
    return {t: v for t, item in zip(types, values, strict=True) if (v := number({"v": item}, "v")) is not None}


def _layer_brief(layer: LayerUse) -> dict[str, Any]:
    seen = [t for t, rates in layer.rates.items() if rates is not None]
    return {
        "layer": layer.layer,
        "active": sum(layer.active),
        "dead": layer.dead,
        "mean_k": layer.mean_k,
        "fallback": layer.fallback,
        "flipped": layer.flipped,
        "entropy": round(layer.entropy, 6),
        "mean_k_by_type": {t: _rounded(layer.mean_k_of(t)) for t in seen},
        "entropy_by_type": {t: _rounded(layer.entropy_of(t)) for t in seen},
        "fallback_by_type": layer.fallback_by_type,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _layer_json(layer: LayerUse, types: list[str]) -> dict[str, Any]:
    ranked = {t: layer.ranked(t) for t in types}
    return _layer_brief(layer) | {
        "slots": len(layer.active),
        "utilization": layer.utilization,
        "tokens": layer.tokens,
        "top": {t: _rated(layer, t, order[:RANKED]) for t, order in ranked.items()},
        "bottom": {t: _rated(layer, t, order[::-1][:RANKED]) for t, order in ranked.items()},
    }


def _rated(layer: LayerUse, token_type: str, experts: list[int]) -> list[dict[str, Any]]:
    rates = layer.rates[token_type]
    return [{"expert": i, "rate": rates[i]} for i in experts] if rates is not None else []
