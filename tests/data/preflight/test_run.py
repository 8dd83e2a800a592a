"""Preflights that are killed, repeated and refused; and the list that builds obey."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.media import question, read_rows, write_lines, write_video
from tests.data.test_features import write as write_features
from timeexpert.data.build import BuildError, build
from timeexpert.data.preflight.check import Place, check_clip
from timeexpert.data.preflight.run import PreflightError, preflight
from timeexpert.data.preflight.stretches import StretchConfig
from timeexpert.data.shards import ShardDataset
from timeexpert.errors import UserError
from timeexpert.reports.preflight_page import write_preflight_page

from .clips import kinds

ROOT = Path(__file__).resolve().parents[3]

# --- what is excluded --------------------------------------------------------------------------------------------


def test_what_leaves_a_clip_out_is_chosen_and_judged_again_without_decoding(media, tmp_path):
    out = tmp_path / "out"
    assert preflight(media, out, exclude=["all_black"]).excluded == 2
    assert [r["video"] for r in read_rows(out / "exclude.jsonl")] == ["bad.mp4", "black.mp4"]
    assert read_rows(out / "exclude.jsonl")[1]["reason"] == "all_black: 1.0 s of 1.0 s are black"
    report = preflight(media, out)
    assert (report.reused, report.excluded) == (4, 1)
    with pytest.raises(UserError, match="--exclude blak: no such kind. Give some of all_black, black"):
        preflight(media, out, exclude=["blak"])


def test_features_are_checked_as_what_they_are(media, tmp_path):
    folder = tmp_path / "features"
    good = write_features(folder / "v0.mp4.features", media / "v0.mp4", {"num_frames": [3]})
    (folder / "torn.mp4.features").write_bytes(good.read_bytes()[:-1])
    data = bytearray(good.read_bytes())
    data[-4:] = b"\x00\x00\xc0\x7f"  # NaN
    (folder / "nan.mp4.features").write_bytes(data)
    samples = write_lines(
        tmp_path / "s.jsonl",
        [
            question("late", "v0.mp4.features", 0, 1e4),
            question("a", "torn.mp4.features"),
            question("b", "nan.mp4.features"),
        ],
    )
    report = preflight(samples, tmp_path / "out", media=folder)
    assert (report.clips, report.features, report.excluded, report.questions_past_end) == (3, 1, 2, 1)
    assert report.kinds == {"unreadable": 2, "past_end": 1}
    clips = {row["video"]: row for row in read_rows(tmp_path / "out" / "clips.jsonl")}
    facts = clips["v0.mp4.features"]["facts"]
    assert re.fullmatch(r"features of \d of \d+ frames \(--num-frames 3\), 4 patches of 3 float32", facts["features"])
    assert "features lies outside of the file" in clips["torn.mp4.features"]["reason"]
    assert "a feature is not a finite number" in clips["nan.mp4.features"]["reason"]
    assert preflight(folder, tmp_path / "whole").other_files == {}
    page = write_preflight_page(tmp_path / "out").read_text()
    assert "1 clips are files of features" in page and "4 patches of 3 float32" in page
    assert preflight(samples, tmp_path / "out", media=folder).reused == 3


def test_features_in_shards_are_checked_against_their_sum(media, tmp_path):
    write_features(tmp_path / "f" / "v0.mp4.features", media / "v0.mp4", {"num_frames": [3]})
    samples = write_lines(tmp_path / "s.jsonl", [question("a", "v0.mp4.features")])
    build(samples, tmp_path / "f", tmp_path / "shards")
    report = preflight(tmp_path / "shards", tmp_path / "out")
    assert (report.features, report.excluded) == (1, 0)
    (shard,) = (tmp_path / "shards").glob("*.tar")
    (entry,) = ShardDataset(tmp_path / "shards").entries
    data = bytearray(shard.read_bytes())
    data[entry.media.offset + entry.media.size - 4] ^= 1  # the last bit of the last value
    shard.write_bytes(data)
    preflight(tmp_path / "shards", tmp_path / "again")
    (row,) = read_rows(tmp_path / "again" / "clips.jsonl")
    assert row["failed"] == "unreadable" and "the bytes of v0_mp4-" in row["reason"]


def test_a_build_obeys_the_list(media, tmp_path):
    samples = write_lines(tmp_path / "s.jsonl", [question(n, f"{n}.mp4") for n in ("v0", "black", "bad")])
    preflight(samples, tmp_path / "out", media=media, exclude=["all_black"])
    report = build(samples, media, tmp_path / "shards", preflight=tmp_path / "out")
    assert (report.questions, report.reasons) == (1, {"preflight": 2})
    rows = {row["id"]: row["reason"] for row in read_rows(tmp_path / "shards" / "dropped.jsonl")}
    assert rows["black"] == "black.mp4: all_black: 1.0 s of 1.0 s are black" and "it is text" in rows["bad"]
    assert build(samples, media, tmp_path / "shards", preflight=tmp_path / "out").already_built
    with pytest.raises(BuildError, match="the list of excluded videos changed"):
        build(samples, media, tmp_path / "shards")


def test_a_build_refuses_a_preflight_that_does_not_cover_its_videos(media, tmp_path):
    folder = shutil.copytree(media, tmp_path / "media")
    few = write_lines(tmp_path / "few.jsonl", [question("a", "v0.mp4")])
    more = write_lines(tmp_path / "more.jsonl", [question("a", "v0.mp4"), question("b", "v1.mp4")])
    with pytest.raises(UserError, match=r"preflight.json: No such file.*Run timeexpert data preflight"):
        build(few, folder, tmp_path / "shards", preflight=tmp_path / "out")
    preflight(few, tmp_path / "out", media=folder)
    with pytest.raises(UserError, match="1 of 2 videos were not checked by it, the first is v1.mp4. Run timeexpert"):
        build(more, folder, tmp_path / "shards", preflight=tmp_path / "out")
    write_video(folder / "v0.mp4", 30)
    with pytest.raises(UserError, match="1 of 1 videos have another size than when checked"):
        build(few, folder, tmp_path / "shards", preflight=tmp_path / "out")


# --- resuming ----------------------------------------------------------------------------------------------------

STOPS_AFTER_TWO = """
import sys, time
from timeexpert.data.preflight.run import preflight
def progress(done, total, name):
    if done == 2:
        print("two", flush=True)
        time.sleep(600)
if __name__ == "__main__":
    preflight(sys.argv[1], sys.argv[2], progress=progress)
"""


def start(code: str, *args: object, folder: Path) -> subprocess.Popen:
    (folder / "script.py").write_text(code)
    return subprocess.Popen(
        [sys.executable, str(folder / "script.py"), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix == ".jsonl"}


def test_a_preflight_that_was_killed_goes_on_and_ends_the_same(media, tmp_path):
    out = tmp_path / "out"
    with start(STOPS_AFTER_TWO, media, out, folder=tmp_path) as process:
        assert process.stdout.readline() == b"two\n"
        with pytest.raises(PreflightError, match="another preflight is writing here. Wait for it"):
            preflight(media, out)
        process.kill()
    assert len(read_rows(out / "clips.jsonl")) == 2
    with open(out / "clips.jsonl", "ab") as lines:
        lines.write(b'{"video": "v0.mp4", "stamp": {"si')  # as a full disk or a crash leaves it
    few = write_lines(tmp_path / "few.jsonl", [question("a", "v0.mp4")])
    with pytest.raises(UserError, match="not a finished preflight: the preflight was not finished"):
        build(few, media, tmp_path / "shards", preflight=out)
    assert preflight(media, out).reused == 2
    preflight(media, tmp_path / "whole", workers=2)
    assert files(out) == files(tmp_path / "whole") and len(files(out)) == 2


@pytest.mark.parametrize(
    ("change", "reused"),
    [
        (lambda p: os.utime(p, (1, 1)), 3),
        (lambda p: p.write_bytes(p.read_bytes() + b"\0"), 3),
        (Path.unlink, 3),
        (lambda p: None, 4),
    ],
)
def test_a_file_that_changed_is_checked_again(media, tmp_path, change: Callable[[Path], object], reused):
    folder = shutil.copytree(media, tmp_path / "media")
    preflight(folder, tmp_path / "out")
    change(folder / "v1.mp4")
    assert preflight(folder, tmp_path / "out").reused == reused


def test_failed_clips_are_checked_again_when_asked(media, tmp_path):
    preflight(media, tmp_path / "out")
    assert preflight(media, tmp_path / "out").reused == 4
    assert preflight(media, tmp_path / "out", retry_failed=True).reused == 3


def test_a_clip_that_takes_too_long_ends_alone_and_is_told_what_to_do(media, tmp_path):
    only = tmp_path / "media"
    only.mkdir()
    shutil.copy(media / "v0.mp4", only)
    preflight(only, tmp_path / "out", timeout_s=0.001)
    (row,) = read_rows(tmp_path / "out" / "exclude.jsonl")
    assert row["reason"] == (
        "timeout: v0.mp4: took longer than 0.001 s. Raise --timeout-s and give --retry-failed, or leave it out"
    )
    assert preflight(only, tmp_path / "out", retry_failed=True).excluded == 0


def crash_on_v1(place: Place, config: StretchConfig) -> object:
    if place.video == "v1.mp4":
        os.kill(os.getpid(), signal.SIGSEGV)
    return check_clip(place, config)


def test_a_decoder_that_crashes_takes_only_its_clip_along(media, tmp_path, monkeypatch):
    monkeypatch.setattr("timeexpert.data.preflight.run.check_clip", crash_on_v1)
    report = preflight(media, tmp_path / "out")
    assert (report.excluded, report.kinds["crash"]) == (2, 1)
    reasons = {row["video"]: row["reason"] for row in read_rows(tmp_path / "out" / "exclude.jsonl")}
    assert reasons["v1.mp4"] == "crash: v1.mp4: crashed the worker (SIGSEGV)"


def test_clips_that_are_no_longer_named_are_kept_for_later_and_left_out_of_everything_else(media, tmp_path):
    out, both, one = tmp_path / "out", ("v0.mp4", "bad.mp4"), ("v0.mp4",)
    samples = [write_lines(tmp_path / f"{len(v)}.jsonl", [question(n, n) for n in v]) for v in (both, one)]
    preflight(samples[0], out, media=media)
    report = preflight(samples[1], out, media=media)
    assert (report.clips, report.excluded, list(kinds(out))) == (1, 0, ["v0.mp4"])
    assert read_rows(out / "exclude.jsonl") == []
    with pytest.raises(UserError, match="1 of 2 videos were not checked by it, the first is bad.mp4"):
        build(samples[0], media, tmp_path / "shards", preflight=out)
    assert preflight(samples[0], out, media=media).reused == 2


def test_clips_that_moved_with_their_times_are_not_decoded_again(media, tmp_path):
    preflight(media, tmp_path / "out")
    assert preflight(shutil.copytree(media, tmp_path / "elsewhere"), tmp_path / "out").reused == 4


def test_a_folder_of_other_measures_or_of_other_things_is_left_alone(media, tmp_path):
    preflight(media, tmp_path / "out")
    with pytest.raises(PreflightError, match=r"other settings: frozen_s \(3.0, now 9\). Give another -o"):
        preflight(media, tmp_path / "out", config=StretchConfig(frozen_s=9))
    other = shutil.copytree(media, tmp_path / "media")
    with pytest.raises(PreflightError, match="holds bad.mp4, but no preflight.json. Give an empty -o"):
        preflight(media, other)


def test_an_output_that_is_a_file_is_refused(media, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(PreflightError, match="out: cannot write: File exists. .*give a folder that can be written"):
        preflight(media, tmp_path / "out")


@pytest.mark.parametrize(
    ("path", "folder", "words"),
    [
        ("no.jsonl", None, "no.jsonl: no such file or folder"),
        ("s.jsonl", None, "a samples file needs --media DIR"),
        ("s.jsonl", "nowhere", "nowhere: no such folder. --media is the folder"),
        (".", ".", "no such samples file. --media goes with a Sample .jsonl"),
        ("empty", None, "empty: holds no video"),
        ("moved.jsonl", "empty", "holds none of the 1 videos of .*moved.jsonl. Check --media"),
        ("s.jsonl", ".", r"holds no sample. The first of 1 bad lines: .*s.jsonl:1: "),
    ],
)
def test_arguments_that_cannot_be_are_refused(tmp_path, path, folder, words):
    write_lines(tmp_path / "s.jsonl", ["{}"])
    write_lines(tmp_path / "moved.jsonl", [question("a", "v0.mp4")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        preflight(tmp_path / path, tmp_path / "out", media=tmp_path / folder if folder is not None else None)
    assert not (tmp_path / "out").exists()
