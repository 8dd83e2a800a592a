"""IndustryASM (Fateh et al., TemporalVLM, section 4 and figure 8): assembly videos, a line per step.

An answer is ``start - end seconds, action.`` line by line, in the order of time. The paper shows instruction and answer
and says that they are chat samples; the rest of a row is read as in TimeIT, which its training mixes them with:
``{video, QA: [{q, a}]}``, with ``duration``, ``process``, ``category``, ``split`` and ``source`` where they are known.
"""

from __future__ import annotations

import re
from typing import Any

from timeexpert.data.formats.base import Draft, Drafts, Fault, Format, RawEvent, RowError, fields_of, list_of, text_of
from timeexpert.data.formats.reading import records
from timeexpert.data.formats.timeit import parse_answer
from timeexpert.data.records import Sample
from timeexpert.tokenization.answer_lines import AnswerError, answer_lines

SOURCE = "IndustryASM"
SPLITS = {"train": 3896, "test": 955}  # videos; the paper's section 5, which does not say which they are
KEPT = ("process", "category", "split")
_NUMBER = r"\d+(?:\.\d+)?"
_LINE = re.compile(rf"({_NUMBER}) - ({_NUMBER}) seconds?, (.+)", re.ASCII)


def _drafts(row: Any) -> Drafts:
    value = fields_of(row.value, "video", "QA")
    for i, turn in enumerate(list_of(value["QA"], "QA")):
        at = f".QA[{i}]"
        try:
            turn = fields_of(turn, "q", "a")
            yield Draft(
                key=f"{row.key}:{i}",
                video=value["video"],
                task="action_segmentation",
                prompt=text_of(turn["q"], "q"),
                duration_s=value.get("duration"),
                events=_steps(text_of(turn["a"], "a")),
                at=at,
                meta={name: text_of(value[name], name) for name in KEPT if value.get(name) is not None},
            )
        except RowError as error:
            yield Fault(at, error)


def _steps(answer: str) -> list[RawEvent]:
    """The steps of an answer: a line each, or behind one another as TimeIT writes events."""
    if "\n" not in answer:
        task, events = parse_answer(answer, "")
        if task != "dense_captioning":
            raise RowError("unparsed", f"the answer ({answer[:80]!r}) is not made of 'start - end seconds, action.'")
        return events
    events = []
    for number, line in enumerate(answer.splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise RowError(
                "unparsed",
                f"line {number} of the answer ({line.strip()[:80]!r}) must be 'start - end seconds, action.'",
            )
        events.append(RawEvent([float(match[1]), float(match[2])], (), match[3].strip().removesuffix(".")))
    return events


def write_row(sample: Sample) -> dict[str, Any]:
    """The row of a sample. Raises :class:`RowError` for samples of other tasks, and those without times or actions."""
    if sample.task != "action_segmentation":
        raise RowError("unsupported", f"a sample of the task {sample.task} is no action segmentation.")
    try:
        answer = answer_lines(sample.task, sample.events)
    except AnswerError as error:
        raise RowError("malformed", str(error)) from None
    row: dict[str, Any] = {"video": sample.video}
    if sample.duration_s is not None:
        row["duration"] = sample.duration_s
    row |= {name: sample.meta[name] for name in KEPT if name in sample.meta}
    return row | {"QA": [{"q": sample.prompt, "a": answer}], "source": SOURCE}


def _matches(first: Any) -> bool:
    if not isinstance(first, dict) or not {"video", "QA"} <= set(first):
        return False
    return first.get("source") == SOURCE or "process" in first


FORMAT = Format(
    "industry_asm",
    "IndustryASM (TemporalVLM): {video, QA: [{q, a}]}, an answer's lines are 'start - end seconds, action.'",
    records,
    _matches,
    _drafts,
    write=write_row,
    splits=SPLITS,
)
