"""A picture of LLaVA's becomes a one-frame video without a change of its pixels, and builds take it."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.data.media import read_rows, write_lines
from timeexpert.data.build import build
from timeexpert.data.formats import convert
from timeexpert.data.records import Sample
from timeexpert.data.shards import ShardDataset
from timeexpert.data.video import Video


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A JPEG of 67x45 noisy pixels: odd sizes, which H.264 could not hold."""
    path = tmp_path / "a.jpg"
    pixels = np.random.default_rng(0).integers(0, 255, (45, 67, 3), dtype=np.uint8)
    with av.open(path, "w", format="image2") as out:
        stream = out.add_stream("mjpeg", rate=25, width=67, height=45, pix_fmt="yuvj444p")
        out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        out.mux(stream.encode())
    return path


def copy_into_mp4(picture: Path, video: Path) -> None:
    """What ``ffmpeg -i PICTURE -c copy VIDEO`` does: the JPEG's own bytes as the only packet."""
    with av.open(picture) as source, av.open(video, "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux():
            if packet.size:
                packet.stream = stream
                out.mux(packet)


def test_a_picture_copied_into_an_mp4_is_a_video_of_its_own_pixels(picture: Path, tmp_path: Path) -> None:
    copy_into_mp4(picture, tmp_path / "a.jpg.mp4")
    assert picture.read_bytes() in (tmp_path / "a.jpg.mp4").read_bytes()
    with av.open(picture) as opened:
        shown = next(opened.decode(video=0)).to_ndarray(format="rgb24")
    with Video.open(tmp_path / "a.jpg.mp4") as video:
        frames, _ = video.frames_at([0.0])
    assert frames.shape == (1, 45, 67, 3)
    assert np.abs(frames[0].astype(int) - shown).max() <= 2


def test_a_build_takes_it_with_its_question(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    copy_into_mp4(picture, tmp_path / "media" / "a.jpg.mp4")
    event = {"start_s": None, "end_s": None, "scores": [], "text": "noise"}
    row = {"id": "1", "video": "a.jpg.mp4", "task": "general", "prompt": "What?", "events": [event]}
    report = build(write_lines(tmp_path / "s.jsonl", [row]), tmp_path / "media", tmp_path / "out")
    assert (report.videos, report.questions) == (1, 1), read_rows(tmp_path / "out" / "dropped.jsonl")
    assert ShardDataset(tmp_path / "out").video(0).info["num_frames"] == 1


def test_a_folder_of_frames_copied_into_an_mp4_fits_the_masks_of_its_label_maps(tmp_path: Path) -> None:
    """As docs/masks.md says: the i-th frame stands for i / rate seconds, and a file of another rate is found."""
    frames, maps = tmp_path / "train" / "JPEGImages" / "v", tmp_path / "train" / "Annotations" / "v"
    names = [f"{5 * i:05d}" for i in range(7)]
    for folder in (frames, maps):
        folder.mkdir(parents=True)
    for i, name in enumerate(names):
        picture, labels = np.full((45, 67, 3), 40, np.uint8), np.zeros((45, 67), np.uint8)
        picture[10:30, 6 * i : 6 * i + 20], labels[10:30, 6 * i : 6 * i + 20] = 220, 1
        Image.fromarray(picture).save(frames / f"{name}.jpg", quality=95)
        Image.fromarray(labels).save(maps / f"{name}.png")
    meta = tmp_path / "meta_expressions" / "train" / "meta_expressions.json"
    meta.parent.mkdir(parents=True)
    video = {"expressions": {"0": {"exp": "the box", "obj_id": "1"}}, "frames": names}
    meta.write_text(json.dumps({"videos": {"v": video}}))
    (sample,) = convert("ref_youtube_vos", meta)
    assert isinstance(sample, Sample)
    lines = write_lines(tmp_path / "s.jsonl", [sample.to_json()])
    for rate in ("6", "24"):
        media = tmp_path / rate
        media.mkdir()
        copy_frames_into_mp4(frames, media / "v.mp4", rate)
        report = build(lines, media, tmp_path / f"shards{rate}")
        assert (report.questions, report.reasons) == ((1, {}) if rate == "6" else (0, {"past the end": 1}))
    data, name = ShardDataset(tmp_path / "shards6").media(0)
    with Video.open(data, name=name) as opened:
        pixels, times_s = opened.all_frames()
    track = sample.tracks[0].at(times_s)
    for i, frame in enumerate(pixels):
        assert np.array_equal(frame.mean(axis=-1) > 130, track.mask(i))


def copy_frames_into_mp4(frames: Path, video: Path, rate: str) -> None:
    """What ``ffmpeg -framerate RATE -pattern_type glob -i 'FRAMES/*.jpg' -c copy VIDEO`` does."""
    options = {"pattern_type": "glob", "framerate": rate}
    with av.open(f"{frames}/*.jpg", format="image2", options=options) as source, av.open(video, "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux():
            if packet.size:
                packet.stream = stream
                out.mux(packet)
