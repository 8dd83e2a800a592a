"""Runs the filters over a data set: every clip decoded once, every dropped sample written down with its reason.

The output folder holds ``kept.jsonl``, ``dropped-FILTER.jsonl`` (or ``flagged-FILTER.jsonl``), ``dropped-input.jsonl``
and ``filter.json``; ``cache/`` holds what was measured and answered, so that a run that was cut off goes on, and one
with another threshold decodes and asks nothing again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from timeexpert.config import to_tree
from timeexpert.data.lock import LOCK, locked
from timeexpert.data.media import require_media
from timeexpert.data.records import Sample
from timeexpert.data.sample_lines import good_samples, require_samples, unique_samples, write_row
from timeexpert.data.shard_index import write_atomically
from timeexpert.errors import UserError

from .captions import CaptionFilter, count_captions
from .clips import ClipStore
from .config import FilterConfig
from .consistency import ConsistencyFilter
from .curves import Calibration, Curve, Labels, drop_curve
from .labelled import calibrate_alignment, calibrate_cuts
from .timing import AlignmentFilter, AlignmentScorer, BoundaryScorer, CutsFilter, TimestampsFilter
from .verdict import Filter, Verdict

REPORT, KEPT, BAD_INPUT, CACHE = "filter.json", "kept.jsonl", "dropped-input.jsonl", "cache"
WINDOW = 1024  # samples judged at a time: bounds memory
Progress = Callable[[int, int, str], None]


class FilterError(UserError):
    """A run that cannot start or go on. What was measured is kept."""


@dataclass
class StageCounts:
    """One filter's counts of samples. ``faults`` and ``unmeasured`` count by kind; those unmeasured pass."""

    action: str
    judged: int = 0
    passed: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    unmeasured: dict[str, int] = field(default_factory=dict)


@dataclass
class FilterReport:
    """What a run did; also the content of ``filter.json``. ``curves``: see :mod:`timeexpert.data.filters.curves`."""

    out: str
    samples: int = 0
    kept: int = 0
    bad_input: int = 0
    clips: int = 0
    decoded_now: int = 0
    unreadable_clips: int = 0
    stages: dict[str, StageCounts] = field(default_factory=dict)
    costs: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    calibration: dict[str, Calibration] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def run_filters(
    samples: str | Path,
    media: str | Path | None,
    out: str | Path,
    config: FilterConfig | None = None,
    *,
    workers: int = 1,
    timeout_s: float = 600,
    scorer: AlignmentScorer | None = None,
    labels: Labels | None = None,
    progress: Progress | None = None,
) -> FilterReport:
    """Filter the Sample lines ``samples`` with clips under ``media`` into the folder ``out``.

    ``scorer`` takes the place of ``config.alignment.scorer``. ``labels`` are examples that ``cuts`` and
    ``alignment`` are held against, reported as curves. ``progress`` is called with (done, total, what). The same call
    goes on with a run that was cut off. Raises :class:`FilterError`, or ``EndpointError`` (a ``UserError``).
    """
    samples, out, config = Path(samples), Path(out), config or FilterConfig()
    media = Path(media) if media is not None else None
    _check(samples, media, config, labels)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, "run", FilterError), ExitStack() as stack:
        _refuse_foreign(out)
        report = FilterReport(str(out), settings=to_tree(config))
        videos: dict[str, None] = {}
        counts = count_captions(_noted(good_samples(samples), videos))
        store = None
        if config.needs_media and media is not None:
            store, scorer = _store(out, media, config, scorer)
            videos |= dict.fromkeys(labels.cuts_s if labels is not None else ())
            report.clips = len(videos)
            report.decoded_now = store.fill(videos, workers=workers, timeout_s=timeout_s, progress=progress)
            report.unreadable_clips = len(store.failed)
        filters = [_make(name, config, stack, out, store, scorer, counts) for name in config.filters]
        for stage in filters:
            if isinstance(stage, ConsistencyFilter):
                stage.progress = progress
        _judge_all(samples, out, filters, config, report, progress)
        for stage in filters:
            if isinstance(stage, ConsistencyFilter):
                usage = asdict(stage.usage) if stage.usage is not None else None
                report.costs = {
                    "usage": usage,
                    "judged_by": dict(stage.judged_by),
                    "failures": dict(stage.failures),
                }
            if isinstance(stage, (CutsFilter, AlignmentFilter)) and stage.values:
                below = isinstance(stage, AlignmentFilter)
                threshold = stage.threshold if isinstance(stage, AlignmentFilter) else stage.config.threshold
                report.curves[stage.name] = drop_curve(stage.values, threshold, drops_below=below)
            if labels is not None and store is not None:
                if labels.cuts_s and isinstance(stage, CutsFilter):
                    report.calibration[stage.name] = calibrate_cuts(labels, store, config)
                if labels.aligned and isinstance(stage, AlignmentFilter):
                    found = calibrate_alignment(labels, good_samples(samples), store, stage.scorer, stage.threshold)
                    report.calibration[stage.name] = found
        for name in report.curves | report.calibration:
            both = {"drops": report.curves.get(name), "labelled": report.calibration.get(name)}
            rows = {kind: asdict(curve) if curve is not None else None for kind, curve in both.items()}
            write_atomically(out / f"curve-{name}.json", (json.dumps(rows, indent=1) + "\n").encode())
        with open(samples, "rb") as file:
            report.inputs = {"samples": str(samples), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        write_atomically(out / REPORT, (json.dumps(asdict(report), indent=1) + "\n").encode())
        return report


def _check(samples: Path, media: Path | None, config: FilterConfig, labels: Labels | None) -> None:
    require_samples(samples, FilterError)
    if media is None and config.needs_media:
        needing = [name for name in config.filters if name in ("timestamps", "cuts", "alignment")]
        raise FilterError(
            f"filters ({', '.join(needing)}) look into clips: give --media DIR, or choose "
            "filters=[captions,consistency]."
        )
    for name, given in (("cuts", labels and labels.cuts_s), ("alignment", labels and labels.aligned)):
        if given and name not in config.filters:
            raise FilterError(
                f"the labels are for {name}, which is not among filters ({list(config.filters)}). Add it."
            )
    if media is not None:
        require_media(media, FilterError)


def _refuse_foreign(out: Path) -> None:
    known = {REPORT, KEPT, LOCK, CACHE}
    for path in out.iterdir():
        name = path.name.removesuffix(".part").removesuffix(".tmp")
        if name not in known and not name.startswith(("dropped-", "flagged-", "curve-", "filter")):
            raise FilterError(f"{out}: holds {path.name}, which no run of filters wrote. Give an empty -o.")


def _store(
    out: Path, media: Path, config: FilterConfig, scorer: AlignmentScorer | None
) -> tuple[ClipStore, AlignmentScorer]:
    folder, fps = out / CACHE / "clips", config.cuts.analysis_fps
    if scorer is None and config.alignment.scorer == "encoder" and "alignment" in config.filters:
        from .encoder import EncoderScorer

        encoder = EncoderScorer(config.alignment)
        store = ClipStore(
            folder, media, fps, wanted=encoder.wanted, embed=encoder.embed_frames, embedded_by=encoder.fingerprint
        )
        encoder.store = store
        return store, encoder
    return ClipStore(folder, media, fps), scorer or BoundaryScorer(config.alignment)


def _make(
    name: str,
    config: FilterConfig,
    stack: ExitStack,
    out: Path,
    store: ClipStore | None,
    scorer: AlignmentScorer | None,
    counts: Counter[bytes],
) -> Filter:
    if name == "captions":
        return CaptionFilter(config.captions, counts)
    if name == "consistency":
        return stack.enter_context(ConsistencyFilter(config.consistency, out / CACHE / "answers.jsonl"))
    assert store is not None and scorer is not None
    if name == "timestamps":
        return TimestampsFilter(config.timestamps, store)
    if name == "cuts":
        return CutsFilter(config.cuts, store)
    return AlignmentFilter(config.alignment, store, scorer)


def _noted(samples: Iterator[Sample], videos: dict[str, None]) -> Iterator[Sample]:
    """``samples``; the videos they name are added to ``videos`` in order of first appearance."""
    for sample in samples:
        videos.setdefault(sample.video)
        yield sample


def _judge_all(
    samples: Path,
    out: Path,
    filters: Sequence[Filter],
    config: FilterConfig,
    report: FilterReport,
    progress: Progress | None,
) -> None:
    """Stream the samples through the filters; files get their names once all are whole."""
    report.stages = {f.name: StageCounts(getattr(config, f.name).action) for f in filters}
    names = [KEPT, BAD_INPUT]
    names += [f"{_past(stage.action)}-{name}.jsonl" for name, stage in report.stages.items()]
    for stale in (REPORT, KEPT, "dropped-*", "flagged-*", "curve-*"):  # never beside files of another run
        for path in out.glob(stale):
            path.unlink()
    total = sum(1 for _ in open(samples, "rb"))
    with ExitStack() as stack:
        files = {n: stack.enter_context(open(out / f"{n}.part", "w", encoding="utf-8")) for n in names}
        window: list[tuple[int, Sample]] = []

        def bad(row: dict[str, Any]) -> None:
            report.bad_input += 1
            write_row(files[BAD_INPUT], row)

        for line, sample in unique_samples(samples, bad):
            report.samples += 1
            window.append((line, sample))
            if len(window) == WINDOW:
                _judge_window(window, filters, files, report)
                window = []
                if progress is not None:
                    progress(line, total, "judging")
        _judge_window(window, filters, files, report)
    report.samples += report.bad_input
    for name in names:
        os.replace(out / f"{name}.part", out / name)


def _judge_window(
    window: list[tuple[int, Sample]], filters: Sequence[Filter], files: Mapping[str, TextIO], report: FilterReport
) -> None:
    for stage in filters:
        if not window:
            return
        counts = report.stages[stage.name]
        verdicts = stage.judge([sample for _, sample in window])
        left = []
        for (line, sample), verdict in zip(window, verdicts, strict=True):
            counts.judged += 1
            if verdict.fault is None:
                counts.passed += verdict.measured
                if not verdict.measured:
                    _count(counts.unmeasured, verdict.reason)
                left.append((line, sample))
                continue
            _count(counts.faults, verdict.fault)
            write_row(files[f"{_past(counts.action)}-{stage.name}.jsonl"], _row(line, sample, stage.name, verdict))
            if counts.action == "flag":
                left.append((line, sample))
        window = left
    for _, sample in window:
        report.kept += 1
        write_row(files[KEPT], sample.to_json())


def _row(line: int, sample: Sample, name: str, verdict: Verdict) -> dict[str, Any]:
    """One line of a dropped or flagged file."""
    return {
        "line": line,
        "id": sample.id,
        "video": sample.video,
        "task": sample.task,
        "filter": name,
        "fault": verdict.fault,
        "reason": verdict.reason,
        "value": verdict.value,
        "threshold": verdict.threshold,
        **verdict.detail,
    }


def _count(counts: dict[str, int], kind: str) -> None:
    counts[kind] = counts.get(kind, 0) + 1


def _past(action: str) -> str:
    return "dropped" if action == "drop" else "flagged"
