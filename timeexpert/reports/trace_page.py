"""The HTML of ``timeexpert experts trace``: experts under the frames and under the words of an answer."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import style
from .palette import FAINT, expert_colour, opacity
from .trace import ExpertTrace, TokenTrace, shares

CSS = """
.frames, .words { display: flex; flex-wrap: wrap; gap: .7rem .5rem; margin: .5rem 0 1rem; }
.words { gap: .9rem .7rem; }
.frame { flex: 1 0 60px; max-width: 110px; } .frame img { width: 100%; border-radius: 4px; display: block; }
.frame span { display: block; text-align: center; font-size: .78rem; color: var(--muted); }
.word { display: flex; } .token { min-width: 11px; }
.token b { display: block; text-align: center; font-weight: 550; font-size: .82rem; white-space: pre; padding: 0 1px; }
.token.time b, .token.score b, .token.sync b { font-weight: 400; color: var(--muted); }
.token + .token { margin-left: 1px; } .strip { margin-top: 6px; background: var(--card); border-radius: 2px; }
.experts { display: flex; flex-wrap: wrap; gap: .2rem .8rem; font-size: .82rem; margin: .5rem 0; }
.experts i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .3em; }
"""


def trace_page(
    trace: ExpertTrace, layers: Sequence[int], thumbnails: NDArray[np.uint8], *, video: str, model: str
) -> str:
    """A whole page. ``thumbnails``: uint8 [n, H, W, 3], the frames at ``trace.frames``'s times."""
    request = trace.request
    about = f"{model} asked about {video} ({request.clip.duration_s:.1f} s), router {trace.router}"
    shown = ", ".join(map(str, layers))
    left_out = "" if len(layers) == len(trace.active) else f" of {len(trace.active)}; --layer chooses others"
    used = trace.used(layers)
    body = [
        f"<h1>{escape(request.prompt)}</h1>",
        f'<p class="muted">{escape(about)}</p>',
        style.notes([f"did not parse at token {p.position}: {p.reason}" for p in trace.prediction.problems]),
        _events(trace),
        '<div class="pick">',
        f'<p class="muted">Each row of a strip is an expert slot, from 0 at the top. Strips from top to bottom: layers '
        f"{shown}{left_out}.</p>",
        '<div class="experts">'
        + "".join(f'<span><i style="background:{expert_colour(e)}"></i>expert {e}</span>' for e in used)
        + "</div>",
        _layer_choice(trace, layers),
        "<h3>Frames</h3>",
        '<p class="muted">Left half: the frame\u2019s visual tokens; right half: the tokens of its time. Stronger '
        "means a larger share of them.</p>",
        _frames(trace, layers, thumbnails),
        "<h3>Answer</h3>",
        '<p class="muted">\u25b8 begins an event, comma and semicolon end a number. A faint cell is a token that no '
        "expert accepted: the fallback chose this one.</p>",
        _words(trace, layers),
        "</div>",
        f"<details><summary>as a table</summary>{_table(trace, layers)}</details>",
    ]
    return style.page(f"Experts: {request.prompt}", body, css=CSS)


def _layer_choice(trace: ExpertTrace, layers: Sequence[int]) -> str:
    """A choice of layers where there are several; strips of many experts are high, so they start with one layer."""
    if len(layers) == 1:
        return ""
    rows = sum(len(trace.active[layer]) for layer in layers)
    names = [str(layer) for layer in layers]
    return style.chooser("trace-layer", "Layer", "l", names, chosen=0 if rows > 64 else None)


def _events(trace: ExpertTrace) -> str:
    rows = [
        [
            "\u2013" if e.start_s is None else f"{e.start_s:.1f} s",
            "\u2013" if e.end_s is None else f"{e.end_s:.1f} s",
            ", ".join(f"{s:g}" for s in e.scores) or "\u2013",
            e.text,
        ]
        for e in trace.prediction.events
    ]
    return style.table(["start", "end", "score", "text"], rows, left=True) if rows else "<p>No events.</p>"


def _frames(trace: ExpertTrace, layers: Sequence[int], thumbnails: NDArray[np.uint8]) -> str:
    items = []
    for frame, picture in zip(trace.frames, thumbnails, strict=True):
        when = f"{frame.time_s:.1f} s"
        strips = "".join(
            _strip(
                place,
                f"layer {layer}, frame at {when}: visual tokens {_in_words(shares(frame.vision[layer]))}; time tokens "
                f"{_in_words(shares(frame.frame_time[layer]))}",
                [shares(frame.vision[layer]), shares(frame.frame_time[layer])],
                len(trace.active[layer]),
            )
            for place, layer in enumerate(layers)
        )
        image = f'<img alt="frame at {when}" src="data:image/jpeg;base64,{_jpeg(picture)}">'
        items.append(f'<div class="frame">{image}<span>{when}</span>{strips}</div>')
    return f'<div class="frames">{"".join(items)}</div>'


def _words(trace: ExpertTrace, layers: Sequence[int]) -> str:
    out = []
    for _, tokens in groupby(trace.tokens, key=lambda token: token.word):
        out.append(f'<div class="word">{"".join(_token(trace, layers, token) for token in tokens)}</div>')
    return f'<div class="words">{"".join(out)}</div>'


def _token(trace: ExpertTrace, layers: Sequence[int], token: TokenTrace) -> str:
    strips = "".join(
        _strip(
            place,
            f"layer {layer}, {token.type} token {token.text}: {_names(token, layer)}",
            [dict.fromkeys(token.experts[layer], FAINT if token.fell_back[layer] else 1.0)],
            len(trace.active[layer]),
        )
        for place, layer in enumerate(layers)
    )
    return f'<div class="token {escape(token.type)}"><b>{escape(token.text) or "&nbsp;"}</b>{strips}</div>'


def _strip(place: int, words: str, columns: Sequence[Mapping[int, float]], slots: int) -> str:
    """A column or two of cells, one row per expert slot, for the layer at ``place`` of those drawn."""
    row = max(3, min(9, 120 // slots))
    cells = "".join(
        f'<rect x="{c}" y="{e}" width="1" height="1" fill="{expert_colour(e)}" fill-opacity="{opacity(share):.2f}"/>'
        for c, column in enumerate(columns)
        for e, share in column.items()
    )
    return (
        f'<svg class="strip by-l l{place}" viewBox="0 0 {len(columns)} {slots}" preserveAspectRatio="none" '
        f'style="height:{row * slots}px" role="img" aria-label="{escape(words)}"><title>{escape(words)}</title>'
        f"{cells}</svg>"
    )


def _in_words(share: Mapping[int, float]) -> str:
    return ", ".join(f"{e} ({100 * s:.0f} %)" for e, s in share.items()) or "no routed expert"


def _names(token: TokenTrace, layer: int) -> str:
    if not token.experts[layer]:
        return "no routed expert"
    one = "expert " if len(token.experts[layer]) == 1 else "experts "
    how = ", by fallback" if token.fell_back[layer] else ""
    return one + ", ".join(map(str, token.experts[layer])) + how


def _table(trace: ExpertTrace, layers: Sequence[int]) -> str:
    rows = [
        [str(i), token.text, token.type, *(_names(token, layer) for layer in layers)]
        for i, token in enumerate(trace.tokens)
    ]
    tokens = style.table(["place", "token", "type", *(f"layer {i}" for i in layers)], rows, left=True)
    rows = [
        [f"{frame.time_s:.1f} s", *(_in_words(shares(frame.vision[layer])) for layer in layers)]
        for frame in trace.frames
    ]
    return tokens + style.table(["frame, visual tokens", *(f"layer {i}" for i in layers)], rows, left=True)


def _jpeg(picture: NDArray[np.uint8]) -> str:
    out = BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=80)
    return base64.b64encode(out.getvalue()).decode("ascii")
