"""Re-annotates a data set: every clip decoded once, every answer kept, every change written down.

The output folder holds ``samples.jsonl``, ``changes.jsonl``, ``untouched.jsonl``, ``dropped-input.jsonl`` and
``reannotate.json``; ``cache/`` holds what was measured and answered, so that a run that was cut off goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from timeexpert.config import to_tree
from timeexpert.data.answer_cache import AnswerCache
from timeexpert.data.endpoint import Endpoint
from timeexpert.data.filters.clips import Clip, ClipStore
from timeexpert.data.filters.timing import cut_candidates
from timeexpert.data.lock import LOCK, locked
from timeexpert.data.media import require_media
from timeexpert.data.records import DURATION_TOLERANCE_S, Sample
from timeexpert.data.sample_lines import good_samples, require_samples, unique_samples, write_row
from timeexpert.data.shard_index import write_atomically
from timeexpert.errors import UserError
from timeexpert.tokenization import EventSequence

from .config import ReannotateConfig
from .grouping import Annotator, Talk, group_all
from .refinement import refine
from .traced import Traced, as_written, begin

SAMPLES, CHANGES, UNTOUCHED, BAD_INPUT = "samples.jsonl", "changes.jsonl", "untouched.jsonl", "dropped-input.jsonl"
REPORT, PAGE, CACHE = "reannotate.json", "reannotate.html", "cache"
META = "reannotation"  # key of a sample's meta: a list, one entry per re-annotation that changed it
WINDOW = 256  # samples in memory
Progress = Callable[[int, int, str], None]


class ReannotateError(UserError):
    """A run that cannot start. What was measured and answered before is kept."""


@dataclass
class ReannotateReport:
    """What a run did; also the content of ``reannotate.json``.

    ``steps`` counts changes by kind (one event may have several). ``untouched`` counts samples that a step could not
    deal with, and answers that changed nothing because they were refused, by reason. ``rounds`` counts samples by the
    number of questions asked; ``unsettled`` those whose last allowed answer still changed something.
    """

    out: str
    samples: int = 0
    bad_input: int = 0
    changed_samples: int = 0
    events_before: int = 0
    events_after: int = 0
    changed_events: int = 0
    steps: dict[str, int] = field(default_factory=dict)
    untouched: dict[str, int] = field(default_factory=dict)
    rounds: dict[str, int] = field(default_factory=dict)
    unsettled: int = 0
    clips: int = 0
    decoded_now: int = 0
    unreadable_clips: int = 0
    annotator: str | None = None
    usage: dict[str, Any] | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def reannotate(
    samples: str | Path,
    media: str | Path,
    out: str | Path,
    config: ReannotateConfig | None = None,
    *,
    workers: int = 1,
    timeout_s: float = 600,
    annotator: Annotator | None = None,
    progress: Progress | None = None,
) -> ReannotateReport:
    """Re-annotate the Sample lines ``samples``, with clips under ``media``, into the folder ``out``.

    ``annotator`` takes the place of ``config.grouping``'s endpoint or checkpoint. ``progress`` is called with (done,
    total, what). The same call goes on with a run that was cut off. Raises :class:`ReannotateError`, or
    ``EndpointError`` and ``CheckpointError`` (each a ``UserError``).
    """
    samples, media, out, config = Path(samples), Path(media), Path(out), config or ReannotateConfig()
    require_samples(samples, ReannotateError)
    require_media(media, ReannotateError)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, "run", ReannotateError), ExitStack() as stack:
        _refuse_foreign(out)
        report = ReannotateReport(str(out), settings=to_tree(config))
        store = ClipStore(out / CACHE / "clips", media, config.refinement.analysis_fps)
        if annotator is None:
            annotator = _annotator(config, stack, out, store, media)
        run = _Run(config, store, annotator, report, progress)
        videos = dict.fromkeys(s.video for s in good_samples(samples) if run.is_looked_at(s))
        report.clips = len(videos)
        report.decoded_now = store.fill(videos, workers=workers, timeout_s=timeout_s, progress=progress)
        report.unreadable_clips = len(store.failed)
        report.annotator = annotator.name if annotator is not None else None
        run.all(samples, out)
        if (endpoint := getattr(annotator, "endpoint", None)) is not None:
            report.usage = asdict(endpoint.usage)
        with open(samples, "rb") as file:
            report.inputs = {"samples": str(samples), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        write_atomically(out / REPORT, (json.dumps(asdict(report), indent=1) + "\n").encode())
        return report


def _refuse_foreign(out: Path) -> None:
    known = {SAMPLES, CHANGES, UNTOUCHED, BAD_INPUT, REPORT, PAGE, CACHE, LOCK}
    for path in out.iterdir():
        if path.name.removesuffix(".part").removesuffix(".tmp") not in known:
            raise ReannotateError(f"{out}: holds {path.name}, which no re-annotation wrote. Give an empty -o.")


def _annotator(
    config: ReannotateConfig, stack: ExitStack, out: Path, store: ClipStore, media: Path
) -> Annotator | None:
    answers = out / CACHE / "answers.jsonl"
    if config.grouping.endpoint is not None:
        from .endpoint import EndpointAnnotator

        endpoint = stack.enter_context(Endpoint(config.grouping.endpoint, answers))
        return EndpointAnnotator(endpoint, config.grouping, store, media)
    if config.grouping.checkpoint is not None:
        from .checkpoint import CheckpointAnnotator

        cache = stack.enter_context(AnswerCache(answers))
        return CheckpointAnnotator(config.grouping.checkpoint, config.grouping.device, cache, media)
    return None


class _Run:
    """One pass over the samples."""

    def __init__(
        self,
        config: ReannotateConfig,
        store: ClipStore,
        annotator: Annotator | None,
        report: ReannotateReport,
        progress: Progress | None,
    ) -> None:
        self.config, self.store, self.annotator, self.report = config, store, annotator, report
        self.progress = progress or (lambda done, total, what: None)
        self.files: Mapping[str, TextIO] = {}

    def is_looked_at(self, sample: Sample) -> bool:
        """Whether a step is for the sample's task."""
        grouped = self.annotator is not None and sample.task in self.config.grouping.tasks
        return grouped or sample.task in self.config.refinement.tasks

    def all(self, samples: Path, out: Path) -> None:
        """Stream the samples through; files get their names once all are whole."""
        names = (SAMPLES, CHANGES, UNTOUCHED, BAD_INPUT)
        for stale in (*names, REPORT, PAGE):  # never beside files of another run
            (out / stale).unlink(missing_ok=True)
        with open(samples, "rb") as lines:
            total = sum(1 for _ in lines)
        with ExitStack() as stack:
            self.files = {
                n: stack.enter_context(open(out / f"{n}.part", "w", encoding="utf-8", newline="\n")) for n in names
            }
            window: list[tuple[int, Sample]] = []
            for line, sample in unique_samples(samples, self._bad):
                window.append((line, sample))
                if len(window) == WINDOW:
                    self._window(window, total)
                    window = []
            self._window(window, total)
        self.report.samples += self.report.bad_input
        for name in names:
            os.replace(out / f"{name}.part", out / name)

    def _bad(self, row: dict[str, Any]) -> None:
        self.report.bad_input += 1
        write_row(self.files[BAD_INPUT], row)

    def _window(self, window: Sequence[tuple[int, Sample]], total: int) -> None:
        talks = {}
        for line, sample in window:
            if self.is_looked_at(sample) and self._can(line, sample):
                talks[line] = Talk(sample, begin(sample.events.events))
        if self.annotator is not None:
            self._group({line: talk for line, talk in talks.items() if self._can_group(line, talk)})
        for line, sample in window:
            self.report.samples += 1
            self.report.events_before += len(sample.events)
            talk, clip = talks.get(line), self.store.clip(sample.video) if line in talks else None
            if talk is not None and clip is not None:
                self._finish(talk, clip)
            else:
                self.report.events_after += len(sample.events)
                write_row(self.files[SAMPLES], sample.to_json())
            self.progress(line, total, "refining")

    def _can(self, line: int, sample: Sample) -> bool:
        if len(sample.events.segments_s) < len(sample.events):
            return self._untouched(line, sample, "events without times", "not every event has a start and an end.")
        if sample.video in self.store.failed:
            return self._untouched(line, sample, "unreadable clip", self.store.failed[sample.video])
        if not isinstance(sample.meta.get(META, []), list):
            why = f"meta.{META} ({sample.meta[META]!r:.80}) must be a list of earlier re-annotations. Rename the field."
            return self._untouched(line, sample, "meta is taken", why)
        clip = self.store.clip(sample.video)
        if clip is not None and any(start_s >= clip.duration_s for start_s, _ in sample.events.segments_s):
            why = f"an event begins after the last readable frame, at {clip.duration_s:.2f} s; data filter drops such."
            return self._untouched(line, sample, "past the end", why)
        return True

    def _can_group(self, line: int, talk: Talk) -> bool:
        config, sample = self.config.grouping, talk.sample
        if sample.task not in config.tasks:
            return False
        if len(talk.events) > config.max_events:
            why = f"{len(talk.events)} events; grouping.max_events is {config.max_events}. Times are refined."
            return self._untouched(line, sample, "too many events to group", why)
        if any(event.scores for event in sample.events):
            return self._untouched(line, sample, "events with scores are not grouped", "a merged score has no meaning.")
        return True

    def _group(self, talks: Mapping[int, Talk]) -> None:
        assert self.annotator is not None
        done = 0

        def asked() -> None:
            nonlocal done
            done += 1
            self.progress(min(done, len(talks)), len(talks), "asking the model")

        group_all(self.annotator, list(talks.values()), self.config.grouping, asked)
        for line, talk in talks.items():
            _count(self.report.rounds, str(talk.rounds))
            self.report.unsettled += talk.changed
            for refused in talk.refused:
                self._untouched(line, talk.sample, f"answer refused: {refused.kind}", refused.reason)

    def _untouched(self, line: int, sample: Sample, kind: str, reason: str) -> bool:
        _count(self.report.untouched, kind)
        row = {"line": line, "id": sample.id, "video": sample.video, "kind": kind, "reason": reason}
        write_row(self.files[UNTOUCHED], row)
        return False

    def _finish(self, talk: Talk, clip: Clip) -> None:
        sample, config = talk.sample, self.config.refinement
        events = talk.events
        if sample.task in config.tasks:
            cuts_s = [time_s for time_s, strength in cut_candidates(clip) if strength >= config.cut_threshold]
            # a sample may say that it ends earlier than its file does
            end_s = clip.duration_s if sample.duration_s is None else sample.duration_s + DURATION_TOLERANCE_S
            events = refine(events, min(clip.duration_s, end_s), cuts_s, config)
        events = as_written(events)
        changed = [i for i, one in enumerate(events) if one.steps]
        report = self.report
        report.events_after += len(events)
        report.changed_events += len(changed)
        report.changed_samples += bool(changed)
        for i in changed:
            for kind in dict.fromkeys(step.kind for step in events[i].steps):
                _count(report.steps, kind)
            write_row(self.files[CHANGES], {"id": sample.id, "video": sample.video} | _change(sample, i, events[i]))
        after = _with_provenance(sample, events, changed, report.annotator) if changed else sample
        write_row(self.files[SAMPLES], after.to_json())


def _change(sample: Sample, number: int, one: Traced) -> dict[str, Any]:
    return {
        "event": number,
        "sources": list(one.sources),
        "before": [sample.events[i].to_json() for i in one.sources],
        "after": one.event.to_json(),
        "steps": [step.to_json() for step in one.steps],
    }


def _with_provenance(sample: Sample, events: Sequence[Traced], changed: Sequence[int], annotator: str | None) -> Sample:
    """The sample with its new events; ``meta`` keeps the old ones and what was done to which."""
    entry = {
        "annotator": annotator,
        "before": sample.events.to_json(),
        "changes": [
            {
                "event": i,
                "sources": list(events[i].sources),
                "steps": [step.to_json() for step in events[i].steps],
            }
            for i in changed
        ],
    }
    meta = sample.meta | {META: [*sample.meta.get(META, []), entry]}
    return replace(sample, events=EventSequence(tuple(one.event for one in events)), meta=meta)


def _count(counts: dict[str, int], kind: str) -> None:
    counts[kind] = counts.get(kind, 0) + 1
