"""Two runs side by side: figures, experts per token, evenness, fallback, dead experts, edits, by layer and type.

Experts are not compared one by one: the number of a slot means nothing in another run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .edits import edit_counts
from .errors import ReportError
from .expert_findings import large, measured_ks
from .expert_sources import locate, read_experts
from .expert_weights import ExpertWeights
from .experts import ExpertReport, LayerUse, Snapshot
from .figures import FIGURES, result_rows
from .run_files import number, read_run, records_in


@dataclass(frozen=True)
class Pair:
    """One figure of both runs; ``None`` where a run does not have it. ``form`` is how it is written: figure, count,
    share (written in percent), points (percent already) or large (with K, M, G)."""

    name: str
    a: float | None
    b: float | None
    form: str = "figure"

    @property
    def difference(self) -> float | None:
        """B - A."""
        return None if self.a is None or self.b is None else self.b - self.a

    def texts(self) -> list[str]:
        """A, B and the difference with its sign, as a table shows them."""
        return [_text(self.a, self.form), _text(self.b, self.form), _text(self.difference, self.form, "+")]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"a": self.a, "b": self.b, "difference": self.difference}


@dataclass(frozen=True)
class Side:
    """What is known of one run. ``figures``: percent, after the stage of the last record."""

    path: str
    report: ExpertReport
    weights: ExpertWeights | None
    figures: dict[str, float]
    questions: float | None


@dataclass(frozen=True)
class Comparison:
    """Two runs, the layers and token types that both have, and what could not be compared."""

    a: Side
    b: Side
    layers: list[int]
    types: list[str]
    notes: list[str]

    @property
    def last(self) -> tuple[Snapshot, Snapshot]:
        return self.a.report.last, self.b.report.last

    @property
    def names(self) -> tuple[str, str]:
        """The runs' names, told apart where they are the same."""
        return f"A: {self.a.report.run}", f"B: {self.b.report.run}"

    def overall(self) -> list[Pair]:
        """Evaluation figures, then figures of the experts over all layers of each run."""

        def pair(name: str, value: Callable[[Side], float | None], form: str = "figure") -> Pair:
            return Pair(name, value(self.a), value(self.b), form)

        figures = [Pair(title, self.a.figures.get(k), self.b.figures.get(k), "points") for k, title in FIGURES.items()]
        done_a, done_b = (edit_counts(side.report.edits) for side in (self.a, self.b))
        edits = [
            Pair(f"edits: {action}", float(done_a.get(action, 0)), float(done_b.get(action, 0)), "count")
            for action in sorted(done_a.keys() | done_b.keys())
        ]
        pairs = [
            *figures,
            pair("experts per token", lambda s: s.report.last.mean_k),
            pair("tokens without expert", lambda s: s.report.last.fallback, "share"),
            pair("evenness of load", lambda s: s.report.last.entropy),
            pair("active experts", lambda s: float(sum(sum(u.active) for u in s.report.last.layers)), "count"),
            pair("dead experts", lambda s: float(sum(len(u.dead) for u in s.report.last.layers)), "count"),
            *edits,
            pair("decoder FLOPs per token", _flops, "large"),
        ]
        return [pair for pair in pairs if pair.a is not None or pair.b is not None]

    def by_layer(self) -> dict[int, list[Pair]]:
        """Figures of each layer that both runs have."""
        kinds: list[tuple[str, Callable[[LayerUse], float | None], str]] = [
            ("experts per token", lambda use: use.mean_k, "figure"),
            ("tokens without expert", lambda use: use.fallback, "share"),
            ("evenness of load", lambda use: use.entropy, "figure"),
            ("active experts", lambda use: float(sum(use.active)), "count"),
            ("dead experts", lambda use: float(len(use.dead)), "count"),
        ]
        return {
            layer: [Pair(name, value(a), value(b), form) for name, value, form in kinds]
            for layer, (a, b) in self._uses().items()
        }

    def by_type(self) -> dict[str, list[Pair]]:
        """Figures of each token type that both runs have, as means over all layers of each run."""
        a, b = self.last
        return {
            t: [
                Pair("experts per token", a.mean_k_of(t), b.mean_k_of(t)),
                Pair("tokens without expert", a.fallback_of(t), b.fallback_of(t), "share"),
                Pair("evenness of use", a.entropy_of(t), b.entropy_of(t)),
            ]
            for t in self.types
        }

    def by_layer_and_type(self) -> dict[int, list[Pair]]:
        """Experts per token of each type in each layer that both runs have."""
        return {
            layer: [Pair(t, a.mean_k_of(t), b.mean_k_of(t)) for t in self.types]
            for layer, (a, b) in self._uses().items()
        }

    def settings(self) -> list[tuple[str, str, str]]:
        """MoE settings that differ: name, A, B. Empty where a run has no checkpoint."""
        if self.a.weights is None or self.b.weights is None:
            return []
        a, b = self.a.weights.moe, self.b.weights.moe
        return [(k, str(a.get(k)), str(b.get(k))) for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]

    def to_json(self) -> dict[str, Any]:
        """A JSON object: every figure with a, b and difference."""
        sides = {
            key: {"path": side.path, "run": last.run, "stage": last.last.stage, "global_step": last.last.global_step}
            for key, side in (("a", self.a), ("b", self.b))
            for last in [side.report]
        }
        groups: dict[str, dict[str, list[Pair]]] = {
            "layers": {str(layer): pairs for layer, pairs in self.by_layer().items()},
            "types": self.by_type(),
            "mean_k_by_layer_and_type": {str(layer): pairs for layer, pairs in self.by_layer_and_type().items()},
        }
        return {
            **sides,
            "overall": {pair.name: pair.to_json() for pair in self.overall()},
            **{
                key: {name: {pair.name: pair.to_json() for pair in pairs} for name, pairs in group.items()}
                for key, group in groups.items()
            },
            "settings": {name: {"a": a, "b": b} for name, a, b in self.settings()},
            "notes": self.notes,
        }

    def _uses(self) -> dict[int, tuple[LayerUse, LayerUse]]:
        by_layer_a, by_layer_b = ({use.layer: use for use in last.layers} for last in self.last)
        return {layer: (by_layer_a[layer], by_layer_b[layer]) for layer in self.layers}


def compare(path_a: str | Path, path_b: str | Path, stage: str | None = None) -> Comparison:
    """Read two runs (or models of runs). Raises :class:`ReportError` where one has no expert records of ``stage``, or
    where they have no layer in common."""
    a, b = _side(path_a, stage), _side(path_b, stage)
    notes = [f"{key}: {note}" for key, side in (("A", a), ("B", b)) for note in side.report.notes]
    last_a, last_b = a.report.last, b.report.last
    layers = _common("layers", [u.layer for u in last_a.layers], [u.layer for u in last_b.layers], notes)
    types = _common("token types", last_a.seen_types, last_b.seen_types, notes)
    if not layers:
        raise ReportError(
            f"{path_a} and {path_b} have no layer in common: {_list(u.layer for u in last_a.layers)} against "
            f"{_list(u.layer for u in last_b.layers)}. Compare runs of models with the same layers."
        )
    if last_a.stage != last_b.stage:
        notes.append(
            f"the last records are of different stages, {last_a.stage} and {last_b.stage}; --stage compares one."
        )
    for key, side in (("A", a), ("B", b)):
        if not side.figures:
            notes.append(f"{key}: no evaluation after stage {side.report.last.stage} is recorded.")
    if a.questions and b.questions and a.questions != b.questions:
        notes.append(
            f"the evaluations asked {a.questions:g} and {b.questions:g} questions: their figures are of different data."
        )
    return Comparison(a, b, layers, types, notes)


def _side(path: str | Path, stage: str | None) -> Side:
    report, weights = read_experts(path, stage, similarity=False)
    files = read_run(locate(Path(path))[0])
    after = report.last.stage
    rows = [row for row in records_in(files.summary.get("stages")) if row.get("name") == after]
    questions = number(rows[-1], "questions") if rows else None
    return Side(str(path), report, weights, result_rows(files)[0].get(after, {}), questions)


def _common(what: str, a: list[Any], b: list[Any], notes: list[str]) -> list[Any]:
    """What both have, in A's order; what only one has is noted."""
    for key, own, other in (("A", a, b), ("B", b, a)):
        alone = [item for item in own if item not in other]
        if alone:
            notes.append(f"{what} of {key} alone, left out of the tables by {what}: {_list(alone)}.")
    return [item for item in a if item in b]


def _list(items: Any) -> str:
    return ", ".join(map(str, items))


def _flops(side: Side) -> float | None:
    if side.weights is None or (mean_ks := measured_ks(side.report.last, side.weights)) is None:
        return None
    return side.weights.sizes.cost(mean_ks).decoder_flops


def _text(value: float | None, form: str, sign: str = "") -> str:
    if value is None:
        return "\u2013"
    if form == "large":
        return ("-" if value < 0 else sign) + large(abs(value))
    if form == "share":
        return f"{100 * value:{sign}.1f} {'pp' if sign else '%'}"  # a difference of percentages: percentage points
    digits = {"count": 0, "points": 1}.get(form, 2)
    return f"{value:{sign}.{digits}f}"
