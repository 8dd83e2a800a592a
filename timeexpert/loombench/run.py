"""Questions for every described shot of a set of samples: asked for, held to rules, asked again, kept or named."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from timeexpert.config import to_tree
from timeexpert.data.endpoint import Endpoint, EndpointConfig
from timeexpert.data.lock import LOCK, locked
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.records import Sample
from timeexpert.data.sample_lines import require_samples, unique_samples, write_row
from timeexpert.data.shards import ShardDataset
from timeexpert.errors import UserError
from timeexpert.evaluation.loom_samples import KIND
from timeexpert.evaluation.loombench import KINDS, Kind
from timeexpert.tokenization import Event, EventSequence

from .checks import Refused, answer_object, read_answer
from .prompts import again, conversation

QUESTIONS, REFUSED, REPORT, CACHE = "questions.jsonl", "refused.jsonl", "loombench.json", "cache"
WINDOW = 64  # shots that are asked about together
Progress = Callable[[int, int, str], None]


class LoomBenchError(UserError):
    """Questions that cannot be made: no input, a folder of something else, a setting out of range."""


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig:
    """Who is asked (``endpoint``), for which ``kinds`` of question, and how often at most about one shot
    (``max_tries``): an answer that breaks a rule is followed by the reason and the request to write it again."""

    endpoint: EndpointConfig
    kinds: tuple[Kind, ...] = KINDS
    max_tries: int = 3

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise UserError(f"kinds ({list(self.kinds)}) must name one or more of {', '.join(KINDS)}, each once.")
        if not 1 <= self.max_tries <= 20:
            raise UserError(f"max_tries ({self.max_tries}) must be between 1 and 20.")


@dataclass
class QuestionsReport:
    """What a run did; also the content of ``loombench.json``.

    ``questions``: kept ones by kind. ``refusals``: questions that broke a rule, by rule, every try counted;
    ``asked_again``: requests that followed them. ``given_up``: questions that no try made, by kind. ``not_asked``: what
    of the input no question can be about, by reason. Every one of the last two stands in ``refused.jsonl``.
    """

    out: str
    samples: int = 0
    shots: int = 0
    questions: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    asked_again: int = 0
    given_up: dict[str, int] = field(default_factory=dict)
    not_asked: dict[str, int] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Shot:
    """One described segment, what is still to be asked about it, and the chat about it."""

    sample: Sample
    number: int
    event: Event
    tracks: tuple[MaskTrack, ...]
    open: list[Kind]
    chat: list[dict[str, Any]] = field(default_factory=list)
    unanswered: bool = False
    good: dict[Kind, str] = field(default_factory=dict)
    refused: dict[Kind, Refused] = field(default_factory=dict)

    @property
    def segment_s(self) -> tuple[float, float]:
        assert self.event.start_s is not None and self.event.end_s is not None
        return self.event.start_s, self.event.end_s

    def id(self, kind: Kind) -> str:
        return f"{self.sample.id}.{self.number}.{kind}"


def make_questions(
    samples: str | Path, out: str | Path, config: QuestionsConfig, *, progress: Progress | None = None
) -> QuestionsReport:
    """Make LoomBench's questions about the described segments of ``samples`` (Sample lines, or a shard folder).

    A segment is an event with start, end and text. *When* is asked about every one, *Where* and *Combined* about those
    whose sample has the track of one object that is seen in the segment. ``out`` gets ``questions.jsonl`` (samples with
    ``meta.question_kind``), ``refused.jsonl`` and ``loombench.json``. ``progress`` is called with (done, total, what).
    The same call goes on with a run that was cut off. Raises :class:`LoomBenchError`, ``EndpointError``.
    """
    samples, out = Path(samples), Path(out)
    if not samples.is_dir():
        require_samples(samples, LoomBenchError)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoomBenchError(f"{out}: cannot be written: {error.strerror}. Choose another -o.") from None
    with locked(out, "run", LoomBenchError), ExitStack() as stack:
        _refuse_foreign(out)
        report = QuestionsReport(str(out), settings=to_tree(config))
        endpoint = stack.enter_context(Endpoint(config.endpoint, out / CACHE / "answers.jsonl"))
        _Run(config, endpoint, report, progress or (lambda done, total, what: None)).all(samples, out)
        report.usage = asdict(endpoint.usage)
        report.inputs = {"samples": str(samples), "sha256": _checksum(samples)}
        temporary = out / f"{REPORT}.part"
        temporary.write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, out / REPORT)
        return report


def _refuse_foreign(out: Path) -> None:
    known = {QUESTIONS, REFUSED, REPORT, CACHE, LOCK}
    for path in out.iterdir():
        if path.name.removesuffix(".part") not in known:
            raise LoomBenchError(f"{out}: holds {path.name}, which no making of questions wrote. Give an empty -o.")


def _checksum(samples: Path) -> str:
    with open(samples / "dataset.json" if samples.is_dir() else samples, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Run:
    """One pass over the samples; files get their names once all are whole."""

    def __init__(
        self, config: QuestionsConfig, endpoint: Endpoint, report: QuestionsReport, progress: Progress
    ) -> None:
        self.config, self.endpoint, self.report, self.progress = config, endpoint, report, progress
        self.questions: TextIO
        self.refused: TextIO

    def all(self, samples: Path, out: Path) -> None:
        """Every shot of ``samples``, in windows."""
        total = sum(1 for _ in self._segments(samples, count=False))
        with ExitStack() as stack:
            self.questions, self.refused = (
                stack.enter_context(open(out / f"{name}.part", "w", encoding="utf-8", newline="\n"))
                for name in (QUESTIONS, REFUSED)
            )
            window: list[_Shot] = []
            for shot in self._segments(samples, count=True):
                window.append(shot)
                if len(window) == WINDOW:
                    self._window(window, total)
                    window = []
            self._window(window, total)
        (out / REPORT).unlink(missing_ok=True)  # never beside files of another run
        for name in (QUESTIONS, REFUSED):
            os.replace(out / f"{name}.part", out / name)

    def _segments(self, samples: Path, *, count: bool) -> Iterator[_Shot]:
        """Every described segment, once; with ``count`` what is none is written down."""
        note: Callable[..., None] = self._not_asked if count else _nothing
        seen: set[tuple[str, float, float, str]] = set()
        for sample in self._samples(samples, note):
            self.report.samples += count
            for number, event in enumerate(sample.events):
                start_s, end_s, text = event.start_s, event.end_s, event.text.strip()
                place = {"id": sample.id, "event": number}
                if start_s is None or end_s is None or start_s >= end_s or not text:
                    note("no described segment", "an event needs start_s, a later end_s, and text.", **place)
                    continue
                if (sample.video, start_s, end_s, text) in seen:  # the same shot in another form of LoomData
                    note("the same segment again", "video, times and text are those of an earlier event.", **place)
                    continue
                seen.add((sample.video, start_s, end_s, text))
                yield self._shot(sample, number, event, note)

    def _samples(self, samples: Path, note: Callable[..., None]) -> Iterator[Sample]:
        """Those with tracks first: of two forms of one shot, it is the one with masks that questions are about.

        They are read twice: masks of many videos would not fit into memory.
        """
        yield from (sample for sample in _read(samples, note) if sample.tracks)
        yield from (sample for sample in _read(samples, _nothing) if not sample.tracks)

    def _shot(self, sample: Sample, number: int, event: Event, note: Callable[..., None]) -> _Shot:
        shot = _Shot(sample, number, event, sample.tracks, list(self.config.kinds))
        why = _without_masks(shot)
        if why is not None:
            for kind in [kind for kind in shot.open if kind != "when"]:
                shot.open.remove(kind)
                note(why.kind, why.reason, id=shot.id(kind))
        shot.chat = conversation(shot.open, *shot.segment_s, event.text.strip())
        return shot

    def _window(self, shots: Sequence[_Shot], total: int) -> None:
        asking = [shot for shot in shots if shot.open]
        for number in range(self.config.max_tries):
            if number:
                self.report.asked_again += len(asking)
            self._ask(asking, total)
            asking = [shot for shot in asking if shot.open and not shot.unanswered]
        for shot in shots:
            self.report.shots += 1
            for kind in self.config.kinds:
                if kind in shot.good:
                    _count(self.report.questions, kind)
                    write_row(self.questions, _question(shot, kind).to_json())
                elif kind in shot.refused:
                    _count(self.report.given_up, kind)
                    why = shot.refused[kind]
                    write_row(self.refused, {"id": shot.id(kind), "kind": why.kind, "reason": why.reason})

    def _ask(self, shots: Sequence[_Shot], total: int) -> None:
        answers = self.endpoint.ask(
            (shot.chat for shot in shots), good=lambda text: isinstance(answer_object(text), dict)
        )
        for done, (shot, answer) in enumerate(zip(shots, answers, strict=True), 1):
            if answer.text is None:
                refused = {kind: Refused("no answer", answer.error) for kind in shot.open}
                shot.unanswered = True  # the same request was tried endpoint.retries times more
            else:
                good, refused = read_answer(answer.text, shot.open, *shot.segment_s)
                shot.good |= good
                reasons = {kind: why.reason for kind, why in refused.items()}
                shot.chat = [*shot.chat, *again(answer.text[:2000], reasons)] if reasons else shot.chat
            for why in refused.values():
                _count(self.report.refusals, why.kind)
            shot.refused, shot.open = refused, list(refused)
            self.progress(min(self.report.shots + done, total), total, "asking for questions")

    def _not_asked(self, kind: str, reason: str, **place: Any) -> None:
        _count(self.report.not_asked, kind)
        write_row(self.refused, {**place, "kind": kind, "reason": reason})


def _without_masks(shot: _Shot) -> Refused | None:
    """Why no question about the place of something can be scored in this segment, or ``None``."""
    if not shot.tracks:
        return Refused("no masks", "the sample has no tracks, so no mask says where the person is.")
    if len(shot.tracks) > 1:
        return Refused(
            "several objects", f"the sample has {len(shot.tracks)} tracks, and the text is about one person."
        )
    (track,), (start_s, end_s) = shot.tracks, shot.segment_s
    pairs = zip(track.times_s, track.rles, strict=True)
    if not any(rle is not None and start_s <= time_s <= end_s for time_s, rle in pairs):
        return Refused("not seen in the segment", f"the track has no mask from {start_s:g} to {end_s:g} s.")
    return None


def _question(shot: _Shot, kind: Kind) -> Sample:
    sample = shot.sample
    return Sample(
        id=shot.id(kind),
        video=sample.video,
        task="moment_retrieval" if kind == "when" else "referring_segmentation",
        prompt=shot.good[kind],
        events=EventSequence((Event(*shot.segment_s, text=shot.event.text),)),
        duration_s=sample.duration_s,
        source="loombench",
        meta={KIND: kind, "shot": {"id": sample.id, "event": shot.number}},
        tracks=() if kind == "when" else shot.tracks,
    )


def _read(samples: Path, note: Callable[..., None]) -> Iterator[Sample]:
    """Every good sample in its order; ``note`` is called about each bad line."""
    if samples.is_dir():
        dataset = ShardDataset(samples)
        return (dataset.sample(i) for i in range(len(dataset)))
    return (sample for _, sample in unique_samples(samples, lambda row: note(row.pop("fault"), **row)))


def _nothing(*args: str, **place: Any) -> None:
    pass


def _count(counts: dict[str, int], kind: str) -> None:
    counts[kind] = counts.get(kind, 0) + 1
