"""The page of ``timeexpert data preflight``: counts, findings clip by clip, strips of black and still ones."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from timeexpert.data.pool import Failed, WorkerPool
from timeexpert.data.preflight.check import Place, pictures
from timeexpert.data.preflight.findings import KINDS, CheckedClip
from timeexpert.data.preflight.run import CLIPS, PAGE, SUMMARY, read_clips
from timeexpert.data.preflight.stretches import Stretch

from . import style
from .errors import ReportError

MAX_ROWS = 500  # of a table
STRIPS, PICTURES, PICTURES_TIMEOUT_S = 12, 12, 60.0
WIDTH, BAR, HEIGHT = 1000.0, 16, 36
DRAWN = ("all_black", "black", "still", "slideshow", "frozen", "gap")

CSS = """
.strip { display: flex; gap: 2px; margin-bottom: 4px; } .strip img { flex: 1 1 0; min-width: 0; display: block; }
.bar { fill: var(--rule); } .is-black { fill: #000; stroke: var(--muted); } .is-frozen { fill: var(--c1); }
.is-gap { fill: var(--c2); } .tag { display: inline-block; width: .9em; height: .9em; margin: 0 .3em 0 1em;
  border-radius: 2px; vertical-align: -1px; } .tag.b { background: #000; outline: 1px solid var(--muted); }
.tag.f { background: var(--c1); } .tag.g { background: var(--c2); } .tag.n { background: var(--rule); }
td.what { min-width: 24rem; }
"""


@dataclass
class _Rows:
    """What the page shows of the clips: the first of each table, the first of each drawn kind."""

    excluded: list[CheckedClip] = field(default_factory=list)
    noted: list[CheckedClip] = field(default_factory=list)
    drawn: dict[str, list[tuple[int, CheckedClip]]] = field(default_factory=lambda: {kind: [] for kind in DRAWN})
    num_noted: int = 0


def write_preflight_page(folder: Path, *, workers: int = 1) -> Path:
    """Make ``preflight.html`` of a finished preflight folder; clips that are drawn are opened once more, in processes
    of their own. Raises :class:`ReportError` where the page cannot be written."""
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    rows = _collect(folder)
    drawn = _choose(rows)
    source = summary["source"]
    is_shards = source["kind"] == "shards"
    tasks = [(Place(Path(source["folder"]), c.video, n if is_shards else None), PICTURES) for n, c in drawn]
    with WorkerPool(pictures, workers, PICTURES_TIMEOUT_S) as pool:
        strips = list(pool.map(tasks))
    path = folder / PAGE
    try:
        style.write_page(path, preflight_page(summary, rows, [clip for _, clip in drawn], strips))
    except OSError as error:
        raise ReportError(f"{path}: cannot be written ({error.strerror}). Free space, then run it again.") from None
    return path


def _collect(folder: Path) -> _Rows:
    rows = _Rows()
    for number, clip in enumerate(read_clips(folder)):
        if clip.excluded and len(rows.excluded) < MAX_ROWS:
            rows.excluded.append(clip)
        if clip.findings and not clip.excluded:
            rows.num_noted += 1
            if len(rows.noted) < MAX_ROWS:
                rows.noted.append(clip)
        for finding in clip.findings:
            if finding.kind in DRAWN and len(rows.drawn[finding.kind]) < STRIPS:
                rows.drawn[finding.kind].append((number, clip))
    return rows


def _choose(rows: _Rows) -> list[tuple[int, CheckedClip]]:
    """At most STRIPS clips, each kind in its turn, so that a common kind does not hide a rare one."""
    chosen: dict[int, CheckedClip] = {}
    for turn in range(STRIPS):
        for kind in DRAWN:
            if turn < len(rows.drawn[kind]) and len(chosen) < STRIPS:
                number, clip = rows.drawn[kind][turn]
                chosen[number] = clip
    return sorted(chosen.items())


def preflight_page(
    summary: dict[str, Any],
    rows: _Rows,
    drawn: Sequence[CheckedClip],
    strips: Sequence[list[tuple[float, bytes]] | Failed],
) -> str:
    """A whole page. ``summary`` is ``preflight.json``; ``strips`` holds the pictures of the clips in ``drawn``."""
    counts, source = summary["counts"], summary["source"]
    title = f"Preflight of {source['path']}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="muted">{counts["clips"]} clips of {escape(source["folder"])}, each read once from start to end</p>',
        style.cards(
            {
                "clips": str(counts["clips"]),
                "left out": str(counts["excluded"]),
                "used, with findings": str(rows.num_noted),
                "hours": f"{counts['duration_s'] / 3600:.2f}",
                "questions": str(counts["questions"]),
                "of them about clips left out": str(counts["questions_excluded"]),
                "of them past the end": str(counts["questions_past_end"]),
            }
        ),
        style.notes(_notes(summary)),
        "<h2>What was found</h2>",
        _kinds(counts["kinds"], summary["exclude"]),
        *_strips(drawn, strips),
        *_clip_table("Clips left out", rows.excluded, counts["excluded"]),
        *_clip_table("Clips that are used, with what was found", rows.noted, rows.num_noted),
        "<h2>What counts</h2>",
        _thresholds(summary["stretches"]),
    ]
    return style.page(title, body, css=CSS)


def _notes(summary: dict[str, Any]) -> list[str]:
    counts, lines = summary["counts"], []
    if counts["features"]:
        lines.append(
            f"{counts['features']} clips are files of features: all of their values and times were read, and their "
            "questions checked; what pictures show (black, still, ...) is not in them."
        )
    if counts["bad_lines"]:
        lines.append(
            f"{counts['bad_lines']} bad lines in the samples, the first: {summary['bad_lines'][0]} "
            f"({SUMMARY} and data validate list more)"
        )
    if counts["other_files"]:
        others = ", ".join(f"{count} {suffix}" for suffix, count in counts["other_files"].items())
        lines.append(f"Files in the folder without a video's suffix, not looked at: {others}")
    return lines


def _kinds(counts: dict[str, int], exclude: Sequence[str]) -> str:
    rows = [
        [kind, str(counts[kind]), "left out" if kind in exclude else "used", meaning]
        for kind, meaning in KINDS.items()
        if kind in counts
    ]
    if not rows:
        return "<p>Nothing.</p>"
    return style.table(["finding", "clips", "these clips are", "what it means"], rows, left=True)


def _clip_table(title: str, clips: Sequence[CheckedClip], total: int) -> list[str]:
    if not clips:
        return []
    rows = []
    for clip in clips:
        facts = clip.facts
        what = "; ".join(f"{finding.kind}: {finding.text}" for finding in clip.findings)
        if facts is None:
            rows.append([clip.video, None, None, None, None, what])
            continue
        if facts.features is not None:
            rows.append([clip.video, f"{facts.duration_s:.2f} s", None, None, facts.features, what])
            continue
        size, codec = f"{facts.width}x{facts.height}", f"{facts.codec} {facts.pix_fmt}"
        rate = f"{facts.fps:.2f}" + (" variable" if facts.variable_frame_rate else "") + f" ({facts.time_base} s)"
        rows.append([clip.video, f"{facts.duration_s:.2f} s", rate, size, codec, what])
    more = f'<p class="muted">The first {len(clips)}; {CLIPS} has all.</p>' if total > len(clips) else ""
    headers = ["clip", "lasts", "frames a second (time base)", "size", "codec", "findings"]
    return [f"<h2>{escape(title)} ({total})</h2>", more, style.table(headers, rows, left=True)]


def _strips(drawn: Sequence[CheckedClip], strips: Sequence[list[tuple[float, bytes]] | Failed]) -> list[str]:
    if not drawn:
        return []
    legend = (
        '<p class="muted">Time runs from left to right.'
        '<i class="tag b"></i>black<i class="tag f"></i>the picture stands still'
        '<i class="tag g"></i>one frame stays on screen<i class="tag n"></i>anything else</p>'
    )
    items = [_strip(clip, found) for clip, found in zip(drawn, strips, strict=True)]
    return ["<h2>Black and still stretches</h2>", legend, *items]


def _strip(clip: CheckedClip, found: list[tuple[float, bytes]] | Failed) -> str:
    words = "; ".join(finding.text for finding in clip.findings if finding.kind in DRAWN)
    if isinstance(found, Failed):
        row = f'<p class="muted">no pictures: {escape(found.about(clip.video))}</p>'
    else:
        images = "".join(
            f'<img alt="frame at {time_s:.1f} s" title="{time_s:.1f} s" '
            f'src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode("ascii")}">'
            for time_s, jpeg in found
        )
        row = f'<div class="strip">{images}</div>'
    return (
        f'<figure class="chart"><figcaption>{escape(clip.video)}</figcaption>{row}{_timeline(clip, words)}'
        f'<p class="muted">{escape(words)}</p></figure>'
    )


def _timeline(clip: CheckedClip, words: str) -> str:
    assert clip.facts is not None
    facts = clip.facts
    bars = [
        _bar(stretch, facts.duration_s, kind)
        for kind, stretches in (("is-gap", facts.gaps), ("is-frozen", facts.frozen), ("is-black", facts.black))
        for stretch in stretches
    ]
    ticks = []
    for i, anchor in enumerate(("start", "middle", "middle", "middle", "end")):
        x, time_s = WIDTH * i / 4, facts.duration_s * i / 4
        ticks.append(f'<text class="tick" x="{x:g}" y="{HEIGHT - 4}" text-anchor="{anchor}">{time_s:.1f} s</text>')
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT}" role="img" aria-label="{escape(f"{clip.video}: {words}")}">'
        f'<rect class="bar" x="0" y="0" width="{WIDTH:g}" height="{BAR}"/>{"".join(bars)}{"".join(ticks)}</svg>'
    )


def _bar(stretch: Stretch, duration_s: float, kind: str) -> str:
    x = WIDTH * stretch.start_s / duration_s
    width = max(WIDTH * stretch.length_s / duration_s - 1, 1)  # a line of ground between neighbours
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="0" width="{width:.1f}" height="{BAR}">'
        f"<title>{stretch.start_s:.2f} to {stretch.end_s:.2f} s</title></rect>"
    )


def _thresholds(stretches: dict[str, Any]) -> str:
    rows = [
        ["black", f"no part of the picture is brighter than {stretches['black_level']} of 255", stretches["black_s"]],
        [
            "frozen",
            f"no part of the picture differs by more than {stretches['frozen_level']} of 255 from the first of the run",
            stretches["frozen_s"],
        ],
        ["gap", "a single frame on screen, 5 times as long as the clip's median frame or more", stretches["gap_s"]],
    ]
    return style.table(["stretch", "frames that count", "at least, s"], rows, left=True)
