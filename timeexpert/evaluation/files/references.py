"""References: questions with their truth, from our samples or from an annotation file as it was published.

Rows are read by the converters of :mod:`timeexpert.data.formats`, but nothing is cut, sorted or left out: published
figures were computed on the files as they are, windows past a video's end among them. A row that cannot be scored is
an error, for a question that is silently left out would change the figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

from timeexpert.data.formats import FormatError, detect, get
from timeexpert.data.formats.base import Draft, Fault, RawEvent, RowError
from timeexpert.data.records import DURATION_TOLERANCE_S, Sample, SampleError
from timeexpert.data.shards import ShardDataset
from timeexpert.tokenization import Event, EventError, EventSequence

from ..errors import EvaluationError

MAX_TIME_S = 1e6


@dataclass(frozen=True)
class Reference:
    """One question with its truth, and the names by which a prediction may mean it (see :mod:`.matching`).

    ``where`` is its place in its file, for messages.
    """

    sample: Sample
    keys: Mapping[str, str] = field(default_factory=dict)
    where: str = ""


def read_references(
    path: Path,
    task: str,
    *,
    format: str = "auto",
    durations: Mapping[str, float] | None = None,
    also: Sequence[Path] = (),
) -> list[Reference]:
    """Every question of the Sample task ``task`` in ``path``: samples, a shard folder or a published annotation file.

    ``durations``: seconds by video id, where the file has none. ``also``: files with dense captions of further
    annotators; a video that only they have is a question too. Raises :class:`EvaluationError` naming file, row,
    field and rule where a truth cannot be scored, and where there is no question of the task.
    """
    try:
        found = list(_shards(path, task)) if path.is_dir() else list(_file(path, task, format, durations))
    except FormatError as error:
        raise EvaluationError(str(error)) from None
    if not found:
        raise EvaluationError(f"{path}: holds no {task} question. Give other references, or another --task.")
    first: dict[str, Reference] = {}
    for reference in found:
        earlier = first.setdefault(reference.sample.id, reference)
        if earlier is not reference:
            raise EvaluationError(
                f"{path.parent / reference.where}: id {reference.sample.id!r} stands in {earlier.where} already; ids "
                "of references must be unique. Rename one, or take it out."
            )
    for other in also:
        if task != "dense_captioning":
            raise EvaluationError(f"--also-references ({other}) are for dense captions; {task} has one truth.")
        found = _with_more(found, read_references(other, task, format=format, durations=durations))
    return found


def _with_more(references: list[Reference], others: list[Reference]) -> list[Reference]:
    """The truth of ``others`` as further truth of the same videos, in ``meta.more_events``."""
    more = {reference.keys["video"]: reference for reference in others}
    merged = []
    for reference in references:
        other = more.pop(reference.keys["video"], None)
        if other is not None:
            meta = reference.sample.meta
            events = [*meta.get("more_events", []), other.sample.events.to_json()]
            reference = replace(reference, sample=replace(reference.sample, meta={**meta, "more_events": events}))
        merged.append(reference)
    return [*merged, *more.values()]


def _shards(path: Path, task: str) -> Iterator[Reference]:
    dataset = ShardDataset(path)
    for i in range(len(dataset)):
        sample = dataset.sample(i)
        if sample.task == task:
            yield _reference(sample, sample.id, f"{path.name}[{i}]")


def _file(path: Path, task: str, format: str, durations: Mapping[str, float] | None) -> Iterator[Reference]:
    known = get(detect(path) if format == "auto" else format)
    for row in known.rows(path):
        where = path.parent / row.where
        if row.problem:
            raise EvaluationError(f"{where}: {row.problem.rstrip('.')}. Correct the row.")
        try:
            for draft in known.drafts(row):
                if isinstance(draft, Fault):
                    raise draft.error
                if draft.task != task:
                    continue
                if isinstance(draft, Sample):
                    yield _reference(draft, draft.id, row.where)
                else:
                    yield _of_draft(draft, durations, row.where)
        except RowError as error:
            raise EvaluationError(f"{where}: {error.reason} Correct the row, or leave it out of the file.") from None
        except (SampleError, EventError) as error:
            raise EvaluationError(f"{where}: {error}") from None


def _of_draft(draft: Draft, durations: Mapping[str, float] | None, where: str) -> Reference:
    events = EventSequence(tuple(_event(raw, f"events[{i}]") for i, raw in enumerate(draft.events)))
    if not len(events):
        raise RowError("no_label", "there are no events: nothing to score.")
    duration_s = draft.duration_s if draft.duration_s is not None else (durations or {}).get(_stem(str(draft.video)))
    if duration_s is not None:
        duration_s = _number(duration_s, "duration")
        if duration_s <= 0:
            raise RowError("bad_number", f"duration ({duration_s}) must be more than 0 seconds.")
    past = duration_s is not None and any((e.end_s or 0.0) > duration_s + DURATION_TOLERANCE_S for e in events)
    meta = {**draft.meta, **({"query": draft.query} if draft.query else {})}
    if past:  # a Sample may not end past its video, a published window may: the figure is of the file as it is
        meta["published_duration_s"] = duration_s
    sample = Sample(
        id=draft.key,
        video=str(draft.video),
        task=draft.task,
        prompt=str(draft.prompt or draft.query or draft.task),
        events=events,
        duration_s=None if past else duration_s,
        meta=meta,
    )
    return _reference(sample, draft.key, where)


def _reference(sample: Sample, index: str, where: str) -> Reference:
    number = str(sample.meta.get("annotation_id", index))
    keys = {"id": sample.id, "index": number, "video": _stem(sample.video)}
    if sample.meta.get("qid") is not None:
        keys["qid"] = str(sample.meta["qid"])
    query = sample.meta.get("query") or (sample.events[0].text if sample.task == "moment_retrieval" else "")
    if query:
        keys["video_query"] = video_query(sample.video, str(query))
    return Reference(sample, keys, where)


def _event(raw: RawEvent, name: str) -> Event:
    times = [_number(t, f"{name} time") for t in raw.times]
    if len(times) > 2:
        raise RowError("malformed", f"{name} has {len(times)} times; an event has a start and an end.")
    if not isinstance(raw.text, str):
        raise RowError("malformed", f"{name} text ({raw.text!r}) must be a string.")
    if len(times) == 2 and times[0] == times[1]:
        raise RowError("zero_length", f"{name} has no length ({times[0]} s): no answer can overlap it.")
    scores = tuple(_number(s, f"{name} score") for s in raw.scores)
    return Event(times[0] if times else None, times[-1] if times else None, scores, raw.text.strip())


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RowError("bad_number", f"{name} ({value!r:.60}) must be a number.")
    if not -MAX_TIME_S <= value <= MAX_TIME_S or not isfinite(value):
        raise RowError("bad_number", f"{name} ({value!r:.40}) must be a finite number of at most {MAX_TIME_S:.0f}.")
    return float(value)


_ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov")


def _stem(video: str) -> str:
    name = video.replace("\\", "/").rsplit("/", 1)[-1]
    for ending in _ENDINGS:  # an id may hold a point: QVHighlights' do
        name = name.removesuffix(ending)
    return name


def video_key(video: str) -> str:
    """A video's name as predictions and references share it: without folders and file ending."""
    return _stem(video)


def video_query(video: str, query: str) -> str:
    """Video and query in one key; case, white space and a final full stop do not count."""
    return f"{_stem(video)} {' '.join(query.casefold().split()).removesuffix('.')}"
