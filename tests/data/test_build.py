"""Builds: the same bytes however they are run or cut off, and a reason for everything that is left out."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.media import question, read_rows, write_audio, write_lines, write_video
from timeexpert.data.build import BuildError, build
from timeexpert.data.media import MediaError, resolve_media, video_member_key
from timeexpert.data.shards import ShardDataset, ShardError

ROOT = Path(__file__).resolve().parents[2]
SHARD_MB = 0.06  # two of these videos

# Builds in a process of its own; stops for good after the fourth video, when the first shard is finished.
STOPS_AFTER_FOUR = """
import sys, time
from timeexpert.data.build import build
def progress(done, total, name):
    if done == 4:
        print("four", flush=True)
        time.sleep(600)
if __name__ == "__main__":
    build(sys.argv[1], sys.argv[2], sys.argv[3], shard_mb=float(sys.argv[4]), progress=progress)
"""
LIMITED_FILE_SIZE = """
import resource, sys
from timeexpert.data.build import build
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))
    build(sys.argv[1], sys.argv[2], sys.argv[3], shard_mb=float(sys.argv[4]))
"""


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """v0.mp4 ... v5.mp4, 2.0 to 3.0 seconds of 20 to 30 kB."""
    folder = tmp_path_factory.mktemp("media")
    for i in range(6):
        write_video(folder / f"v{i}.mp4", num_frames=10 + i)
    return folder


@pytest.fixture(scope="module")
def samples(media, tmp_path_factory) -> Path:
    """Two questions about each video, not side by side."""
    rows = [question(f"q{j}-{i}", f"v{i}.mp4") for j in range(2) for i in range(6)]
    return write_lines(tmp_path_factory.mktemp("lines") / "samples.jsonl", rows)


@pytest.fixture(scope="module")
def unbroken(samples, media, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "out"
    build(samples, media, out, shard_mb=SHARD_MB)
    return out


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def start(code: str, *args, **kwargs) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = Path(args[2]).parent / "script.py"
    script.write_text(code)
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    )


def only_drop(tmp_path: Path, media: Path, *rows) -> tuple[str, str]:
    """(kind, reason) of the one question that is dropped when a good question and ``rows`` are built."""
    lines = write_lines(tmp_path / "s.jsonl", [question("good", "v0.mp4"), *rows])
    report = build(lines, media, tmp_path / "out")
    dropped = read_rows(tmp_path / "out" / "dropped.jsonl")
    assert (report.questions, report.dropped, len(dropped)) == (1, 1, 1)
    return dropped[0]["kind"], dropped[0]["reason"]


# --- what is stored --------------------------------------------------------------------------------------------


def test_a_video_with_two_questions_is_stored_once(unbroken, media):
    dataset = ShardDataset(unbroken)
    assert (len(dataset), len(dataset.entries)) == (12, 6)
    assert [dataset.sample(i).id for i in (0, 1, 2)] == ["q0-0", "q1-0", "q0-1"]
    assert dataset.media(1) == ((media / "v0.mp4").read_bytes(), "v0.mp4")


def test_shards_stay_below_the_size_and_the_description_adds_up(unbroken):
    shards = sorted(unbroken.glob("*.tar"))
    description = json.loads((unbroken / "dataset.json").read_text())
    assert len(shards) == 4  # two, two, one, one
    assert [s["size"] for s in description["shards"]] == [p.stat().st_size for p in shards]
    assert all(size <= SHARD_MB * 1e6 + 10_240 for size in (p.stat().st_size for p in shards))  # + tar's padding
    assert description["tasks"] == {"moment_retrieval": 12}
    assert sum(s["questions"] for s in description["shards"]) == description["questions"] == 12


def test_a_duration_is_filled_in_from_the_file_and_a_declared_one_is_kept_with_a_note(tmp_path, media):
    rows = [
        question("none", "v0.mp4"),
        question("near", "v0.mp4", duration_s=2.5),
        question("far", "v0.mp4", duration_s=9),
    ]
    report = build(write_lines(tmp_path / "s.jsonl", rows), media, tmp_path / "out")
    dataset = ShardDataset(tmp_path / "out")
    assert [dataset.sample(i).duration_s for i in range(3)] == [pytest.approx(2.0), 2.5, 9.0]
    assert report.notes == {"duration differs": 1}
    (note,) = read_rows(tmp_path / "out" / "notes.jsonl")
    assert note["id"] == "far" and "says duration_s 9.0, the file lasts 2.00 s" in note["reason"]


def test_other_containers_keep_their_extension(tmp_path):
    write_video(tmp_path / "media" / "a" / "clip.webm")
    build(write_lines(tmp_path / "s.jsonl", [question("q", "a/clip.webm")]), tmp_path / "media", tmp_path / "out")
    assert ShardDataset(tmp_path / "out").entries[0].media.name.endswith(".webm")


def test_a_damaged_video_is_kept_as_far_as_it_decodes_and_noted(tmp_path):
    clip = write_video(tmp_path / "media" / "cut.webm", num_frames=50)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    rows = [question("early", "cut.webm"), question("late", "cut.webm", 9.0, 9.5)]
    report = build(write_lines(tmp_path / "s.jsonl", rows), tmp_path / "media", tmp_path / "out")
    assert (report.questions, report.reasons, report.notes) == (1, {"past the end": 1}, {"damaged video": 1})


def test_keys_have_no_dots_differ_for_each_path_and_name_the_video():
    keys = [video_member_key(v)[0] for v in ("a/x.y.mp4", "a/x_y.mp4", "a_x.y.mp4", "\udc80.mp4", "é" * 300 + ".mp4")]
    assert len(set(keys)) == 5
    assert keys[0].startswith("a_x_y-") and not any("." in k or len(k) > 80 for k in keys)


# --- what is not -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ('{"id": "a", "duration_s": NaN}', "bad line", "NaN is not allowed"),
        ('{"id": "a", "duration_s": 1e999}', "bad line", "1e999 is not allowed"),
        (question("a", "v1.mp4", colour="red"), "bad line", "unknown field 'colour'"),
        (question("a", "v1.mp4", 2.0, 1.0), "bad line", r"start_s \(2.0\) must not be after end_s \(1.0\)"),
        (question("a", "v1.mp4", 0, 3, duration_s=2), "bad line", r"events\[0\].end_s \(3.0\) is past duration_s"),
        (question("a", "../v1.mp4"), "bad line", "relative path without '..'"),
        (question("good", "v1.mp4"), "duplicate id", "id 'good' is taken by another sample in line 1"),
        (question("a", "v1.mp4", 0, 8), "past the end", r"v1.mp4: against the file's own duration: .*\(8.0\)"),
        (question("a", "gone.mp4"), "video", "gone.mp4: no such file in the media folder"),
        (question("a", "v1.mp4/x.mp4"), "video", r"v1.mp4/x.mp4'?: "),
        (question("a", "nul\0.mp4"), "video", "cannot be looked up"),
        (question("a", "\ud800.mp4"), "video", "cannot be|UnicodeEncodeError"),
        (question("a", "readme"), "video", r"readme: its extension \(''\) must be that of a video"),
        (question("a", "x.json"), "video", r"x.json: its extension \('json'\)"),
    ],
)
def test_each_dropped_question_has_its_reason(tmp_path, media, row, kind, reason):
    found_kind, found_reason = only_drop(tmp_path, media, row)
    assert found_kind == kind and re.search(reason, found_reason)


def test_media_that_are_no_videos_are_dropped_with_name_and_reason(tmp_path, media):
    folder = tmp_path / "media"
    shutil.copytree(media, folder)
    (folder / "zero.mp4").touch()
    (folder / "text.mp4").write_text("ffconcat version 1.0\nfile v0.mp4\n")
    write_audio(folder / "sound.mp4")
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    names = ["gone", "zero", "text", "sound", "folder", "pipe"]
    rows = [question("good", "v0.mp4"), *(question(n, f"{n}.mp4") for n in names)]
    report = build(write_lines(tmp_path / "s.jsonl", rows), folder, tmp_path / "out", workers=2)
    reasons = {row["id"]: row["reason"] for row in read_rows(tmp_path / "out" / "dropped.jsonl")}
    assert report.reasons == {"video": 6} and report.questions == 1
    assert all(reason.startswith(f"{name}.mp4") for name, reason in reasons.items())
    assert "0 bytes" in reasons["zero"] and "not a readable video" in reasons["text"]
    assert "no video in it, only audio" in reasons["sound"]
    assert "not a regular file" in reasons["folder"] and "not a regular file" in reasons["pipe"]


def test_a_link_out_of_the_media_folder_is_refused_and_one_inside_it_is_followed(tmp_path, media):
    folder = tmp_path / "media"
    shutil.copytree(media, folder)
    (folder / "out.mp4").symlink_to(media / "v1.mp4")
    (folder / "in.mp4").symlink_to("v1.mp4")
    with pytest.raises(MediaError, match=r"out.mp4: leads outside the media folder \(a link\)"):
        resolve_media(folder, "out.mp4")
    assert resolve_media(folder, "in.mp4") == (folder / "v1.mp4").resolve()


def test_an_identical_repeat_of_a_sample_is_counted_and_not_stored_twice(tmp_path, media):
    lines = write_lines(tmp_path / "s.jsonl", [question("q", "v0.mp4")] * 3)
    report = build(lines, media, tmp_path / "out")
    assert (report.questions, report.duplicates, report.dropped) == (1, 2, 0)


def test_a_build_in_which_nothing_is_usable_says_so(tmp_path, media):
    report = build(write_lines(tmp_path / "s.jsonl", ["{}"]), media, tmp_path / "out")
    assert (report.videos, report.questions, report.dropped) == (0, 0, 1)


# --- the same bytes --------------------------------------------------------------------------------------------


def test_three_workers_write_the_same_bytes_as_one(unbroken, samples, media, tmp_path):
    build(samples, media, tmp_path / "out", shard_mb=SHARD_MB, workers=3)
    assert tree(tmp_path / "out") == tree(unbroken)


def test_a_build_that_was_killed_goes_on_and_ends_in_the_same_bytes(unbroken, samples, media, tmp_path):
    out = tmp_path / "out"
    with start(STOPS_AFTER_FOUR, samples, media, out, SHARD_MB) as process:
        assert process.stdout.readline() == b"four\n"
        process.kill()
    assert (out / "shard-000000.tar").is_file() and not (out / "dataset.json").exists()
    with pytest.raises(
        ShardError, match="the build was not finished. Run the same timeexpert data build command again"
    ):
        ShardDataset(out)
    kept = (out / "shard-000000.tar").stat().st_mtime_ns
    assert build(samples, media, out, shard_mb=SHARD_MB).resumed_shards == 1
    assert (out / "shard-000000.tar").stat().st_mtime_ns == kept
    assert tree(out) == tree(unbroken)


def test_what_was_dropped_and_noted_before_a_kill_is_listed_once(media, tmp_path):
    rows = [question("far", "v0.mp4", duration_s=9), question("late", "v1.mp4", 0, 8)]
    rows += [question(f"far{i}", f"v{i}.mp4", duration_s=9) for i in range(1, 6)]
    samples = write_lines(tmp_path / "s.jsonl", [*rows, "{}"])
    build(samples, media, tmp_path / "whole", shard_mb=0.03)
    with start(STOPS_AFTER_FOUR, samples, media, tmp_path / "out", 0.03) as process:
        assert process.stdout.readline() == b"four\n"
        process.kill()
    assert build(samples, media, tmp_path / "out", shard_mb=0.03).resumed_shards >= 2
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert len(read_rows(tmp_path / "out" / "notes.jsonl")) == 6


def test_a_full_disk_is_a_clear_error_and_finished_shards_are_kept(media, tmp_path):
    folder = tmp_path / "media"
    shutil.copytree(media, folder)
    write_video(folder / "large.mp4", num_frames=60)
    assert (folder / "large.mp4").stat().st_size > 70_000
    videos = ["v0.mp4", "v1.mp4", "large.mp4", "v2.mp4"]
    samples = write_lines(tmp_path / "s.jsonl", [question(v, v) for v in videos])
    with start(LIMITED_FILE_SIZE, samples, folder, tmp_path / "out", SHARD_MB) as process:
        errors = process.communicate()[1].decode()
    assert process.returncode == 1
    assert "cannot write: File too large. 1 finished shards are kept: free space" in errors
    assert "Exception ignored" not in errors
    assert build(samples, folder, tmp_path / "out", shard_mb=SHARD_MB).resumed_shards == 1
    build(samples, folder, tmp_path / "whole", shard_mb=SHARD_MB)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_finished_build_has_nothing_left_to_do(unbroken, samples, media):
    before = tree(unbroken)
    assert build(samples, media, unbroken, shard_mb=SHARD_MB).already_built
    assert tree(unbroken) == before


@pytest.mark.parametrize("harm", [Path.unlink, lambda p: os.truncate(p, 5000)])
def test_a_shard_that_was_deleted_or_truncated_is_made_again(unbroken, samples, media, tmp_path, harm):
    out = shutil.copytree(unbroken, tmp_path / "out")
    harm(out / "shard-000001.tar")
    assert not build(samples, media, out, shard_mb=SHARD_MB).already_built
    assert tree(out) == tree(unbroken)


# --- one build per folder --------------------------------------------------------------------------------------


def test_a_second_build_in_the_same_folder_is_refused_while_the_first_runs(samples, media, tmp_path):
    out = tmp_path / "out"
    with start(STOPS_AFTER_FOUR, samples, media, out, SHARD_MB) as process:
        assert process.stdout.readline() == b"four\n"
        with pytest.raises(BuildError, match="another build is writing here. Wait for it, or give another -o"):
            build(samples, media, out, shard_mb=SHARD_MB)
        process.kill()


def test_a_folder_built_from_other_inputs_is_refused_with_what_changed(unbroken, samples, media, tmp_path):
    other = shutil.copytree(media, tmp_path / "media")
    write_video(other / "v3.mp4", num_frames=40)
    fewer = write_lines(tmp_path / "s.jsonl", samples.read_text().splitlines()[:-1])
    way_out = ".*Give another -o, or delete the folder"
    with pytest.raises(BuildError, match=r"shard_mb \(0.06, now 1.0\), decode \(True, now False\) changed" + way_out):
        build(samples, media, unbroken, shard_mb=1, decode=False)
    with pytest.raises(BuildError, match=r"the media files \(names or sizes\) changed" + way_out):
        build(samples, other, unbroken, shard_mb=SHARD_MB)
    with pytest.raises(BuildError, match="the samples file changed" + way_out):
        build(fewer, media, unbroken, shard_mb=SHARD_MB)


def test_a_folder_that_holds_something_else_is_left_alone(samples, media, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(BuildError, match="holds thesis.tex, which no unfinished build explains. Give an empty -o"):
        build(samples, media, tmp_path)


def test_missing_inputs_are_named(samples, media, tmp_path):
    with pytest.raises(BuildError, match=r"no.jsonl: no such file. Give a Sample .jsonl"):
        build(tmp_path / "no.jsonl", media, tmp_path / "out")
    with pytest.raises(BuildError, match="nowhere: no such folder. --media is the folder"):
        build(samples, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(BuildError, match=r"shard_mb \(0\) must be > 0"):
        build(samples, media, tmp_path / "out", shard_mb=0)
