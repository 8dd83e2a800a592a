"""``timeexpert data inspect`` on real files: what it lists, and when its exit code is 1."""

import argparse
import json
import re

import pytest
from PIL import Image

from timeexpert.commands import data_inspect
from timeexpert.data.scenes import SynthConfig
from timeexpert.data.synthetic import synthesise
from timeexpert.errors import UserError
from timeexpert.reports.mask_sheet import CAPTION, HEIGHT

from ..data.test_features import write as write_features
from ..data.test_video import TENTHS, write_video


def inspect(*argv: object) -> int:
    parser = argparse.ArgumentParser()
    data_inspect.add_arguments(parser)
    return data_inspect.run(parser.parse_args([str(arg) for arg in argv]))


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Two good clips of 6.0 s and 0.3 s, one that is text, and a file that is no video."""
    folder = tmp_path_factory.mktemp("media")
    (folder / "in").mkdir()
    write_video(folder / "long.mp4")
    write_video(folder / "in" / "short.mkv", TENTHS[:3])
    (folder / "bad.mp4").write_text("no video here")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def test_a_folder_is_searched_and_an_unreadable_video_gives_exit_code_1(media, capsys):
    assert inspect(media, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    by_name = {row["path"].rsplit("/", 1)[-1]: row for row in report["files"]}
    assert sorted(by_name) == ["bad.mp4", "long.mp4", "short.mkv"]
    assert (report["unreadable"], report["other_files_skipped"]) == (1, 1)
    assert "bad.mp4: not a readable video: it is text" in by_name["bad.mp4"]["error"]
    long = by_name["long.mp4"]
    assert (long["duration_s"], long["num_frames"], long["fps"], long["codec"]) == (6.0, 60, 10.0, "h264")
    assert (long["error"], long["damage"], long["decoded"]) == (None, None, False)


def test_good_files_give_exit_code_0_and_a_table(media, capsys):
    assert inspect(media / "long.mp4", media / "in", "--decode", "--workers", 2) == 0
    out = capsys.readouterr().out
    assert "6.00" in out and "64x48" in out and "2 videos, 0 unreadable, 0 bad lines" in out


def test_features_are_listed_as_what_they_are(media, tmp_path, capsys):
    good = write_features(tmp_path / "f" / "long.mp4.features", media / "long.mp4", {"num_frames": [4]})
    torn = tmp_path / "f" / "torn.mp4.features"
    torn.write_bytes(good.read_bytes()[:-1])
    assert inspect(tmp_path / "f", "--decode", "--json") == 1
    row, bad = json.loads(capsys.readouterr().out)["files"]
    assert row["features"] == "features of 4 of 60 frames (--num-frames 4), 4 patches of 3 float32"
    assert (row["error"], row["duration_s"], row["num_frames"], row["decoded"]) == (None, 6.0, 60, True)
    assert "torn.mp4.features: not a whole features file: features lies outside of the file" in bad["error"]
    assert inspect(good) == 0
    out = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert "6.00" in out and "0 videos, 1 files of features, 0 unreadable" in out


def test_a_missing_file_is_listed_with_the_others(media, capsys):
    assert inspect(media / "absent.mp4", media / "long.mp4", "--json") == 1
    absent, long = json.loads(capsys.readouterr().out)["files"]
    assert "absent.mp4: no such file" in absent["error"] and long["error"] is None


def test_a_file_that_takes_too_long_is_given_up(media, capsys):
    assert inspect(media / "long.mp4", "--timeout-s", 0.001, "--json") == 1
    (row,) = json.loads(capsys.readouterr().out)["files"]
    assert "long.mp4: took longer than 0.001 s" in row["error"] and "--timeout-s" in row["error"]


def annotations(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_annotations_past_the_last_frame_are_listed(media, tmp_path, capsys):
    file = annotations(
        tmp_path / "annotations.jsonl",
        {"video": "long.mp4", "events": [{"start": 1.0, "end": 6.4, "caption": "rounded up"}]},
        {"video": "in/short.mkv", "events": [{"start": 0.1, "end": 2.0, "caption": "too long"}]},
    )
    assert inspect("--samples", file, "--media", media, "--json") == 0
    long, short = json.loads(capsys.readouterr().out)["files"]
    assert long["events_past_end"] == []
    assert short["events_past_end"] == [{"line": 2, "start_s": 0.1, "end_s": 2.0, "text": "too long"}]
    assert inspect("--samples", file, "--media", media) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "line 2: 0.1 to 2 s (too long) is past the last readable frame (0.30 s)" in out


def test_samples_are_checked_like_annotations_and_name_missing_videos(media, tmp_path, capsys):
    sample = {"id": "q1", "task": "moment_retrieval", "prompt": "When?", "events": [{"start_s": 7.0, "end_s": 7.0}]}
    file = annotations(tmp_path / "s.jsonl", {**sample, "video": "long.mp4"}, {**sample, "video": "gone.mp4"})
    assert inspect(media / "long.mp4", "--samples", file, "--media", media, "--json") == 1
    long, gone = json.loads(capsys.readouterr().out)["files"]  # long.mp4, given twice, is inspected once
    assert [event["start_s"] for event in long["events_past_end"]] == [7.0]
    assert "gone.mp4: no such file" in gone["error"]


@pytest.mark.parametrize(
    "row, rule",
    [
        ({"video": "../etc/passwd", "events": [{"start": 0, "end": 1}]}, "must be a relative path without '..'"),
        ({"video": "/etc/passwd", "events": [{"start": 0, "end": 1}]}, "must be a relative path"),
        ({"video": "long.mp4", "events": [{"start": 0}]}, r"events\[0\] needs start and end"),
        ({"video": "long.mp4", "events": "none"}, "events must be a list"),
        ({"video": "long.mp4", "events": [{"start": 2, "end": 1}]}, "must not be after end_s"),
    ],
)
def test_a_bad_annotation_line_is_reported_with_its_number(media, tmp_path, capsys, row, rule):
    assert inspect("--samples", annotations(tmp_path / "a.jsonl", row), "--media", media, "--json") == 1
    (line,) = json.loads(capsys.readouterr().out)["bad_lines"]
    assert re.match(f"{tmp_path}/a.jsonl:1: .*{rule}", line)


def test_what_cannot_be_inspected_is_refused_at_once(media, tmp_path):
    with pytest.raises(UserError, match="nothing to inspect: give video files or folders"):
        inspect()
    with pytest.raises(UserError, match="--samples needs --media"):
        inspect("--samples", tmp_path / "s.jsonl")
    with pytest.raises(UserError, match="--samples .*s.jsonl: no such file"):
        inspect("--samples", tmp_path / "s.jsonl", "--media", media)
    with pytest.raises(UserError, match=r"timeout_s \(0.0\) must be > 0"):
        inspect(media, "--timeout-s", 0)


def test_masks_are_counted_once_per_object_and_drawn(tmp_path, capsys):
    lengths = {"min_duration_s": 6, "max_duration_s": 6, "min_event_s": 1, "max_event_s": 2}
    list(synthesise(SynthConfig(masks=True, videos=1, **lengths), tmp_path))
    samples = tmp_path / "samples.jsonl"
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    objects = {row["tracks"][0]["object_id"] for row in rows if "tracks" in row}
    given = ("--samples", samples, "--media", tmp_path / "media", "--draw", tmp_path / "drawn", "--json")
    assert inspect(*given) == 0
    (row,) = json.loads(capsys.readouterr().out)["files"]
    assert row["tracks"] == len(objects) >= 2
    with Image.open(row["drawn"]) as picture:
        assert picture.height == HEIGHT + CAPTION and picture.width > 6 * HEIGHT / 2
    for row in rows:
        for track in row.get("tracks", []):
            track["size"] = [1, 1]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert inspect(*given) == 1
    assert "tracks[0].size ([1, 1]) is not that of the frames" in json.loads(capsys.readouterr().out)["bad_lines"][0]
    with pytest.raises(UserError, match="--draw needs --samples FILE"):
        inspect(tmp_path, "--draw", tmp_path)
