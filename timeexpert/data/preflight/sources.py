"""The clips to check: those that samples name, those of a folder, or those of a shard folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from timeexpert.data.media import FEATURES_SUFFIX, VIDEO_SUFFIXES, MediaError, require_media, resolve_media
from timeexpert.data.records import Sample, SampleError, read_samples
from timeexpert.data.shard_index import MANIFEST, UNFINISHED
from timeexpert.errors import UserError

from .check import Place


class Question(NamedTuple):
    """What is checked of a question: its id, the line it stands in (0 in shards), duration and times in seconds."""

    id: str
    line: int
    duration_s: float | None
    spans: tuple[tuple[float, float], ...]


@dataclass
class Clip:
    """A clip and the questions about it. ``stamp`` tells whether the file has changed; ``None`` where there is none
    inside the folder, and ``problem`` says why."""

    place: Place
    stamp: dict[str, Any] | None = None
    problem: str = ""
    questions: list[Question] = field(default_factory=list)

    @property
    def video(self) -> str:
        """The name that samples use."""
        return self.place.video


@dataclass
class Source:
    """``kind`` is samples, folder or shards; ``path`` what was given; ``folder`` holds the clips.

    ``bad_lines`` are lines of a samples file that break a rule; ``other_files`` counts by suffix what is no video.
    """

    kind: str
    path: Path
    folder: Path
    clips: list[Clip]
    bad_lines: list[str] = field(default_factory=list)
    other_files: dict[str, int] = field(default_factory=dict)


def find_clips(path: Path, media: Path | None) -> Source:
    """Every clip once, in the order of the source. Raises :class:`UserError` where there is nothing to check."""
    if media is not None:
        return _from_samples(path, media)
    if path.is_file():
        raise UserError(f"{path}: a samples file needs --media DIR, the folder that its video paths start from.")
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder. Give a Sample .jsonl, a folder of videos or a shard folder.")
    source = _from_shards(path) if _is_shards(path) else _from_folder(path)
    if not source.clips:
        raise UserError(f"{path}: holds no video. Give a folder with video files, or a shard folder.")
    return source


def _from_samples(path: Path, media: Path) -> Source:
    if not path.is_file():
        raise UserError(f"{path}: no such samples file. --media goes with a Sample .jsonl; leave it out for a folder.")
    require_media(media, UserError)
    clips: dict[str, Clip] = {}
    bad_lines = []
    for line, sample in read_samples(path):
        if isinstance(sample, SampleError):
            bad_lines.append(str(sample))
            continue
        video = PurePosixPath(sample.video).as_posix()
        if video not in clips:
            clips[video] = Clip(Place(media, video), *_stamp(media, video))
        clips[video].questions.append(_question(sample, line))
    if not clips:
        first = f" The first of {len(bad_lines)} bad lines: {bad_lines[0]}" if bad_lines else ""
        raise UserError(f"{path}: holds no sample.{first}")
    if all(clip.stamp is None for clip in clips.values()):  # before what earlier runs found is replaced by "missing"
        raise UserError(f"{media}: holds none of the {len(clips)} videos of {path}. Check --media.")
    return Source("samples", path, media, list(clips.values()), bad_lines)


def _from_folder(path: Path) -> Source:
    files = sorted(p for p in path.rglob("*") if p.is_file() or p.is_symlink())
    clip_suffixes = {*VIDEO_SUFFIXES, FEATURES_SUFFIX}
    names = [p.relative_to(path).as_posix() for p in files if p.suffix.lower() in clip_suffixes]
    others = Counter(p.suffix.lower() or "no suffix" for p in files if p.suffix.lower() not in clip_suffixes)
    clips = [Clip(Place(path, name), *_stamp(path, name)) for name in names]
    return Source("folder", path, path, clips, other_files=dict(sorted(others.items())))


def _is_shards(path: Path) -> bool:
    return (path / MANIFEST).is_file() or (path / UNFINISHED).is_dir() or (path / "shard-000000.tar").is_file()


def _from_shards(path: Path) -> Source:
    from timeexpert.data.shards import ShardDataset

    dataset, clips = ShardDataset(path), []
    for number, entry in enumerate(dataset.entries):
        record = dataset.video(number)
        stamp = {"size": entry.media.size, "sha256": entry.sha256}
        questions = [_question(sample, 0) for sample in record.samples]
        clips.append(Clip(Place(path, record.video, number), stamp, questions=questions))
    return Source("shards", path, path, clips)


def _stamp(folder: Path, video: str) -> tuple[dict[str, Any] | None, str]:
    try:
        stat = resolve_media(folder, video).stat()
    except (MediaError, OSError) as error:
        return None, str(error)
    return {"size": stat.st_size, "mtime_us": stat.st_mtime_ns // 1000}, ""  # nanoseconds pass parse_json's 18 digits


def _question(sample: Sample, line: int) -> Question:
    spans = tuple((e.start_s, e.end_s) for e in sample.events if e.start_s is not None and e.end_s is not None)
    return Question(sample.id, line, sample.duration_s, spans)
