"""The bench reads what training reads and adds up what it says; no speed is asserted."""

import json

import pytest

from tests.data.media import question, write_lines, write_video
from timeexpert.cli import main
from timeexpert.data.bench import PIECES, DataSpeed, measure
from timeexpert.data.build import build
from timeexpert.errors import UserError


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    for i in range(3):
        write_video(folder / f"v{i}.mp4", num_frames=10)
    rows = [question(f"q{i}", f"v{i}.mp4") for i in range(3)]
    build(write_lines(folder / "s.jsonl", rows), folder, folder / "out")
    return folder / "out"


@pytest.mark.parametrize("workers", [0, 2])
def test_videos_and_frames_of_the_measured_batches_are_counted(shards, workers):
    *_, speed = measure(shards, num_frames=4, size=16, batch_videos=2, batches=3, workers=workers)
    assert (speed.batches, speed.videos, speed.frames, speed.unreadable) == (3, 6, 24, 0)
    assert list(speed.seconds_per_video) == list(PIECES) and min(speed.seconds_per_video.values()) > 0
    assert speed.wait_share is None and speed.workers_needed is None


def test_whether_a_gpu_would_wait_follows_from_the_figures():
    speed = DataSpeed(40, 0, 640, 10, 2, 20.0, {"read": 0.1, "decode": 0.8, "collate": 0.1}, 1.0)
    assert (speed.videos_per_s, speed.frames_per_s, speed.batch_s) == (2, 32, 2)
    assert speed.wait_share == 0.5
    assert speed.workers_needed == 4  # 4 videos a step at 1 s of work each
    assert DataSpeed(40, 0, 640, 10, 2, 20.0, {"read": 1.0}, 3.0).wait_share == 0


def test_the_command_says_so(shards, capsys):
    words = ["data", "bench", str(shards), "--frames", "2", "--size", "16", "--batches", "2", "--workers", "0"]
    assert main([*words, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["videos"] == 16 and row["videos_per_s"] == pytest.approx(16 / row["seconds"])
    assert main([*words, "--step-s", "1e-9"]) == 0
    said = capsys.readouterr().out
    assert "would wait for data 100% of the time" in said and "decode" in said
    assert main([*words, "--step-s", "1e9"]) == 0
    assert "would not wait" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"batches": 0}, r"--batches \(0\) must be 1"), ({"step_s": 0.0}, r"--step-s \(0.0\) must be more than 0")],
)
def test_settings_that_cannot_be_are_refused(shards, settings, words):
    with pytest.raises(UserError, match=words):
        next(measure(shards, **settings))


def test_a_folder_that_is_no_shard_folder_is_refused(tmp_path, capsys):
    assert main(["data", "bench", str(tmp_path)]) == 2
    assert "no dataset.json, so not a shard folder" in capsys.readouterr().err
