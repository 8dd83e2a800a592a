"""What records and weights say of experts in words and tables: who is dead, who is double, what is saved."""

from __future__ import annotations

from .expert_weights import ExpertWeights
from .experts import ExpertReport, LayerUse, Snapshot

COST_COLUMNS = ("", "k", "expert bytes", "saved", "expert FLOPs", "saved", "decoder FLOPs", "saved")


def findings(report: ExpertReport, weights: ExpertWeights | None) -> list[list[str]]:
    """Dead and duplicate experts by name: layer, experts, what is wrong with them."""
    rows = []
    for layer in report.last.layers:
        for expert in layer.dead:
            share = layer.utilization[expert] or 0.0
            since = _dead_since(report, layer, expert)
            rows.append([str(layer.layer), str(expert), f"dead: {share:.2g} of a fair share, since step {since}"])
    for similar in weights.similarity if weights is not None else []:
        for a, b, cosine, gate in similar.duplicates:
            what = f"duplicates: cosine {cosine:.3f} (of their gate rows {gate:.3f})"
            rows.append([str(similar.layer), f"{a} and {b}", what])
    return rows


def _dead_since(report: ExpertReport, layer: LayerUse, expert: int) -> int:
    """Global step of the first record of the unbroken stretch, up to the last, in which the expert was dead."""
    since = report.last.global_step
    for snapshot in reversed(report.snapshots):
        if not any(use.layer == layer.layer and expert in use.dead for use in snapshot.layers):
            break
        since = snapshot.global_step
    return since


def measured_ks(last: Snapshot, weights: ExpertWeights) -> list[float] | None:
    """Experts per token of every layer of the model, or ``None`` where the records lack a layer."""
    by_layer = {layer.layer: layer.mean_k for layer in last.layers}
    found = [by_layer.get(i) for i in range(weights.sizes.layers)]
    known = [k for k in found if k is not None]
    return known if known and len(known) == len(found) else None


def cost_rows(last: Snapshot, weights: ExpertWeights) -> list[list[str]]:
    """The table of savings: ``saved`` is what the measured run spares of a row's cost. Empty without mean k."""
    mean_ks = measured_ks(last, weights)
    if mean_ks is None:
        return []
    costs = weights.costs(mean_ks)
    measured, rows = costs["measured"], []
    for name, cost in costs.items():
        cells = [name, f"{cost.mean_k:.2f}"]
        for full, real in (
            (cost.bytes, measured.bytes),
            (cost.expert_flops, measured.expert_flops),
            (cost.decoder_flops, measured.decoder_flops),
        ):
            saved = "\u2013" if cost is measured or not full else f"{100 * (1 - real / full):.1f} %"
            cells += [large(full), saved]
        rows.append(cells)
    return rows


def large(value: float) -> str:
    """Three digits and K, M, G or T: ``1.15 M``."""
    for unit in ("", "K", "M", "G", "T"):
        if value < 1000 or unit == "T":
            return f"{value:.3g} {unit}".rstrip()
        value /= 1000
    raise AssertionError("unreachable")
