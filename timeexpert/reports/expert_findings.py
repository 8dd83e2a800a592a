"""What records and weights say of experts in words and tables: who is dead, who is double, what is saved."""

from __future__ import annotations

from .expert_weights import ExpertWeights
from .experts import ExpertReport, LayerUse, Snapshot

LAYER_COLUMNS = ("layer", "active", "dead", "mean k", "fallback", "flipped", "evenness", "load")
COST_COLUMNS = ("", "k", "expert bytes", "saved", "expert FLOPs", "saved", "decoder FLOPs", "saved")


def layer_rows(last: Snapshot) -> list[list[str]]:
    """One row per layer for LAYER_COLUMNS: mean k is experts per token, fallback the share of tokens without expert,
    flipped the share of decisions changed by history, load from the least to the most used expert (1 is fair)."""
    rows = []
    for layer in last.layers:
        used = [u for u in layer.utilization if u is not None]
        rows.append(
            [
                str(layer.layer),
                f"{sum(layer.active)} / {len(layer.active)}",
                ", ".join(map(str, layer.dead)) or "none",
                figure(layer.mean_k),
                percent(layer.fallback),
                percent(layer.flipped, 2),
                f"{layer.entropy:.3f}",
                f"{min(used, default=0):.2f}\u2013{max(used, default=0):.2f}",
            ]
        )
    return rows


def type_rows(last: Snapshot) -> tuple[str, list[list[str]]]:
    """Title and rows (layer, then a cell per token type that was seen) of mean k, with fallback where records say."""
    has_fallback = any(layer.fallback_by_type for layer in last.layers)
    title = "Mean k by token type" + (", and share of tokens without expert" if has_fallback else "")
    rows = []
    for layer in last.layers:
        cells = [figure(layer.mean_k_of(t)) for t in last.seen_types]
        if has_fallback:
            lost = [percent(layer.fallback_by_type.get(t)) for t in last.seen_types]
            cells = [f"{k}, {share}" for k, share in zip(cells, lost, strict=True)]
        rows.append([str(layer.layer), *cells])
    return title, rows


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


def figure(value: float | None) -> str:
    """Two decimals, a dash for ``None``."""
    return "\u2013" if value is None else f"{value:.2f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as ``12.3 %``, a dash for ``None``."""
    return "\u2013" if value is None else f"{100 * value:.{digits}f} %"


def large(value: float) -> str:
    """Three digits and K, M, G or T: ``1.15 M``."""
    for unit in ("", "K", "M", "G", "T"):
        if value < 1000 or unit == "T":
            return f"{value:.3g} {unit}".rstrip()
        value /= 1000
    raise AssertionError("unreachable")
