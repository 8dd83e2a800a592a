"""Makes shards from Sample lines and a media folder: everything checked once, everything dropped written down.

The bytes written depend on the inputs alone: not on the number of workers, nor on how often a build was cut off.
A finished shard is committed by a small file in ``.build`` that holds its index lines; a build that was killed goes
on after the last committed one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from timeexpert.errors import UserError

from .lock import LOCK, locked
from .mask_checks import mask_problems
from .media import Probe, is_features, probe, require_media, resolve_media, video_member_key
from .pool import Failed, WorkerPool
from .preflight.exclusions import Exclusions, read_exclusions
from .records import Sample, SampleError, read_samples
from .sample_lines import require_samples
from .shard_index import (
    LOST,
    MANIFEST,
    UNFINISHED,
    ShardError,
    VideoRecord,
    read_index,
    read_manifest,
    write_atomically,
)
from .shard_writer import DROPPED, NOTES, ShardFolderWriter

INPUTS = "inputs.json"
DURATION_DIFFERS_S = 1.0


class BuildError(UserError):
    """A build that cannot start or go on. Finished shards are kept."""


@dataclass
class BuildReport:
    """What a build did. ``reasons`` counts dropped questions, and ``notes`` what was kept but is odd, by kind."""

    out: str
    shards: int = 0
    videos: int = 0
    questions: int = 0
    tasks: dict[str, int] = field(default_factory=dict)
    media_bytes: int = 0
    duplicates: int = 0
    dropped: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    resumed_shards: int = 0
    already_built: bool = False


@dataclass
class _Group:
    """The questions about one video, with their line numbers."""

    video: str
    samples: list[tuple[int, Sample]] = field(default_factory=list)


def build(
    samples: str | Path,
    media: str | Path,
    out: str | Path,
    *,
    shard_mb: float = 256,
    workers: int = 1,
    decode: bool = True,
    timeout_s: float = 600,
    preflight: str | Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> BuildReport:
    """Write the shard folder ``out`` from the Sample lines ``samples`` and the files under ``media``.

    Each video is opened, and with ``decode`` decoded fully once, in ``workers`` processes, for at most ``timeout_s``.
    ``duration_s`` is filled in where a sample has none, and event times are checked against the real one. Every
    question that is not stored stands in ``dropped.jsonl`` with its reason, those about videos that the folder
    ``preflight`` excludes too. ``progress`` is called with (videos done, videos, name). The same call goes on with a
    build that was cut off, and repairs one whose shards were deleted or truncated. Raises :class:`BuildError`.
    """
    samples, media, out = Path(samples), Path(media), Path(out)
    require_samples(samples, BuildError)
    require_media(media, BuildError)
    if not shard_mb > 0:
        raise BuildError(f"shard_mb ({shard_mb}) must be > 0.")
    exclusions = read_exclusions(preflight) if preflight is not None else None
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, "build", BuildError):
        groups, dropped, duplicates = _group(samples)
        inputs = _inputs(samples, media, groups, shard_mb, decode, exclusions)
        if any(is_features(group.video) for group in groups):
            from .features import one_kind  # which needs torch

            inputs["features"] = one_kind(media, [group.video for group in groups])
        if exclusions is not None:
            groups, left_out = _exclude(groups, media, exclusions)
            dropped += left_out
        if not _prepare(out, inputs):
            return _report(out, already_built=True)
        writer = ShardFolderWriter(out, int(shard_mb * 1e6))
        resumed, first = writer.resume(), writer.next_place
        try:
            with WorkerPool(probe, workers, timeout_s) as pool:
                tasks = ((media, group.video, decode) for group in groups[first:])
                for place, found in enumerate(pool.map(tasks), first):
                    _write_video(writer, media, place, groups[place], found)
                    if progress is not None:
                        progress(place + 1, len(groups), groups[place].video)
            for row in dropped:
                writer.note(DROPPED, row)
            writer.finish(len(groups), {**inputs, "duplicates": duplicates})
        except OSError as error:
            raise BuildError(
                f"{out}: cannot write: {error.strerror or error}. {writer.finished} finished shards are kept: free "
                "space, then run the same command again to go on."
            ) from None
        finally:
            writer.abandon()
        return _report(out, resumed_shards=resumed)


def _write_video(writer: ShardFolderWriter, media: Path, place: int, group: _Group, found: Probe | Failed) -> None:
    """Write one video with those of its questions that hold against the real duration."""
    if isinstance(found, Failed):
        for line, sample in group.samples:
            writer.note(DROPPED, _row(line, sample.id, group.video, "video", found.about(group.video)))
        return
    data = resolve_media(media, group.video).read_bytes()
    if hashlib.sha256(data).hexdigest() != found.sha256:
        raise BuildError(
            f"{group.video}: changed while the build was reading it. Run the build again once it is whole."
        )
    duration_s, kept, rows = found.info["duration_s"], [], []
    for line, sample in group.samples:
        try:
            checked = replace(sample, duration_s=duration_s)
        except SampleError as error:
            reason = f"{group.video}: against the file's own duration: {error}"
            rows.append((DROPPED, _row(line, sample.id, group.video, "past the end", reason)))
            continue
        bad = next(mask_problems(sample, found.info), None)
        if bad is not None:
            rows.append((DROPPED, _row(line, sample.id, group.video, "masks", f"{group.video}: {bad}")))
            continue
        kept.append(checked if sample.duration_s is None else sample)
        if sample.duration_s is not None and abs(sample.duration_s - duration_s) > DURATION_DIFFERS_S:
            text = f"the sample says duration_s {sample.duration_s}, the file lasts {duration_s:.2f} s; kept as it says"
            rows.append((NOTES, _row(line, sample.id, group.video, "duration differs", text)))
    if kept and found.info["damage"]:
        line, sample = group.samples[0]
        rows.append((NOTES, _row(line, sample.id, group.video, "damaged video", found.info["damage"])))
    if kept:
        record = VideoRecord(group.video, found.sha256, duration_s, found.info, tuple(kept))
        key, extension = video_member_key(group.video)
        writer.add(place, key, extension, data, record.to_json())
    for file, row in rows:  # after add(): it may commit the shard before, which ends where this video begins
        writer.note(file, row)


def _report(out: Path, **how: Any) -> BuildReport:
    """The report of a finished folder, from the files in it."""
    manifest = read_manifest(out)
    kinds = {}
    for name in (DROPPED, NOTES):
        with open(out / name, encoding="utf-8") as rows:
            kinds[name] = dict(sorted(Counter(json.loads(row)["kind"] for row in rows).items()))
    return BuildReport(
        out=str(out),
        shards=len(manifest["shards"]),
        videos=manifest["videos"],
        questions=manifest["questions"],
        tasks=manifest["tasks"],
        media_bytes=manifest["media_bytes"],
        duplicates=manifest["build"]["duplicates"],
        dropped=sum(kinds[DROPPED].values()),
        reasons=kinds[DROPPED],
        notes=kinds[NOTES],
        **how,
    )


def _group(path: Path) -> tuple[list[_Group], list[dict[str, Any]], int]:
    """Questions by video in order of first appearance; rows of ``dropped.jsonl``; count of identical repeats."""
    groups: dict[str, _Group] = {}
    first_seen: dict[str, tuple[int, bytes]] = {}
    dropped: list[dict[str, Any]] = []
    duplicates = 0
    for line, sample in read_samples(path):
        if isinstance(sample, SampleError):
            dropped.append(_row(line, None, None, "bad line", str(sample).removeprefix(f"{path}:{line}: ")))
            continue
        digest = hashlib.sha256(json.dumps(sample.to_json(), sort_keys=True).encode()).digest()
        earlier, known = first_seen.setdefault(sample.id, (line, digest))
        if earlier != line and known == digest:
            duplicates += 1
        elif earlier != line:
            reason = (
                f"{path}:{line}: id {sample.id!r} is taken by another sample in line {earlier}; ids must be unique."
            )
            dropped.append(_row(line, sample.id, sample.video, "duplicate id", reason))
        else:
            video = PurePosixPath(sample.video).as_posix()
            groups.setdefault(video, _Group(video)).samples.append((line, sample))
    return list(groups.values()), dropped, duplicates


def _row(line: int, id: str | None, video: str | None, kind: str, reason: str) -> dict[str, Any]:
    return {"line": line, "id": id, "video": video, "kind": kind, "reason": reason}


def _exclude(groups: list[_Group], media: Path, exclusions: Exclusions) -> tuple[list[_Group], list[dict[str, Any]]]:
    """The groups that a preflight lets through, and rows of ``dropped.jsonl`` for the others."""
    exclusions.check_covers({group.video: _size(media, group.video) for group in groups})
    dropped = [
        _row(line, sample.id, group.video, "preflight", f"{group.video}: {exclusions.reasons[group.video]}")
        for group in groups
        if group.video in exclusions.reasons
        for line, sample in group.samples
    ]
    return [group for group in groups if group.video not in exclusions.reasons], dropped


def _size(media: Path, video: str) -> int | None:
    try:
        return resolve_media(media, video).stat().st_size
    except UserError:
        return None


def _inputs(
    samples: Path, media: Path, groups: list[_Group], shard_mb: float, decode: bool, exclusions: Exclusions | None
) -> dict[str, Any]:
    """What a build is made from; two builds with equal inputs give equal bytes."""
    listing = hashlib.sha256()
    for group in groups:
        size = _size(media, group.video)
        listing.update(json.dumps([group.video, -1 if size is None else size]).encode())
    with open(samples, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "samples": digest,
        "media": listing.hexdigest(),
        "shard_mb": float(shard_mb),
        "decode": decode,
        "preflight": exclusions.sha256 if exclusions is not None else None,
    }


def _prepare(out: Path, inputs: dict[str, Any]) -> bool:
    """Make ``out`` ready to build or to go on; false when it is finished already. Raises :class:`BuildError`."""
    state = out / UNFINISHED
    if (out / MANIFEST).is_file():
        _refuse_other_inputs(out, out / MANIFEST, inputs)
        try:
            manifest = read_manifest(out)
            read_index(out, manifest)
            if not manifest["build"].get(LOST):
                shutil.rmtree(state, ignore_errors=True)
                return False
        except ShardError:
            pass  # shards are missing or damaged: they are made again from the same inputs
        shutil.rmtree(state, ignore_errors=True)
    elif (state / INPUTS).is_file():
        _refuse_other_inputs(out, state / INPUTS, inputs)
    else:
        known = [p for p in out.iterdir() if p.name not in (LOCK, UNFINISHED)]
        if known:
            raise BuildError(f"{out}: holds {known[0].name}, which no unfinished build explains. Give an empty -o.")
    state.mkdir(exist_ok=True)
    write_atomically(state / INPUTS, json.dumps({"build": inputs}).encode())
    (out / MANIFEST).unlink(missing_ok=True)
    return True


def _refuse_other_inputs(out: Path, file: Path, inputs: dict[str, Any]) -> None:
    try:
        built = json.loads(file.read_text(encoding="utf-8"))["build"]
        changed = [name for name, value in inputs.items() if built.get(name) != value]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BuildError(f"{file}: not readable. Delete {out} and build again, or give another -o.") from None
    names = {
        "samples": "the samples file",
        "media": "the media files (names or sizes)",
        "preflight": "the list of excluded videos",
        "features": "what made the features",
    }
    if changed:
        what = ", ".join(names.get(n, f"{n} ({built.get(n)}, now {inputs[n]})") for n in changed)
        raise BuildError(f"{out}: was built from other inputs: {what} changed. Give another -o, or delete the folder.")
