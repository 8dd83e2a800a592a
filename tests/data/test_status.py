"""data status: what is there of each data set of a mix, from an empty root to shards that are ready for training."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest

from tests.data.media import write_lines, write_video
from timeexpert.cli import main
from timeexpert.data import media_listing, status
from timeexpert.data.media_listing import DistinctHashes, is_in, list_media, path_hashes
from timeexpert.data.mixes import load_mix
from timeexpert.data.status import StatusError, mix_status

MIX = """
name: small
mix: {clips: 3, talk: 1, unused: 0}
datasets:
  - {name: clips, tasks: [dense_captioning], licence: mine, page: "https://example.org/clips", get: the clips,
     format: timed_clips, annotations: [clips/a.jsonl, "clips/more/*.jsonl"], videos: clips, clip_to_duration: true}
  - {name: talk, tasks: [general], licence: theirs, page: "https://example.org/talk", get: the talk,
     format: videochatgpt, annotations: [talk.json], videos: clips, video_template: "sub/{id}.mp4"}
  - {name: unused, tasks: [general], licence: none, page: "https://example.org", get: it, format: llava,
     annotations: [unused.json], videos: unused}
"""


def clip(video: str, end: float = 1.0) -> dict:
    return {"video": video, "events": [{"start": 0.0, "end": end, "caption": "noise"}]}


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(MIX)
    return tmp_path / "small.yaml"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Annotations of both data sets, in three files; two of three videos of clips, one of talk's."""
    root = tmp_path / "data root"
    for folder in ("annotations/clips/more", "videos/clips/sub"):
        (root / folder).mkdir(parents=True)
    write_lines(root / "annotations/clips/a.jsonl", [clip("one.mp4"), clip("two.mp4")])
    write_lines(root / "annotations/clips/more/b.jsonl", [clip("./one.mp4"), clip("three.mp4")])
    talk = [{"q": "What?", "a": "Noise.", "video_id": name} for name in ("v", "v", "w")]
    (root / "annotations/talk.json").write_text(json.dumps(talk))
    for name in ("one.mp4", "two.mp4", "sub/v.mp4", "unused.mp4"):
        write_video(root / "videos/clips" / name)
    return root


def look(mix: Path, root: Path, **options) -> dict[str, status.DatasetStatus]:
    return {found.name: found for found in mix_status(load_mix(mix), root, **options)}


def do(step: str) -> int:
    """Run the command of a step, as a user would paste it."""
    words = shlex.split(step.rpartition("&& ")[2])
    if step.startswith("mkdir -p"):
        Path(shlex.split(step)[2]).mkdir(parents=True)
    assert words[0] == "timeexpert"
    return main(words[1:])


def test_an_empty_root_misses_everything_and_says_where_to_get_it(mix, tmp_path):
    (tmp_path / "empty").mkdir()
    found = look(mix, tmp_path / "empty")
    assert list(found) == ["clips", "talk"]  # weight 0 is not asked for
    for one in found.values():
        assert (one.state, one.ready, one.counted, one.rows, one.shards) == ("missing", False, "", 0, "none")
    assert found["clips"].next == [
        f"get the clips; annotations go to {tmp_path}/empty/annotations/clips/a.jsonl, "
        f"{tmp_path}/empty/annotations/clips/more/*.jsonl, videos to {tmp_path}/empty/videos/clips"
    ]


def test_rows_and_different_videos_are_counted_before_anything_is_converted(mix, root):
    found = look(mix, root)
    clips, talk = found["clips"], found["talk"]
    assert (clips.state, clips.counted, clips.rows, clips.present, clips.videos) == (
        "incomplete",
        "annotations",
        4,
        2,
        3,
    )
    assert (talk.state, talk.rows, talk.present, talk.videos) == ("incomplete", 3, 1, 2)
    assert clips.missing_examples == ["three.mp4"] and talk.missing_examples == ["sub/w.mp4"]
    assert [round(one.share, 2) for one in found.values()] == [0.75, 0.25]


def test_the_commands_it_names_lead_to_shards_that_are_ready(mix, root, capsys):
    write_video(root / "videos/clips/three.mp4")
    arguments = ["data", "status", str(mix), "--root", str(root), "--dataset", "clips"]
    clips = look(mix, root)["clips"]
    assert (clips.state, clips.ready) == ("found", False)
    convert, build = clips.next
    assert do(convert) == 0
    clips = look(mix, root)["clips"]
    assert (clips.counted, clips.rows, clips.videos, clips.next) == ("samples", 4, 3, [build])
    assert main(arguments) == 1  # not ready yet
    assert do(build) == 0
    clips = look(mix, root)["clips"]
    assert (clips.state, clips.ready, clips.next) == ("found", True, [])
    assert (clips.shards, clips.shard_videos, clips.shard_questions) == ("built", 3, 4)
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mix"] == "small" and [d["name"] for d in told["datasets"]] == ["clips"]


def test_samples_that_changed_after_the_build_are_seen(mix, root):
    clips = look(mix, root)["clips"]
    do(clips.next[0])
    do(clips.next[-1])  # without three.mp4
    clips = look(mix, root)["clips"]
    assert (clips.ready, clips.shard_videos, clips.present, clips.videos) == (True, 2, 2, 3)
    assert clips.notes == ["1 named videos are not in the shards: dropped.jsonl there says why."]
    with open(root / "samples/clips.jsonl", "a") as out:
        out.write("\n")
    clips = look(mix, root)["clips"]
    assert (clips.ready, clips.shards, clips.state) == (False, "other samples", "incomplete")
    assert clips.next[-2].startswith(f"delete {root}/shards/clips")


def test_shards_are_enough_when_the_videos_are_gone_but_damaged_ones_are_not(mix, root):
    clips = look(mix, root)["clips"]
    do(clips.next[0])
    do(clips.next[-1])
    for video in (root / "videos/clips").glob("*.mp4"):
        video.unlink()
    clips = look(mix, root)["clips"]
    assert (clips.state, clips.ready, clips.present) == ("found", True, 0)
    with open(root / "shards/clips/shard-000000.tar", "ab") as shard:
        shard.write(b"x")
    clips = look(mix, root)["clips"]
    assert (clips.ready, clips.shards) == (False, "damaged")
    assert any("truncated or replaced" in note for note in clips.notes)


def test_an_unfinished_build_is_told_from_none(mix, root):
    (root / "shards/clips/.build").mkdir(parents=True)
    assert look(mix, root)["clips"].shards == "unfinished"


def test_missing_videos_are_listed_once_each(mix, root, tmp_path):
    look(mix, root, missing_lists=tmp_path / "lists")
    assert (tmp_path / "lists/clips.txt").read_text() == "three.mp4\n"
    assert (tmp_path / "lists/talk.txt").read_text() == "sub/w.mp4\n"


def test_a_video_under_another_ending_is_not_found_but_said(mix, root):
    os.rename(root / "videos/clips/two.mp4", root / "videos/clips/two.mkv")
    clips = look(mix, root)["clips"]
    assert (clips.present, clips.other_ending) == (1, 1)


def test_links_that_lead_outside_are_not_found_and_links_inside_are(mix, root, tmp_path):
    video = write_video(tmp_path / "elsewhere.mp4")
    (root / "videos/clips/three.mp4").symlink_to(video)
    clips = look(mix, root)["clips"]
    assert clips.present == 2 and any("1 links lead out" in note for note in clips.notes)
    (root / "videos/clips/three.mp4").unlink()
    (root / "videos/clips/three.mp4").symlink_to("one.mp4")
    clips = look(mix, root)["clips"]
    assert (clips.present, clips.notes) == (3, [])


def test_a_media_folder_may_itself_be_a_link(mix, root, tmp_path):
    os.rename(root / "videos/clips", tmp_path / "other disk")
    (root / "videos/clips").symlink_to(tmp_path / "other disk")
    assert look(mix, root)["clips"].present == 2


def test_damaged_annotations_and_lines_are_said_and_the_rest_is_counted(mix, root):
    (root / "annotations/talk.json").write_text('[{"q": "What?", "a": "Noise.", "video_id": "v"}, {"q": ')
    talk = look(mix, root)["talk"]
    assert (talk.state, talk.rows, talk.present) == ("incomplete", 1, 1)
    assert any("talk.json:1: not JSON" in note for note in talk.notes)
    (root / "samples").mkdir()
    good = json.dumps({"video": "sub/v.mp4"})
    (root / "samples/talk.jsonl").write_text(f'{good}\nnot json\n[1]\n{{"video": 3}}\n\n{good}\n')
    talk = look(mix, root)["talk"]
    assert (talk.counted, talk.rows, talk.unreadable, talk.videos) == ("samples", 5, 3, 1)


def test_half_of_the_annotation_files_is_incomplete(mix, root):
    (root / "annotations/clips/more/b.jsonl").unlink()
    clips = look(mix, root)["clips"]
    assert clips.annotations_missing == ["clips/more/*.jsonl"]
    assert (clips.state, clips.present, clips.videos) == ("incomplete", 2, 2)
    assert clips.next[0].startswith("get the clips; annotations go to") and "more/*.jsonl" in clips.next[0]


def test_the_table_says_each_state_and_step(mix, root, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["data", "status", str(mix), "--root", str(root)]) == 1
    printed = capsys.readouterr().out
    for words in (
        "2 of 3", "1 of 2", "incomplete", "75.00%", "https://example.org/talk (licence: theirs)", "-> timeexpert",
        "missing, for example: three.mp4", "0 of 2 data sets are ready",
    ):  # fmt: skip
        assert words in printed, words


def test_what_is_asked_wrongly_is_refused(mix, root, tmp_path):
    with pytest.raises(StatusError, match=r"no such folder. --root is the folder that holds annotations/"):
        look(mix, tmp_path / "none")
    with pytest.raises(StatusError, match=r"data set 'of' is not one that mix 'small' draws from \(clips, talk\)"):
        look(mix, root, only=["of"])


# --- many files ------------------------------------------------------------------------------------------------


def test_a_folder_is_listed_whole_and_each_folder_once(tmp_path, monkeypatch):
    names = [f"{a}/{b}/{i}.mp4" for a in "xy" for b in "pq" for i in range(20)]
    for name in names:
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).touch()
    listing = list_media(tmp_path / "videos", batch=7)
    assert is_in(path_hashes(names), listing.files).all() and len(listing.files) == len(names)
    assert not is_in(path_hashes(["x/p/20.mp4", "x/p", ""]), listing.files).any()
    assert len(list_media(tmp_path / "none").files) == 0


def test_hashes_are_kept_apart_from_those_seen_before_however_they_come(monkeypatch):
    monkeypatch.setattr(DistinctHashes, "RECENT", 3)
    known, distinct = set(), DistinctHashes()
    generator = np.random.default_rng(0)
    for _ in range(60):
        some = generator.integers(0, 900, 50).astype(media_listing.HASH)
        new = distinct.add(some)
        assert [int(h) for h in some[new]] == [h for h in dict.fromkeys(some.tolist()) if h not in known]
        known.update(some.tolist())
        assert len(distinct) == len(known)


def test_names_are_looked_up_in_batches_and_counted_once(mix, root, monkeypatch):
    whole = look(mix, root)
    monkeypatch.setattr(status, "BATCH", 1)
    assert look(mix, root) == whole
