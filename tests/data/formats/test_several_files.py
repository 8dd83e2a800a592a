"""``data convert`` of several annotation files into one samples file."""

import json

import pytest

from timeexpert.cli import main
from timeexpert.data.records import read_samples


@pytest.fixture
def files(tmp_path):
    for name, video in (("a", "x.mp4"), ("b", "y.mp4")):
        clip = {"video": video, "events": [{"start": 0, "end": 1, "caption": "noise"}]}
        (tmp_path / f"{name}.jsonl").write_text((json.dumps(clip) + "\n") * 3)
    return tmp_path


def convert(*words):
    return main(["data", "convert", *map(str, words), "--task", "dense_captioning", "--json"])


def test_files_follow_one_another_and_ids_name_theirs(files, capsys):
    assert convert("auto", files / "b.jsonl", files / "a.jsonl", "-o", files / "out.jsonl") == 0
    assert [sample.id for _, sample in read_samples(files / "out.jsonl")] == [
        f"timed_clips:{name}:{line}" for name in "ba" for line in (1, 2, 3)
    ]
    assert json.loads(capsys.readouterr().out)["rows"] == 6


def test_the_limit_holds_for_each_file(files, capsys):
    assert convert("timed_clips", files / "a.jsonl", files / "b.jsonl", "-o", files / "out.jsonl", "--limit", 1) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 2


def test_files_of_one_name_are_refused_for_their_ids_would_be_equal(files, capsys):
    (files / "sub").mkdir()
    (files / "sub/a.jsonl").write_text("")
    assert convert("timed_clips", files / "a.jsonl", files / "sub/a.jsonl", "-o", files / "out.jsonl") == 2
    assert "INPUT 'a' is there twice" in capsys.readouterr().err
    assert not (files / "out.jsonl").exists()


def test_no_input_is_overwritten(files, capsys):
    before = (files / "b.jsonl").read_text()
    assert convert("timed_clips", files / "a.jsonl", files / "b.jsonl", "-o", files / "b.jsonl") == 2
    assert (files / "b.jsonl").read_text() == before
