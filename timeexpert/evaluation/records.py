"""What is scored: answers of a model, answers read from anybody's file, and the rows in which answers are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.records import Sample
from timeexpert.tokenization import EventError, EventSequence

from .errors import EvaluationError


@dataclass(frozen=True)
class Answer:
    """What came back for one question. ``events`` is ``None`` when nothing could be asked (``error`` says why).

    ``text`` is the answer as the model wrote it. ``decode_s`` and ``generate_s`` are the seconds that the whole batch
    of ``batch`` questions took to read its videos and to be answered; 0 questions: not measured. ``tracks``: the masks
    of each object that the answer shows.
    """

    events: EventSequence | None
    problems: list[dict[str, Any]] = field(default_factory=list)
    frame_times_s: Sequence[float] = ()
    duration_s: float | None = None
    error: str | None = None
    text: str = ""
    batch: int = 0
    decode_s: float = 0.0
    generate_s: float = 0.0
    tracks: tuple[MaskTrack, ...] = ()

    @property
    def parsed(self) -> bool:
        """Whether the whole answer could be read."""
        return self.events is not None and not self.problems


@dataclass(frozen=True, kw_only=True)
class Told:
    """One answer as metrics read it, unchecked: a predictor may write anything.

    ``segments_s`` are (start, end) in seconds in the order they were written (a point has both equal; ends may be
    reversed, NaN or infinite); ``scores`` and ``texts`` are empty, or one per segment. ``clip_scores`` is a score per
    2-second clip, where the file has those. ``text`` is the answer's raw text, where there is one; with ``from_text``
    it is all there is, and times are read from it. ``problem`` says why the answer did not parse; what of it could be
    read is then not scored. ``tracks``: masks, an object each.
    """

    segments_s: tuple[tuple[float, float], ...] = ()
    scores: tuple[float, ...] = ()
    texts: tuple[str, ...] = ()
    clip_scores: tuple[float, ...] | None = None
    text: str | None = None
    from_text: bool = False
    problem: str | None = None
    duration_s: float | None = None  # of the video, where the predictor says it
    tracks: tuple[MaskTrack, ...] = ()

    @classmethod
    def of(cls, answer: Answer) -> Told | None:
        """The answer of a model; ``None`` where its video could not be read: it is missing."""
        if answer.events is None:
            return None
        timed = [e for e in answer.events if e.start_s is not None and e.end_s is not None]
        untimed = " ".join(e.text for e in answer.events if e.start_s is None)
        return cls(
            segments_s=tuple((e.start_s, e.end_s) for e in timed),  # type: ignore[misc]
            scores=tuple(e.scores[0] for e in timed) if timed and all(e.scores for e in timed) else (),
            texts=tuple(e.text for e in timed),
            text=untimed or answer.text or None,
            problem=answer.problems[0]["reason"] if answer.problems else None,
            duration_s=answer.duration_s,
            tracks=answer.tracks,
        )


def answer_row(sample: Sample, answer: Answer) -> dict[str, Any]:
    """One line of predictions.jsonl: the question, its truth and its answer; ``tracks`` where it has masks."""
    row = {
        "id": sample.id,
        "video": sample.video,
        "task": sample.task,
        "prompt": sample.prompt,
        "duration_s": sample.duration_s,
        "truth": sample.events.to_json(),
        "prediction": None if answer.events is None else answer.events.to_json(),
        "text": answer.text,
        "problems": answer.problems,
        "frame_times_s": list(answer.frame_times_s),
        "video_duration_s": answer.duration_s,
        "error": answer.error,
        "meta": sample.meta,
    }
    if answer.tracks:
        row["tracks"] = [track.to_json() for track in answer.tracks]
    if answer.batch:
        row["batch"] = {"questions": answer.batch, "decode_s": answer.decode_s, "generate_s": answer.generate_s}
    return row


def answer_of_row(row: Mapping[str, Any]) -> Answer:
    """The answer in a line of :func:`answer_row`. Raises :class:`EvaluationError` where it is no such line."""
    try:
        told = row["prediction"]
        batch = row.get("batch") or {}
        return Answer(
            None if told is None else EventSequence.from_json(told),
            list(row.get("problems") or []),
            list(row.get("frame_times_s") or []),
            row.get("video_duration_s"),
            row.get("error"),
            str(row.get("text") or ""),
            int(batch.get("questions", 0)),
            float(batch.get("decode_s", 0.0)),
            float(batch.get("generate_s", 0.0)),
            tuple(MaskTrack.from_json(track) for track in row.get("tracks") or ()),
        )
    except (KeyError, TypeError, ValueError, AttributeError, EventError) as error:
        raise EvaluationError(f"not an answer that was written here: {type(error).__name__}: {error}.") from None
