"""Preflight: what is found in real files made here and in real odd ones, resuming, and the list that builds obey."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.media import question, read_rows, write_audio, write_lines, write_video
from timeexpert.data.build import BuildError, build
from timeexpert.data.preflight.check import Place, check_clip
from timeexpert.data.preflight.findings import CheckedClip, judge
from timeexpert.data.preflight.run import PreflightError, preflight, read_clips
from timeexpert.data.preflight.stretches import StretchConfig, StretchFinder
from timeexpert.data.preflight.stretches import gaps as find_gaps
from timeexpert.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 96, 128


def write_frames(path: Path, frames: Iterable[np.ndarray], fps: int = 10, times_s=None, **options: str) -> Path:
    """An H.264 file of RGB frames (96x128), ``fps`` a second or at ``times_s``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt, stream.options = HEIGHT, WIDTH, "yuv420p", options
        if times_s is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            if times_s is not None:
                frame.pts, frame.time_base = round(times_s[i] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def moving(num_frames: int, pixels_per_frame: float = 2, ground: int = 90) -> list[np.ndarray]:
    """A bright square of 24 pixels that runs to the right over a flat ground."""
    frames = []
    for i in range(num_frames):
        frame = np.full((HEIGHT, WIDTH, 3), ground, np.uint8)
        x = int(i * pixels_per_frame) % (WIDTH - 24)
        frame[30:54, x : x + 24] = (220, 60, 40)
        frames.append(frame)
    return frames


def still(num_frames: int, seed: int = 0) -> list[np.ndarray]:
    """The same picture of coarse noise again and again."""
    small = np.random.default_rng(seed).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    return [small.repeat(8, 0).repeat(8, 1)] * num_frames


def black(num_frames: int) -> list[np.ndarray]:
    return [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * num_frames


def judged(path: Path, config: StretchConfig | None = None) -> CheckedClip:
    """A file checked in this process, with its findings."""
    facts = check_clip(Place(path.parent, path.name), config or StretchConfig())
    clip = CheckedClip(path.name, None, facts=facts)
    judge(clip, (), ())
    return clip


def found(path: Path, config: StretchConfig | None = None) -> dict[str, str]:
    """Findings of a file: sentence by kind."""
    return {finding.kind: finding.text for finding in judged(path, config).findings}


# --- black and frozen --------------------------------------------------------------------------------------------


def test_a_black_stretch_is_given_in_the_clips_own_seconds(tmp_path):
    frames = [*moving(20), *black(15), *moving(20)]
    clip = judged(write_frames(tmp_path / "v.mp4", frames))
    assert clip.facts.black == ((2.0, 3.5, False),)
    assert [(f.kind, f.text) for f in clip.findings] == [("black", "2.0 to 3.5 s of 5.5 s")]


def test_a_short_black_moment_is_none_unless_asked_for(tmp_path):
    path = write_frames(tmp_path / "v.mp4", [*moving(20), *black(5), *moving(20)])
    assert found(path) == {}
    assert found(path, StretchConfig(black_s=0.5)) == {"black": "2.0 to 2.5 s of 4.5 s"}


@pytest.mark.parametrize("num_frames", [1, 3, 40])
def test_a_clip_that_is_all_black_is_all_black_however_short(tmp_path, num_frames):
    assert list(found(write_frames(tmp_path / "v.mp4", black(num_frames)))) == ["all_black"]


def test_a_small_bright_thing_on_black_is_not_black(tmp_path):
    frames = [frame.copy() for frame in black(30)]
    for frame in frames:
        frame[40:46, 60:66] = 255
    assert "all_black" not in found(write_frames(tmp_path / "v.mp4", frames))


def test_full_range_black_and_dark_grey_are_told_apart(tmp_path):
    grey = [np.full((HEIGHT, WIDTH, 3), 40, np.uint8)] * 20
    assert "all_black" not in found(write_frames(tmp_path / "v.mp4", grey))
    assert "all_black" in found(tmp_path / "v.mp4", StretchConfig(black_level=45))


def test_a_picture_that_stops_is_frozen_from_the_first_of_the_equal_frames(tmp_path):
    run = moving(30)
    clip = judged(write_frames(tmp_path / "v.mp4", [*run, *[run[-1]] * 40, *moving(20)]))
    assert clip.facts.frozen == ((2.9, 7.0, True),)
    assert [(f.kind, f.text) for f in clip.findings] == [("frozen", "2.9 to 7.0 s of 9.0 s")]
    assert found(tmp_path / "v.mp4", StretchConfig(frozen_s=5)) == {}


def test_a_frozen_picture_is_found_through_coarse_coding(tmp_path):
    options = {"crf": "32", "g": "12"}  # each key frame codes the picture anew, a little differently
    rgb = np.linspace(30, 220, WIDTH, dtype=np.uint8)[None, :, None].repeat(HEIGHT, 0).repeat(3, 2)
    path = write_frames(tmp_path / "v.mp4", [*moving(20), *[rgb] * 50, *moving(20)], **options)
    (stretch,) = judged(path).facts.frozen
    assert stretch[:2] == pytest.approx((2.0, 7.0), abs=0.25)


def test_slow_motion_is_not_frozen(tmp_path):
    """A pixel a second, far below what a frame-to-frame comparison would see."""
    assert found(write_frames(tmp_path / "v.mp4", moving(80, pixels_per_frame=0.1))) == {}


def test_a_slow_fade_is_not_frozen(tmp_path):
    frames = [np.full((HEIGHT, WIDTH, 3), 40 + 2 * i, np.uint8) for i in range(80)]
    assert found(write_frames(tmp_path / "v.mp4", frames)) == {}


def test_one_picture_throughout_is_a_still_and_pictures_in_turn_are_a_slideshow(tmp_path):
    assert found(write_frames(tmp_path / "still.mp4", still(50))) == {"still": "one picture for 5.0 s of 5.0 s"}
    assert found(write_frames(tmp_path / "one.mp4", still(1))) == {"still": "a single frame"}
    slides = [frame for seed in range(4) for frame in still(40, seed)]
    assert found(write_frames(tmp_path / "slides.mp4", slides)) == {
        "slideshow": "4 pictures stand still, for 16.0 s together"
    }


def test_a_slide_show_of_one_frame_a_slide_has_neither_frozen_stretches_nor_gaps(tmp_path):
    slides = [still(1, seed)[0] for seed in range(6)]
    times_s = [0, 5, 10, 15, 20, 25]
    assert found(write_frames(tmp_path / "v.mp4", slides, times_s=times_s)) == {}


def test_a_frame_that_stays_on_screen_is_a_gap_and_not_frozen(tmp_path):
    times_s = [*np.arange(0, 2, 0.1), *np.arange(6, 8, 0.1)]
    run = moving(40)
    run[20] = run[19]  # the picture after the gap equals the one before it
    clip = judged(write_frames(tmp_path / "v.mp4", run, times_s=times_s))
    assert [tuple(np.round(gap[:2], 3)) for gap in clip.facts.gaps] == [(1.9, 6.0)]
    assert [f.kind for f in clip.findings] == ["gap", "variable_rate"]


def test_stretches_of_an_uneven_clip_are_measured_by_its_time_stamps():
    finder, (dark, light) = StretchFinder(StretchConfig(black_s=1)), np.array([0, 200], np.uint8)
    for time_s, value in ((0.0, light), (0.3, dark), (2.0, dark), (2.1, light), (1.0, dark), (2.2, dark)):
        finder.add(np.full((2, 2), value), time_s)  # the fifth is out of order
    finder.finish(4.0)
    assert finder.black == [(0.3, 2.1, False), (2.2, 4.0, False)]


def test_gaps_are_long_in_seconds_and_for_the_clip():
    config = StretchConfig(gap_s=2)
    assert find_gaps(np.array([0, 1, 2, 3, 9.0]), 10.0, config) == [(3.0, 9.0, False)]
    assert find_gaps(np.array([0, 0.1, 0.2, 1.8]), 1.9, config) == []  # 1.6 s
    assert find_gaps(np.array([0, 1, 2, 6.0]), 7.0, config) == []  # 4 times the median


@pytest.mark.parametrize(
    ("options", "words"),
    [({"frozen_s": 0}, r"frozen_s \(0\)"), ({"black_s": np.nan}, r"black_s \(nan\)"), ({"black_level": 256}, "256")],
)
def test_a_measure_that_cannot_be_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        StretchConfig(**options)


# --- other findings ----------------------------------------------------------------------------------------------

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


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """v0.mp4 and v1.mp4 of 2.0 and 2.2 s, black.mp4 of 1 s, bad.mp4 that is text."""
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "v0.mp4", 10)
    write_video(folder / "v1.mp4", 11)
    write_frames(folder / "black.mp4", black(10))
    (folder / "bad.mp4").write_text("no video here")
    return folder


def kinds(out: Path) -> dict[str, list[str]]:
    return {clip.video: [finding.kind for finding in clip.findings] for clip in read_clips(out)}


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
