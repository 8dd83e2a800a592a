"""Checks Sample lines or a shard folder from end to end and lists everything that is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

from timeexpert.errors import UserError

from .action_steps import CLASSES, classes_of, step_problems
from .index_table import TABLE, Entry, open_table
from .mask_checks import mask_problems
from .media import Probe, describe, probe, require_media
from .pool import Failed, WorkerPool
from .records import Sample, SampleError, read_samples
from .shard_index import INDEX, SHARD_NAME, ShardError, index_shard, read_index, read_manifest
from .shards import ShardDataset

Progress = Callable[[int, int, str], None]


@dataclass
class Validation:
    """What was checked; every problem, one line each that begins with where it is; ``notes`` are odd but usable."""

    path: str
    kind: str
    videos: int = 0
    questions: int = 0
    tasks: dict[str, int] = field(default_factory=dict)
    tracks: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def validate(
    path: str | Path,
    *,
    media: str | Path | None = None,
    decode: bool = False,
    workers: int = 1,
    timeout_s: float = 600,
    progress: Progress | None = None,
) -> Validation:
    """Check a Sample ``.jsonl`` or a shard folder.

    Lines: every rule of a sample, unique ids; with ``media`` also that each video opens and holds the events'
    times. Shards: every checksum, the index against the tars, every JSON, unique ids. ``decode`` decodes each video
    fully once. Raises :class:`UserError` where there is nothing to check.
    """
    path = Path(path)
    if path.is_dir():
        if media is not None:
            raise UserError(f"{path}: shards carry their media; --media is for a Sample .jsonl. Leave it out.")
        return _validate_shards(path, decode, workers, timeout_s, progress)
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder. Give a Sample .jsonl or a shard folder.")
    if media is not None:
        require_media(Path(media), UserError)
    if decode and media is None:
        raise UserError(f"{path}: --decode needs --media DIR to find the videos.")
    result, by_video = _validate_lines(path)
    if media is not None:
        with WorkerPool(probe, workers, timeout_s) as pool:
            found = pool.map((Path(media), video, decode) for video in by_video)
            for number, ((video, samples), what) in enumerate(zip(by_video.items(), found, strict=True), 1):
                _against_file(result, video, samples, what)
                if progress is not None:
                    progress(number, len(by_video), video)
    return result


def _validate_lines(path: Path) -> tuple[Validation, dict[str, list[tuple[int, Sample]]]]:
    result, tasks = Validation(str(path), "samples"), Counter[str]()
    first_line: dict[str, int] = {}
    by_video: dict[str, list[tuple[int, Sample]]] = {}
    for line, sample in read_samples(path):
        if isinstance(sample, SampleError):
            result.problems.append(str(sample))
            continue
        earlier = first_line.setdefault(sample.id, line)
        if earlier != line:
            result.problems.append(f"{path}:{line}: id {sample.id!r} stands in line {earlier} already; ids are unique.")
        result.problems += [f"{path}:{line}: {problem}" for problem in (*_steps(sample), *mask_problems(sample))]
        result.tracks += len(sample.tracks)
        tasks[sample.task] += 1
        by_video.setdefault(sample.video, []).append((line, sample))
    result.videos, result.questions, result.tasks = len(by_video), sum(tasks.values()), dict(sorted(tasks.items()))
    if not result.questions and not result.problems:
        result.problems.append(f"{path}: holds no sample.")
    return result, by_video


def _steps(sample: Sample) -> Iterable[str]:
    """What is wrong with the steps of an action segmentation."""
    if sample.task != "action_segmentation":
        return
    classes = classes_of(sample.meta)
    if classes is None and CLASSES in sample.meta:
        yield f"meta.{CLASSES} ({sample.meta[CLASSES]!r:.60}) must be a list of action names."
    yield from (sentence for _, sentence in step_problems(sample.events.events, classes))


def _against_file(result: Validation, video: str, samples: list[tuple[int, Sample]], found: Probe | Failed) -> None:
    lines = ",".join(str(line) for line, _ in samples)
    if isinstance(found, Failed):
        result.problems.append(f"{result.path}:{lines}: {found.about(video)}")
        return
    if found.info["damage"]:
        result.notes.append(f"{result.path}:{lines}: {video}: damaged: {found.info['damage']}")
    for line, sample in samples:
        try:
            replace(sample, duration_s=found.info["duration_s"])
        except SampleError as error:
            result.problems.append(f"{result.path}:{line}: {video}: against the file's own duration: {error}")
        known = {*mask_problems(sample)}  # listed with the lines
        result.problems += [
            f"{result.path}:{line}: {video}: {problem}"
            for problem in mask_problems(sample, found.info)
            if problem not in known
        ]


def _validate_shards(path: Path, decode: bool, workers: int, timeout_s: float, progress: Progress | None) -> Validation:
    result = Validation(str(path), "shards")
    indexed: list[Entry] | None = None
    try:
        manifest = read_manifest(path)
        indexed = read_index(path, manifest)
        if open_table(path, manifest) is None:
            result.notes.append(f"{path / TABLE}: missing or not that of {INDEX}, which is read instead, slower.")
    except ShardError as error:
        result.problems.append(str(error))
    shards = sorted(p for p in path.iterdir() if SHARD_NAME.fullmatch(p.name))
    entries: list[Entry] = []
    for number, shard in enumerate(shards, 1):
        found, problems = index_shard(shard)
        entries += found
        result.problems += problems
        if progress is not None:
            progress(number, len(shards), shard.name)
    if indexed is not None:
        result.problems += _index_against_tars(path, indexed, entries)
    result.videos, result.questions = len(entries), sum(e.questions for e in entries)
    result.tasks = dict(sorted(sum((Counter(e.tasks) for e in entries), Counter()).items()))
    if not result.problems:
        result.problems += _check_samples(path, result)
    if decode and not result.problems:
        _decode_all(result, workers, timeout_s, progress)
    return result


def _index_against_tars(path: Path, indexed: list[Entry], found: list[Entry]) -> Iterable[str]:
    in_tars, in_index = {(e.shard, e.key): e for e in found}, {(e.shard, e.key): e for e in indexed}
    for (shard, key), entry in in_index.items():
        if (shard, key) not in in_tars:
            yield f"{path / shard}: {key}: is in the index, but not sound in the shard"
        elif in_tars[shard, key] != entry:
            yield f"{path / shard}: {key}: differs from its line in the index (bytes of the .json or their place)"
    for shard, key in in_tars.keys() - in_index.keys():
        yield f"{path / shard}: {key}: is in the shard, but not in the index"


def _check_samples(path: Path, result: Validation) -> Iterable[str]:
    """Ids are unique, events lie inside the stored duration, masks fit the frames."""
    dataset, seen = ShardDataset(path), set[str]()
    question = 0
    for entry in dataset.entries:
        record = dataset.record(question)
        question += entry.questions
        for sample in record.samples:
            if sample.id in seen:
                yield f"{path / entry.shard}: {entry.meta.name}: id {sample.id!r} is used twice; ids are unique."
            seen.add(sample.id)
            result.tracks += len(sample.tracks)
            wrong = (*_steps(sample), *mask_problems(sample, record.info))
            yield from (f"{path / entry.shard}: {entry.meta.name}: {sample.id}: {p}" for p in wrong)
            try:
                replace(sample, duration_s=record.duration_s)
            except SampleError as error:
                yield f"{path / entry.shard}: {entry.meta.name}: {sample.id}: {error}"


def _decode_all(result: Validation, workers: int, timeout_s: float, progress: Progress | None) -> None:
    entries = ShardDataset(result.path).entries
    firsts = accumulate((e.questions for e in entries[:-1]), initial=0)
    with WorkerPool(_decode_stored, workers, timeout_s) as pool:
        found = pool.map((result.path, first) for first in firsts)
        for number, (entry, damage) in enumerate(zip(entries, found, strict=True), 1):
            where = f"{Path(result.path) / entry.shard}: {entry.media.name}"
            if isinstance(damage, Failed):
                result.problems.append(f"{where}: {damage.reason}")
            elif damage is not None:
                result.notes.append(f"{where}: damaged: {damage}")
            if progress is not None:
                progress(number, len(entries), entry.media.name)


@lru_cache(maxsize=1)
def _dataset(path: str) -> ShardDataset:
    return ShardDataset(path)


def _decode_stored(path: str, question: int) -> str | None:
    """Decode one stored video fully; what is damaged in it."""
    return describe(*_dataset(path).media(question), decode=True)["damage"]
