"""``data build`` and ``data validate``: every problem is listed, and the exit code says whether there is one."""

import argparse
import json
import re
from pathlib import Path

import pytest

from tests.data.media import question, read_rows, write_lines, write_video
from timeexpert.commands import data_build, data_validate
from timeexpert.data.validate import validate
from timeexpert.errors import UserError


def run(command, *args) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(a) for a in args]))


@pytest.fixture
def media(tmp_path) -> Path:
    for i in range(3):
        write_video(tmp_path / "media" / f"v{i}.mp4")
    return tmp_path / "media"


@pytest.fixture
def samples(tmp_path) -> Path:
    return write_lines(tmp_path / "s.jsonl", [question(f"q{i}", f"v{i}.mp4") for i in range(3)])


@pytest.fixture
def shards(samples, media, tmp_path, capsys) -> Path:
    assert run(data_build, samples, "--media", media, "-o", tmp_path / "out", "--json", "--workers", 1) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == 3
    return tmp_path / "out"


def test_sound_lines_and_sound_shards_exit_0(samples, media, shards, capsys):
    assert run(data_validate, samples, "--media", media, "--decode", "--workers", 1) == 0
    assert run(data_validate, shards, "--decode", "--workers", 1) == 0
    out = capsys.readouterr().out
    assert re.search(r"moment_retrieval\W+3\b", out) and re.search(r"problems\W+0\b", out)


def test_every_bad_line_is_reported_with_file_and_line(tmp_path, capsys):
    rows = [
        question("a", "v0.mp4"),
        "not json",
        '{"id": "b", "duration_s": NaN}',
        question("c", "v0.mp4", 2, 1),
        question("d", "v0.mp4", 0, 9, duration_s=3),
        question("a", "v0.mp4"),
        question("e", "v0.mp4", task="moment_retreival"),
    ]
    path = write_lines(tmp_path / "s.jsonl", rows)
    path.write_bytes(path.read_bytes() + b'{"id": "\xff"}\n')
    assert run(data_validate, path) == 1
    out = capsys.readouterr().out
    for line, rule in [
        (2, "not JSON"),
        (3, "NaN is not allowed"),
        (4, r"start_s \(2.0\) must not be after end_s"),
        (5, r"end_s \(9.0\) is past duration_s \(3\)"),
        (6, "id 'a' stands in line 1 already"),
        (7, "Did you mean 'moment_retrieval'"),
        (8, "not UTF-8 text"),
    ]:
        assert re.search(rf"s\.jsonl:{line}: .*{rule}", out)
    assert re.search(r"problems\W+7\b", out)


def test_videos_are_checked_against_the_samples(media, tmp_path):
    (media / "empty.mp4").touch()
    cut = write_video(media / "cut.webm", num_frames=50)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
    rows = [
        question("a", "empty.mp4"),
        question("b", "v0.mp4", 0, 8),
        question("c", "cut.webm"),
        question("d", "no.mp4"),
    ]
    result = validate(write_lines(tmp_path / "s.jsonl", rows), media=media)
    empty, late, gone = result.problems
    assert re.search(r"s\.jsonl:1: empty\.mp4: .*0 bytes", empty)
    assert re.search(r"s\.jsonl:2: v0\.mp4: against the file's own duration: .*end_s \(8\.0\)", late)
    assert re.search(r"s\.jsonl:4: no\.mp4: no such file in the media folder", gone)
    assert [bool(re.search(r"s\.jsonl:3: cut\.webm: damaged: ", note)) for note in result.notes] == [True]


def test_damage_anywhere_in_a_shard_is_found_and_a_new_index_leaves_it_out(shards, capsys):
    row = read_rows(shards / "index.jsonl")[1]
    with open(shards / row["shard"], "r+b") as tar:
        tar.seek(row["media"]["offset"] + 50)
        tar.write(b"damage")
    assert run(data_validate, shards, "--json") == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [bool(re.search(r"v1-\w+", p)) for p in problems] == [True, True]
    assert "its bytes have changed" in problems[0] and "is in the index, but not sound in the shard" in problems[1]
    assert run(data_validate, shards, "--rebuild-index", "--json") == 1  # says what is lost
    capsys.readouterr()
    assert run(data_validate, shards, "--json") == 1  # the bytes are still there
    assert "its bytes have changed" in json.loads(capsys.readouterr().out)["problems"][0]


def test_a_changed_description_is_found(shards):
    row = read_rows(shards / "index.jsonl")[2]
    with open(shards / row["shard"], "r+b") as tar:
        tar.seek(row["json"]["offset"])
        data = tar.read(row["json"]["size"])
        tar.seek(row["json"]["offset"])
        tar.write(data.replace(b"a red square", b"a bad square"))
    (problem,) = validate(shards).problems
    assert re.search(r"v2-\w+: differs from its line in the index", problem)


def test_a_build_that_stores_nothing_exits_1_and_lists_why(tmp_path, media, capsys):
    lines = write_lines(tmp_path / "s.jsonl", [question("a", "no.mp4"), "{}"])
    assert run(data_build, lines, "--media", media, "-o", tmp_path / "out", "--no-decode", "--workers", 1) == 1
    out = capsys.readouterr().out
    assert re.search(r"questions dropped \(dropped.jsonl\)\W+2\b", out) and re.search(r"bad line\W+1\b", out)


def test_arguments_that_cannot_be_are_refused(samples, shards, media, tmp_path):
    with pytest.raises(UserError, match="shards carry their media; --media is for a Sample .jsonl"):
        validate(shards, media=media)
    with pytest.raises(UserError, match="--decode needs --media DIR"):
        validate(samples, decode=True)
    with pytest.raises(UserError, match="nothing: no such file or folder"):
        validate(tmp_path / "nothing")
    assert validate(write_lines(tmp_path / "e.jsonl", [])).problems == [f"{tmp_path / 'e.jsonl'}: holds no sample."]
