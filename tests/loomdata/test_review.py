"""What people decided: where a video stands, what a decision replaces, and files that are damaged."""

import asyncio
import json
import subprocess
import sys

import pytest

from timeexpert.cli import main
from timeexpert.loomdata import verify_app
from timeexpert.loomdata.review import Review, ReviewError, decide, read_review, reviews
from timeexpert.loomdata.shots import Shot
from timeexpert.loomdata.store import open_state

SHOTS = [[0.0, 4.0], [4.0, 6.0], [6.0, 9.0]]


def write(folder, tracks="m1", tracklets=(0, 2)):
    folder.mkdir(parents=True, exist_ok=True)
    row = {"video": "a.mp4", "tracks": tracks, "description": "a man", "reference_shot": 2, "shots": SHOTS}
    (folder / "review.json").write_text(json.dumps({**row, "tracklets": list(tracklets)}))


def review(tracklets, one, two):
    shots = [Shot(*span) for span in SHOTS]
    return Review("k", "a.mp4", "m1", "a man", 2, shots, tracklets, {1: one, 2: two})


@pytest.mark.parametrize(
    ("tracklets", "one", "two", "stands"),
    [
        ([0, 2], {}, {}, "waiting"),
        ([0, 2], {1: "reject"}, {}, "rejected"),
        ([0, 2], {1: "accept"}, {}, "waiting"),
        ([0, 2], {1: "accept"}, {0: "accept", 2: "remove"}, "passed"),
        ([0, 2], {1: "accept"}, {0: "reject"}, "rejected"),
        ([0, 2], {}, {0: "accept", 2: "accept"}, "waiting"),  # round 1 comes first
        ([0, 1, 2], {}, {0: "accept", 1: "accept", 2: "accept"}, "passed"),  # round 1 has nothing to ask
    ],
)
def test_a_video_passes_both_rounds_or_is_rejected_in_one(tracklets, one, two, stands):
    assert review(tracklets, one, two).state_after(2) == stands


def test_round_two_asks_only_about_videos_that_passed_round_one():
    assert [item.shot for item in review([0, 2], {}, {}).items(1)] == [1]
    assert review([0, 2], {}, {}).items(2) == []
    assert [item.shot for item in review([0, 2], {1: "accept"}, {}).items(2)] == [0, 2]
    assert review([0, 2], {1: "accept"}, {2: "remove", 0: "accept"}).removed == [2]


def test_decisions_about_masks_that_are_no_more_do_not_count_and_are_kept(tmp_path):
    write(tmp_path / "k")
    decide(tmp_path, "k", "m1", 1, 1, "accept")
    assert read_review(tmp_path / "k").decisions == {1: {1: "accept"}, 2: {}}
    write(tmp_path / "k", tracks="m2", tracklets=[1])
    assert read_review(tmp_path / "k").decisions == {1: {}, 2: {}}
    with pytest.raises(ReviewError, match="the masks of this video are others by now"):
        decide(tmp_path, "k", "m1", 1, 0, "accept")
    decide(tmp_path, "k", "m2", 1, 0, "accept")
    assert json.loads((tmp_path / "k" / "decisions-m1.json").read_text())["rounds"]["1"] == {"1": "accept"}
    assert read_review(tmp_path / "k").decisions[1] == {0: "accept"}
    assert decide(tmp_path, "k", "m2", 1, 0, None).decisions == {1: {}, 2: {}}


def test_a_video_that_left_the_input_is_not_asked_about(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "videos" / name)
        row = json.loads((tmp_path / "videos" / name / "review.json").read_text())
        (tmp_path / "videos" / name / "review.json").write_text(json.dumps({**row, "video": f"{name}.mp4"}))
    assert [review.key for review in reviews(tmp_path / "videos")] == ["a", "b"]
    shown = asyncio.run(verify_app._Routes(tmp_path / "videos", {"b.mp4", "c.mp4"}).videos(None)).body
    assert [row["video"] for row in json.loads(shown)] == ["b.mp4"]
    media = tmp_path / "media"
    media.mkdir()
    (media / "c.mp4").touch()
    assert main(["annotate", str(media), "-o", str(tmp_path), "--verify"]) == 2  # it would serve a page of a and b


def test_one_page_at_a_time_writes_decisions(tmp_path):
    write(tmp_path / "videos" / "a")
    code = (
        "import sys; from pathlib import Path; from timeexpert.data.lock import locked\n"
        "with locked(Path(sys.argv[1]), 'page', OSError): print('held', flush=True); input()"
    )
    other = [sys.executable, "-c", code, str(tmp_path / "videos")]
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ReviewError, match="another verification page is writing here"):
            verify_app.serve(tmp_path, 0)
        process.communicate("\n")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"tracks": "m1", "rounds": []}', '{"tracks": "m1", "rounds": {"1": 3}}']
)
def test_a_damaged_file_of_decisions_is_named_and_not_replaced(tmp_path, text):
    write(tmp_path / "k")
    (tmp_path / "k" / "decisions.json").write_text(text)
    with pytest.raises(ReviewError, match=r"decisions.json.*(Restore the file|decide anew)"):
        list(reviews(tmp_path))
    assert (tmp_path / "k" / "decisions.json").read_text() == text


def test_a_kept_result_counts_for_its_inputs_alone_and_a_damaged_one_is_made_anew(tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.mp4").write_bytes(b"one")
    state = open_state(tmp_path / "media", "a.mp4", tmp_path / "videos")
    state.save("track", "abc", {"x": 1}, seconds=0.5, frames=3)
    again = open_state(tmp_path / "media", "a.mp4", tmp_path / "videos")
    assert again.identity == state.identity and not again.load("track", "other") and again.load("track", "abc")
    assert again.result("track") == {"x": 1} and again.dropped is None
    state.save("track", "abc", {"x": 2, "dropped": {"kind": "k", "reason": "r"}}, seconds=0, frames=0, whole=False)
    assert state.result("track")["x"] == 2 and state.dropped == {"step": "track", "kind": "k", "reason": "r"}
    assert not again.load("track", "abc")  # in part: the next run makes it again
    (again.folder / "track.json").write_text("{")
    assert not again.load("track", "abc")
    (tmp_path / "media" / "a.mp4").write_bytes(b"other")
    assert open_state(tmp_path / "media", "a.mp4", tmp_path / "videos").identity != state.identity
