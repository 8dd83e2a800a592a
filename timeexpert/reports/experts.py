"""How the experts of a run are used: load against a fair share, dead experts, who serves which token type."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import log
from pathlib import Path
from typing import Any

from . import charts, style
from .errors import ReportError
from .run_files import Record, RunFiles, add_note, number, numbers, read_run, records_in, stage_of

DEAD_BELOW = 0.01  # of a fair share: an expert that gets one in a hundred of its share learns nothing
RANKED = 3  # experts named at the top and at the bottom
MAX_SNAPSHOTS, MAX_TIME_LAYERS = 40, 6  # drawn over time


@dataclass(frozen=True)
class LayerUse:
    """One MoE layer at one step. Lists have one item per expert slot; inactive slots are ``False`` in ``active``.

    ``load`` is each expert's share of the routed (token, expert) pairs; ``rates[type]`` the share of that
    type's tokens that each expert received (``None`` where no such token was seen).
    """

    layer: int
    active: list[bool]
    load: list[float]
    rates: dict[str, list[float] | None]
    mean_k: float | None
    fallback: float | None

    @property
    def utilization(self) -> list[float | None]:
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
        shares = [s for s, on in zip(self.load, self.active, strict=True) if on and s > 0]
        total, count = sum(shares), sum(self.active)
        if count < 2 or total <= 0:
            return 1.0 if count == 1 else 0.0
        return max(0.0, -sum(s / total * log(s / total) for s in shares) / log(count))

    def relative_rates(self, token_type: str) -> list[float | None]:
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
    """All layers at one step."""

    stage: str
    step: int
    global_step: int
    token_types: list[str]
    layers: list[LayerUse]


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


def expert_report(run: str | Path | RunFiles, stage: str | None = None) -> ExpertReport:
    """Read a run's expert records, of one ``stage`` or of all. Raises :class:`ReportError` where there are none."""
    files = run if isinstance(run, RunFiles) else read_run(run)
    found = {stage_of(row) for row in files.experts}
    if stage is not None and stage not in found:
        names = ", ".join(sorted(found)) or "none yet"
        raise ReportError(f"{files.path}: stage {stage!r} has no expert records. Stages with records: {names}.")
    notes = list(files.notes)
    snapshots = []
    for row in files.experts:
        if stage is None or stage_of(row) == stage:
            try:
                snapshots.append(_snapshot(row))
            except ReportError as error:
                add_note(notes, f"expert record of step {row.get('global_step')!r} is left out: {error}")
    if not snapshots:
        why = f" {' '.join(notes)}" if notes else ""
        raise ReportError(
            f"{files.path}: metrics.jsonl holds no readable expert records; training writes one every few steps.{why}"
        )
    edits = [e for e in files.edits if stage is None or stage_of(e) == stage]
    return ExpertReport(files.path.resolve().name, snapshots, edits, notes)


def _snapshot(row: Record) -> Snapshot:
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
    by_type = {name: r if r and sum(r) > 0 else None for name, r in zip(types, read, strict=True)}
    return LayerUse(int(layer), active, load, by_type, number(item, "mean_k"), number(item, "fallback"))


def _layer_brief(layer: LayerUse) -> dict[str, Any]:
    return {
        "layer": layer.layer,
        "active": sum(layer.active),
        "dead": layer.dead,
        "mean_k": layer.mean_k,
        "fallback": layer.fallback,
        "entropy": round(layer.entropy, 6),
    }


def _layer_json(layer: LayerUse, types: list[str]) -> dict[str, Any]:
    ranked = {t: layer.ranked(t) for t in types}
    return _layer_brief(layer) | {
        "slots": len(layer.active),
        "utilization": layer.utilization,
        "top": {t: _rated(layer, t, order[:RANKED]) for t, order in ranked.items()},
        "bottom": {t: _rated(layer, t, order[::-1][:RANKED]) for t, order in ranked.items()},
    }


def _rated(layer: LayerUse, token_type: str, experts: list[int]) -> list[dict[str, Any]]:
    rates = layer.rates[token_type]
    return [{"expert": i, "rate": rates[i]} for i in experts] if rates is not None else []


def experts_page(report: ExpertReport) -> str:
    """The whole HTML page of ``timeexpert experts report --html``."""
    title = f"Experts of {report.run}"
    heading = f"<h1>{escape(title)}</h1>"
    where = f'<p class="muted">stage {escape(report.last.stage)}, step {report.last.global_step}</p>'
    return style.page(title, [heading, where, style.notes(report.notes), *experts_sections(report)])


def experts_sections(report: ExpertReport) -> list[str]:
    """The same as HTML parts, for the page of a whole run."""
    last = report.last
    actives = sum(sum(layer.active) for layer in last.layers)
    mean_ks = [layer.mean_k for layer in last.layers if layer.mean_k is not None]
    cards = {
        "experts active, of all slots": f"{actives} / {sum(len(layer.active) for layer in last.layers)}",
        "dead experts": str(sum(len(layer.dead) for layer in last.layers)),
        "experts per token": f"{sum(mean_ks) / len(mean_ks):.2f}" if mean_ks else "\u2013",
        "evenness of load (1 is even)": f"{sum(layer.entropy for layer in last.layers) / len(last.layers):.2f}",
    }
    names = [f"layer {layer.layer}" for layer in last.layers]
    loads = [layer.utilization for layer in last.layers]
    title = "All tokens: load (1 is a fair share)"
    maps = [charts.heat_map(title, names, loads, full=2.0, mark_below=DEAD_BELOW)]
    for token_type in last.token_types:
        if any(layer.rates[token_type] is not None for layer in last.layers):
            values = [layer.relative_rates(token_type) for layer in last.layers]
            maps.append(charts.heat_map(f"{token_type} tokens (1 is a fair share)", names, values, full=3.0))
    wide = max(len(layer.active) for layer in last.layers) > 16
    return [
        style.cards(cards),
        '<p class="muted">Stronger cells get more tokens; dashed slots hold no active expert. '
        "Outlined experts are dead. Hover over a cell for its value.</p>",
        f'<div class="maps{" wide" if wide else ""}">{"".join(maps)}</div>',
        _layer_table(report),
        *_over_time(report.snapshots),
        *_edits_table(report.edits),
    ]


def _layer_table(report: ExpertReport) -> str:
    rows = []
    for layer in report.last.layers:
        used = [u for u in layer.utilization if u is not None]
        rows.append(
            [
                f"{layer.layer}",
                f"{sum(layer.active)} / {len(layer.active)}",
                ", ".join(map(str, layer.dead)) or "none",
                "\u2013" if layer.mean_k is None else f"{layer.mean_k:.2f}",
                "\u2013" if layer.fallback is None else f"{100 * layer.fallback:.1f} %",
                f"{layer.entropy:.3f}",
                f"{min(used, default=0):.2f} to {max(used, default=0):.2f}",
            ]
        )
    headers = ["layer", "active", "dead", "experts per token", "fallback", "evenness", "utilization"]
    return style.table(headers, rows)


def _over_time(snapshots: list[Snapshot]) -> list[str]:
    if len(snapshots) < 2:
        return ['<p class="muted">Only one record so far: use over time appears with the next ones.</p>']
    ids = [layer.layer for layer in snapshots[-1].layers]
    shown = ids if len(ids) <= MAX_TIME_LAYERS else [ids[i * (len(ids) - 1) // (MAX_TIME_LAYERS - 1)] for i in range(6)]
    tracks = {i: [(s, use) for s in snapshots for use in s.layers if use.layer == i] for i in shown}
    lines = [
        ("Experts per token", lambda u: u.mean_k),
        ("Active experts", lambda u: float(sum(u.active))),
        ("Evenness of load", lambda u: u.entropy),
    ]
    out = ["<h3>Over time</h3>"]
    if len(shown) < len(ids):
        out.append(f'<p class="muted">{len(shown)} of {len(ids)} layers are drawn.</p>')
    drawn = [
        charts.line_chart(
            title,
            {f"layer {i}": [(s.global_step, value(use)) for s, use in track] for i, track in tracks.items()},
            x_label="global step",
        )
        for title, value in lines
    ]
    out.append(f'<div class="charts">{"".join(drawn)}</div>')
    for i, track in tracks.items():
        size = -(-len(track) // MAX_SNAPSHOTS)
        kept = track[::-1][::size][::-1]  # the last one always stays
        names = [f"{s.stage} {s.global_step}" for s, _ in kept]
        loads = [use.utilization for _, use in kept]
        grid = charts.heat_map(f"Layer {i}: load by step", names, loads, full=2.0, mark_below=DEAD_BELOW)
        out.append(f"<details><summary>layer {i}: load of each expert over time</summary>{grid}</details>")
    return out


def _edits_table(edits: list[Record]) -> list[str]:
    if not edits:
        return ["<h3>Experts added and removed</h3>", '<p class="muted">None so far.</p>']
    keys = ("stage", "global_step", "layer", "expert", "action", "reason")
    rows = [[edit.get(key) for key in keys] for edit in edits[-200:]]
    more = [f'<p class="muted">The last 200 of {len(edits)}.</p>'] if len(edits) > 200 else []
    headers = ["stage", "step", "layer", "expert", "action", "reason"]
    return ["<h3>Experts added and removed</h3>", *more, style.table(headers, rows, left=True)]
