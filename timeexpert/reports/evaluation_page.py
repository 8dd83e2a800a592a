"""The page of an evaluation: every figure with its interval, what was counted, and the worst and best cases drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from timeexpert.evaluation.records import Told
from timeexpert.evaluation.results import Case, Scored, worst_and_best
from timeexpert.evaluation.segmentation_answers import segmentations
from timeexpert.evaluation.tasks import with_times

from .class_bars import CSS as BARS_CSS
from .class_bars import ClassBar, class_bars, class_legend, class_lines
from .event_lines import CSS as LINES_CSS
from .event_lines import Bar, event_lines
from .style import cards, notes, page, table, write_html

CASES = 6  # of the worst, and of the best
COUNTS = ("questions", "answered", "parsed", "missing")
MAX_TEXT, MAX_EVENTS = 600, 200
CSS = (
    ".ex { background: var(--card); border-radius: 8px; padding: .6rem .9rem; margin: .6rem 0; } "
    + LINES_CSS
    + BARS_CSS
)


def write_evaluation_page(
    path: Path, title: str, document: Mapping[str, Any], scored: Mapping[str, Scored], remarks: list[str]
) -> None:
    """Write the page of ``document`` (:func:`timeexpert.evaluation.results.to_json`) with cases from ``scored``.

    ``remarks`` are shown at the top. Raises :class:`ReportError` where ``path`` cannot be written.
    """
    write_html(path, page(title, _body(title, document, scored, remarks), css=CSS), "-o")


def _body(title: str, document: Mapping[str, Any], scored: Mapping[str, Scored], remarks: list[str]) -> Iterator[str]:
    yield f"<h1>{escape(title)}</h1>"
    yield f'<p class="muted">{escape(", ".join(f"{k} {v}" for k, v in document["versions"].items()))}</p>'
    yield notes(remarks)
    for name, task in document["tasks"].items():
        yield f"<h2>{escape(name)}</h2>"
        yield cards({key: str(task["counts"][key]) for key in COUNTS})
        yield notes(task["notes"])
        intervals = task["intervals"] or {}
        rows = [
            [figure, "no figure" if value is None else f"{value:.2f}", _interval(intervals.get(figure))]
            for figure, value in task["figures"].items()
        ]
        yield table(["figure", "percent", "interval"], rows)
        said = {"convention": task["convention"], **task["policies"], **task["scorers"]}
        said |= {key: value for key, value in task["counts"].items() if key not in COUNTS}
        yield f'<p class="muted">{escape("; ".join(f"{k}: {v}" for k, v in said.items()))}</p>'
        worst, best = worst_and_best(scored[name], CASES)
        steps = _steps(scored[name], task["convention"]) if name == "action_segmentation" else {}
        shown = [steps[case.sample.id] for case in (*worst, *best) if case.sample.id in steps]
        if shown:
            yield class_legend([bar for bars in shown for side in bars for bar in side or ()])
        for heading, cases in (("Worst", worst), ("Best", best)):
            if cases:
                yield f"<h3>{heading}</h3>"
                yield from (_case(case, steps.get(case.sample.id)) for case in cases)
    if "interval" in document:
        told = document["interval"]
        yield (
            f'<p class="muted">Intervals: {told["level"]:.0%}, percentile bootstrap over questions, '
            f"{told['resamples']} resamples, seed {told['seed']}.</p>"
        )


def _interval(interval: Any) -> str:
    return "\u2013" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"


def _steps(scored: Scored, convention: str) -> dict[str, tuple[list[ClassBar], list[ClassBar] | None]]:
    """The true and the told steps of each video of an action segmentation, by the id of its sample."""
    found = segmentations(scored.samples, [with_times(told, convention) for told in scored.told])
    names = found.names
    return {
        item: (class_bars(truth, names), None if (told := found.told.get(item)) is None else class_bars(told, names))
        for item, truth in found.truth.items()
    }


def _case(case: Case, steps: tuple[list[ClassBar], list[ClassBar] | None] | None = None) -> str:
    sample, told = case.sample, case.told
    true = [Bar(*_ends(e.start_s, e.end_s), _label(e.text, e.scores)) for e in sample.events if e.start_s is not None]
    longest = sample.duration_s or max((bar.end_s for bar in true), default=0.0) * 1.25
    head = (
        f"<b>{escape(case.figure)} {case.value:.4g}</b> {escape(sample.prompt[:MAX_TEXT])}"
        f'<br><span class="muted">{escape(sample.id)} \u00b7 {escape(sample.video)}</span>'
    )
    if steps is not None:
        drawn = class_lines(longest, *steps)
    else:
        drawn = event_lines(longest, true[:MAX_EVENTS], _bars(told)) if longest > 0 else _texts(case)
    return f'<div class="ex">{head}{drawn}{_problem(told)}</div>'


def _ends(start_s: float | None, end_s: float | None) -> tuple[float, float]:
    assert start_s is not None and end_s is not None
    return start_s, end_s


def _label(text: str, scores: tuple[float, ...]) -> str:
    return f"{text} {' '.join(f'{s:g}' for s in scores)}".strip()


def _bars(told: Told | None) -> list[Bar]:
    if told is None:
        return []
    bars = []
    for i, (start_s, end_s) in enumerate(told.segments_s[:MAX_EVENTS]):
        bars.append(Bar(start_s, end_s, _label(told.texts[i] if told.texts else "", told.scores[i : i + 1])))
    if not bars and told.clip_scores:
        ranked = sorted(range(len(told.clip_scores)), key=lambda i: -told.clip_scores[i])[:10]  # type: ignore[index]
        bars = [Bar(2.0 * i, 2.0 * i + 2, f"{told.clip_scores[i]:.3g}") for i in sorted(ranked)]
    return bars


def _texts(case: Case) -> str:
    truth = " ".join(event.text for event in case.sample.events)[:MAX_TEXT]
    answer = (case.told.text or "")[:MAX_TEXT] if case.told is not None else ""
    return f"<p>truth: {escape(truth)}<br>answer: {escape(answer)}</p>"


def _problem(told: Told | None) -> str:
    if told is None:
        return '<p class="muted">no answer: missing, or its video could not be read</p>'
    text = f"<p class=muted>{escape(told.text[:MAX_TEXT])}</p>" if told.text and not told.segments_s else ""
    return text + (f'<p class="muted">did not parse: {escape(told.problem)}</p>' if told.problem is not None else "")
