"""Shards: any WebDataset reader can stream them; ours reads them at random and notices every changed byte."""

import hashlib
import io
import json
import multiprocessing
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import webdataset

from tests.data.media import question, read_rows, write_lines, write_video
from timeexpert.data.build import build
from timeexpert.data.index_table import IndexTable
from timeexpert.data.shard_index import read_index, read_manifest
from timeexpert.data.shards import ShardDataset, ShardError, rebuild_index
from timeexpert.data.validate import validate


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for i in range(5):
        write_video(folder / f"v{i}.mp4", num_frames=10 + i)
    return folder


@pytest.fixture(scope="module")
def built(media, tmp_path_factory) -> Path:
    """Videos v0 and v1, v2 and v3, v4 in three shards; question q<i> about v<i>, and r0 about v0."""
    folder = tmp_path_factory.mktemp("shards")
    rows = [*(question(f"q{i}", f"v{i}.mp4") for i in range(5)), question("r0", "v0.mp4")]
    build(write_lines(folder / "s.jsonl", rows), media, folder / "out", shard_mb=0.06)
    return folder / "out"


@pytest.fixture
def out(built, tmp_path) -> Path:
    """A copy that a test may harm."""
    return shutil.copytree(built, tmp_path / "out")


def line_of(folder: Path, video: int) -> dict:
    return read_rows(folder / "index.jsonl")[video]


def flip_bit(folder: Path, video: int, member: str, at: int = 100) -> None:
    row = line_of(folder, video)
    change(folder / row["shard"], row[member]["offset"] + at, lambda byte: bytes([byte[0] ^ 1]))


def change(file: Path, offset: int, new, count: int = 1) -> None:
    with open(file, "r+b") as f:
        f.seek(offset)
        data = f.read(count)
        f.seek(offset)
        f.write(new(data))


def ids(dataset: ShardDataset) -> list[str]:
    return [dataset.sample(i).id for i in range(len(dataset))]


def test_plain_webdataset_streams_the_shards(built, media):
    urls = [str(p) for p in sorted(built.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [json.loads(s["json"])["video"] for s in samples] == [f"v{i}.mp4" for i in range(5)]
    assert [s["mp4"] for s in samples] == [(media / f"v{i}.mp4").read_bytes() for i in range(5)]
    assert [q["id"] for q in json.loads(samples[0]["json"])["samples"]] == ["q0", "r0"]


def test_questions_are_read_at_random(built, media):
    dataset = ShardDataset(built)
    assert len(dataset) == 6 and ids(dataset) == ["q0", "r0", "q1", "q2", "q3", "q4"]
    assert dataset.media(5) == ((media / "v4.mp4").read_bytes(), "v4.mp4")
    assert dataset.video_key(0) == dataset.video_key(1) != dataset.video_key(2)
    assert dataset.record(3).info["num_frames"] == 12 and dataset.record(3).duration_s == pytest.approx(2.4)
    with pytest.raises(IndexError, match=r"question 6 is outside 0\.\.5"):
        dataset.sample(6)


def test_a_copy_in_another_process_opens_its_own_files(built):
    dataset = ShardDataset(built)
    dataset.media(0)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy._files == {} and ids(copy) == ids(dataset)
    with multiprocessing.get_context("fork").Pool(2) as pool:  # these share the parent's open files
        assert pool.map(dataset.media, [0, 5, 1, 4, 2, 3]) == [dataset.media(i) for i in (0, 5, 1, 4, 2, 3)]


def test_open_files_are_bounded_and_closed(built):
    dataset = ShardDataset(built, max_open_files=2)
    before = len(os.listdir("/proc/self/fd"))  # with the mapped index
    for i in [*range(6), *range(6)]:
        dataset.media(i)
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    dataset.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert dataset.media(0)[1] == "v0.mp4"


# --- damage ----------------------------------------------------------------------------------------------------


def test_a_flipped_bit_in_a_video_is_an_error_that_names_shard_and_member(out):
    flip_bit(out, 2, "media")
    dataset = ShardDataset(out)
    member = re.escape(line_of(out, 2)["media"]["name"])
    with pytest.raises(ShardError, match=rf"shard-000001\.tar: the bytes of {member} have changed.*data build"):
        dataset.media(3)
    assert dataset.media(4)[1] == "v3.mp4"
    assert ShardDataset(out, check=False).media(3)[1] == "v2.mp4"


def test_a_flipped_bit_in_a_description_is_an_error_too(out):
    flip_bit(out, 2, "json")
    with pytest.raises(ShardError, match=r"shard-000001\.tar: the bytes of v2-\w+\.json have changed"):
        ShardDataset(out).sample(3)


def test_a_missing_shard_is_named_with_the_command_that_makes_it_again(out):
    (out / "shard-000001.tar").unlink()
    with pytest.raises(
        ShardError, match=r"shard-000001\.tar: missing\. .*timeexpert data build SAMPLES\.jsonl --media"
    ):
        ShardDataset(out)


def test_a_truncated_shard_is_named(out):
    os.truncate(out / "shard-000000.tar", 30_000)
    with pytest.raises(ShardError, match=r"shard-000000\.tar: has 30000 bytes, dataset\.json says \d+: truncated"):
        ShardDataset(out)


def test_a_shard_that_shrinks_or_goes_away_while_it_is_read_is_an_error(out):
    dataset, other = ShardDataset(out), ShardDataset(out)
    os.truncate(out / "shard-000002.tar", 2_000)
    with pytest.raises(ShardError, match=r"shard-000002\.tar: ends inside v4"):
        dataset.media(5)
    (out / "shard-000002.tar").unlink()
    with pytest.raises(ShardError, match=r"shard-000002\.tar: No such file or directory"):
        other.media(5)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda out: (out / "index.jsonl").unlink(), "is missing or empty.*--rebuild-index"),
        (lambda out: change(out / "index.jsonl", 200, lambda b: b"x"), "does not match the checksum in dataset.json"),
        (lambda out: (out / "dataset.json").write_text("{}"), "not a description of shards: 'version'"),
        (lambda out: (out / "dataset.json").write_text("[" * 99999), "nested too deeply"),
        (lambda out: (out / "dataset.json").unlink(), "no dataset.json, so not a shard folder"),
        (lambda out: edit(out, '"version": 1', '"version": 2'), "version 2; this program reads 1"),
        (
            lambda out: edit(out, "shard-000001.tar", "../../secret.tar"),
            r"shard name '../../secret.tar' must look like",
        ),
    ],
)
def test_an_index_that_does_not_match_is_refused(out, harm, words):
    (out / "index.npy").unlink()  # else index.jsonl is not read
    harm(out)
    with pytest.raises(ShardError, match=words):
        ShardDataset(out)


def edit(out: Path, old: str, new: str) -> None:
    text = (out / "dataset.json").read_text()
    assert old in text
    (out / "dataset.json").write_text(text.replace(old, new))


def put(out: Path, name: str, data: bytes) -> None:
    """Replace a file of the index together with its checksum."""
    was = hashlib.sha256((out / name).read_bytes()).hexdigest()
    (out / name).write_bytes(data)
    edit(out, was, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("offset", [-1, 10**9])
def test_an_index_line_that_points_outside_its_shard_is_refused(out, offset):
    (out / "index.npy").unlink()
    rows = read_rows(out / "index.jsonl")
    rows[1]["media"]["offset"] = offset
    put(out, "index.jsonl", "".join(json.dumps(r) + "\n" for r in rows).encode())
    with pytest.raises(ShardError, match=r"index\.jsonl:2: points outside shard-000000\.tar"):
        ShardDataset(out)


# --- the mapped index ------------------------------------------------------------------------------------------


def test_the_table_says_what_the_lines_say(built):
    dataset = ShardDataset(built)
    assert list(dataset.entries) == read_index(built, read_manifest(built))
    assert isinstance(dataset.entries.rows, np.memmap) and len(dataset.entries[1:]) == 4
    assert dataset.entries.with_tasks(["moment_retrieval"]).tolist() == [0, 1, 2, 3, 4]
    assert dataset.entries.with_tasks(["general"]).tolist() == []


def test_a_table_that_is_missing_or_changed_is_not_read(built, out):
    want = ids(ShardDataset(built))
    change(out / "index.npy", 300, lambda byte: bytes([byte[0] ^ 1]))
    assert ids(ShardDataset(out)) == want and not isinstance(ShardDataset(out).entries.rows, np.memmap)
    assert [note for note in validate(out).notes if "index.npy" in note] and not validate(out).problems
    (out / "index.npy").unlink()
    assert ids(ShardDataset(out)) == want
    rebuild_index(out)
    assert (out / "index.npy").read_bytes() == (built / "index.npy").read_bytes()


def test_a_table_that_points_outside_of_a_shard_reads_nothing(out):
    rows = np.load(out / "index.npy")
    rows["media"]["size"][1] = 10**12
    put(out, "index.npy", IndexTable(rows, []).to_bytes())
    with pytest.raises(ShardError, match=r"shard-000000\.tar: v1-\w+\.mp4 would lie outside of it"):
        ShardDataset(out).media(2)


def test_a_table_of_python_objects_is_not_unpickled(built, out, tmp_path):
    class Harm:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harm"),))

    data = io.BytesIO()
    np.save(data, np.array([Harm()], dtype=object), allow_pickle=True)
    put(out, "index.npy", data.getvalue())
    assert ids(ShardDataset(out)) == ids(ShardDataset(built)) and not (tmp_path / "harm").exists()


def test_a_shard_that_is_a_link_is_not_followed(out, tmp_path):
    (out / "shard-000000.tar").rename(tmp_path / "elsewhere.tar")
    (out / "shard-000000.tar").symlink_to(tmp_path / "elsewhere.tar")
    with pytest.raises(ShardError, match=r"shard-000000\.tar: Too many levels of symbolic links"):
        ShardDataset(out).sample(0)


# --- making the index again ------------------------------------------------------------------------------------


def test_the_index_of_sound_shards_is_made_again_byte_for_byte(built, out):
    (out / "index.jsonl").unlink()
    report = rebuild_index(out)
    assert (report.videos, report.questions, report.problems) == (5, 6, [])
    for name in ("index.jsonl", "dataset.json"):
        assert (out / name).read_bytes() == (built / name).read_bytes()


def test_it_is_made_from_the_tars_alone_too(out):
    for name in ("index.jsonl", "dataset.json"):
        (out / name).unlink()
    assert rebuild_index(out).problems == []
    assert len(ids(ShardDataset(out))) == 6


@pytest.mark.parametrize("junk", [b"\0", b"\xff"])
def test_corrupt_bytes_in_the_middle_of_a_tar_lose_one_video_and_the_rest_is_kept(out, junk):
    row = line_of(out, 0)
    header = row["media"]["offset"] - 512
    change(out / row["shard"], header, lambda data: junk * len(data), count=2048)  # the header, and what follows
    report = rebuild_index(out)
    assert (report.videos, report.questions) == (4, 4)
    damage, pair = report.problems
    assert re.search(rf"shard-000000\.tar: bytes {header} to \d+ are damaged; what lies there is lost", damage)
    assert re.search(r"shard-000000\.tar: v0-\w+\.json: a video needs one media member and one \.json", pair)
    assert ids(ShardDataset(out)) == ["q1", "q2", "q3", "q4"]


def test_a_video_whose_bytes_changed_is_left_out_and_reported(out):
    flip_bit(out, 3, "media")
    report = rebuild_index(out)
    assert report.videos == 4
    assert [bool(re.search(r"v3-\w+\.mp4: its bytes have changed", p)) for p in report.problems] == [True]


def test_a_truncated_tar_keeps_what_lies_before_the_cut(out):
    os.truncate(out / "shard-000000.tar", line_of(out, 1)["media"]["offset"] + 1000)
    report = rebuild_index(out)
    assert ids(ShardDataset(out)) == ["q0", "r0", "q2", "q3", "q4"]
    assert any(re.search(r"shard-000000\.tar: truncated inside v1-\w+\.mp4", p) for p in report.problems)


def test_a_missing_shard_is_reported_and_a_folder_without_shards_refused(out, tmp_path):
    (out / "shard-000000.tar").unlink()
    report = rebuild_index(out)
    assert report.problems == [f"{out / 'shard-000000.tar'}: missing"] and report.videos == 3
    with pytest.raises(ShardError, match="holds no shard-000000.tar"):
        rebuild_index(tmp_path)
