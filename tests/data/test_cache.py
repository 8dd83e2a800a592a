"""Cached clips show the original's frames at the original's times, and everything downstream takes them."""

import errno
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.data.media import question, read_rows, write_audio, write_lines, write_video
from tests.tiny import command
from timeexpert.cli import main
from timeexpert.data.build import build
from timeexpert.data.cache import SAMPLES, JpegClips, _cache_one, cache_frames
from timeexpert.data.shards import ShardDataset
from timeexpert.data.video import Video
from timeexpert.data.video_index import on_screen
from timeexpert.errors import UserError


def kept(original: Path, fps: float) -> np.ndarray:
    """Times of the frames on screen at 0, 1 / fps, ..."""
    with Video.open(original) as video:
        asked = np.arange(0, video.info.duration_s, 1 / fps)
        return video.frame_times_s[np.unique(on_screen(video.frame_times_s, asked))]


@pytest.mark.parametrize("name", ["bottles.mp4", "bbb_intro.webm", "odd/vfr.mp4", "odd/vfr_off.mkv", "odd/rot90.mp4"])
def test_real_clips_keep_the_times_and_the_look_of_their_frames(name, shared, tmp_path):
    original = shared / "videos" / name
    lines = write_lines(tmp_path / "s.jsonl", [question("q", original.name)])
    report = cache_frames(lines, original.parent, tmp_path / "out", size=64)
    assert (report.clips, report.samples, report.failed) == (1, 1, 0)
    (row,) = read_rows(tmp_path / "out" / SAMPLES)
    with Video.open(tmp_path / "out" / "media" / row["video"]) as video, Video.open(original) as before:
        assert np.abs(video.frame_times_s - kept(original, 2.0)).max() < 1e-6
        assert video.info.duration_s == pytest.approx(before.info.duration_s, abs=1e-6)
        assert (video.info.height, video.info.width) == (64, 64)
        frames, want = (v.frames_at(video.frame_times_s, (64, 64))[0].astype(int) for v in (video, before))
    assert np.abs(frames - want).mean() < 4  # of 255


def test_a_cached_data_set_builds_and_reads_as_the_original(tmp_path):
    for i in range(2):
        write_video(tmp_path / "media" / f"v{i}.mp4", num_frames=20, fps=5)
    rows = [question(f"q{i}", f"v{i}.mp4", 1.0, 3.0) for i in range(2)]
    cache_frames(write_lines(tmp_path / "s.jsonl", rows), tmp_path / "media", tmp_path / "out", fps=1, size=32)
    build(tmp_path / "out" / SAMPLES, tmp_path / "out" / "media", tmp_path / "shards")
    dataset = ShardDataset(tmp_path / "shards")
    assert [dataset.sample(i).id for i in range(2)] == ["q0", "q1"]
    assert dataset.record(0).duration_s == pytest.approx(4.0)
    assert dataset.record(0).info["num_frames"] == 4


def test_the_same_command_goes_on_and_makes_nothing_twice(tmp_path):
    for i in range(3):
        write_video(tmp_path / "media" / f"v{i}.mp4")
    lines = write_lines(tmp_path / "s.jsonl", [question(f"q{i}", f"v{i}.mp4") for i in range(3)])
    cache_frames(lines, tmp_path / "media", tmp_path / "out", size=32)
    done = {path.name: path.read_bytes() for path in (tmp_path / "out" / "media").iterdir()}
    (tmp_path / "out" / "media" / "v1.mp4").write_bytes(done["v1.mp4"][:500])  # as nothing of ours leaves it
    (tmp_path / "out" / "media" / "v2.mp4").unlink()
    report = cache_frames(lines, tmp_path / "media", tmp_path / "out", size=32)
    assert (report.clips, report.reused) == (3, 1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "media").iterdir()} == done
    with pytest.raises(UserError, match=r"out: was begun with other settings \(size 32, now 64\)\. .*give another -o"):
        cache_frames(lines, tmp_path / "media", tmp_path / "out", size=64)


def test_clips_that_cannot_be_read_are_listed_and_their_samples_left_out(tmp_path, capsys):
    media = tmp_path / "media"
    write_video(media / "good.webm")
    write_audio(media / "sound.mp4")
    (media / "empty.mp4").touch()
    names = ("good.webm", "sound.mp4", "empty.mp4", "gone.mp4")
    lines = write_lines(tmp_path / "s.jsonl", [question(name, name) for name in names])
    words = ["data", "cache", str(lines), "--media", str(media), "-o", str(tmp_path / "out"), "--size", "32"]
    assert main([*words, "--workers", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["clips"], report["samples"], report["failed"]) == (1, 1, 3)
    assert [row["video"] for row in read_rows(tmp_path / "out" / "samples.jsonl")] == ["good.webm.mp4"]
    reasons = {row["video"]: row["reason"] for row in read_rows(tmp_path / "out" / "failed.jsonl")}
    assert "only audio" in reasons["sound.mp4"] and "empty" in reasons["empty.mp4"] and "no such" in reasons["gone.mp4"]
    assert main([*words, "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "1 clips (1 were there)" in said and "timeexpert data build" in said


def test_two_names_that_would_become_one_are_refused(tmp_path):
    lines = write_lines(tmp_path / "s.jsonl", [question("a", "a.webm"), question("b", "a.webm.mp4")])
    with pytest.raises(UserError, match=r"a\.webm\.mp4 and a\.webm would both become a\.webm\.mp4"):
        cache_frames(lines, tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"fps": 0}, r"--fps \(0\)"), ({"size": 8}, r"--size \(8\)"), ({"quality": 1}, r"--quality \(1\)")],
)
def test_settings_that_cannot_be_are_refused(settings, words, tmp_path):
    with pytest.raises(UserError, match=words):
        cache_frames(write_lines(tmp_path / "s.jsonl", []), tmp_path, tmp_path / "out", **settings)


WAIT = """
import timeexpert.data.cache as cache
read = cache._videos
cache._videos = lambda *words: (print("begun", flush=True), input(), read(*words))[2]
"""


def test_two_commands_in_one_output_folder_are_one_too_many(tmp_path):
    write_video(tmp_path / "v.mp4")
    lines = write_lines(tmp_path / "s.jsonl", [question("q", "v.mp4")])
    words = ["data", "cache", lines, "--media", tmp_path, "-o", tmp_path / "out", "--size", 32, "--workers", 1]
    first = command(*words, code=WAIT, stdin=subprocess.PIPE)
    assert first.stdout.readline() == "begun\n"
    second = command(*words)
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 2
    assert "out: another data cache is writing here. Wait for it, or give another -o." in said
    said, _ = first.communicate("go on\n", timeout=60)
    assert first.returncode == 0 and "1 clips (0 were there)" in said
    third = command(*words)
    assert "1 clips (1 were there)" in third.communicate(timeout=60)[0]


def test_a_full_disk_ends_the_command_and_not_each_clip(tmp_path, monkeypatch):
    write_video(tmp_path / "v.mp4")

    def write(*words):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(JpegClips, "write", write)
    made = _cache_one(JpegClips(2.0, 32, 2), tmp_path, "v.mp4", tmp_path / "out.mp4")
    assert made == {"disk": "No space left on device"}
    monkeypatch.setattr("timeexpert.data.cache.WorkerPool.map", lambda pool, tasks: iter([made for _ in tasks]))
    with pytest.raises(UserError, match=r"cannot write: No space left on device\. 0 clips are kept: free space"):
        cache_frames(write_lines(tmp_path / "s.jsonl", [question("q", "v.mp4")]), tmp_path, tmp_path / "out")
