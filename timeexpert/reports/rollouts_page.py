"""The page of a run's rollouts: curves of the rewards, and questions with every answer on a line of time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from timeexpert.tokenization import EventSequence

from .charts import line_chart
from .errors import ReportError
from .event_lines import CSS as EVENT_CSS
from .event_lines import Bar, event_lines
from .style import cards, page, table, write_page

QUESTIONS = 6  # shown of each stage, spread evenly over its steps
MOST_LETTERS = 600  # shown of an answer in words
CURVES = (
    ("reward", "mean reward"),
    ("kl", "KL to the reference"),
    ("entropy", "entropy of a token, nats"),
    ("answer_tokens", "tokens of an answer"),
    ("parse_rate", "answers that parse, %"),
    ("zero_variance", "groups whose rewards are all equal, %"),
)
CSS = EVENT_CSS + (
    " .q { background: var(--card); border-radius: 8px; padding: .6rem .9rem; margin: .8rem 0; } "
    ".q .answer { border-top: 1px solid var(--rule); margin-top: .5rem; padding-top: .3rem; } "
    ".q pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0; } "
)


def write_rollouts_page(run: Path) -> Path | None:
    """Write ``run/rollouts.html`` from ``rollouts.jsonl`` and ``metrics.jsonl``; ``None`` where there are no rollouts.

    Raises :class:`ReportError` for a file that is not JSON lines.
    """
    file = run / "rollouts.jsonl"
    if not file.is_file() or not file.stat().st_size:
        return None
    told = _shown(file)
    steps = [row for row in _rows(run / "metrics.jsonl") if row.get("kind") == "train" and "reward" in row]
    path = run / "rollouts.html"
    write_page(path, page(f"Rollouts of {run.name}", _body(run.name, told, steps), css=CSS))
    return path


@dataclass
class _Stage:
    """Numbers of questions and answers of a stage, and the rows that are shown."""

    questions: int = 0
    answers: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """One after the other: rollouts of a long run are many."""
    try:
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise ReportError(f"{file}: not JSON lines ({error}). Continue the run, which repairs it.") from None


def _shown(file: Path) -> dict[str, _Stage]:
    """By stage, questions spread evenly over its rows; the file is read twice."""
    stages: dict[str, _Stage] = {}
    for row in _rows(file):
        stage = stages.setdefault(row["stage"], _Stage())
        stage.questions += 1
        stage.answers += len(row["answers"])
    picked = {}
    for name, stage in stages.items():
        count = min(QUESTIONS, stage.questions)
        picked[name] = {round(i * (stage.questions - 1) / max(1, count - 1)) for i in range(count)}
    passed = Counter[str]()
    for row in _rows(file):
        name = row["stage"]
        if passed[name] in picked[name]:
            stages[name].rows.append(row)
        passed[name] += 1
    return stages


def _body(name: str, told: dict[str, _Stage], steps: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f"<h1>Rollouts of {escape(name)}</h1>"
    yield '<p class="muted">What the model answered while it was trained on rewards (docs/rl.md).</p>'
    for stage, own in told.items():
        rows = [row for row in steps if row["stage"] == stage]
        yield f"<h2>{escape(stage)}</h2>"
        figures = {"questions": str(own.questions), "answers": str(own.answers)}
        if rows:
            figures |= {"reward, first step": f"{rows[0]['reward']:.3f}", "last step": f"{rows[-1]['reward']:.3f}"}
        yield cards(figures)
        if len(rows) > 1:
            yield '<div class="charts">'
            for key, title in CURVES:
                points = [(row["global_step"], row[key]) for row in rows if row.get(key) is not None]
                if points:  # without a reference there is no KL
                    yield line_chart(title, {key: points})
            yield "</div>"
            yield _rewards(rows)
        yield f"<h3>{len(own.rows)} of {own.questions} questions</h3>"
        for row in own.rows:
            yield from _question(row)


def _rewards(rows: Sequence[dict[str, Any]]) -> str:
    first, last = rows[0], rows[-1]
    names = [key for key in first if key.startswith("reward_") and not key.endswith("_std")]
    lines = [
        [n.removeprefix("reward_"), *(f"{row[n]:.3f} \u00b1 {row[f'{n}_std']:.3f}" for row in (first, last))]
        for n in names
    ]
    return table(["reward, mean \u00b1 spread", f"step {first['step']}", f"step {last['step']}"], lines)


def _question(row: dict[str, Any]) -> Iterator[str]:
    yield f'<div class="q"><b>{escape(row["prompt"])}</b> '
    where = f"{row['id']} \u00b7 {row['video']} \u00b7 step {row['global_step']}"
    yield f'<span class="muted">{escape(where)}</span>'
    truth = _bars(row["truth"])
    for answer in sorted(row["answers"], key=lambda answer: -answer["reward"]):
        parts = ", ".join(f"{name} {value:.2f}" for name, value in answer["rewards"].items())
        yield f'<div class="answer"><b>{answer["reward"]:.2f}</b> '
        yield f'<span class="muted">{escape(parts)}; advantage {answer["advantage"]:+.2f}</span>'
        if "text" in answer:
            yield f"<pre>{escape(_shortened(answer['text']))}</pre>"
        yield event_lines(row["duration_s"], truth, _bars(answer["events"])) + "</div>"
    yield "</div>"


def _shortened(text: str) -> str:
    """Its begin and its end, where the answer stands."""
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS // 2]} ... {text[-MOST_LETTERS // 2 :]}"


def _bars(events: Sequence[dict[str, Any]]) -> list[Bar]:
    read = EventSequence.from_json(list(events))
    return [Bar(e.start_s, e.end_s, e.text) for e in read if e.start_s is not None and e.end_s is not None]
