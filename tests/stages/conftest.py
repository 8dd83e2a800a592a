"""Data that cannot be read, for the tests of training and evaluation."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def with_empty_video(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shard folder of the tiny videos with ``empty.mp4``, a file of zero bytes with one question.

    Written by hand: ``timeexpert data build`` leaves such files out.
    """
    from timeexpert.data.shard_writer import ShardFolderWriter
    from timeexpert.data.shards import ShardDataset

    dataset = ShardDataset(tiny_data / "videos")
    videos = [(dataset.video(i), dataset.video_media(i)[0]) for i in range(len(dataset.entries))]
    question = next(s for s in videos[0][0].samples if s.task == "moment_retrieval")
    empty = replace(question, id="empty/0", video="empty.mp4")
    record = replace(videos[0][0], video="empty.mp4", sha256=hashlib.sha256(b"").hexdigest(), samples=(empty,))
    out = tmp_path_factory.mktemp("empty") / "shards"
    (out / ".build").mkdir(parents=True)
    writer = ShardFolderWriter(out, 10**9)
    writer.resume()
    for place, (video, media) in enumerate([*videos, (record, b"")]):
        writer.add(place, f"v{place}", "mp4", media, video.to_json())
    writer.finish(len(videos) + 1, {})
    return out
