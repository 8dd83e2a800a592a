"""What every converter shares: options, drafts of samples, and the one place where annotations are checked.

A converter turns a row of its format into drafts and says nothing about policy; :func:`finish` turns a draft into
a :class:`Sample`, or into a :class:`Rejected` that says why not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from timeexpert.data.action_steps import CLASSES, step_problems
from timeexpert.data.formats.masks import MaskSource
from timeexpert.data.formats.reading import FormatError, Row
from timeexpert.data.instructions import ASK_ABOUT, Instructions, default_instructions
from timeexpert.data.label_sets import LabelError, LabelSets
from timeexpert.data.mask_rle import MaskError
from timeexpert.data.records import DURATION_TOLERANCE_S, TASKS, Sample, SampleError
from timeexpert.tokenization import Event, EventError, EventSequence

MAX_TIME_S = 1e6  # eleven days: what is larger is a time in other units


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """How to convert. The defaults are strict.

    ``source`` names the data set (default: the format's name). ``durations`` gives seconds per video id where the
    format has none. ``video_template`` makes the sample's video path from ``{id}`` (the video's id, or its file
    name without ending) and ``{path}`` (as the file says). ``clip_to_duration`` cuts ends past the video's end,
    which are otherwise refused beyond ``DURATION_TOLERANCE_S``. ``tasks`` keeps only samples of these tasks.
    ``instructions`` asks with these questions also where the format has questions of its own, general ones apart;
    without it those are kept. ``labels``: label sets of action segmentation. ``split`` keeps rows that name that split.
    ``frame_rate``: frames per second of videos made from folders of frames (default: the format's).
    """

    source: str | None = None
    durations: Mapping[str, float] | None = None
    video_template: str | None = None
    clip_to_duration: bool = False
    tasks: tuple[str, ...] = TASKS
    instructions: Instructions | None = None
    labels: LabelSets | None = None
    split: str | None = None
    frame_rate: float | None = None

    def __post_init__(self) -> None:
        if self.frame_rate is not None and not 0 < self.frame_rate <= 1000:
            raise FormatError(f"frame rate ({self.frame_rate}) must be more than 0, and 1000 at most, per second.")
        template = self.video_template
        if template is not None and "{id}" not in template and "{path}" not in template:
            raise FormatError(f"video template ({template!r}) must hold {{id}} or {{path}}, for example '{{id}}.mp4'.")
        for task in self.tasks:
            if task not in TASKS:
                raise FormatError(f"task ({task!r}) must be one of {', '.join(TASKS)}.")


@dataclass(frozen=True)
class Rejected:
    """What was not converted: its place, the kind of reason, the reason in words, and the row as it was."""

    where: str
    kind: str
    reason: str
    row: Any = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields of this class."""
        return {"where": self.where, "kind": self.kind, "reason": self.reason, "row": self.row}


Converted = Sample | Rejected


class RowError(ValueError):
    """Raised by converters on a row they cannot read; becomes a :class:`Rejected`."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


@dataclass(frozen=True)
class RawEvent:
    """An event as a file has it, unchecked: no time, one time (a point) or two (start, end), in seconds."""

    times: Any = ()
    scores: Any = ()
    text: Any = ""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A sample as a file has it, unchecked. ``key`` tells it from the file's other samples; ``at`` is its place
    within the row. Without ``prompt`` one is chosen, of the instructions ``ask`` (default: the task's); ``video_is_id``
    says that ``video`` is an id, not a path."""

    key: str
    video: Any
    task: str
    events: Sequence[RawEvent]
    prompt: Any = None
    query: str | None = None
    duration_s: Any = None
    video_is_id: bool = False
    at: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    ask: str | None = None
    masks: MaskSource | None = None


@dataclass(frozen=True)
class Fault:
    """Yielded by converters for a part of a row (``at``) that they cannot read, where the rest goes on."""

    at: str
    error: RowError


Drafts = Iterator[Draft | Fault | Sample]


@dataclass(frozen=True)
class Format:
    """A published annotation format: how its rows are read, told from others, and turned into samples.

    ``write`` makes a row of a sample, ``gather`` rows of all samples together. ``splits``: published numbers of videos.
    """

    name: str
    description: str
    rows: Callable[[Path], Iterator[Row]]
    matches: Callable[[Any], bool]
    drafts: Callable[[Row], Drafts]
    write: Callable[[Sample], dict[str, Any]] | None = None
    gather: Callable[[Iterable[Converted]], Iterator[dict[str, Any] | Rejected]] | None = None
    splits: Mapping[str, int] = field(default_factory=dict)

    def convert(
        self, path: str | Path, options: ConvertOptions | None = None, rows: Iterable[Row] | None = None
    ) -> Iterator[Converted]:
        """Samples and rejections of the file at ``path``, in its order; ``rows`` replaces its rows (to count or
        limit them). Raises :class:`FormatError` where the file as a whole cannot be read."""
        path, options = Path(path), options or ConvertOptions()
        seen: set[str] = set()
        for row in self.rows(path) if rows is None else rows:
            for item in self._convert_row(row, path.stem, options):
                if isinstance(item, Sample):
                    if item.task not in options.tasks:
                        continue
                    if item.id in seen:
                        reason = f"id ({item.id!r}) was already used by an earlier row; ids must be unique."
                        item = Rejected(row.where, "duplicate_id", reason, row.value)
                    else:
                        seen.add(item.id)
                yield item

    def videos_of(self, row: Row, options: ConvertOptions) -> list[str]:
        """The video paths that the samples of ``row`` would have, unchecked otherwise; none of what cannot be read."""
        videos = []
        try:
            for draft in [] if row.problem else self.drafts(row):
                if isinstance(draft, Sample):
                    videos.append(draft.video)
                elif isinstance(draft, Draft) and draft.task in options.tasks:
                    videos.append(_video(draft, options)[0])
        except (RowError, SampleError):
            pass  # conversion says why
        return list(dict.fromkeys(videos))

    def _convert_row(self, row: Row, stem: str, options: ConvertOptions) -> Iterator[Converted]:
        if row.problem:
            yield Rejected(row.where, "malformed", row.problem, row.value)
            return
        empty = True
        try:
            for draft in self.drafts(row):
                empty = False
                if isinstance(draft, Fault) or (_in_split(draft, options) and draft.task in options.tasks):
                    yield self._finish(draft, row, stem, options)
        except RowError as error:
            yield Rejected(row.where, error.kind, error.reason, row.value)
        except SampleError as error:
            yield Rejected(row.where, "bad_sample", str(error), row.value)
        else:
            if empty:
                yield Rejected(row.where, "no_label", "the row holds no question and no event.", row.value)

    def _finish(self, draft: Draft | Fault | Sample, row: Row, stem: str, options: ConvertOptions) -> Converted:
        where = row.where if isinstance(draft, Sample) else row.where + draft.at
        try:
            if isinstance(draft, Fault):
                raise draft.error
            if isinstance(draft, Draft):
                sample = finish(draft, options.source or self.name, stem, options)
            else:
                sample = draft if options.source is None else replace(draft, source=options.source)
            _check_writable(sample)
        except RowError as error:
            return Rejected(where, error.kind, error.reason, row.value)
        except MaskError as error:
            return Rejected(where, "bad_masks", str(error), row.value)
        except (SampleError, EventError) as error:
            return Rejected(where, "bad_sample", str(error), row.value)
        return sample


def finish(draft: Draft, source: str, stem: str, options: ConvertOptions) -> Sample:
    """The checked sample of ``draft``. Raises :class:`RowError`, :class:`SampleError` or :class:`EventError`.

    Where all events have times they are put in the order of their start; ``meta`` says so where that changed anything
    (``sorted``), and keeps every end that was cut (``clipped_ends_s``).
    """
    video, video_id = _video(draft, options)
    duration_s = _duration(draft.duration_s, video_id, options)
    tracks, shown_s = draft.masks.read(options.frame_rate) if draft.masks is not None else ((), None)
    duration_s = shown_s if duration_s is None else duration_s
    clipped: list[float] = []
    events = [_event(raw, i, duration_s, options, clipped) for i, raw in enumerate(draft.events)]
    if not events:
        raise RowError("no_label", "there are no events: nothing to learn or to score.")
    timed = all(event.start_s is not None for event in events)
    meta = dict(draft.meta)
    if draft.task == "action_segmentation":
        meta |= _steps_checked(events, meta, options)
    ordered = sorted(events, key=lambda event: event.times_s) if timed else events
    if ordered != events:
        meta["sorted"] = True
    if clipped:
        meta["clipped_ends_s"] = clipped
    sample_id = f"{source}:{stem}:{draft.key}"
    prompt = _question(draft, events, sample_id, options)
    return Sample(
        id=sample_id,
        video=video,
        task=draft.task,
        prompt=text_of(prompt, "prompt"),
        events=EventSequence(tuple(ordered)),
        duration_s=duration_s,
        source=source,
        meta=meta,
        tracks=tracks,
    )


def _in_split(draft: Draft | Sample, options: ConvertOptions) -> bool:
    """Whether a draft is of the split that is asked for. Raises :class:`RowError` where it does not say."""
    said = draft.meta.get("split", draft.meta.get("subset"))
    if options.split is not None and said is None:
        raise RowError("no_split", "the row names no split ('split'). Convert it without --split.")
    return options.split in (None, said)


def _steps_checked(events: Sequence[Event], meta: Mapping[str, Any], options: ConvertOptions) -> dict[str, Any]:
    """What ``meta`` gains from the label sets. Raises :class:`RowError` for the first step that breaks a rule."""
    gained: dict[str, Any] = {}
    if options.labels is not None:
        try:
            process = options.labels.of(meta.get("process"))
        except LabelError as error:
            raise RowError("unknown_process", str(error)) from None
        gained[CLASSES] = list(process.actions)
        if process.category is not None:
            gained["category"] = process.category
    for kind, sentence in step_problems(events, gained.get(CLASSES)):
        raise RowError(kind, sentence)
    return gained


def _question(draft: Draft, events: Sequence[Event], sample_id: str, options: ConvertOptions) -> Any:
    """What is asked: the format's own question, or one of the instructions."""
    own = draft.prompt
    if own is not None and (options.instructions is None or draft.task == "general"):
        return own
    query, texts, ask = draft.query, {event.text for event in events}, draft.ask or draft.task
    if query is None and ask in ASK_ABOUT:
        if own is not None and (len(texts) > 1 or "" in texts):  # it asks about no one thing
            return own
        query = texts.pop()
    return (options.instructions or default_instructions()).question(ask, sample_id, query)


def number(value: Any, name: str) -> float:
    """``value`` as seconds or a score. Raises :class:`RowError` where it is not a number, or is out of bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RowError("bad_number", f"{name} ({value!r}) must be a number.")
    if not -MAX_TIME_S <= value <= MAX_TIME_S:
        raise RowError("bad_number", f"{name} ({value!r:.40}) must be a finite number of at most {MAX_TIME_S:.0f}.")
    return float(value)


def text_of(value: Any, name: str) -> str:
    """``value`` without blanks around it. Raises :class:`RowError` where it is not text, or is empty."""
    if not isinstance(value, str):
        raise RowError("malformed", f"{name} ({value!r}) must be a string.")
    if not value.strip():
        raise RowError("no_label", f"{name} is empty.")
    return value.strip()


def list_of(value: Any, name: str) -> list[Any]:
    """``value``, or :class:`RowError` where it is not a list."""
    if not isinstance(value, list):
        raise RowError("malformed", f"{name} ({value!r}) must be a list.")
    return value


def fields_of(value: Any, *names: str) -> dict[str, Any]:
    """``value``, or :class:`RowError` where it is not an object with all of ``names``."""
    if not isinstance(value, dict):
        raise RowError("malformed", f"a row must be an object with {', '.join(names)}, not {type(value).__name__}.")
    for name in names:
        if name not in value:
            raise RowError("malformed", f"field {name!r} is missing; a row has {', '.join(names)}.")
    return value


def window_of(value: Any, name: str) -> list[Any]:
    """``value``, or :class:`RowError` where it is not a list of start and end."""
    if not isinstance(value, list) or len(value) != 2:
        raise RowError("malformed", f"{name} ({value!r}) must be [start, end] in seconds.")
    return value


def quoted(text: str) -> str:
    """What stands last between single quotes in ``text``: the query of a written-out prompt; '' without quotes."""
    match = re.search(r".*(?:^|[\s:(])'(.+)'(?!\w)", text, re.DOTALL)
    return match[1].strip() if match else ""


def _video(draft: Draft, options: ConvertOptions) -> tuple[str, str]:
    name = text_of(draft.video, "video")
    video_id = name if draft.video_is_id else PurePosixPath(name).stem
    template = options.video_template or ("{id}.mp4" if draft.video_is_id else "{path}")
    parts = re.split(r"(\{id\}|\{path\})", template)
    return "".join({"{id}": video_id, "{path}": name}.get(part, part) for part in parts), video_id


def _duration(value: Any, video_id: str, options: ConvertOptions) -> float | None:
    if value is not None:
        duration_s = number(value, "duration")
    elif options.durations is None:
        return None
    elif video_id not in options.durations:
        raise RowError("unknown_duration", f"the durations file has no video {video_id!r}.")
    else:
        duration_s = options.durations[video_id]
    if duration_s <= 0:
        raise RowError("bad_number", f"duration ({duration_s}) must be more than 0 seconds.")
    return duration_s


def _event(raw: RawEvent, i: int, duration_s: float | None, options: ConvertOptions, clipped: list[float]) -> Event:
    name = f"events[{i}]"
    times = [number(t, f"{name} time") for t in raw.times]
    scores = tuple(number(s, f"{name} score") for s in raw.scores)
    if not isinstance(raw.text, str):
        raise RowError("malformed", f"{name} text ({raw.text!r}) must be a string.")
    if len(times) > 2:
        raise RowError("malformed", f"{name} has {len(times)} times; an event has a start and an end.")
    if not times:
        return Event(None, None, scores, raw.text.strip())
    start_s, end_s = times[0], times[-1]
    if start_s < 0:
        raise RowError("bad_number", f"{name} starts before the video, at {start_s} s.")
    if start_s > end_s:
        raise RowError("reversed", f"{name} starts at {start_s} s, after its end at {end_s} s.")
    if len(times) == 2 and start_s == end_s:
        raise RowError("zero_length", f"{name} has no length: it starts and ends at {start_s} s.")
    if duration_s is not None and end_s > duration_s:
        clip = options.clip_to_duration and len(times) == 2
        if start_s >= duration_s and (clip or start_s > duration_s + DURATION_TOLERANCE_S):
            raise RowError("past_duration", f"{name} starts at {start_s} s, past the video's end at {duration_s} s.")
        if clip:
            clipped.append(end_s)
            end_s = duration_s
        elif end_s > duration_s + DURATION_TOLERANCE_S:
            raise RowError(
                "past_duration",
                f"{name} ends at {end_s} s, past the video's end at {duration_s} s by more than "
                f"{DURATION_TOLERANCE_S} s. Correct it, or convert with --clip-to-duration.",
            )
    return Event(start_s, end_s, scores, raw.text.strip())


def _check_writable(sample: Sample) -> None:
    """Raises :class:`RowError` where ``sample`` (its meta included) cannot be written as a line of JSON."""
    try:
        json.dumps(sample.to_json(), ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise RowError("malformed", f"the text holds half a character ({half!r}, a lone surrogate).") from None
    except ValueError:
        raise RowError("bad_number", "a field that is passed through (meta) holds NaN or Infinity.") from None
