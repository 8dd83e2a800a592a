"""Sample: one question about one video. What converters write, shards carry and training reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from timeexpert.errors import UserError, did_you_mean
from timeexpert.tokenization import EventError, EventSequence

from .mask_rle import MaskError
from .mask_tracks import MaskTrack

TASKS = (
    "general",
    "dense_captioning",
    "moment_retrieval",
    "highlight_detection",
    "action_segmentation",
    "referring_segmentation",
)
TIMED_TASKS = ("dense_captioning", "moment_retrieval", "highlight_detection", "action_segmentation")
SEGMENT_TASKS = ("dense_captioning", "moment_retrieval", "action_segmentation")  # answers with start and end
TOO_DEEP = "not JSON that can be read: nested too deeply."
DURATION_TOLERANCE_S = 0.5  # annotations are often rounded up past the last frame


def is_past_end(start_s: float, end_s: float, duration_s: float) -> bool:
    """Whether a time begins at or after the end of a video, or ends more than the tolerance after it."""
    return start_s >= duration_s or end_s > duration_s + DURATION_TOLERANCE_S


class SampleError(UserError):
    """A sample that breaks a rule. The message names file, line, field, value, rule and way out."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question about one video, with its answer.

    ``id`` is unique within a data set; ``video`` is a path relative to the media folder; ``duration_s`` is
    ``None`` where the source does not say (it is then read from the file when shards are built); ``events``
    is the answer; ``source`` names the data set. ``meta`` carries what a data set's metric needs and training
    does not read (for example QVHighlights' saliency scores per annotator).
    """

    id: str
    video: str
    task: str
    prompt: str
    events: EventSequence
    duration_s: float | None = None
    source: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    tracks: tuple[MaskTrack, ...] = ()

    def __post_init__(self) -> None:
        for name in ("id", "video", "prompt"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise SampleError(f"{name} ({value!r}) must be a non-empty string.")
        parts = self.video.replace("\\", "/").split("/")
        if self.video.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise SampleError(
                f"video ({self.video!r}) must be a relative path without '..': it is looked up in --media."
            )
        if self.task not in TASKS:
            raise SampleError(
                f"task ({self.task!r}) must be one of {', '.join(TASKS)}.{did_you_mean(self.task, TASKS)}"
            )
        if self.duration_s is not None:
            d = self.duration_s
            if isinstance(d, bool) or not isinstance(d, (int, float)) or not isfinite(d) or d <= 0:
                raise SampleError(f"duration_s ({d!r}) must be a positive number of seconds, or null.")
            object.__setattr__(self, "duration_s", float(d))
            for i, event in enumerate(self.events):
                if event.end_s is not None and event.end_s > d + DURATION_TOLERANCE_S:
                    raise SampleError(
                        f"events[{i}].end_s ({event.end_s}) is past duration_s ({d}) by more than "
                        f"{DURATION_TOLERANCE_S} s. Correct the annotation, or convert with --clip-to-duration."
                    )
        if not len(self.events):
            raise SampleError("events must hold at least one event (a general answer is one event without times).")
        object.__setattr__(self, "tracks", tuple(self.tracks))
        for i, track in enumerate(self.tracks):
            if track.size != self.tracks[0].size:
                raise SampleError(
                    f"tracks[{i}].size ({list(track.size)}) is not that of tracks[0] ({list(self.tracks[0].size)}): "
                    "all masks of a video have the size of its frames."
                )
            if self.duration_s is not None and track.times_s[-1] > self.duration_s + DURATION_TOLERANCE_S:
                raise SampleError(
                    f"tracks[{i}].times_s[{len(track.times_s) - 1}] ({track.times_s[-1]}) is past duration_s "
                    f"({self.duration_s}) by more than {DURATION_TOLERANCE_S} s. Correct the times, or leave these "
                    "masks out."
                )

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields of this class; ``tracks`` only where there are any."""
        tracks = {"tracks": [track.to_json() for track in self.tracks]} if self.tracks else {}
        return {
            "id": self.id,
            "video": self.video,
            "duration_s": self.duration_s,
            "task": self.task,
            "prompt": self.prompt,
            "events": self.events.to_json(),
            "source": self.source,
            "meta": self.meta,
            **tracks,
        }

    @classmethod
    def from_json(cls, row: Any) -> Sample:
        """The sample of :meth:`to_json`. Raises :class:`SampleError` on unknown, missing or bad fields."""
        if not isinstance(row, dict):
            raise SampleError(f"a sample must be a JSON object, not {type(row).__name__}.")
        for name in row:
            if name not in _FIELDS:
                raise SampleError(
                    f"unknown field {name!r}; a sample has {', '.join(_FIELDS)}.{did_you_mean(name, _FIELDS)}"
                )
        for name in ("id", "video", "task", "prompt", "events"):
            if name not in row:
                raise SampleError(f"field {name!r} is missing.")
        try:
            events = EventSequence.from_json(row["events"])
        except EventError as error:
            raise SampleError(f"events: {error}") from None
        meta = row.get("meta") or {}
        if not isinstance(meta, dict):
            raise SampleError(f"meta ({meta!r}) must be an object.")
        if not isinstance(row.get("source", ""), str):
            raise SampleError(f"source ({row['source']!r}) must be a string.")
        return cls(
            id=row["id"],
            video=row["video"],
            task=row["task"],
            prompt=row["prompt"],
            events=events,
            duration_s=row.get("duration_s"),
            source=row.get("source", ""),
            meta=meta,
            tracks=_tracks(row.get("tracks", [])),
        )


_FIELDS = ("id", "video", "duration_s", "task", "prompt", "events", "source", "meta", "tracks")


def _tracks(rows: Any) -> tuple[MaskTrack, ...]:
    if not isinstance(rows, list):
        raise SampleError(f"tracks ({rows!r:.60}) must be a list of mask tracks.")
    tracks = []
    for i, row in enumerate(rows):
        try:
            tracks.append(MaskTrack.from_json(row))
        except MaskError as error:
            raise SampleError(f"tracks[{i}]: {error}") from None
    return tuple(tracks)


def _refuse_constant(name: str) -> float:
    raise SampleError(f"{name} is not allowed; numbers must be finite.")


def _finite_float(text: str) -> float:
    value = float(text)
    return value if isfinite(value) else _refuse_constant(text)


def _bounded_int(text: str) -> int:
    if len(text) > 18:  # longer integers overflow float() and int64 further on
        raise SampleError(f"integer {text[:20]}... is too large; numbers have at most 18 digits.")
    return int(text)


@contextmanager
def json_limits() -> Iterator[None]:
    """Raise :class:`SampleError` where ``json`` meets a limit of Python's; errors of the syntax pass."""
    try:
        yield
    except (json.JSONDecodeError, SampleError):
        raise
    except RecursionError:
        raise SampleError(TOO_DEEP) from None
    except ValueError:
        digits = sys.get_int_max_str_digits()
        raise SampleError(f"not JSON that can be read: an integer of more than {digits} digits.") from None


def parse_json(text: str) -> Any:
    """``json.loads`` that refuses NaN, Infinity, 1e999 and huge integers. Raises :class:`SampleError`."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite_float, parse_int=_bounded_int)
    except json.JSONDecodeError as error:
        raise SampleError(f"not JSON: {error}") from None
    except RecursionError:
        raise SampleError(TOO_DEEP) from None


def read_samples(path: str | Path) -> Iterator[tuple[int, Sample | SampleError]]:
    """Yield (line number, sample or error) for each non-empty line of a ``.jsonl`` file; never stops early.

    Errors carry ``path:line:`` in front, so that callers can count, log or raise them.
    """
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield number, Sample.from_json(parse_json(line.decode("utf-8")))
            except UnicodeDecodeError as error:
                yield number, SampleError(f"{path}:{number}: not UTF-8 text: {error}. Save the file as UTF-8.")
            except SampleError as error:
                yield number, SampleError(f"{path}:{number}: {error}")


def write_samples(path: str | Path, samples: Iterator[Sample] | list[Sample]) -> int:
    """Write samples as JSON lines; returns how many."""
    count = 0
    with open(path, "w", encoding="utf-8") as out:
        for sample in samples:
            out.write(json.dumps(sample.to_json(), ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count
