"""``data build`` and ``data validate``: every problem is listed, and the exit code says whether there is one."""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.data.media import question, read_rows, write_lines, write_video
from timeexpert.commands import data_build, data_validate
from timeexpert.data.build import build
from timeexpert.data.mask_rle import encode_rle
from timeexpert.data.shards import ShardDataset, rebuild_index
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


SQUARE = encode_rle(np.pad(np.ones((10, 10)), ((0, 38), (0, 54))))["counts"]  # in the corner of 48 x 64 pixels


def masked(id: str, video: str, size=(48, 64), counts=SQUARE, times_s=(0.0, 1.0), **fields) -> dict:
    """A question about one object, which is visible at the first of two times."""
    track = {"size": list(size), "times_s": list(times_s), "rles": [counts, None]}
    return question(id, video, task="referring_segmentation", tracks=[track], **fields)


def test_masks_are_checked_alone_beside_their_video_and_in_builds(media, tmp_path, capsys):
    rows = [
        masked("good", "v0.mp4"),
        masked("torn", "v0.mp4", counts="PP"),
        masked("short", "v0.mp4", counts="5"),
        masked("turned", "v0.mp4", size=(64, 48)),
        masked("late", "v0.mp4", times_s=(0.0, 9.0)),
    ]
    path = write_lines(tmp_path / "masks.jsonl", rows)
    assert run(data_validate, path) == 1
    out = capsys.readouterr().out
    assert re.search(r"masks.jsonl:2: tracks\[0\].rles\[0\] \(at 0.0 s\): counts \('PP'\).*break off", out)
    assert re.search(r"masks.jsonl:3: tracks\[0\].rles\[0\] \(at 0.0 s\): .* give 5 pixels", out)
    assert re.search(r"problems\W+2\b", out) and re.search(r"tracks of masks\W+5\b", out)
    problems = {
        4: r"tracks\[0\].size \(\[64, 48\]\) is not that of the video's frames as decoded \(\[48, 64\]\).*--keep-size",
        5: r"tracks\[0\].times_s\[1\] \(9.0\) is past duration_s \(2.0\)",
    }
    assert run(data_validate, path, "--media", media, "--workers", 1) == 1
    out = capsys.readouterr().out
    assert re.search(r"problems\W+4\b", out)
    for line, words in problems.items():
        assert re.search(rf"masks.jsonl:{line}: v0.mp4: .*{words}", out)
    assert run(data_build, path, "--media", media, "-o", tmp_path / "shards", "--workers", 1) == 0
    dropped = {row["id"]: (row["kind"], row["reason"]) for row in read_rows(tmp_path / "shards" / "dropped.jsonl")}
    assert {name: kind for name, (kind, _) in dropped.items()} == {
        "torn": "masks", "short": "masks", "turned": "masks", "late": "past the end",
    }  # fmt: skip
    assert re.search("v0.mp4: " + problems[4], dropped["turned"][1])
    (kept,) = ShardDataset(tmp_path / "shards").video(0).samples
    assert kept.tracks[0].mask(0).sum() == 100 and kept.tracks[0].rles[1] is None
    assert run(data_validate, tmp_path / "shards") == 0


def test_an_answer_names_none_or_each_of_its_tracks(tmp_path):
    texts = ["it is [SEG]", "the one on the left", "[SEG] and [SEG]"]
    rows = [masked(str(i), "v0.mp4", events=[{"text": text}]) for i, text in enumerate(texts)]
    path = write_lines(tmp_path / "s.jsonl", [*rows, question("d", "v0.mp4", prompt="When does [SEG] appear?")])
    (problem,) = validate(path).problems
    assert problem.startswith(f"{path}:3: events: the text has 2 [SEG] for 1 tracks. Give one for each track")


def test_masks_that_do_not_fit_are_found_in_shards_that_were_indexed_anew(media, tmp_path):
    out = tmp_path / "shards"
    build(write_lines(tmp_path / "s.jsonl", [masked("q", "v0.mp4")]), media, out)
    shard = out / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b'"size": [48, 64]', b'"size": [64, 48]'))
    rebuild_index(out)
    (problem,) = validate(out).problems
    assert "q: tracks[0].size ([64, 48]) is not that of the video's frames" in problem
