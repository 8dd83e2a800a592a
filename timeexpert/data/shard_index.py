"""The shard format on disk: members of tars, ``index.jsonl`` and ``dataset.json``; read, written and made again.

See :mod:`timeexpert.data.shards` for the layout. Tar has no checksum of its payload, so the index holds one for each
member. Folders are untrusted: only plain data is parsed, and names and offsets cannot lead outside a shard.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from timeexpert.errors import UserError

from .index_table import TABLE, Entry, IndexTable, Member
from .records import TASKS, Sample, SampleError, parse_json

VERSION = 1
INDEX, MANIFEST, UNFINISHED = "index.jsonl", "dataset.json", ".build"
LOST = "reindexed_with_problems"  # in dataset.json, where an index was made again and something was left out
SHARD_NAME = re.compile(r"shard-\d{6}\.tar")
MEMBER_NAME = re.compile(r"([A-Za-z0-9_-]{1,80})\.([a-z0-9]{1,8})")
BLOCK = tarfile.BLOCKSIZE
BUILD_AGAIN = "Make the data set again: timeexpert data build SAMPLES.jsonl --media DIR -o {path}"
INDEX_AGAIN = "If the shards are sound, make the index again: timeexpert data validate {path} --rebuild-index"


class ShardError(UserError):
    """A shard folder that cannot be trusted: missing, truncated, changed or damaged. Says which command mends it."""


@dataclass(frozen=True)
class VideoRecord:
    """The parsed ``<key>.json``. ``info`` is what the decoder said about the file when the shard was made."""

    video: str
    sha256: str
    duration_s: float
    info: dict[str, Any]
    samples: tuple[Sample, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON object of the member."""
        return {**asdict(self), "samples": [s.to_json() for s in self.samples]}

    @classmethod
    def parse(cls, data: bytes, where: str) -> VideoRecord:
        """Read the member's bytes; ``where`` names it in errors. Raises :class:`ShardError`."""
        try:
            row = parse_json(data.decode("utf-8"))
            samples = tuple(Sample.from_json(sample) for sample in row["samples"])
            for name, kind in (("video", str), ("sha256", str), ("duration_s", (int, float)), ("info", dict)):
                if not isinstance(row[name], kind):
                    raise TypeError(f"{name} ({row[name]!r}) has the wrong type")
        except (SampleError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ShardError(f"{where}: not the description of a video: {error}") from None
        return cls(row["video"], row["sha256"], float(row["duration_s"]), row["info"], samples)


@dataclass
class IndexReport:
    """What :func:`rebuild_index` could keep, and what it could not (``problems``: one line each)."""

    videos: int = 0
    questions: int = 0
    problems: list[str] = field(default_factory=list)


def read_manifest(path: Path) -> dict[str, Any]:
    """``dataset.json`` of a finished folder, with its shards in place. Raises :class:`ShardError`."""
    file = path / MANIFEST
    if not file.is_file():
        if (path / UNFINISHED).is_dir():
            raise ShardError(f"{path}: the build was not finished. Run the same timeexpert data build command again.")
        raise ShardError(f"{path}: no {MANIFEST}, so not a shard folder. {BUILD_AGAIN.format(path=path)}")
    try:
        manifest = parse_json(file.read_text(encoding="utf-8"))
        version, shards = manifest["version"], [(s["name"], s["size"]) for s in manifest["shards"]]
        manifest["index_sha256"], manifest["build"]
    except (SampleError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ShardError(f"{file}: not a description of shards: {error}. {INDEX_AGAIN.format(path=path)}") from None
    if version != VERSION:
        raise ShardError(f"{file}: version {version!r}; this program reads {VERSION}. {BUILD_AGAIN.format(path=path)}")
    for name, size in shards:
        if not isinstance(name, str) or not SHARD_NAME.fullmatch(name):
            raise ShardError(f"{file}: shard name {name!r} must look like shard-000000.tar.")
        shard = path / name
        if not shard.is_file():
            raise ShardError(f"{shard}: missing. {BUILD_AGAIN.format(path=path)}")
        if shard.stat().st_size != size:
            raise ShardError(
                f"{shard}: has {shard.stat().st_size} bytes, {MANIFEST} says {size}: truncated or replaced. "
                f"{BUILD_AGAIN.format(path=path)}"
            )
    return manifest


def read_index(path: Path, manifest: dict[str, Any]) -> list[Entry]:
    """The lines of ``index.jsonl``, checked against ``dataset.json``. Raises :class:`ShardError`."""
    file, sizes = path / INDEX, {s["name"]: s["size"] for s in manifest["shards"]}
    data = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(data).hexdigest() != manifest["index_sha256"]:
        what = "does not match" if data else "is missing or empty, unlike"
        raise ShardError(f"{file}: {what} the checksum in {MANIFEST}. {INDEX_AGAIN.format(path=path)}")
    entries = []
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        try:
            entry = parse_entry(parse_json(line))
            members = (entry.media, entry.meta)
            inside = all(m.offset >= 0 and m.size >= 0 and m.offset + m.size <= sizes[entry.shard] for m in members)
        except (SampleError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ShardError(
                f"{file}:{number}: not an index line: {error!r}. {INDEX_AGAIN.format(path=path)}"
            ) from None
        if not inside or min(entry.tasks.values(), default=0) < 1 or not entry.tasks.keys() <= set(TASKS):
            raise ShardError(
                f"{file}:{number}: points outside {entry.shard}, or counts tasks that do not exist. "
                f"{INDEX_AGAIN.format(path=path)}"
            )
        entries.append(entry)
    return entries


def index_line(entry: Entry) -> dict[str, Any]:
    """The JSON object of an index line."""
    row = asdict(entry)
    row["json"], row["json_sha256"] = row.pop("meta"), row.pop("meta_sha256")
    return {**row, "questions": entry.questions}


def parse_entry(row: dict[str, Any]) -> Entry:
    """The entry of :func:`index_line`. Raises ``KeyError``, ``TypeError``, ``ValueError`` or ``AttributeError``."""
    media, meta = (Member(str(m["name"]), int(m["offset"]), int(m["size"])) for m in (row["media"], row["json"]))
    tasks = {str(task): int(count) for task, count in row["tasks"].items()}
    return Entry(str(row["shard"]), str(row["key"]), media, meta, str(row["sha256"]), str(row["json_sha256"]), tasks)


def write_index(path: Path, entries: Sequence[Entry], build: dict[str, Any]) -> dict[str, Any]:
    """Write ``index.jsonl`` and ``index.npy``, then ``dataset.json`` (which says that the folder is finished).

    Returns the latter.
    """
    lines = "".join(json.dumps(index_line(e)) + "\n" for e in entries).encode()
    tasks = sum((Counter(e.tasks) for e in entries), Counter())
    videos, questions = Counter(e.shard for e in entries), Counter[str]()
    for entry in entries:
        questions[entry.shard] += entry.questions
    shards = sorted(p for p in path.iterdir() if SHARD_NAME.fullmatch(p.name))
    table = IndexTable.of(entries, [p.name for p in shards]).to_bytes()
    manifest = {
        "version": VERSION,
        "videos": len(entries),
        "questions": sum(tasks.values()),
        "tasks": dict(sorted(tasks.items())),
        "media_bytes": sum(e.media.size for e in entries),
        "shards": [
            {"name": p.name, "size": p.stat().st_size, "videos": videos[p.name], "questions": questions[p.name]}
            for p in shards
        ],
        "index_sha256": hashlib.sha256(lines).hexdigest(),
        "table_sha256": hashlib.sha256(table).hexdigest(),
        "build": build,
    }
    write_atomically(path / INDEX, lines)
    write_atomically(path / TABLE, table)
    write_atomically(path / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, path)


def rebuild_index(path: str | Path) -> IndexReport:
    """Make ``index.jsonl`` and ``dataset.json`` again from the tars alone; every byte is read and checked.

    Videos that are readable and whole are kept; everything else is reported. (The sum of a ``.json`` member stands in
    the index alone: here it must parse and hold the sum of its media.) Raises :class:`ShardError`.
    """
    path = Path(path)
    shards = sorted(p for p in path.glob("shard-*.tar") if SHARD_NAME.fullmatch(p.name))
    if not shards:
        raise ShardError(f"{path}: holds no shard-000000.tar. {BUILD_AGAIN.format(path=path)}")
    report, entries, seen = IndexReport(), [], set[str]()
    expected = {f"shard-{i:06d}.tar" for i in range(int(shards[-1].stem[-6:]) + 1)}
    report.problems += [f"{path / name}: missing" for name in sorted(expected - {p.name for p in shards})]
    for shard in shards:
        found, problems = index_shard(shard)
        report.problems += problems
        for entry in found:
            if entry.key in seen:
                report.problems.append(f"{shard}: {entry.media.name} is in the data set already")
                continue
            seen.add(entry.key)
            entries.append(entry)
    try:
        build = dict(parse_json((path / MANIFEST).read_text(encoding="utf-8"))["build"])
    except (OSError, SampleError, UnicodeDecodeError, KeyError, TypeError, ValueError):
        build = {}
    if report.problems:
        build[LOST] = len(report.problems)
    manifest = write_index(path, entries, build)
    report.videos, report.questions = manifest["videos"], manifest["questions"]
    return report


def index_shard(shard: Path) -> tuple[list[Entry], list[str]]:
    """Index lines of one tar, every member read and checked; and what is wrong with the rest, one line each."""
    members, problems = scan_tar(shard)
    by_key: dict[str, list[Member]] = {}
    for member in members:
        by_key.setdefault(member.name.split(".")[0], []).append(member)
    entries = []
    with open(shard, "rb") as tar:
        for key, pair in by_key.items():
            pair.sort(key=lambda m: m.name.endswith(".json"))
            if len(pair) != 2 or pair[0].name.endswith(".json") or not pair[1].name.endswith(".json"):
                names = ", ".join(m.name for m in pair)
                problems.append(f"{shard}: {names}: a video needs one media member and one .json")
                continue
            media, meta = pair
            try:
                tar.seek(meta.offset)
                meta_bytes = tar.read(meta.size)
                record = VideoRecord.parse(meta_bytes, f"{shard}: {meta.name}")
            except ShardError as error:
                problems.append(str(error))
                continue
            if _sha256(tar, media) != record.sha256:
                problems.append(f"{shard}: {media.name}: its bytes have changed (sha256 differs from {meta.name})")
                continue
            tasks = dict(sorted(Counter(s.task for s in record.samples).items()))
            meta_sha256 = hashlib.sha256(meta_bytes).hexdigest()
            entries.append(Entry(shard.name, key, media, meta, record.sha256, meta_sha256, tasks))
    return entries, problems


def _sha256(file: Any, member: Member) -> str:
    digest, left = hashlib.sha256(), member.size
    file.seek(member.offset)
    while left:
        chunk = file.read(min(left, 1 << 20))
        if not chunk:
            break
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def scan_tar(shard: Path) -> tuple[list[Member], list[str]]:
    """The members of a tar, and what is wrong with it. After damage, reading goes on at the next sound header."""
    members: list[Member] = []
    problems: list[str] = []
    size, offset, ended, lost_from = shard.stat().st_size, 0, False, -1
    with open(shard, "rb") as tar:
        for offset, header in _headers(tar, size):
            if header is None:
                ended = True
                continue
            if isinstance(header, tarfile.HeaderError):
                lost_from = offset if lost_from < 0 else lost_from
                continue
            if lost_from >= 0:
                problems.append(f"{shard}: bytes {lost_from} to {offset} are damaged; what lies there is lost")
                lost_from = -1
            if not (header.isreg() and MEMBER_NAME.fullmatch(header.name)):
                problems.append(f"{shard}: {header.name!r} is not <key>.<extension>; left out")
            elif not 0 <= header.size <= size - offset - BLOCK:
                problems.append(f"{shard}: truncated inside {header.name}")
            else:
                members.append(Member(header.name, offset + BLOCK, header.size))
    if lost_from >= 0:
        problems.append(f"{shard}: bytes {lost_from} to {size} are damaged; what lies there is lost")
    elif not ended and not any("truncated" in p for p in problems):
        problems.append(f"{shard}: truncated: the end-of-archive mark is missing")
    return members, problems


def _headers(tar: Any, size: int) -> Iterator[tuple[int, tarfile.TarInfo | tarfile.HeaderError | None]]:
    """(offset, header or what is wrong with it) to the end of the file; the end-of-archive mark is ``None``."""
    offset, sound = 0, True
    while offset + BLOCK <= size:
        tar.seek(offset)
        block = tar.read(BLOCK)
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            ends = sound and not any(block) and _only_zeros(tar, size - offset - BLOCK)
            yield offset, None if ends else error
            if ends:
                return
            sound, offset = False, offset + BLOCK
            continue
        yield offset, header
        sound, offset = True, offset + BLOCK + -(-max(header.size, 0) // BLOCK) * BLOCK


def _only_zeros(tar: Any, left: int) -> bool:
    """Whether the rest is padding: a header that was overwritten with zeros must not pass for the end."""
    return left <= 2 * tarfile.RECORDSIZE and not any(tar.read(left))
