"""What is found in real odd files, in files that are missing or cut off, and in questions."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.data.media import question, read_rows, write_audio, write_lines, write_video
from timeexpert.data.build import build
from timeexpert.data.preflight.run import preflight, read_clips

from .clips import found, kinds

ODD = {
    "vfr.mp4": ["gap", "variable_rate"],
    "vfr.mkv": ["gap", "variable_rate"],
    "vfr_off.mkv": ["gap", "variable_rate", "late_start"],
    "trunc.webm": ["cut_short"],
    "trunc_faststart.mp4": ["frozen", "cut_short"],
    "bitflip.mp4": ["damaged"],
    "rot90.mp4": ["rotated"],
    "sar2.mp4": ["odd_pixels"],
    "one_frame.mp4": ["still"],
    **dict.fromkeys(["h264_10bit.mp4", "h264_444.mp4", "gray16.mkv", "alpha.webm", "odd_dims.mp4"], []),
}
REFUSED = ["zero.mp4", "text.mp4", "random.mp4", "trunc60.mp4", "audio_only.m4a", "huge_16k.mp4", "anim.gif"] + [
    "png_as.mp4",
    "concat_rel.mp4",
    "hls_file.mp4",
    "concat_http.mp4",
]


def test_every_real_odd_file_is_told_for_what_it_is(shared, tmp_path):
    report = preflight(shared / "videos/odd", tmp_path / "out", workers=1)
    clips = {clip.video: clip for clip in read_clips(tmp_path / "out")}
    assert {video: [f.kind for f in clips[video].findings] for video in ODD} == ODD
    assert {video: clips[video].failed for video in REFUSED} == dict.fromkeys(REFUSED, "unreadable")
    assert set(clips) == {*ODD, *REFUSED} and report.other_files == {".json": 1}
    assert {row["video"] for row in read_rows(tmp_path / "out" / "exclude.jsonl")} == set(REFUSED)
    assert all(clips[video].reason.startswith(f"{video}: ") for video in REFUSED)
    assert clips["trunc.webm"].facts.duration_s == pytest.approx(13.458, abs=1e-3)
    assert clips["trunc.webm"].findings[0].text == "323 frames, 13.5 s of 30.0 s are readable"
    assert clips["vfr_off.mkv"].facts.first_pts_s == 1.7
    truth = json.loads((shared / "videos/odd/vfr_truth.json").read_text())["times_s"]
    assert clips["vfr.mkv"].facts.last_frame_s == pytest.approx(max(truth), abs=2e-3)


def test_a_real_film_is_neither_black_nor_frozen(shared):
    assert found(shared / "videos/chaplin.mp4") == {}


def test_questions_are_held_against_the_last_readable_frame(media, tmp_path):
    rows = [
        question("in", "v0.mp4", 0, 2.5),  # half a second is the samples' tolerance
        question("late", "v0.mp4", 0, 2.6),
        question("after", "v0.mp4", 2.0, 2.1),
        question("said", "v1.mp4", 0, 2.2, duration_s=9.0),
        "{}",
    ]
    report = preflight(write_lines(tmp_path / "s.jsonl", rows), tmp_path / "out", media=media)
    assert (report.clips, report.questions, report.questions_past_end, report.bad_lines) == (2, 4, 2, 1)
    assert kinds(tmp_path / "out") == {"v0.mp4": ["past_end"], "v1.mp4": ["duration_differs"]}
    text = next(read_clips(tmp_path / "out")).findings[0].text
    assert "ends at 2.00 s: late (line 2): 0 to 2.6 s; after (line 3): 2 to 2.1 s" in text
    assert report.excluded == 0
    assert (
        "s.jsonl:5: field 'id' is missing" in json.loads((tmp_path / "out/preflight.json").read_text())["bad_lines"][0]
    )


def test_a_cut_off_file_is_measured_by_what_is_readable(tmp_path):
    clip = write_video(tmp_path / "media" / "cut.webm", num_frames=50)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    rows = [question("early", "cut.webm"), question("late", "cut.webm", 9.0, 9.5)]
    report = preflight(write_lines(tmp_path / "s.jsonl", rows), tmp_path / "out", media=tmp_path / "media")
    assert kinds(tmp_path / "out") == {"cut.webm": ["cut_short", "past_end"]} and report.questions_past_end == 1


def test_missing_and_foreign_files_are_findings_not_errors(media, tmp_path):
    folder = shutil.copytree(media, tmp_path / "media")
    write_audio(folder / "sound.mp4")
    (folder / "out.mp4").symlink_to(media / "v1.mp4")
    rows = [question(n, f"{n}.mp4") for n in ("gone", "out", "sound", "v0")]
    report = preflight(write_lines(tmp_path / "s.jsonl", rows), tmp_path / "out", media=folder, workers=2)
    assert kinds(tmp_path / "out") == {
        "gone.mp4": ["missing"],
        "out.mp4": ["missing"],
        "sound.mp4": ["unreadable"],
        "v0.mp4": [],
    }
    reasons = {row["video"]: row["reason"] for row in read_rows(tmp_path / "out" / "exclude.jsonl")}
    assert "leads outside the media folder (a link)" in reasons["out.mp4"] and report.excluded == 3


def test_shards_are_checked_from_inside(media, tmp_path):
    rows = [question("a", "v0.mp4"), question("b", "black.mp4")]
    build(write_lines(tmp_path / "s.jsonl", rows), media, tmp_path / "shards")
    report = preflight(tmp_path / "shards", tmp_path / "out", exclude=["all_black"])
    assert kinds(tmp_path / "out") == {"v0.mp4": [], "black.mp4": ["all_black"]}
    assert (report.questions, report.questions_excluded) == (2, 1)
    assert preflight(tmp_path / "shards", tmp_path / "out").reused == 2
