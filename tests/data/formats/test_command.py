"""``timeexpert data convert``."""

import argparse
import json

import pytest

from timeexpert.commands import data_convert
from timeexpert.data.formats import FORMATS
from timeexpert.data.records import Sample, read_samples
from timeexpert.errors import UserError

LINES = "A 1 2##a dog.\nbroken\nB 3 9##a cat.\nC 1 2##a cow.\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in.txt").write_text(LINES)
    (tmp_path / "durations.json").write_text('{"A": 5, "B": 5, "C": 5}')
    return tmp_path


def run(*words) -> int:
    parser = argparse.ArgumentParser()
    data_convert.add_arguments(parser)
    return data_convert.run(parser.parse_args([str(word) for word in words]))


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_samples_and_rejections_are_written_and_nothing_else(folder, capsys):
    code = run("auto", folder / "in.txt", "-o", folder / "out.jsonl", "--durations", folder / "durations.json")
    assert code == 0
    samples = [sample for _, sample in read_samples(folder / "out.jsonl")]
    assert all(isinstance(sample, Sample) for sample in samples)
    assert [sample.video for sample in samples] == ["A.mp4", "C.mp4"]
    rejected = rows(folder / "out.rejected.jsonl")
    assert [(r["where"], r["kind"], r["row"]) for r in rejected] == [
        ("in.txt:2", "malformed", "broken"),
        ("in.txt:3", "past_duration", "B 3 9##a cat."),
    ]
    assert {p.name for p in folder.iterdir()} == {"in.txt", "durations.json", "out.jsonl", "out.rejected.jsonl"}
    printed = capsys.readouterr().out
    assert "charades_sta: 4 rows read" in printed
    assert "samples: moment_retrieval" in printed and "rejected: past_duration" in printed


def test_the_report_as_json_counts_rows_samples_rejections_and_cuts(folder, capsys):
    out = folder / "out.jsonl"
    arguments = ["--durations", folder / "durations.json", "--clip-to-duration", "--json", "--source", "mine"]
    assert run("charades_sta", folder / "in.txt", "-o", out, *arguments) == 0
    assert json.loads(capsys.readouterr().out) == {
        "format": "charades_sta",
        "output": str(out),
        "rejected_output": str(folder / "out.rejected.jsonl"),
        "rows": 4,
        "samples": {"moment_retrieval": 3},
        "rejected": {"malformed": 1},
        "clipped_ends": 1,
        "sorted_samples": 0,
        "notes": [],
    }
    assert {row["source"] for row in rows(out)} == {"mine"}


def test_limit_and_video_template(folder):
    out = folder / "out.jsonl"
    assert run("charades_sta", folder / "in.txt", "-o", out, "--limit", 3, "--video-template", "c/{id}.webm") == 0
    assert [row["video"] for row in rows(out)] == ["c/A.webm", "c/B.webm"]


def test_only_the_wanted_task_is_written(shared, tmp_path):
    path, out = shared / "annotations/qvhighlights/highlight_val_release.jsonl", tmp_path / "out.jsonl"
    assert run("auto", path, "-o", out, "--task", "highlight_detection", "--limit", 5) == 0
    assert [row["task"] for row in rows(out)] == ["highlight_detection"] * 5


def test_where_nothing_was_converted_the_exit_code_is_1_and_old_samples_stay(folder, capsys):
    (folder / "bad.txt").write_text("broken\n")
    (folder / "out.jsonl").write_text("old\n")
    assert run("charades_sta", folder / "bad.txt", "-o", folder / "out.jsonl") == 1
    assert (folder / "out.jsonl").read_text() == "old\n"
    assert len(rows(folder / "out.rejected.jsonl")) == 1
    assert "nothing was converted" in capsys.readouterr().out


def test_a_file_that_breaks_off_leaves_what_was_there(folder):
    (folder / "broken.json").write_text('[{"video": "a.mp4", "QA": [')
    (folder / "out.jsonl").write_text("old\n")
    with pytest.raises(UserError, match=r"broken.json:1: not JSON"):
        run("timeit", folder / "broken.json", "-o", folder / "out.jsonl")
    assert (folder / "out.jsonl").read_text() == "old\n"
    assert not list(folder.glob(".*part")) and not (folder / "out.rejected.jsonl").exists()


def test_the_list_names_every_format(capsys):
    assert run("list", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)) == list(FORMATS)
    assert run("list") == 0
    assert "charades_sta" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["charades_sta"], "needs INPUT and -o OUT.jsonl"),
        (["charades_sta", "in.txt", "-o", "out.json"], r"--output \(.*out.json\) must end in .jsonl"),
        (["charades_sta", "in.txt", "-o", "no/out.jsonl"], "there is no folder .*no. Make it first"),
        (["charades_sta", "same.jsonl", "-o", "same.jsonl"], r"would overwrite the input \(.*same.jsonl\)"),
        (["charades_sta", "none.txt", "-o", "out.jsonl"], "none.txt: no such file"),
        (["charades_sta", "in.txt", "-o", "out.jsonl", "--limit", "0"], r"--limit \(0\) must be 1 or more"),
        (["charades_sta", "in.txt", "-o", "out.jsonl", "--durations", "in.txt"], "in.txt:1: not JSON"),
        (["charades_sta", "in.txt", "-o", "out.jsonl", "--task", "x"], r"task \('x'\) must be one of"),
        (["charade", "in.txt", "-o", "out.jsonl"], "Did you mean 'charades_sta'"),
    ],
)
def test_bad_arguments_are_refused_with_the_way_out(folder, monkeypatch, arguments, message):
    (folder / "same.jsonl").write_text("{}")
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=message):
        run(*arguments)


def test_masks_go_out_as_loomdata_and_frames_take_the_rate_that_is_given(tmp_path, capsys):
    masks = {"size": [2, 1], "times": [0, 1.5], "rles": ["11", None]}
    row = {"video": "a.mp4", "actions": [{"start": 1, "end": 2, "caption": "he sits"}], "masks": masks}
    (tmp_path / "loom.jsonl").write_text(json.dumps(row) + "\n")
    assert run("auto", tmp_path / "loom.jsonl", "-o", tmp_path / "s.jsonl") == 0
    assert run("samples", tmp_path / "s.jsonl", "-o", tmp_path / "back.jsonl", "--to", "loomdata") == 0
    assert rows(tmp_path / "back.jsonl") == [row]
    (refused,) = rows(tmp_path / "back.rejected.jsonl")
    assert (
        refused["kind"] == "unsupported" and "a sample of the task moment_retrieval has no masks" in refused["reason"]
    )
    (tmp_path / "mask_dict.json").write_text(json.dumps({"0": [{"size": [2, 1], "counts": "11"}, None]}))
    video = {"expressions": {"0": {"exp": "it", "obj_id": [0], "anno_id": [0]}}, "frames": ["0", "1"]}
    (tmp_path / "meta_expressions.json").write_text(json.dumps({"videos": {"v": video}}))
    assert run("auto", tmp_path / "meta_expressions.json", "-o", tmp_path / "m.jsonl", "--fps", 2) == 0
    ((_, sample),) = read_samples(tmp_path / "m.jsonl")
    assert sample.tracks[0].times_s == (0.0, 0.5) and sample.duration_s == 1.0
    capsys.readouterr()
