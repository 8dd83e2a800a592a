"""The HTML of ``timeexpert experts compare``."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from . import charts, style
from .compare import Comparison, Pair
from .experts import Snapshot


def compare_page(comparison: Comparison) -> str:
    """A whole page: figures, the same over training, then by token type and layer. Differences are B - A."""
    names = comparison.names
    places = [
        f"{name} (stage {last.stage}, step {last.global_step})"
        for name, last in zip(names, comparison.last, strict=True)
    ]
    body = [
        "<h1>Experts of two runs</h1>",
        f'<p class="muted">{escape(places[0])}<br>{escape(places[1])}</p>',
        style.notes(comparison.notes),
        '<p class="muted">Evaluation figures are percent on held-out questions; the others are of the last record, as '
        "means over all layers of a run. Differences are B \u2212 A. Experts are not compared one by one: the number "
        "of a slot means nothing in another run.</p>",
        style.table(["", *names, "difference"], [[pair.name, *pair.texts()] for pair in comparison.overall()]),
        *_settings(comparison),
        "<h3>Over training</h3>",
        *_charts(comparison),
        *_types(comparison),
        *_layers(comparison),
    ]
    return style.page(f"Experts of {names[0]} and {names[1]}", body)


def _settings(comparison: Comparison) -> list[str]:
    rows = comparison.settings()
    if not rows:
        return []
    return ["<h3>Settings that differ</h3>", style.table(["moe setting", *comparison.names], rows, left=True)]


def _charts(comparison: Comparison) -> list[str]:
    def chart(title: str, value: Callable[[Snapshot], float | None]) -> str:
        series = {
            name: [(s.global_step, value(s)) for s in side.report.snapshots]
            for name, side in zip(comparison.names, (comparison.a, comparison.b), strict=True)
        }
        return charts.line_chart(title, series, x_label="global step", from_zero=True)

    drawn = [
        chart("Experts per token", lambda s: s.mean_k),
        chart("Share of tokens without expert", lambda s: s.fallback),
        chart("Evenness of load", lambda s: s.entropy),
        chart("Active experts", lambda s: float(sum(sum(use.active) for use in s.layers))),
    ]
    by_type = [chart(f"Experts per token: {t}", lambda s, t=t: s.mean_k_of(t)) for t in comparison.types]  # type: ignore[misc]
    return [
        f'<div class="charts">{"".join(drawn)}</div>',
        f'<details><summary>by token type</summary><div class="charts">{"".join(by_type)}</div></details>',
    ]


def _types(comparison: Comparison) -> list[str]:
    groups = comparison.by_type()
    if not groups:
        return []
    return ["<h3>By token type</h3>", _grouped(groups)]


def _layers(comparison: Comparison) -> list[str]:
    layers = {f"layer {layer}": pairs for layer, pairs in comparison.by_layer().items()}
    cells = {f"layer {layer}": pairs for layer, pairs in comparison.by_layer_and_type().items()}
    out = ["<h3>By layer</h3>", _grouped(layers)]
    if comparison.types:
        out += ["<h3>Experts per token by layer and token type</h3>", _grouped(cells)]
    return out


def _grouped(groups: dict[str, list[Pair]]) -> str:
    """A row per group; in each cell A, B and the difference."""
    columns = [pair.name for pair in next(iter(groups.values()))]
    head = "".join(f"<th>{escape(name)}</th>" for name in ["", *columns])
    rows = []
    for name, pairs in groups.items():
        cells = "".join(f"<td>{_cell(pair)}</td>" for pair in pairs)
        rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    table = f'<table class="pairs"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _cell(pair: Pair) -> str:
    a, b, difference = map(escape, pair.texts())
    return f'<span class="muted">{a} \u2192</span> {b}<br><small>{difference}</small>'
