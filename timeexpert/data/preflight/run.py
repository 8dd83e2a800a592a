"""A preflight from start to end: clips that were checked before are taken over, the rest is decoded, all is judged.

The output folder holds ``clips.jsonl`` (a line per clip, appended as each is finished: what resuming reads),
``exclude.jsonl`` (video and reason, which ``data build --preflight`` obeys) and ``preflight.json`` (settings and
counts, written last with ``"finished": true``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from timeexpert.data.lock import LOCK, locked
from timeexpert.data.pool import Failed, WorkerPool
from timeexpert.data.records import parse_json
from timeexpert.data.shard_index import write_atomically
from timeexpert.errors import UserError

from .check import Facts, check_clip
from .findings import KINDS, UNUSABLE, CheckedClip, check_kinds, judge, past_end
from .sources import Clip, Source, find_clips
from .stretches import StretchConfig

CLIPS, EXCLUDE, SUMMARY, PAGE = "clips.jsonl", "exclude.jsonl", "preflight.json", "preflight.html"
VERSION = 1
MAX_BAD_LINES = 1000  # written down; data validate lists all
FAILED_KINDS = {"refused": "unreadable", "timeout": "timeout", "crash": "crash"}


class PreflightError(UserError):
    """A preflight that cannot start or go on. Clips that were checked are kept."""


@dataclass
class PreflightReport:
    """What a preflight found. ``kinds`` counts clips by finding; ``reused`` of them were checked in earlier runs,
    ``features`` are files of features. ``frames`` counts those that were decoded."""

    out: str
    source: str
    clips: int = 0
    reused: int = 0
    features: int = 0
    excluded: int = 0
    duration_s: float = 0.0
    frames: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    questions: int = 0
    questions_excluded: int = 0
    questions_past_end: int = 0
    bad_lines: int = 0
    other_files: dict[str, int] = field(default_factory=dict)


def preflight(
    path: str | Path,
    out: str | Path,
    *,
    media: str | Path | None = None,
    config: StretchConfig | None = None,
    exclude: Sequence[str] = (),
    workers: int = 1,
    timeout_s: float = 600,
    retry_failed: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> PreflightReport:
    """Check the clips of a Sample ``.jsonl`` with ``media``, of a folder, or of a shard folder; write to ``out``.

    Each is decoded once in one of ``workers`` processes, for at most ``timeout_s``. A clip whose size and mtime are as
    in ``clips.jsonl`` is not decoded again (``retry_failed``: unless it failed). ``exclude`` names the kinds that leave
    a clip out besides those that cannot be used. Raises :class:`UserError`.
    """
    path, out, config = Path(path), Path(out), config or StretchConfig()
    kinds = check_kinds(exclude)
    source = find_clips(path, Path(media) if media is not None else None)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with locked(out, "preflight", PreflightError):
            _refuse_other_folder(out, asdict(config))
            start = {"version": VERSION, "finished": False, "stretches": asdict(config)}
            start["source"] = {"kind": source.kind, "path": str(path), "folder": str(source.folder.resolve())}
            _write_summary(out, start)
            offsets, unlisted = _take_over(out, source, retry_failed)
            report = PreflightReport(str(out), str(path), len(source.clips), reused=len(offsets))
            report.bad_lines, report.other_files = len(source.bad_lines), source.other_files
            _check(out, source, offsets, config, workers, timeout_s, progress)
            _finish(out, source, offsets, unlisted, kinds, report)
            end = {"exclude": [*UNUSABLE, *kinds], "timeout_s": timeout_s, "counts": asdict(report)}
            _write_summary(out, {**start, "finished": True, **end, "bad_lines": source.bad_lines[:MAX_BAD_LINES]})
    except OSError as error:
        raise PreflightError(
            f"{out}: cannot write: {error.strerror or error}. Clips that were checked are kept: give a folder that can "
            "be written, or free space and run the same command again to go on."
        ) from None
    return report


def read_clips(out: Path) -> Iterator[CheckedClip]:
    """The listed lines of a finished ``clips.jsonl``, with their findings."""
    from .findings import Finding

    with open(out / CLIPS, encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if not row["listed"]:
                continue
            clip = CheckedClip.from_json(row)
            clip.findings = [Finding(f["kind"], f["text"]) for f in row["findings"]]
            clip.excluded = row["excluded"]
            yield clip


def _refuse_other_folder(out: Path, stretches: dict[str, Any]) -> None:
    """``out`` must be new, or a preflight with the same measures."""
    file = out / SUMMARY
    if not file.is_file():
        other = sorted(p.name for p in out.iterdir() if p.name not in (LOCK, f"{SUMMARY}.tmp"))
        if other:
            raise PreflightError(f"{out}: holds {other[0]}, but no {SUMMARY}. Give an empty -o.")
        return
    try:
        before = parse_json(file.read_text(encoding="utf-8"))["stretches"]
        changed = [f"{k} ({before.get(k)}, now {v})" for k, v in stretches.items() if before.get(k) != v]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise PreflightError(f"{file}: not readable. Delete {out} and check again, or give another -o.") from None
    if changed:
        raise PreflightError(
            f"{out}: was made with other settings: {', '.join(changed)}. Give another -o, or delete the folder."
        )


def _write_summary(out: Path, row: dict[str, Any]) -> None:
    write_atomically(out / SUMMARY, (json.dumps(row, indent=1, allow_nan=False) + "\n").encode())


def _take_over(out: Path, source: Source, retry_failed: bool) -> tuple[dict[str, int], dict[str, int]]:
    """Keep the lines of ``clips.jsonl`` that still hold; returns where each begins by video, and the same for clips
    that are no longer named. Lines that are cut off or of files that changed are left out."""
    stamps = {clip.video: clip.stamp for clip in source.clips}
    offsets: dict[str, int] = {}
    unlisted: dict[str, int] = {}
    kept = out / f"{CLIPS}.tmp"
    with open(kept, "wb") as target:
        if (out / CLIPS).is_file():
            with open(out / CLIPS, "rb") as lines:
                for line in lines:
                    clip = _parse(line)
                    if clip is None or clip.video in offsets or clip.video in unlisted:
                        continue
                    if clip.video not in stamps:
                        unlisted[clip.video] = target.tell()
                    elif (
                        clip.stamp is not None
                        and clip.stamp == stamps[clip.video]
                        and not (retry_failed and clip.failed)
                    ):
                        offsets[clip.video] = target.tell()
                    else:
                        continue
                    target.write(line)
    kept.replace(out / CLIPS)
    return offsets, unlisted


def _parse(line: bytes) -> CheckedClip | None:
    try:
        return CheckedClip.from_json(parse_json(line.decode("utf-8"))) if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):  # a bad line is checked again
        return None


def _check(
    out: Path,
    source: Source,
    offsets: dict[str, int],
    config: StretchConfig,
    workers: int,
    timeout_s: float,
    progress: Callable[[int, int, str], None] | None,
) -> None:
    """Decode the clips without a line, and append one for each as it is finished."""
    todo = [clip for clip in source.clips if clip.video not in offsets]
    with open(out / CLIPS, "ab") as lines, WorkerPool(check_clip, workers, timeout_s) as pool:
        for clip, found in _results(todo, pool, config):
            offsets[clip.video] = lines.tell()
            lines.write(_line(_checked(clip, found)))
            lines.flush()
            if progress is not None:
                progress(len(offsets), len(source.clips), clip.video)


def _results(
    todo: Sequence[Clip], pool: WorkerPool[Facts], config: StretchConfig
) -> Iterator[tuple[Clip, Facts | Failed]]:
    """Clips without a file need no worker."""
    there = []
    for clip in todo:
        if clip.stamp is None:
            yield clip, Failed(clip.problem, "missing")
        else:
            there.append(clip)
    for number, found in pool.as_finished((clip.place, config) for clip in there):
        yield there[number], found


def _checked(clip: Clip, found: Facts | Failed) -> CheckedClip:
    if isinstance(found, Failed):
        kind = FAILED_KINDS.get(found.kind, found.kind)
        way_out = ". Raise --timeout-s and give --retry-failed, or leave it out" if kind == "timeout" else ""
        return CheckedClip(clip.video, clip.stamp, kind, found.about(clip.video) + way_out)
    return CheckedClip(clip.video, clip.stamp, facts=found)


def _line(clip: CheckedClip) -> bytes:
    return (json.dumps(clip.to_json(), allow_nan=False) + "\n").encode()


def _finish(
    out: Path,
    source: Source,
    offsets: dict[str, int],
    unlisted: dict[str, int],
    kinds: Sequence[str],
    report: PreflightReport,
) -> None:
    """Judge every clip; write ``clips.jsonl`` and ``exclude.jsonl`` in the order of the source; count. The lines of
    clips that are no longer named come last."""
    counts = dict.fromkeys(KINDS, 0)
    new, left_out = out / f"{CLIPS}.tmp", out / f"{EXCLUDE}.tmp"
    with open(out / CLIPS, "rb") as lines, open(new, "wb") as target, open(left_out, "wb") as excluded:
        for clip in source.clips:
            lines.seek(offsets[clip.video])
            checked = CheckedClip.from_json(json.loads(lines.readline()))
            judge(checked, clip.questions, kinds)
            target.write(_line(checked))
            for finding in checked.findings:
                counts[finding.kind] += 1
            report.questions += len(clip.questions)
            if checked.facts is not None:
                report.duration_s += checked.facts.duration_s
                report.features += checked.facts.features is not None
                report.frames += checked.facts.num_frames if checked.facts.features is None else 0
                report.questions_past_end += len(past_end(clip.questions, checked.facts.duration_s))
            if checked.excluded:
                report.excluded += 1
                report.questions_excluded += len(clip.questions)
                row = {"video": checked.video, "reason": checked.excluded}
                excluded.write((json.dumps(row) + "\n").encode())
        for offset in unlisted.values():
            lines.seek(offset)
            row = json.loads(lines.readline())
            target.write((json.dumps({**row, "listed": False}) + "\n").encode())
    new.replace(out / CLIPS)
    left_out.replace(out / EXCLUDE)
    report.kinds = {kind: count for kind, count in counts.items() if count}
