"""The look of a page: one self-contained HTML file, readable in light and in dark mode, no script, no network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .errors import ReportError

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
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--rule); text-align: right; overflow-wrap: break-word; }
th { font-weight: 600; color: var(--muted); font-size: .85rem; vertical-align: bottom; }
th:first-child, td:first-child, .left th, .left td { text-align: left; }
tr.control td { color: var(--muted); } .pairs td { white-space: nowrap; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 0 1rem; }
.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 0 1rem; }
.maps.wide { grid-template-columns: 1fr; }
.maps.history { grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
.maps.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); }
figure { margin: 0 0 1rem; } figcaption { font-weight: 600; font-size: .9rem; margin-bottom: .3rem; }
figure.chart, figure.heat { background: var(--card); border-radius: 8px; padding: .8rem .9rem; overflow-x: auto; }
svg { display: block; width: 100%; height: auto; } .tick { fill: var(--muted); font-size: 10.5px; }
.grid { stroke: var(--rule); stroke-width: 1; } .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.cell { fill: var(--heat); } .empty { fill: none; stroke: var(--rule); stroke-dasharray: 2 2; }
.dead { fill: none; stroke: var(--warn); stroke-width: 2; }
image { image-rendering: pixelated; } .stage { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 3 2; }
.mark { stroke: var(--paper); stroke-width: 1; } .added { fill: var(--c3); } .removed { fill: var(--c2); }
.scale { color: var(--muted); font-size: .85rem; } .scale i { display: inline-block; width: 90px; height: .7em;
  border-radius: 2px; outline: 1px solid var(--rule); margin: 0 .2rem; }
.scale i.none { width: .9em; margin-left: 1rem; background: rgb(128 128 128 / 35%); }
fieldset { border: 0; margin: .5rem 0; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem; align-items: center; }
legend { float: left; margin-right: .6rem; padding: 0; color: var(--muted); font-size: .85rem; }
fieldset label { border: 1px solid var(--rule); border-radius: 999px; padding: .1rem .7rem; cursor: pointer;
  font-size: .85rem; }
fieldset input { position: absolute; opacity: 0; }
fieldset label:has(:checked) { background: var(--ink); color: var(--paper); border-color: var(--ink); }
fieldset label:has(:focus-visible) { outline: 2px solid var(--heat); outline-offset: 2px; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .82rem; color: var(--muted); }
.key { display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: .35rem;
  vertical-align: middle; }
img.timeline { width: 100%; border-radius: 8px; background: #fff; }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--muted); }
""" + "".join(
    f".line.c{i} {{ stroke: var(--c{i}); }} .dot.c{i} {{ fill: var(--c{i}); }} .key.c{i} {{ background: var(--c{i}); }}"
    for i in range(8)
)
# A choice without a script: a part with class l3 (or t2) is hidden while another number is chosen in the same block.
# Browsers without :has() (before 2023) show every part.
CHOICES = 64
CSS += "".join(
    f".pick:has(.{k}-{i}:checked) .by-{k}:not(.{k}{i}){{display:none}}" for k in "lt" for i in range(CHOICES)
)


def page(title: str, body: Iterable[str], *, css: str = "") -> str:
    """A whole HTML document. ``title`` is escaped; ``body`` parts are HTML already; ``css`` is this page's own."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # The page holds text from data sets and models: no script runs and nothing is fetched, whatever it says.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{CSS}{css}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def write_page(path: Path, html: str) -> None:
    """Write a page as UTF-8; half a surrogate pair, which JSON can hold and UTF-8 cannot, is spelt out."""
    path.write_text(html, encoding="utf-8", errors="backslashreplace")


def write_html(path: Path, html: str, option: str = "--html") -> None:
    """:func:`write_page` to where a user's ``option`` says. Raises :class:`ReportError` where it cannot be written."""
    try:
        write_page(path, html)
    except OSError as error:
        raise ReportError(f"{path}: cannot be written ({error.strerror}). Give another {option}.") from None


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


def usage_cards(usage: Mapping[str, Any]) -> str:
    """:func:`cards` of what an endpoint was asked: the fields of :class:`~timeexpert.data.endpoint.Usage`."""
    shown = {
        "answers": str(usage["requests"]),
        "from the cache": str(usage["from_cache"]),
        "failed": str(usage["failed"]),
        "tokens in, out": f"{usage['prompt_tokens']}, {usage['completion_tokens']}",
    }
    return cards(shown | ({} if usage["cost"] is None else {"cost": f"{usage['cost']:.4g}"}))


def chooser(name: str, legend: str, kind: str, options: Sequence[str], *, chosen: int | None = None) -> str:
    """Radio buttons ``show all`` and one for each option, inside an element of class ``pick``: number i hides what has
    class ``by-KIND`` but not ``KINDi``. ``kind`` is l (layers) or t (token types); ``name`` is unique on the page."""
    rows = [("all", "show all", chosen is None), *((str(i), text, i == chosen) for i, text in enumerate(options))]
    labels = "".join(
        f'<label><input type="radio" name="{escape(name)}" class="{kind}-{key}"{" checked" if on else ""}>'
        f"{escape(text)}</label>"
        for key, text, on in rows
    )
    return f"<fieldset><legend>{escape(legend)}</legend>{labels}</fieldset>"


def notes(lines: Sequence[str]) -> str:
    """A box that says what is missing or was left out; nothing without lines."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="note"><ul>{items}</ul></div>' if lines else ""


def png_image(png: bytes, alt: str) -> str:
    """An inline image."""
    data = base64.b64encode(png).decode("ascii")
    return f'<img class="timeline" alt="{escape(alt)}" src="data:image/png;base64,{data}">'
