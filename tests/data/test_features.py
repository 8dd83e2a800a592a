"""Features stand for exactly the frames that a video would have given, or are refused by name."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from tests.data.media import question, read_rows, write_lines, write_video
from timeexpert.data.batch import join_frames
from timeexpert.data.bench import measure
from timeexpert.data.build import build
from timeexpert.data.features import FeatureFile, FeaturesError, refuse_other_tower, write_features
from timeexpert.data.frames import FrameReader
from timeexpert.data.sampling import sample_frames, uniform_times
from timeexpert.data.shards import ShardDataset, ShardError
from timeexpert.data.validate import validate
from timeexpert.data.video import Video
from timeexpert.data.video_index import on_screen
from timeexpert.errors import UserError

TOWER = {"weights": "a" * 64, "image_size": 8}
PATCHES, WIDTH = 4, 3


def features_of(frames: np.ndarray) -> torch.Tensor:
    """A stand-in for a tower: [n, 8, 8, 3] -> [n, 4, 3], the mean colour of each quarter."""
    quarters = frames.reshape(len(frames), 2, 4, 2, 4, 3).mean((2, 4)) / 255
    return torch.from_numpy(quarters.reshape(len(frames), PATCHES, WIDTH)).float()


def write(path, video, kept, dtype="float32", tower=TOWER):
    """The features of a video, as ``data cache`` writes them: two frames at a time."""
    kind = {"tower": tower, "kept": kept, "dtype": dtype}
    with Video.open(video) as opened:
        shown_s, end_s = opened.frame_times_s, opened.info.duration_s
        asked_s = [t for count in kept.get("num_frames", [999]) for t in uniform_times(end_s, count)]
        frames = np.unique(on_screen(shown_s, asked_s))
        parts = (opened.frames_at(part, (8, 8)) for part in np.split(shown_s[frames], range(2, len(frames), 2)))
        encoded = ((features_of(pixels), times_s) for pixels, times_s in parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_features(path, kind, end_s, shown_s, frames, encoded, {"torch": "0"})
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("features") / "v.mp4", num_frames=17, fps=5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_other_programs_read_the_file_as_safetensors(dtype, video, tmp_path):
    path = write(tmp_path / "v.mp4.features", video, {"num_frames": [3, 4]}, dtype)
    ours, (_, times_s) = FeatureFile(path), FeatureFile(path).sample(4)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {"features", "frames", "times_s", "frame_times_s"}
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a handle, no mapping)
        assert json.loads(file.metadata()["timeexpert_features"])["made_with"] == {"torch": "0"}
    assert stored["features"].dtype == getattr(torch, dtype) and stored["features"].shape[1:] == (PATCHES, WIDTH)
    assert stored["features"].equal(ours._rows(np.arange(len(ours.frames))))
    with Video.open(video) as opened:
        frames, want_s = sample_frames(opened, 4, size=(8, 8))
        assert stored["frame_times_s"].tolist() == opened.frame_times_s.tolist()
    assert times_s.tolist() == want_s.tolist()
    assert ours.sample(4)[0].equal(features_of(frames).to(getattr(torch, dtype)))
    assert FeatureFile(path.read_bytes()).info(check=True) == ours.info() | {"features": len(stored["frames"])}


@pytest.mark.parametrize("count", [1, 3, 8, 40])
@pytest.mark.parametrize("mode", ["uniform", "random"])
def test_features_of_all_frames_are_sampled_as_the_video_is(count, mode, video, tmp_path):
    path = write(tmp_path / "v.features", video, {"fps": 5.0})
    reader = FrameReader(8)
    got, want = (
        reader.read("", lambda source=source: (source, source.name), count, mode, np.random.default_rng(7))
        for source in (path, video)
    )
    assert got[0].equal(features_of(want[0]))
    assert got[1].tolist() == want[1].tolist() and got[2] == want[2]


def test_a_frame_that_is_not_kept_is_refused_and_never_replaced(video, tmp_path):
    file = FeatureFile(write(tmp_path / "v.features", video, {"num_frames": [2, 4]}))
    assert [len(file.sample(count)[1]) for count in (2, 4)] == [2, 4]
    said = r"v\.features: holds features of \d of 17 frames \(--num-frames 2 4\), and not of the one at \d\.\d00 s"
    with pytest.raises(FeaturesError, match=said + r", which uniform sampling of 3 takes.*--num-frames 3\.$"):
        file.sample(3)
    with pytest.raises(FeaturesError, match=said + r".*random sampling of 4 takes.*Set sampling: uniform, or.*--fps"):
        file.sample(4, "random", np.random.default_rng(0))


def test_values_that_a_type_cannot_hold_are_refused_and_leave_no_file(tmp_path):
    kind = {"tower": TOWER, "kept": {"fps": 1.0}, "dtype": "float16"}
    large = [(torch.full((1, 1, 1), 1e6), np.zeros(1))]
    with pytest.raises(FeaturesError, match=r"not finite numbers in float16. Use --dtype float32, or bfloat16"):
        write_features(tmp_path / "v.features", kind, 1.0, np.zeros(1), np.zeros(1, int), large, {})
    assert not list(tmp_path.iterdir())
    vast = [(torch.zeros(1, 1, 1).expand(1, 2**20, 2**10), np.zeros(1))]
    with pytest.raises(FeaturesError, match=r"features of 2 frames take 4\.0 GiB; a clip's may take 4\. Lower --fps"):
        write_features(tmp_path / "v.features", kind, 1.0, np.arange(2) / 4, np.arange(2), vast, {})


@pytest.fixture(scope="module")
def whole(video, tmp_path_factory):
    return write(tmp_path_factory.mktemp("whole") / "v.features", video, {"num_frames": [4]}).read_bytes()


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_bytes_that_are_not_whole_are_refused_and_nothing_else_happens(data, whole):
    header = 8 + int.from_bytes(whole[:8], "little")
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, header - 1))
        changed[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(whole))))
    try:
        file = FeatureFile(bytes(changed[:cut]))
        features, times_s = file.sample(4)
        file.info(check=True)
    except UserError:
        return
    assert features.shape == (len(times_s), PATCHES, WIDTH)  # what was changed says nothing of the features


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("version", 2, "its version is 2, and this program reads 1"),
        ("duration_s", 1.0, "its times are not in order"),
        ("kind", {"tower": TOWER, "kept": {"all": 1}, "dtype": "float32", "shape": [4, 3]}, "what made it is not told"),
        ("kind", {"tower": TOWER, "kept": {"fps": 1}, "dtype": "float32", "shape": [3, 4]}, "do not belong together"),
        ("kind", {"tower": TOWER, "kept": {"fps": 1}, "dtype": "float16", "shape": [4, 3]}, "is not a tensor of F16"),
    ],
)
def test_a_header_that_says_something_else_is_refused(name, value, words, whole):
    size = int.from_bytes(whole[:8], "little")
    table = json.loads(whole[8 : 8 + size])
    about = json.loads(table["__metadata__"]["timeexpert_features"]) | {name: value}
    table["__metadata__"]["timeexpert_features"] = json.dumps(about)
    text = json.dumps(table).encode()
    with pytest.raises(FeaturesError, match=f"clip: not a whole features file: .*{words}.*timeexpert data cache"):
        FeatureFile(len(text).to_bytes(8, "little") + text + whole[8 + size :], "clip")


def test_shards_carry_features_of_one_kind(video, tmp_path):
    for i, kept in enumerate([{"num_frames": [4]}, {"num_frames": [4]}, {"num_frames": [2]}]):
        write(tmp_path / "media" / f"v{i}.features", video, kept)
    (tmp_path / "media" / "v3.mp4").write_bytes(video.read_bytes())
    rows = [question(f"q{i}", name) for i, name in enumerate(["v0.features", "v1.features", "v2.features", "v3.mp4"])]
    media, out = tmp_path / "media", tmp_path / "out"
    report = build(write_lines(tmp_path / "s.jsonl", rows[:2]), media, out)
    assert (report.videos, report.questions, report.dropped) == (2, 2, 0)
    dataset = ShardDataset(out)
    assert dataset.features == FeatureFile(media / "v0.features").kind
    info = {"duration_s": pytest.approx(3.4), "num_frames": 17, "features": 4, "damage": None}
    assert dataset.record(0).info == info
    assert FrameReader(8).read("", lambda: dataset.media(0), 4)[0].shape == (4, PATCHES, WIDTH)
    assert validate(out, decode=True).problems == []
    *_, speed = measure(out, num_frames=4, batch_videos=2, batches=1, workers=0)
    assert (speed.frames, speed.unreadable) == (8, 0)
    for other, words in ((rows[2], "two kinds (kept)"), (rows[3], "two kinds (features and a video)")):
        with pytest.raises(FeaturesError) as refused:
            build(write_lines(tmp_path / "t.jsonl", [rows[0], other]), media, tmp_path / "other")
        assert f"{other['video']} and v0.features are of {words}" in str(refused.value)
    manifest = json.loads((out / "dataset.json").read_text())
    manifest["build"]["features"]["dtype"] = "float8"
    (out / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="features are described wrongly: what made it is not told"):
        ShardDataset(out).features  # noqa: B018


def test_a_features_file_with_a_nan_is_dropped_by_name(video, tmp_path):
    path = write(tmp_path / "v.features", video, {"num_frames": [4]})
    path.write_bytes(path.read_bytes()[:-4] + np.float32("nan").tobytes())
    build(write_lines(tmp_path / "s.jsonl", [question("q", "v.features")]), tmp_path, tmp_path / "out")
    (row,) = read_rows(tmp_path / "out" / "dropped.jsonl")
    assert "v.features: a feature is not a finite number" in row["reason"]


def test_a_batch_holds_one_kind():
    pixels, features = np.zeros((2, 8, 8, 3), np.uint8), torch.zeros(3, 4, 5)
    assert join_frames([pixels, pixels]).shape == (4, 3, 8, 8) and join_frames([features] * 2).shape == (6, 4, 5)
    with pytest.raises(UserError, match="a batch holds frames and features"):
        join_frames([pixels, features])


def test_another_tower_is_refused_by_what_differs():
    kind = {"tower": TOWER, "kept": {"fps": 1.0}, "dtype": "float32", "shape": [4, 3]}
    refuse_other_tower(kind, dict(TOWER), "shards")
    with pytest.raises(FeaturesError, match=r"shards: .*weights a{12}, the model's b{12}; image_size 8, the"):
        refuse_other_tower(kind, {"weights": "b" * 64, "image_size": 16}, "shards")
