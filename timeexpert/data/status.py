"""What is there of each data set of a mix: annotations, samples, videos, shards, and what to do next."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from timeexpert.data.formats import get
from timeexpert.data.formats.reading import MAX_LINE_BYTES, FormatError
from timeexpert.data.media_listing import DistinctHashes, MediaListing, is_in, list_media, path_hashes, stems
from timeexpert.data.mixes import ANNOTATIONS, SAMPLES, SHARDS, VIDEOS, DatasetConfig, MixConfig
from timeexpert.data.shard_index import MANIFEST, UNFINISHED, ShardError, read_manifest
from timeexpert.errors import UserError

BATCH = 65536  # video names looked up at once
EXAMPLES = 3  # of missing videos, named in the report


class StatusError(UserError):
    """A data root that cannot be looked at."""


@dataclass
class DatasetStatus:
    """One data set. ``state``: found, incomplete or missing; ``ready``: its shards are built from its samples.

    ``rows``: lines of the samples file where there is one (``counted`` samples), else rows of the annotation files;
    ``unreadable`` of them name no video. ``videos``: different videos named, ``present`` of them in the media folder,
    ``other_ending`` more under another file ending. ``shards``: none, unfinished, built, damaged, or "other samples"
    where the samples file has changed since. ``next``: what to do, first things first.
    """

    name: str
    tasks: list[str]
    share: float
    licence: str
    page: str
    state: str = "missing"
    ready: bool = False
    annotations: list[str] = field(default_factory=list)
    annotations_missing: list[str] = field(default_factory=list)
    counted: str = ""
    rows: int = 0
    unreadable: int = 0
    videos: int = 0
    present: int = 0
    other_ending: int = 0
    missing_examples: list[str] = field(default_factory=list)
    shards: str = "none"
    shard_videos: int = 0
    shard_questions: int = 0
    notes: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)


def mix_status(
    mix: MixConfig,
    root: str | Path,
    *,
    only: Iterable[str] = (),
    missing_lists: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[DatasetStatus]:
    """The status of each data set that ``mix`` draws from (``only``: of these), under the data root ``root``.

    No video is opened; each media folder is listed once. Memory is 8 bytes per video named and 16 per file.
    ``missing_lists``: a folder that gets NAME.txt with the missing videos of each data set, one a line.
    ``progress`` is called with (data sets done, all, what is read). Raises :class:`StatusError`.
    """
    root = Path(root)
    if not root.is_dir():
        raise StatusError(f"{root}: no such folder. --root is the folder that holds {ANNOTATIONS}/, {VIDEOS}/, ...")
    used = list(mix.used())
    known = [dataset.name for dataset, _ in used]
    for name in (wanted := set(only)):
        if name not in known:
            raise StatusError(f"data set {name!r} is not one that mix {mix.name!r} draws from ({', '.join(known)}).")
    used = [(dataset, share) for dataset, share in used if not wanted or dataset.name in wanted]
    if missing_lists is not None:
        missing_lists.mkdir(parents=True, exist_ok=True)
    listings: dict[str, MediaListing] = {}
    found = []
    for i, (dataset, share) in enumerate(used):
        tell = partial(progress, i, len(used)) if progress else lambda what: None
        tell(dataset.name)
        if dataset.videos not in listings:
            listings[dataset.videos] = list_media(root / VIDEOS / dataset.videos)
        found.append(_dataset_status(dataset, share, root, listings[dataset.videos], missing_lists, tell))
    return found


def _dataset_status(
    dataset: DatasetConfig,
    share: float,
    root: Path,
    media: MediaListing,
    missing_lists: Path | None,
    tell: Callable[[str], None],
) -> DatasetStatus:
    status = DatasetStatus(dataset.name, list(dataset.tasks), round(share, 6), dataset.licence, dataset.page)
    files, status.annotations_missing = dataset.annotation_files(root)
    status.annotations = [str(path) for path in files]
    samples = root / SAMPLES / f"{dataset.name}.jsonl"
    digest = hashlib.sha256()
    if samples.is_file():
        status.counted = "samples"
        videos = _sample_videos(samples, digest)
    else:
        status.counted = "annotations" if files else ""
        videos = _annotation_videos(dataset, files)
    with (
        nullcontext()
        if missing_lists is None
        else open(missing_lists / f"{dataset.name}.txt", "w", encoding="utf-8") as out
    ):
        _count(videos, media, status, tell, out)
    if media.outside:
        status.notes.append(f"{media.outside} links lead out of the media folder: builds refuse them. Copy the files.")
    status.notes += media.problems
    _look_at_shards(root / SHARDS / dataset.name, digest.hexdigest() if samples.is_file() else None, status)
    if status.shard_videos < status.videos and status.shards == "built":
        left_out = status.videos - status.shard_videos
        status.notes.append(f"{left_out:,} named videos are not in the shards: dropped.jsonl there says why.")
    complete = status.videos == status.present > 0 and not status.annotations_missing
    status.ready = status.shards == "built"
    if status.ready or (complete and not status.notes):
        status.state = "found"
    elif files or samples.is_file():
        status.state = "incomplete"
    status.next = list(_next_steps(dataset, status, root, samples, files))
    return status


def _line(name: str) -> str:
    """``name`` as a line of text; names with line breaks or half characters are written as JSON strings."""
    return (name if name.isprintable() else json.dumps(name)) + "\n"


def _sample_videos(path: Path, digest: Any) -> Iterator[list[str]]:
    """The video of each line of a samples file, as builds look it up; nothing for a line that has none."""
    with open(path, "rb") as file:
        for line in iter(partial(file.readline, MAX_LINE_BYTES), b""):
            digest.update(line)
            if not line.strip():
                continue
            try:
                video = json.loads(line)["video"]
            except (ValueError, TypeError, KeyError, RecursionError):
                video = None
            yield [_looked_up(video)] if isinstance(video, str) and video else []


def _annotation_videos(dataset: DatasetConfig, files: list[Path]) -> Iterator[list[str]]:
    """The videos that each row of the annotation files would be asked about."""
    chosen, options = get(dataset.format), dataset.options()
    for path in files:
        for row in chosen.rows(path):
            yield [_looked_up(video) for video in chosen.videos_of(row, options)]


def _looked_up(video: str) -> str:
    """The path as builds look it up: without ``.`` and empty parts."""
    odd = "//" in video or "/." in video or video[0] == "." or video[-1] == "/"
    return PurePosixPath(video).as_posix() if odd else video


def _count(
    rows: Iterator[list[str]],
    media: MediaListing,
    status: DatasetStatus,
    tell: Callable[[str], None],
    missing_list: TextIO | None,
) -> None:
    """Fill in the counts of ``status`` from the videos of each row."""
    named = DistinctHashes()

    def names() -> Iterator[str]:
        try:
            for videos in rows:
                status.rows += 1
                status.unreadable += not videos
                yield from videos
        except FormatError as error:  # what came before it counts
            status.notes.append(str(error))

    stream = names()
    while some := list(islice(stream, BATCH)):
        hashes = path_hashes(some)
        new = named.add(hashes)
        there = is_in(hashes[new], media.files)
        missing = [some[i] for i in new[~there]]
        status.videos, status.present = len(named), status.present + int(there.sum())
        status.other_ending += int(is_in(path_hashes(stems(missing)), media.file_stems).sum())
        status.missing_examples += missing[: EXAMPLES - len(status.missing_examples)]
        if missing_list is not None:
            missing_list.writelines(map(_line, missing))
        tell(f"{status.name}: {status.rows:,} rows")


def _look_at_shards(folder: Path, samples_sha256: str | None, status: DatasetStatus) -> None:
    if (folder / MANIFEST).is_file():
        try:
            manifest = read_manifest(folder)
        except ShardError as error:
            status.shards = "damaged"
            status.notes.append(str(error))
            return
        build = manifest["build"]
        built_from = build.get("samples") if isinstance(build, dict) else None
        status.shards = "built" if samples_sha256 in (None, built_from) else "other samples"
        status.shard_videos, status.shard_questions = (int(manifest.get(n) or 0) for n in ("videos", "questions"))
    elif (folder / UNFINISHED).is_dir():
        status.shards = "unfinished"


def _next_steps(
    dataset: DatasetConfig, status: DatasetStatus, root: Path, samples: Path, files: list[Path]
) -> Iterator[str]:
    if status.ready:
        return
    if status.annotations_missing and not (status.counted == "samples" and not files):
        names = ", ".join(str(root / ANNOTATIONS / name) for name in status.annotations_missing)
        yield f"get {dataset.get}; annotations go to {names}, videos to {root / VIDEOS / dataset.videos}"
    if files and not samples.is_file():
        options = ["--source", dataset.name, *(f"--task={task}" for task in dataset.tasks)]
        options += ["--video-template", dataset.video_template] if dataset.video_template else []
        options += ["--clip-to-duration"] if dataset.clip_to_duration else []
        options += ["--instructions", dataset.instructions] if dataset.instructions else []
        options += ["--split", dataset.split] if dataset.split else []
        make = "" if samples.parent.is_dir() else f"{shlex.join(['mkdir', '-p', str(samples.parent)])} && "
        yield make + _command("convert", dataset.format, *files, "-o", samples, *options)
    media = root / VIDEOS / dataset.videos
    if status.videos > status.present:
        yield f"put {status.videos - status.present:,} missing videos into {media} (their names: --missing DIR)"
    if not status.counted:
        return
    out = root / SHARDS / dataset.name
    if status.shards == "other samples":
        yield f"delete {out}, which was built from other samples, then build it again"
    yield _command("build", samples, "--media", media, "-o", out)


def _command(name: str, *words: object) -> str:
    return shlex.join(["timeexpert", "data", name, *map(str, words)])
