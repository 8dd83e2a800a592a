"""The page of a re-annotation: counts, and samples before and after, with the frames at the times that moved."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from timeexpert.data.records import Sample, read_samples

from .errors import ReportError
from .frame_strip import STRIP_CSS, frame_strip
from .style import cards, notes, page, table, usage_cards, write_html

EXAMPLES = 12  # changed samples shown, spread evenly over all
FRAMES = 10  # of each of them
ROWS = 4  # of bars, where events overlap
MAX_BARS = 200
CSS = (
    ".ex { background: var(--card); border-radius: 8px; padding: .6rem .9rem; margin: .8rem 0; } "
    ".ex table { font-size: .85rem; } .ex .scroll { margin-top: .5rem; } "
    ".bar { stroke: var(--card); stroke-width: 1; } .bar.was { fill: var(--c7); } .bar.same { fill: var(--c1); } "
    ".bar.new { fill: var(--c2); } .cut { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 3 2; } "
    ".n { fill: var(--paper); font-size: 10px; text-anchor: middle; } "
    ".key.was { background: var(--c7); } .key.same { background: var(--c1); } .key.new { background: var(--c2); } "
    + STRIP_CSS
)
WIDTH, LEFT, BAR, GAP = 1000, 52, 15, 3


def write_reannotate_page(folder: Path, media: Path | None) -> Path:
    """Write ``folder/reannotate.html`` from the files of a finished run; frames come from ``media``.

    Raises :class:`ReportError` where the folder holds no finished run, and where the page cannot be written.
    """
    try:
        report = json.loads((folder / "reannotate.json").read_text(encoding="utf-8"))
        changed = _changed_ids(folder / "changes.jsonl")
    except (OSError, ValueError) as error:
        raise ReportError(f"{folder}: holds no finished run of data reannotate ({error}). Run it first.") from None
    count = min(EXAMPLES, len(changed))
    chosen = {changed[round(i * (len(changed) - 1) / max(1, count - 1))] for i in range(count)}
    examples = [s for _, s in read_samples(folder / "samples.jsonl") if isinstance(s, Sample) and s.id in chosen]
    path = folder / "reannotate.html"
    write_html(path, page("Re-annotation", _body(report, examples, len(changed), media), css=CSS), "-o")
    return path


def _changed_ids(changes: Path) -> list[str]:
    with open(changes, encoding="utf-8") as lines:
        return list(dict.fromkeys(json.loads(line)["id"] for line in lines))


def _body(report: dict[str, Any], examples: Sequence[Sample], changed: int, media: Path | None) -> Iterator[str]:
    yield "<h1>Re-annotation</h1>"
    yield f'<p class="muted">{escape(report["inputs"]["samples"])}</p>'
    figures = {
        "samples": str(report["samples"] - report["bad_input"]),
        "of them changed": str(report["changed_samples"]),
        "events before": str(report["events_before"]),
        "events after": str(report["events_after"]),
        "of these changed": str(report["changed_events"]),
    }
    if report["unreadable_clips"]:
        figures["unreadable clips"] = str(report["unreadable_clips"])
    if report["bad_input"]:
        figures["bad lines, repeated ids"] = str(report["bad_input"])
    yield cards(figures)
    yield f"<p>{escape(_who(report))}</p>"
    if report["usage"]:
        yield usage_cards(report["usage"])
    if report["steps"]:
        yield table(["what was done", "events"], list(report["steps"].items()))
    yield notes([f"{count} times: {kind} (untouched.jsonl)" for kind, count in report["untouched"].items()])
    yield f"<h2>{len(examples)} of {changed} changed samples</h2>"
    if examples:
        yield (
            '<p class="legend"><span><i class="key was"></i>before</span>'
            '<span><i class="key same"></i>after, unchanged</span><span><i class="key new"></i>after, changed</span>'
            "<span>dashed: a cut that a time moved to</span></p>"
        )
    for sample in examples:
        yield from _example(sample, media)


def _who(report: dict[str, Any]) -> str:
    if not report["annotator"]:
        return "Nothing was grouped: no model was named. Times were refined by rules."
    rounds = ", ".join(f"{n} for {count} samples" for n, count in sorted(report["rounds"].items()))
    unsettled = f"; {report['unsettled']} still changed at the last" if report["unsettled"] else ""
    return f"Grouped by {report['annotator']}; questions: {rounds or 'none'}{unsettled}."


def _example(sample: Sample, media: Path | None) -> Iterator[str]:
    entry = sample.meta["reannotation"][-1]
    changes = {change["event"]: change for change in entry["changes"]}
    before = [(row["start_s"], row["end_s"]) for row in entry["before"]]
    yield f'<div class="ex"><b>{escape(sample.id)}</b> '
    yield f'<span class="muted">{escape(sample.video)} · {escape(sample.task)}</span>'
    cuts = sorted({c for change in changes.values() for step in change["steps"] for c in step.get("cuts_s", [])})
    yield timelines(before, sample.events.segments_s, set(changes), cuts)
    if media is not None:
        times, labels = _telling(entry, sample)
        yield frame_strip(media, sample.video, times, labels) if times else ""
    yield table(
        ["event", "after, s", "text", "from", "what was done"],
        [
            [
                number + 1,
                f"{event.start_s:.2f} to {event.end_s:.2f}",
                event.text[:200],
                "; ".join(_source(entry["before"][i], i) for i in changes[number]["sources"]),
                "; ".join(step["why"] for step in changes[number]["steps"]),
            ]
            for number, event in enumerate(sample.events)
            if number in changes
        ],
        left=True,
    )
    yield "</div>"


def _source(row: dict[str, Any], number: int) -> str:
    return f"{number + 1}: {row['start_s']:.2f} to {row['end_s']:.2f} {row['text'][:80]}"


def _telling(entry: dict[str, Any], sample: Sample) -> tuple[list[float], list[str]]:
    """Times of frames that say whether a change is right, and what each is, up to ``FRAMES``.

    The middle of each event that was merged and of each part of a split one; else the boundaries before and after.
    """
    times: list[float] = []
    labels: list[str] = []

    def add(*frames: tuple[float, str]) -> None:
        if len(times) + len(frames) <= FRAMES:
            times.extend(time_s for time_s, _ in frames)
            labels.extend(label for _, label in frames)

    for change in entry["changes"]:
        number = change["event"]
        (start_s, end_s), kinds = sample.events.segments_s[number], {step["kind"] for step in change["steps"]}
        if "split" in kinds:
            add(((start_s + end_s) / 2, f"{number + 1}, middle"))
        elif "merged" in kinds:
            rows = [(i, entry["before"][i]) for i in change["sources"]]
            add(*(((row["start_s"] + row["end_s"]) / 2, f"{number + 1}, middle of old {i + 1}") for i, row in rows))
        else:
            was = entry["before"][change["sources"][0]]
            for name, was_s, is_s in (("start", was["start_s"], start_s), ("end", was["end_s"], end_s)):
                if was_s != is_s:
                    add((was_s, f"{number + 1}, {name} before"), (is_s, f"{number + 1}, {name} after"))
    return times, labels


def timelines(
    before: Sequence[tuple[float, float]],
    after: Sequence[tuple[float, float]],
    changed: set[int],
    cuts_s: Sequence[float],
) -> str:
    """Two rows of numbered bars over one time axis in seconds, as SVG."""
    end_s = max([end for _, end in (*before, *after)], default=0.0) or 1.0
    x = lambda t: LEFT + (WIDTH - LEFT - 8) * t / end_s  # noqa: E731
    parts: list[str] = []
    top = 4
    for name, spans, kinds in (
        ("before", before, ["was"] * len(before)),
        ("after", after, ["new" if i in changed else "same" for i in range(len(after))]),
    ):
        rows = _rows(spans)
        parts.append(f'<text class="tick" x="0" y="{top + 11}">{name}</text>')
        for i, (start, stop) in enumerate(spans[:MAX_BARS]):
            width, y = max(2.0, x(stop) - x(start)), top + rows[i] * (BAR + GAP)
            title = f"{i + 1}: {start:.2f} to {stop:.2f} s"
            parts.append(
                f'<rect class="bar {kinds[i]}" x="{x(start):.1f}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2">'
                f"<title>{title}</title></rect>"
            )
            if width > 14:
                parts.append(f'<text class="n" x="{x(start) + width / 2:.1f}" y="{y + 11}">{i + 1}</text>')
        top += (max(rows, default=0) + 1) * (BAR + GAP) + 6
    for cut in cuts_s:
        parts.append(f'<line class="cut" x1="{x(cut):.1f}" x2="{x(cut):.1f}" y1="0" y2="{top - 4}"/>')
    for i in range(6):
        at = end_s * i / 5
        parts.append(
            f'<text class="tick" x="{x(at):.1f}" y="{top + 10}" text-anchor="middle">{at:.1f}'
            f"{' s' if i == 5 else ''}</text>"
        )
    return f'<svg viewBox="0 0 {WIDTH + 14} {top + 16}" role="img" aria-label="time lines">{"".join(parts)}</svg>'


def _rows(spans: Sequence[tuple[float, float]]) -> list[int]:
    """The first row in which a bar overlaps no earlier one; the last row takes what finds none."""
    ends: list[float] = []
    out = [0] * len(spans)
    for i in sorted(range(len(spans)), key=lambda i: spans[i]):
        start, stop = spans[i]
        free = next((row for row, end in enumerate(ends) if end <= start), len(ends))
        row = min(free, ROWS - 1)
        ends[row : row + 1] = [max(stop, ends[row]) if row < len(ends) else stop]
        out[i] = row
    return out
