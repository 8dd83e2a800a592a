"""The HTML of ``timeexpert experts report``: how to read each picture stands above it and in docs/reports.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from . import charts, maps, style
from .edits import edit_marks, edits_section
from .expert_findings import COST_COLUMNS, LAYER_COLUMNS, cost_rows, figure, findings, layer_rows, percent, type_rows
from .expert_weights import COMPARED_K, DUPLICATE_FROM, ExpertWeights
from .experts import DEAD_BELOW, ExpertReport, LayerUse, Snapshot

MAX_LINES = 6  # layers in one line chart
NAMED = 100  # rows of dead and duplicate experts
FULL = 3.0  # times a fair share: the strongest colour
LEGEND = (
    "mean k: experts per token, fallback included; fallback: tokens that no expert accepted; flipped: decisions that "
    "the activation history changed; evenness: 1 is even, 0 means one expert takes all; load: least to most used "
    "expert, 1 is a fair share."
)
FORMULA = (
    "D and F are the widths of model and expert, k a layer\u2019s experts per token, b the bytes of a stored weight. "
    "A SwiGLU expert has 3DF weights. Bytes: the sum over layers of k \u00b7 3DF \u00b7 b, what is read of the routed "
    "experts where tokens are generated one at a time. FLOPs: twice the weights a token meets; the decoder\u2019s also "
    "count attention\u2019s projections, the gate and the shared experts, but not attention scores, which grow with "
    "the context."
)


def experts_page(report: ExpertReport, weights: ExpertWeights | None = None) -> str:
    """The whole HTML page of ``timeexpert experts report --html``."""
    title = f"Experts of {report.run}"
    where = f'<p class="muted">stage {escape(report.last.stage)}, step {report.last.global_step}</p>'
    body = [f"<h1>{escape(title)}</h1>", where, style.notes(report.notes), *experts_sections(report, weights)]
    return style.page(title, body)


def experts_sections(report: ExpertReport, weights: ExpertWeights | None = None) -> list[str]:
    """The same as HTML parts, for the page of a whole run."""
    last = report.last
    slots = max(len(layer.active) for layer in last.layers)
    layers = [layer.layer for layer in last.layers]
    return [
        style.cards(_cards(report)),
        *_last_use(last),
        style.table(LAYER_COLUMNS, layer_rows(last)),
        f'<p class="muted">{LEGEND}</p>',
        _type_table(last),
        *_findings(report, weights),
        *_over_time(report),
        *edits_section(report.edits, layers, slots, last.global_step),
        *(_similarity(weights) if weights is not None else []),
        *(_savings(last, weights) if weights is not None else []),
    ]


def _cards(report: ExpertReport) -> dict[str, str]:
    last = report.last
    return {
        "experts active, of all slots": f"{sum(sum(u.active) for u in last.layers)} / "
        f"{sum(len(u.active) for u in last.layers)}",
        "dead experts": str(sum(len(layer.dead) for layer in last.layers)),
        "experts per token": figure(last.mean_k),
        "tokens without expert": percent(last.fallback),
        "evenness of load (1 is even)": figure(last.entropy),
        "experts added or removed": str(len(report.edits)),
    }


def _last_use(last: Snapshot) -> list[str]:
    names = [f"layer {layer.layer}" for layer in last.layers]
    loads = [layer.utilization for layer in last.layers]
    drawn = [charts.heat_map("All tokens", names, loads, full=FULL, alt=_most_used(last, loads), mark_below=DEAD_BELOW)]
    for token_type in last.seen_types:
        values = [layer.relative_rates(token_type) for layer in last.layers]
        title = f"{token_type} tokens"
        drawn.append(charts.heat_map(title, names, values, full=FULL, alt=_most_used(last, values)))
    wide = max(len(layer.active) for layer in last.layers) > 16
    return [
        "<h3>Who is used for what, last record</h3>",
        '<p class="muted">Stronger cells get more tokens: 1 is a fair share, the same for every expert. Dashed slots '
        "hold no active expert, outlined experts are dead. Hover over a cell for its value.</p>",
        f'<div class="maps{" wide" if wide else ""}">{"".join(drawn)}</div>',
    ]


def _most_used(last: Snapshot, values: Sequence[Sequence[float | None]]) -> str:
    """A map's rows for readers who cannot see it."""
    parts = []
    for layer, row in zip(last.layers, values, strict=True):
        known = [(v, -e) for e, v in enumerate(row) if v is not None]
        if known:
            most, expert = max(known)
            parts.append(f"layer {layer.layer}: expert {-expert}, {most:.2g} times a fair share")
    return f"Most used: {'; '.join(parts) or 'none'}."


def _type_table(last: Snapshot) -> str:
    title, rows = type_rows(last)
    table = style.table(["layer", *(f"{t} tokens" for t in last.seen_types)], rows)
    return f"<details><summary>{escape(title)}</summary>{table}</details>"


def _findings(report: ExpertReport, weights: ExpertWeights | None) -> list[str]:
    rules = f"Dead: an active expert with less than {DEAD_BELOW:g} of a fair share of the routed tokens. "
    if weights is not None and weights.similarity:
        rules += f"Duplicates: two active experts whose weights have a cosine of {DUPLICATE_FROM:g} or more."
    else:
        rules += "Duplicates are named by timeexpert experts report, which reads the checkpoint."
    rows = findings(report, weights)
    found = style.table(["layer", "experts", "what"], rows[:NAMED], left=True) if rows else "<p>No expert to name.</p>"
    more = [f'<p class="muted">{len(rows) - NAMED} more; --json names all.</p>'] if len(rows) > NAMED else []
    return ["<h3>Dead and duplicate experts</h3>", f'<p class="muted">{rules}</p>', found, *more]


def _over_time(report: ExpertReport) -> list[str]:
    if len(report.snapshots) < 2:
        return ['<p class="muted">Only one record so far: use over time appears with the next ones.</p>']
    return ["<h3>Over training</h3>", *_charts(report), *_use_maps(report), *_entropy_maps(report)]


def _charts(report: ExpertReport) -> list[str]:
    snapshots, types = report.snapshots, report.seen_types
    ids = [layer.layer for layer in report.last.layers]
    shown = ids if len(ids) <= MAX_LINES else [ids[i * (len(ids) - 1) // (MAX_LINES - 1)] for i in range(MAX_LINES)]

    def by_layer(title: str, value: Callable[[LayerUse], float | None]) -> str:
        series = {
            f"layer {i}": [(s.global_step, value(use)) for s in snapshots for use in s.layers if use.layer == i]
            for i in shown
        }
        return charts.line_chart(title, series, x_label="global step", from_zero=True)

    def by_type(title: str, value: Callable[[Snapshot, str], float | None]) -> str:
        series = {t: [(s.global_step, value(s, t)) for s in snapshots if t in s.token_types] for t in types}
        return charts.line_chart(title, series, x_label="global step", from_zero=True)

    drawn = [
        by_type("Experts per token, by token type (mean over layers)", Snapshot.mean_k_of),
        by_layer("Experts per token, by layer", lambda use: use.mean_k),
        by_layer("Share of tokens without expert, by layer", lambda use: use.fallback),
        by_layer("Active experts, by layer", lambda use: float(sum(use.active))),
        by_layer("Evenness of load, by layer", lambda use: use.entropy),
    ]
    if any(use.fallback_by_type for s in snapshots for use in s.layers):
        title = "Share of tokens without expert, by token type (mean over layers)"
        drawn.insert(2, by_type(title, Snapshot.fallback_of))
    left_out = len(ids) - len(shown)
    note = [f'<p class="muted">Line charts by layer draw {len(shown)} of {len(ids)} layers.</p>'] if left_out else []
    return [*note, f'<div class="charts">{"".join(drawn)}</div>']


def _columns(report: ExpertReport) -> list[Snapshot]:
    """The records that maps over time have columns for; the last one always is among them."""
    size = -(-len(report.snapshots) // maps.MAX_COLUMNS)
    return report.snapshots[::-1][::size][::-1]


def _track(columns: Sequence[Snapshot], layer: int) -> list[LayerUse | None]:
    return [next((use for use in s.layers if use.layer == layer), None) for s in columns]


def _use_maps(report: ExpertReport) -> list[str]:
    columns, types = _columns(report), report.seen_types
    steps = [(s.stage, s.global_step) for s in columns]
    ids = [layer.layer for layer in report.last.layers][: style.CHOICES]
    drawn = []
    for place, layer in enumerate(ids):
        track = _track(columns, layer)
        marks = edit_marks(report.edits, layer)
        named = {"all tokens": [use.utilization if use else [] for use in track]}
        named |= {f"{t} tokens": [use.relative_rates(t) if use else [] for use in track] for t in types}
        for kind, (name, uses) in enumerate(named.items()):
            slots = max(len(use) for use in uses)
            values = [[use[e] if e < len(use) else None for use in uses] for e in range(slots)]
            drawn.append(
                maps.history_map(
                    f"Layer {layer}, {name}",
                    values,
                    steps,
                    full=FULL,
                    alt=_ends_in_words(uses[-1]),
                    marks=marks,
                    css=f"by-l l{place} by-t t{kind}",
                )
            )
    chosen = 0 if len(ids) > 1 else None
    return [
        "<h3>Use of each expert over training</h3>",
        '<p class="muted">A row is an expert, a column a record; stronger means a larger share of the tokens. A row '
        "that pales is an expert that loses its work; a triangle is an expert added (up) or removed (down).</p>",
        maps.scale(f"0|{FULL:g} times a fair share, or more"),
        '<div class="pick">',
        style.chooser("use-layer", "Layer", "l", [str(i) for i in ids], chosen=chosen),
        style.chooser("use-type", "Tokens", "t", ["all tokens", *types]),
        f'<div class="maps history">{"".join(drawn)}</div></div>',
    ]


def _ends_in_words(values: Sequence[float | None]) -> str:
    """The picture's last column for readers who cannot see it."""
    known = sorted(((v, e) for e, v in enumerate(values) if v is not None), reverse=True)
    if not known:
        return "At the last record no expert is active or no such token was seen."
    (most, first), (least, last) = known[0], known[-1]
    return (
        f"At the last record expert {first} is used most, {most:.2g} times a fair share, and expert {last} least, "
        f"{least:.2g} times."
    )


def _entropy_maps(report: ExpertReport) -> list[str]:
    columns = _columns(report)
    steps = [(s.stage, s.global_step) for s in columns]
    ids = [layer.layer for layer in report.last.layers]
    tracks = [_track(columns, layer) for layer in ids]
    named: dict[str, list[list[float | None]]] = {"All tokens": [[u.entropy if u else None for u in t] for t in tracks]}
    for token_type in report.seen_types:
        named[f"{token_type} tokens"] = [[u.entropy_of(token_type) if u else None for u in t] for t in tracks]
    drawn = []
    for name, values in named.items():
        ends = [f"layer {i} {row[-1]:.2f}" for i, row in zip(ids, values, strict=True) if row[-1] is not None]
        alt = f"At the last record: {', '.join(ends) or 'no such token'}."
        drawn.append(maps.history_map(name, values, steps, full=1.0, alt=alt, row_name="layer", row_labels=ids))
    return [
        "<h3>Evenness of use over training</h3>",
        '<p class="muted">Entropy of the shares of the active experts over the log of their number, a row per layer: 1 '
        "means all experts get equally many tokens, 0 that one takes all. Specialised experts are uneven for one type "
        "of token and even over all.</p>",
        maps.scale("0|1"),
        f'<div class="maps history">{"".join(drawn)}</div>',
    ]


def _similarity(weights: ExpertWeights) -> list[str]:
    head = "<h3>Similarity of experts</h3>"
    if not weights.similarity:
        return []
    when = "" if weights.global_step is None else f", step {weights.global_step}"
    source = f"From the weights of {weights.folder}{when}."
    if all(sum(s.active) < 2 for s in weights.similarity):
        return [head, f'<p class="muted">{escape(source)} No layer has two active experts to compare.</p>']
    drawn = []
    shown = weights.similarity[: style.CHOICES]
    for place, layer in enumerate(shown):
        for kind, (name, cosines) in enumerate((("gate rows", layer.gate), ("expert weights", layer.experts))):
            nearest = max(layer.nearest(cosines), key=lambda row: row[2], default=None)
            alt = "fewer than two active experts"
            if nearest is not None:
                alt = f"The two most alike are {nearest[0]} and {nearest[1]}, cosine {nearest[2]:.2f}."
            title = f"Layer {layer.layer}: {name}"
            css = f"by-l l{place} by-t t{kind}"
            drawn.append(maps.similarity_map(title, cosines, layer.active, alt=alt, css=css))
    return [
        head,
        f'<p class="muted">{escape(source)} Cosines between experts. Alike gate rows: both are asked by the same '
        "tokens. Alike weights: both compute the same, if their hidden units stand in the same order; an expert that "
        "was added as a copy is alike until training parts the two.</p>",
        maps.scale("\u22121|1", signed=True),
        '<div class="pick">',
        style.chooser("like-layer", "Layer", "l", [str(s.layer) for s in shown], chosen=0 if len(shown) > 4 else None),
        style.chooser("like-kind", "Of", "t", ["gate rows", "expert weights"]),
        f'<div class="maps small">{"".join(drawn)}</div></div>',
    ]


def _savings(last: Snapshot, weights: ExpertWeights) -> list[str]:
    head = f"<h3>Saved against {COMPARED_K} experts per token</h3>"
    rows = cost_rows(last, weights)
    if not rows:
        return [head, '<p class="muted">The records do not say how many experts each layer of the model used.</p>']
    notes = ""
    if weights.sizes.slots < COMPARED_K:
        notes = f" This model has {weights.sizes.slots} expert slots, so {COMPARED_K} is only a yardstick."
    return [
        head,
        f'<p class="muted">Per token, from the mean number of experts of the last record.{notes}</p>',
        style.table(COST_COLUMNS, rows),
        f'<p class="muted">{escape(FORMULA)}</p>',
    ]
