"""The page of a filter run: counts, curves, and dropped samples with the frames that show why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from .charts import line_chart
from .errors import ReportError
from .frame_strip import STRIP_CSS, frame_strip
from .style import cards, notes, page, table, usage_cards, write_html

EXAMPLES = 12  # rows shown of each filter, spread evenly over its file
WITH_FRAMES = 6  # of them with frames from the clip
CSS = (
    ".charts figure { max-width: 560px; } "
    ".ex { background: var(--card); border-radius: 8px; padding: .6rem .9rem; margin: .6rem 0; } " + STRIP_CSS
)


def write_filter_page(folder: Path, media: Path | None) -> Path:
    """Write ``folder/filter.html`` from the files of a finished run; frames come from ``media``.

    Raises :class:`ReportError` where the folder holds no finished run, and where the page cannot be written.
    """
    try:
        report = json.loads((folder / "filter.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{folder}: holds no finished run of data filter ({error}). Run it first.") from None
    path = folder / "filter.html"
    write_html(path, page("Filters", _body(folder, media, report), css=CSS), "-o")
    return path


def _body(folder: Path, media: Path | None, report: dict[str, Any]) -> Iterator[str]:
    yield "<h1>Filters</h1>"
    yield f'<p class="muted">{escape(report["inputs"]["samples"])}</p>'
    figures = {"samples read": str(report["samples"]), "kept": str(report["kept"])}
    if report["clips"]:
        figures |= {"clips": str(report["clips"]), "unreadable clips": str(report["unreadable_clips"])}
    if report["bad_input"]:
        figures["bad lines, repeated ids"] = str(report["bad_input"])
    yield cards(figures)
    yield table(
        ["filter", "judged", "found", "share, %", "what happens", "not measured"],
        [
            [name, s["judged"], found, 100 * found / s["judged"] if s["judged"] else None, s["action"], unseen]
            for name, s in report["stages"].items()
            for found, unseen in [(sum(s["faults"].values()), sum(s["unmeasured"].values()))]
        ],
    )
    yield '<p class="muted">Filters run in this order; each judges what the ones before it left.</p>'
    yield from _costs(report["costs"])
    for name, stage in report["stages"].items():
        yield f"<h2>{escape(name)}</h2>"
        kinds = [[kind, count] for kind, count in {**stage["faults"], **stage["unmeasured"]}.items()]
        if not kinds:
            yield '<p class="muted">Nothing found; all judged samples were measured.</p>'
        else:
            yield table(["found, or not measured because", "samples"], kinds)
        yield from _curves(name, report)
        action = "dropped" if stage["action"] == "drop" else "flagged"
        yield from _examples(folder / f"{action}-{name}.jsonl", media, action)


def _costs(costs: dict[str, Any]) -> Iterator[str]:
    if costs.get("usage"):
        yield usage_cards(costs["usage"])
    yield notes([f"{count} requests: {reason}" for reason, count in costs.get("failures", {}).items()])


def _curves(name: str, report: dict[str, Any]) -> Iterator[str]:
    labelled, drops = report["calibration"].get(name), report["curves"].get(name)
    if labelled is None and drops is None:
        return
    yield '<div class="charts">'
    if drops is not None:
        points = [(p["threshold"], 100 * p["share"]) for p in drops["points"]]
        title = f"share found by threshold, % of {drops['values']} measured samples"
        yield line_chart(title, {f"{name}": points}, x_label="threshold", from_zero=True)
    if labelled is not None:
        series = {
            key.replace("_", " "): [(p["threshold"], 100 * p[key]) for p in labelled["points"]]
            for key in ("precision", "recall", "false_alarms")
        }
        title = f"labelled: {labelled['faults']} faults among {labelled['labelled']} {labelled['what']}, %"
        yield line_chart(title, series, x_label="threshold", from_zero=True)
    yield "</div>"
    in_use = (drops or labelled["at"])["threshold"]
    said = f"Threshold in use: {in_use:g}."
    if labelled is not None:
        at, best = labelled["at"], labelled["best"]
        said += f" On the labels it finds {at['recall']:.1%}, with {at['false_alarms']:.2%} false alarms."
        said += f" The labels speak for {best['threshold']:.3g}." if best else ""
    yield f"<p>{escape(said)}</p>"


def _examples(file: Path, media: Path | None, action: str) -> Iterator[str]:
    with open(file, encoding="utf-8") as lines:
        count = sum(1 for _ in lines)
    if not count:
        return
    chosen = sorted({round(i * (count - 1) / max(1, min(EXAMPLES, count) - 1)) for i in range(min(EXAMPLES, count))})
    yield f"<h3>{len(chosen)} of {count} {action}</h3>"
    with open(file, encoding="utf-8") as lines:
        rows = [json.loads(line) for number, line in enumerate(lines) if number in chosen]
    for number, row in enumerate(rows):
        measured = (
            "" if row["value"] is None else f" <span class=muted>{row['value']:g}, limit {row['threshold']:g}</span>"
        )
        yield f'<div class="ex"><b>{escape(str(row["fault"]))}</b>{measured}<br>{escape(row["reason"])}'
        yield f'<br><span class="muted">{escape(row["id"])} · {escape(row["video"])} · {escape(row["task"])}</span>'
        if media is not None and number < WITH_FRAMES:
            yield _strip(media, row)
        yield "</div>"


def _strip(media: Path, row: dict[str, Any]) -> str:
    """Frames around a cut, or around the ends of a misaligned event; nothing for other faults."""
    if row.get("cut_s") is not None:
        around = [row["cut_s"] + offset_s for offset_s in (-0.5, -0.07, 0.0, 0.5)]
    elif row.get("segments_s"):
        around = [time_s + offset_s for time_s in row["segments_s"][0] for offset_s in (-0.5, 0.5)]
    else:
        return ""
    return frame_strip(media, row["video"], around)
