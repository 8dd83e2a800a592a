"""``report.html``: one self-contained page about a run, finished or not."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timeexpert.tokenization import EventSequence

from . import charts, style
from .class_picture import draw_steps
from .errors import ReportError
from .experts import expert_report
from .experts_page import experts_sections
from .figures import FIGURES, result_rows
from .run_files import Record, RunFiles, number, read_lines, read_run, records_in, stage_of
from .timeline import draw_timeline

LOSSES = {"loss": "total", "loss_text": "text", "loss_time": "time", "loss_score": "score"}


@dataclass(frozen=True, eq=False)
class Example:
    """One held-out question with its answers. ``frames`` is uint8 [n, H, W, 3]; ``prediction`` is ``None`` where
    the answer did not parse, ``truth`` where it is unknown. ``classes``: the label set of an action segmentation."""

    frames: NDArray[np.uint8]
    frame_times_s: Sequence[float]
    truth: EventSequence | None
    prediction: EventSequence | None
    prompt: str
    duration_s: float
    video: str
    classes: tuple[str, ...] | None = None


def write_report(run: Path, examples: Sequence[Example] = (), *, experts: bool = True) -> Path:
    """Write ``RUN/report.html`` and return its path. ``experts``: whether its models have any. A run that is
    not finished gets a page that says what is missing. Raises :class:`ReportError` if ``run`` is no folder or an
    example does not fit together."""
    files = read_run(run)
    name = files.path.resolve().name
    missing: list[str] = []
    sections = [
        "<h2>Results</h2>",
        *_results(files, missing),
        "<h2>Loss</h2>",
        *_losses(files, missing),
        *(["<h2>Experts</h2>", *_experts(files, missing)] if experts else []),
        "<h2>Answers</h2>",
        *_answers(files, missing),
        "<h2>Held-out examples</h2>",
        *_examples(examples, missing),
    ]
    stages = ", ".join(files.stages) or "none yet"
    head = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="muted">stages: {escape(stages)}</p>',
        _headline(files),
        style.notes([*files.notes, *missing]),
    ]
    out = files.path / "report.html"
    partial = files.path / "report.html.part"
    style.write_page(partial, style.page(f"Run {name}", [*head, *sections]))
    os.replace(partial, out)
    return out


def _headline(files: RunFiles) -> str:
    rows = result_rows(files)[0]
    cards: dict[str, str] = {}
    if rows:
        stage, figures = list(rows.items())[-1]
        for key in ("r1_0.5", "miou", "f1", "hit1", "f1_0.25", "edit"):
            if figures.get(key) is not None:
                cards[f"{FIGURES[key]} after {stage}"] = f"{figures[key]:.1f}"
    parse_rate = number(files.summary, "parse_rate")
    if parse_rate is not None:
        cards["answers that parsed"] = f"{parse_rate:.1f} %"
    seconds = files.summary.get("seconds")
    if isinstance(seconds, dict):
        total = sum(v for key in seconds if (v := number(seconds, key)) is not None)
        cards["time"] = f"{total / 60:.1f} min"
    memory = number(files.summary, "peak_rss_gib")
    if memory is not None:
        cards["peak memory"] = f"{memory:.1f} GiB"
    return style.cards(cards) if cards else ""


def _results(files: RunFiles, missing: list[str]) -> list[str]:
    stages, controls = result_rows(files)
    if not stages and not controls:
        missing.append("no evaluation has been recorded yet: there are no results to show.")
        return ['<p class="muted">No evaluation yet.</p>']
    if not controls:
        missing.append(
            "no control runs (noise frames, mean segment) are recorded: figures cannot be told from guessing."
        )
    used = {key for figures in (*stages.values(), *controls.values()) for key in figures}
    keys = [k for k in FIGURES if k in used]
    rows = [[f"after {name}", *(figures.get(k) for k in keys)] for name, figures in stages.items()]
    rows += [
        [f"control: {name.replace('_', ' ')}", *(figures.get(k) for k in keys)] for name, figures in controls.items()
    ]
    classes = [""] * len(stages) + ["control"] * len(controls)
    text = "Percent, on held-out questions. Controls answer the same questions without seeing the video."
    out = [f'<p class="muted">{text}</p>', style.table(["", *(FIGURES[k] for k in keys)], rows, classes=classes)]
    seconds = files.summary.get("seconds")
    if isinstance(seconds, dict) and seconds:
        parts = ", ".join(f"{key} {v:.0f} s" for key in seconds if (v := number(seconds, key)) is not None)
        out.append(f'<p class="muted">Time: {escape(parts)}</p>')
    return out


def _losses(files: RunFiles, missing: list[str]) -> list[str]:
    if not files.train:
        missing.append("no training step has been recorded yet: there are no loss curves.")
        return ['<p class="muted">No training steps yet.</p>']
    out, rows = [], []
    for stage in dict.fromkeys(stage_of(row) for row in files.train):
        steps = [row for row in files.train if stage_of(row) == stage]
        xs = [number(row, "step") for row in steps]
        series = {
            label: [(x, number(row, key)) for x, row in zip(xs, steps, strict=True) if x is not None]
            for key, label in LOSSES.items()
            if any(number(row, key) is not None for row in steps)
        }
        bad = [row.get("step") for row in steps if "loss" in row and number(row, "loss") is None]
        if bad:
            missing.append(
                f"{stage}: the loss is not a finite number at {len(bad)} of {len(steps)} steps, first at {bad[0]}."
            )
        norms = {
            "gradient norm": [(x, number(row, "grad_norm")) for x, row in zip(xs, steps, strict=True) if x is not None]
        }
        out.append(charts.line_chart(f"{stage}: loss", series, from_zero=True))
        out.append(charts.line_chart(f"{stage}: gradient norm", norms, from_zero=True))
        rows.append(_stage_row(stage, steps))
    headers = ["stage", "steps", "first loss", "last loss", "learning rate", "tokens per second"]
    headers += ["samples in a step", "skipped"]
    return [f'<div class="charts">{"".join(out)}</div>', style.table(headers, rows)]


def _stage_row(stage: str, steps: list[Record]) -> list[Any]:
    def text(row: Record, key: str, form: str) -> str | None:
        value = number(row, key)
        return None if value is None else format(value, form)

    speeds = sorted(v for row in steps if (v := number(row, "tokens_per_s")) is not None)
    return [
        stage,
        text(steps[-1], "step", ".0f"),
        text(steps[0], "loss", ".3f"),
        text(steps[-1], "loss", ".3f"),
        text(steps[-1], "lr", ".2e"),
        f"{speeds[len(speeds) // 2]:.0f}" if speeds else None,
        text(steps[-1], "samples", ".0f"),
        text(steps[-1], "skipped", ".0f"),
    ]


def _experts(files: RunFiles, missing: list[str]) -> list[str]:
    if not files.experts:
        missing.append("no expert statistics have been recorded yet.")
        return ['<p class="muted">No expert statistics yet.</p>']
    try:
        report = expert_report(files)
    except ReportError as error:
        missing.append(str(error))
        return ['<p class="muted">The expert statistics could not be read.</p>']
    missing.extend(note for note in report.notes if note not in files.notes)
    return experts_sections(report)


def _answers(files: RunFiles, missing: list[str]) -> list[str]:
    """What came of every answer, from ``predictions/*.jsonl``."""
    rows, reasons = [], Counter[str]()
    for path in sorted((files.path / "predictions").glob("*.jsonl")):
        counts = Counter[str]()
        for _, row in read_lines(path, missing):
            problems = records_in(row.get("problems"))
            counts["answers"] += 1
            counts["errors"] += row.get("error") is not None
            counts["none"] += row.get("prediction") is None
            counts["problems"] += bool(problems)
            reasons.update(str(p.get("reason"))[:120] for p in problems)
        rows.append([path.stem, counts["answers"], counts["problems"], counts["none"], counts["errors"]])
    if not rows:
        missing.append("no predictions have been written yet.")
        return ['<p class="muted">No predictions yet.</p>']
    out = [style.table(["stage", "answers", "with parts that did not parse", "without events", "failed"], rows)]
    if reasons:
        out.append(style.table(["what did not parse", "times"], [[r, n] for r, n in reasons.most_common(8)]))
    return out


def _examples(examples: Sequence[Example], missing: list[str]) -> list[str]:
    if not examples:
        missing.append("no held-out examples were given to the report.")
        return ['<p class="muted">No examples.</p>']
    out = []
    for example in examples:
        told = (example.truth, example.prediction, example.duration_s, example.prompt)
        if example.classes is None:
            png = draw_timeline(example.frames, example.frame_times_s, *told)
        else:
            png = draw_steps(example.frames, example.frame_times_s, *told, example.classes)
        said = _words(example.prediction) if example.prediction is not None else "did not parse"
        alt = f"{example.prompt} Truth: {_words(example.truth)}. Predicted: {said}."
        caption = f'<p class="muted">{escape(example.video)}, {example.duration_s:.1f} s</p>'
        out.append(f"<figure>{style.png_image(png, alt)}{caption}</figure>")
    return out


def _words(events: EventSequence | None) -> str:
    """Events as one sentence, for readers who cannot see the picture."""
    if events is None:
        return "unknown"
    parts = [
        f"{' to '.join(f'{t:.1f}' for t in e.times_s) + ' s ' if e.times_s else ''}{e.text}".strip() for e in events
    ]
    return "; ".join(parts) or "nothing"
