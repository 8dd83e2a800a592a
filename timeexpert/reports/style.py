"""The look of a page: one self-contained HTML file, readable in light and in dark mode, no script, no network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

CSS = """
:root { color-scheme: light dark; --ink: #1b1f24; --muted: #5b6470; --paper: #ffffff; --card: #f6f8fa;
  --rule: #d9dee5; --heat: #0b5fa5; --warn: #8a4b00; --warn-bg: #fff4e0;
  --c0: #1b1f24; --c1: #0072b2; --c2: #c2571a; --c3: #00805e; --c4: #a8447f; --c5: #7a6a00; --c6: #3f7fae; --c7: #777; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --muted: #9aa4b1; --paper: #12151a; --card: #1a1f26;
  --rule: #323a45; --heat: #5cb3ff; --warn: #ffc46b; --warn-bg: #33270f;
  --c0: #e6e9ed; --c1: #56b4e9; --c2: #ff9a5c; --c3: #2fd3a2; --c4: #ee94c6; --c5: #e3d44f;
  --c6: #8fc3ea; --c7: #aaa; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 1160px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem;
  padding-top: 1rem; border-top: 1px solid var(--rule); } h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .4rem 0; } .muted { color: var(--muted); } code { font-size: .9em; }
.note { background: var(--warn-bg); color: var(--warn); border-radius: 6px; padding: .6rem .9rem; margin: .75rem 0; }
.note ul { margin: 0; padding-left: 1.1rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(135px, 1fr)); gap: .75rem; margin: 1rem 0; }
.card { background: var(--card); border-radius: 8px; padding: .7rem .9rem; }
.card b { display: block; font-size: 1.5rem; line-height: 1.3; font-weight: 650; }
.card span { color: var(--muted); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--rule); text-align: right; }
th { font-weight: 600; color: var(--muted); font-size: .85rem; vertical-align: bottom; }
th:first-child, td:first-child, .left th, .left td { text-align: left; }
tr.control td { color: var(--muted); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 0 1rem; }
.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 0 1rem; }
.maps.wide { grid-template-columns: 1fr; }
figure { margin: 0 0 1rem; } figcaption { font-weight: 600; font-size: .9rem; margin-bottom: .3rem; }
figure.chart, figure.heat { background: var(--card); border-radius: 8px; padding: .8rem .9rem; overflow-x: auto; }
svg { display: block; width: 100%; height: auto; } .tick { fill: var(--muted); font-size: 10.5px; }
.grid { stroke: var(--rule); stroke-width: 1; } .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.cell { fill: var(--heat); } .empty { fill: none; stroke: var(--rule); stroke-dasharray: 2 2; }
.dead { fill: none; stroke: var(--warn); stroke-width: 2; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .82rem; color: var(--muted); }
.key { display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: .35rem;
  vertical-align: middle; }
img.timeline { width: 100%; border-radius: 8px; background: #fff; }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--muted); }
""" + "".join(
    f".line.c{i} {{ stroke: var(--c{i}); }} .dot.c{i} {{ fill: var(--c{i}); }} .key.c{i} {{ background: var(--c{i}); }}"
    for i in range(8)
)


def page(title: str, body: Iterable[str]) -> str:
    """A whole HTML document. ``title`` is escaped; ``body`` parts are HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # The page holds text from data sets and models: no script runs and nothing is fetched, whatever it says.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def write_page(path: Path, html: str) -> None:
    """Write a page as UTF-8; half a surrogate pair, which JSON can hold and UTF-8 cannot, is spelt out."""
    path.write_text(html, encoding="utf-8", errors="backslashreplace")


def table(
    headers: Sequence[str], rows: Sequence[Sequence[Any]], *, classes: Sequence[str] | None = None, left: bool = False
) -> str:
    """A table of escaped cells; floats with one decimal, ``None`` as a dash. ``classes`` gives a class per row."""
    head = "".join(f"<th>{escape(h)}</th>" for h in headers)
    body = "".join(
        f'<tr class="{classes[i] if classes else ""}">' + "".join(f"<td>{cell(value)}</td>" for value in row) + "</tr>"
        for i, row in enumerate(rows)
    )
    kind = ' class="left"' if left else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def cell(value: Any) -> str:
    """One value as escaped text."""
    if value is None:
        return "\u2013"
    return f"{value:.1f}" if isinstance(value, float) else escape(str(value))


def cards(values: dict[str, str]) -> str:
    """Big figures with their names; both are escaped."""
    items = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in values.items()
    )
    return f'<div class="cards">{items}</div>'


def notes(lines: Sequence[str]) -> str:
    """A box that says what is missing or was left out; nothing without lines."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="note"><ul>{items}</ul></div>' if lines else ""


def png_image(png: bytes, alt: str) -> str:
    """An inline image."""
    data = base64.b64encode(png).decode("ascii")
    return f'<img class="timeline" alt="{escape(alt)}" src="data:image/png;base64,{data}">'
