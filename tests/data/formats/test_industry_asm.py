"""IndustryASM: a line per step, in order, named out of a label set; and the way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from timeexpert.cli import main
from timeexpert.data.formats import convert, detect
from timeexpert.data.formats.industry_asm import FORMAT, write_row
from timeexpert.data.label_sets import LabelError, category_of, read_label_sets
from timeexpert.data.records import Sample

# The example of TemporalVLM's figure 8, some steps left out: two of them overlap by 0.6 s.
ANSWER = """7.2 - 8.6 seconds, Place air cleaner into table jig.
8.6 - 10.4 seconds, Write the last 3 of sequence number on air cleaner.
61.0 - 63.2 seconds, Set air flow meter into air cleaner receiving slot.
62.6 - 68.6 seconds, Simultaneously pick up two screws.
78.7 - 82.0 seconds, Remove air cleaner from jig and place into pick rack"""
ACTIONS = [line.split(" seconds, ")[1].rstrip(".") for line in ANSWER.splitlines()]
LABELS = json.dumps({"Air_Cleaner": ACTIONS, "Gear_Box": ["Pick up the housing"]})


def row(answer: str = ANSWER, **more: Any) -> dict[str, Any]:
    return {"video": "P06/1.mp4", "duration": 84.0, "QA": [{"q": "Which steps?", "a": answer}], **more}


@pytest.fixture
def labels(tmp_path: Path) -> Any:
    (tmp_path / "labels.json").write_text(LABELS)
    return read_label_sets(tmp_path / "labels.json")


def test_the_papers_example_is_read(convert_rows, labels) -> None:
    (sample,), rejected = convert_rows("industry_asm", [row(process="Air_Cleaner", split="train")], labels=labels)
    assert not rejected and sample.task == "action_segmentation" and sample.prompt == "Which steps?"
    assert [e.text for e in sample.events] == ACTIONS
    assert sample.events.segments_s[2:4] == [(61.0, 63.2), (62.6, 68.6)]
    assert sample.meta == {"process": "Air_Cleaner", "split": "train", "classes": ACTIONS}


def test_steps_behind_one_another_are_read_as_timeit_writes_them(convert_rows) -> None:
    (sample,), _ = convert_rows("industry_asm", [row("1.0 - 2.0 seconds, Cut it.  3.0 - 4.0 seconds, Fry it.")])
    assert [(e.start_s, e.text) for e in sample.events] == [(1.0, "Cut it"), (3.0, "Fry it")]


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (
            "5.0 - 6.0 seconds, a.\n1.0 - 2.0 seconds, b.",
            "order",
            "events[1] starts at 1 s, before the step ahead of it (5",
        ),
        ("1.0 - 9.0 seconds, a.\n2.0 - 9.5 seconds, b.", "overlap", "7.0 s before the step ahead of it ends (9 s)"),
        ("1.0 - 90.0 seconds, a.\n", "past_duration", "events[0] ends at 90.0 s, past the video's end at 84.0 s"),
        ("9.0 - 3.0 seconds, a.\n", "reversed", "events[0] starts at 9.0 s, after its end at 3.0 s"),
        ("1.0 - 2.0 seconds, a.\nthen b", "unparsed", "line 2 of the answer ('then b') must be 'start - end seconds"),
        ("no steps", "unparsed", "must be 'start - end seconds, caption.'"),
        ("The given query happens in 1.0 - 2.0 seconds.", "unparsed", "is not made of 'start - end seconds, action.'"),
    ],
)
def test_lines_that_cannot_be_are_rejected(convert_rows, answer: str, kind: str, words: str) -> None:
    samples, (rejected,) = convert_rows("industry_asm", [row(answer)])
    assert not samples and rejected.kind == kind and words in rejected.reason
    assert rejected.where == "file.json:1.QA[0]"


def test_actions_and_processes_come_out_of_the_label_sets(convert_rows, labels) -> None:
    said = "1.0 - 2.0 seconds, Place air cleaners into table jig.\n"
    rows = [row(said, process="Air_Cleaner"), row(process="Air_Cleanr"), row()]
    samples, rejected = convert_rows("industry_asm", rows, labels=labels)
    assert not samples and [r.kind for r in rejected] == ["unknown_label", "unknown_process", "unknown_process"]
    assert "is not in the label set of 5. Did you mean 'Place air cleaner into table jig'?" in rejected[0].reason
    assert "process ('Air_Cleanr') is none of the 2 of" in rejected[1].reason
    assert rejected[1].reason.endswith("Did you mean 'Air_Cleaner'?")
    assert "the row names no process" in rejected[2].reason


def test_the_category_of_a_process_is_that_of_most_of_its_steps(tmp_path: Path) -> None:
    # P06 of the paper: 4 moving, 3 assembling, 3 positioning
    assert category_of(["moving"] * 4 + ["assembling"] * 3 + ["positioning"] * 3) == "moving"
    assert category_of(["moving", "packaging"]) is None and category_of(["moving", None]) is None
    (tmp_path / "l.yaml").write_text("A: {pick it up: moving, put it down: moving, box it: packaging}\nB: [x]\n")
    processes = read_label_sets(tmp_path / "l.yaml").processes
    assert (processes["A"].category, processes["B"].category) == ("moving", None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "A: {x: movin}",
            r"l.yaml: A: 'x' has the category 'movin', which is none of moving, .* Did you mean 'moving'",
        ),
        ("A: [Cut it, cut_it.]", r"A: 'Cut it' and 'cut_it.' have the same words"),
        ("A: []", r"A must hold actions"),
        ("A: [3]", r"A: 3 is no name of an action"),
        ("- A", r"l.yaml: must be a mapping of processes to their actions, not list"),
        ("A: [", "l.yaml: not YAML"),
    ],
)
def test_label_sets_that_cannot_be_are_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "l.yaml").write_text(text)
    with pytest.raises(LabelError, match=words):
        read_label_sets(tmp_path / "l.yaml")


def test_what_was_written_is_what_is_read(convert_rows, labels, tmp_path: Path) -> None:
    (sample,), _ = convert_rows("industry_asm", [row(process="Air_Cleaner", category="moving")], labels=labels)
    again = tmp_path / "again.jsonl"
    again.write_text(json.dumps(write_row(sample)))
    assert detect(again) == "industry_asm"
    (read,) = convert("industry_asm", again)
    assert isinstance(read, Sample)
    assert (read.events, read.prompt, read.video) == (sample.events, sample.prompt, sample.video)
    assert read.meta == {"process": "Air_Cleaner", "category": "moving"}  # the label set is not part of the format


def test_the_command_converts_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out, back = tmp_path / "asm.json", tmp_path / "asm.jsonl", tmp_path / "back.jsonl"
    source.write_text(json.dumps([row(process="Air_Cleaner", split="train"), row(process="Gear_Box", split="test")]))
    (tmp_path / "labels.json").write_text(LABELS)
    labels = ["--labels", str(tmp_path / "labels.json")]
    assert main(["data", "convert", "auto", str(source), "-o", str(out), "--split", "train", *labels]) == 0
    assert "note: 1 samples; 3896 videos are published for 'train'." in capsys.readouterr().out
    assert main(["data", "convert", "samples", str(out), "-o", str(back), "--to", "industry_asm"]) == 0
    written = json.loads(back.read_text())
    assert written["QA"] == [{"q": "Which steps?", "a": ANSWER + "."}] and written["split"] == "train"
    capsys.readouterr()
    assert main(["data", "convert", "samples", str(out), "-o", str(back), "--to", "timeit"]) == 2
    assert (
        "--to ('timeit'): this format can be read only; there are writers of museg, industry_asm, loomdata."
        in capsys.readouterr().err
    )


def test_rows_that_name_no_split_are_rejected_where_one_is_asked_for(convert_rows) -> None:
    samples, (rejected,) = convert_rows("industry_asm", [row(), row(split="test")], split="test")
    assert len(samples) == 1 and rejected.kind == "no_split"


def test_samples_of_other_tasks_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = {"id": "a", "video": "a.mp4", "task": "general", "prompt": "?", "events": [{"text": "x"}]}
    (tmp_path / "s.jsonl").write_text(json.dumps(line))
    out = tmp_path / "o.jsonl"
    words = ["data", "convert", "samples", str(tmp_path / "s.jsonl"), "-o", str(out), "--to", "industry_asm"]
    assert main(words) == 1
    assert not out.exists()
    rejected = json.loads((tmp_path / "o.rejected.jsonl").read_text())
    assert rejected["kind"] == "unsupported" and "the task general is no action segmentation" in rejected["reason"]


def test_the_published_numbers_of_videos_are_those_of_the_paper() -> None:
    assert FORMAT.splits == {"train": 3896, "test": 955} and sum(FORMAT.splits.values()) == 4851
