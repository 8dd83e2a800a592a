"""From draws to batches: read the questions of a video, sample its frames, write tokens, pad.

The questions of one video are packed behind its frames, each seeing the frames and itself only, so the frames
are encoded once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from timeexpert.data.batch import Frames, VideoBatch, join_frames
from timeexpert.data.frames import FrameReader
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.mixture import SampleRef
from timeexpert.data.records import SEGMENT_TASKS, Sample
from timeexpert.data.sampling import uniform_times
from timeexpert.data.shard_index import VideoRecord
from timeexpert.data.shards import ShardDataset
from timeexpert.errors import UserError
from timeexpert.tokenization import Event, EventCodec, EventSequence
from timeexpert.tokenization.interleave import frame_ids, snap_events
from timeexpert.tokenization.text import TextTokenizer


@dataclass(frozen=True)
class Reading:
    """How videos become token rows in one stage.

    ``num_frames``: one of these is drawn per video; with ``total_draws`` the first serves the first draws of
    the stage and the last its last, in equal parts. ``frames_of`` and ``questions_of``: numbers of their own for the
    data sets of a mix, by their places; ``None`` where those of all hold.
    """

    num_frames: tuple[int, ...]
    sampling: str = "random"
    snap: str = "none"
    tasks: tuple[str, ...] = ()
    questions_per_video: int = 1
    max_tokens: int = 4096
    seed: int = 0
    total_draws: int | None = None
    frames_of: tuple[int | None, ...] = ()
    questions_of: tuple[int | None, ...] = ()

    def count(self, ref: SampleRef, rng: np.random.Generator) -> int:
        """Frames to sample for one draw."""
        drawn = int(rng.choice(self.num_frames))
        if self.frames_of and (own := self.frames_of[ref.dataset]) is not None:
            return own
        if self.total_draws is None:
            return drawn
        place = ref.serial * len(self.num_frames) // self.total_draws
        return self.num_frames[min(place, len(self.num_frames) - 1)]

    def questions(self, ref: SampleRef) -> int:
        """How many questions one draw packs behind its video, at most."""
        own = self.questions_of[ref.dataset] if self.questions_of else None
        return self.questions_per_video if own is None else own


@dataclass(frozen=True)
class TurnMasks:
    """The masks of one answer in a row. ``turn``: 1, 2, ..., as :attr:`Row.turns` counts; ``events``: the answer as
    written; ``tracks``: its objects, each with a mask (or none) for every frame of the row."""

    turn: int
    events: EventSequence
    tracks: tuple[MaskTrack, ...]


@dataclass(frozen=True)
class Shown:
    """What of a clip an answer is about: the frames of its row, and the whole video's duration (seconds; None where
    nothing says it). Answers that count in frames need both."""

    num_frames: int
    duration_s: float | None


@dataclass
class Row:
    """One video with its questions, as lists of ids; ``dataset``: its place in a mix; ``masks``: of the answers that
    have some; ``seed``: for what a family draws of it; None: nothing is drawn, as in inference."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    frames: Frames | None = None
    times_s: tuple[float, ...] = ()  # of the frames, as the model reads them
    sample_ids: list[str] = field(default_factory=list)
    masks: list[TurnMasks] = field(default_factory=list)
    dataset: int = 0
    seed: int | None = 0

    def add(self, ids: Sequence[int], turn: int, start: int, labelled: bool) -> None:
        """Append ids of one turn at positions ``start``, ``start + 1``, ..."""
        self.ids += ids
        self.labels += ids if labelled else [-100] * len(ids)
        self.turns += [turn] * len(ids)
        self.positions += range(start, start + len(ids))


class RowWriter(Protocol):
    """How a family of models writes a row: the video's part, then questions and answers. Pickles, for workers.

    Every method raises ``UserError`` for what its vocabulary or its numbers cannot say.
    """

    @property
    def text(self) -> TextTokenizer:
        """The vocabulary."""
        ...

    def shown_s(self, times_s: Sequence[float] | np.ndarray) -> tuple[float, ...]:
        """Frame times (seconds) as the model reads them: rounded to what it can say."""
        ...

    def video(self, times_s: Sequence[float]) -> list[int]:
        """Ids from the start of the prompt to the end of the video; ``times_s`` as :meth:`shown_s` gives them."""
        ...

    def video_length(self, num_frames: int) -> int:
        """How many ids :meth:`video` gives for that many frames."""
        ...

    def question(self, prompt: str, times_s: Sequence[float], task: str | None = None) -> list[int]:
        """Ids behind the video, up to where the answer begins. ``task``: what is asked for, where that is known."""
        ...

    def answer(self, task: str, events: EventSequence, objects: int = 0, shown: Shown | None = None) -> list[int]:
        """Ids of the answer, the end of sequence included. ``objects``: how many tracks of masks belong to it."""
        ...

    def batch(self, rows: Sequence[Row], dropped: Sequence[tuple[str, str]] = ()) -> VideoBatch:
        """Rows of different lengths as one batch."""
        ...


@dataclass(frozen=True)
class EventWriter:
    """TimeExpert's rows: visual tokens and the time of each frame, answers as event sequences (paper 3.1)."""

    codec: EventCodec
    text: TextTokenizer
    tokens_per_frame: int = 8

    def shown_s(self, times_s: Sequence[float] | np.ndarray) -> tuple[float, ...]:
        """As :class:`RowWriter`."""
        return tuple(float(self.codec.time_format.quantize(float(t))) for t in times_s)

    def video(self, times_s: Sequence[float]) -> list[int]:
        """As :class:`RowWriter`."""
        return [*self.text.prompt("")[0], *frame_ids(self.codec, times_s, self.tokens_per_frame)]

    def video_length(self, num_frames: int) -> int:
        """As :class:`RowWriter`."""
        return len(self.text.prompt("")[0]) + num_frames * (self.tokens_per_frame + self.codec.time_format.width)

    def question(self, prompt: str, times_s: Sequence[float], task: str | None = None) -> list[int]:
        """As :class:`RowWriter`."""
        return self.text.prompt(prompt)[1]

    def answer(self, task: str, events: EventSequence, objects: int = 0, shown: Shown | None = None) -> list[int]:
        """As :class:`RowWriter`; masks have no tokens here."""
        return self.codec.encode(events, pairs=task in SEGMENT_TASKS)

    def batch(self, rows: Sequence[Row], dropped: Sequence[tuple[str, str]] = ()) -> VideoBatch:
        """As :class:`RowWriter`."""
        return pad_rows(rows, self.text.pad_id, dropped)


def build_row(
    writer: RowWriter,
    samples: Sequence[Sample],
    frames: Frames,
    times_s: Sequence[float],
    reading: Reading,
    frame_times_s: Sequence[float] | None = None,
    duration_s: float | None = None,
) -> tuple[Row, list[tuple[str, str]]]:
    """The token row of one video with several questions, and what was left out with its reason.

    Questions that would exceed ``max_tokens`` are left out whole; the first one may lose trailing events
    instead (never a part of an event, and none where masks belong to them). ``times_s``: of the frames, as the writer
    shows them; ``frame_times_s``: the exact ones, where they differ, for which the masks are taken; ``duration_s``: of
    the video, where it was read, else as the samples say.
    """
    exact_s = times_s if frame_times_s is None else frame_times_s
    row, dropped = Row(frames=frames, times_s=tuple(times_s)), []
    row.add(writer.video(row.times_s), 0, 0, False)
    start = len(row.ids)
    for sample in samples:
        try:
            suffix = writer.question(sample.prompt, row.times_s, sample.task)
            shown = Shown(len(row.times_s), duration_s or sample.duration_s)
            events = _merged(snap_events(sample.events, row.times_s, reading.snap))  # type: ignore[arg-type]
            objects = len(_shown_tracks(sample))
            tracks = tuple(track.at(exact_s) for track in _shown_tracks(sample))
            for track in tracks:
                track.check()
            answer = writer.answer(sample.task, events, objects, shown)
            room = reading.max_tokens - len(row.ids) - len(suffix)
            kept = len(events)
            while len(answer) > room and kept > 1 and not row.sample_ids and not objects:
                kept -= 1
                answer = writer.answer(sample.task, EventSequence(events.events[:kept]), objects, shown)
            if len(answer) > room:
                dropped.append((sample.id, f"does not fit into max_tokens ({reading.max_tokens})"))
                continue
            if kept < len(events):
                dropped.append((sample.id, f"{len(events) - kept} of {len(events)} events cut at max_tokens"))
        except UserError as error:
            dropped.append((sample.id, str(error)))
            continue
        turn = len(row.sample_ids) + 1
        row.add(suffix, turn, start, False)
        row.add(answer, turn, start + len(suffix), True)
        row.sample_ids.append(sample.id)
        if tracks:
            row.masks.append(TurnMasks(turn, events, tracks))
    return row, dropped


def _shown_tracks(sample: Sample) -> tuple[MaskTrack, ...]:
    """The objects that a sample's answer shows: only a segmentation has masks, whatever else was annotated."""
    return sample.tracks if sample.task == "referring_segmentation" else ()


def _merged(events: EventSequence) -> EventSequence:
    """Highlights of one text that snapping moved onto one frame become one, with the highest of their scores."""
    kept: list[Event] = []
    for event in events:
        last = kept[-1] if kept else None
        same = last is not None and (last.times_s, last.text) == (event.times_s, event.text)
        if last is not None and same and len(event.times_s) == 1 and event.scores and last.scores:
            kept[-1] = max(last, event, key=lambda e: e.scores[0])
        else:
            kept.append(event)
    return EventSequence(tuple(kept))


def pad_rows(rows: Sequence[Row], pad_id: int, dropped: Sequence[tuple[str, str]] = ()) -> VideoBatch:
    """Rows of different lengths as one batch, padded on the right.

    Rows of one question each need no turns: plain causal attention, which every attention kernel can do.
    """
    size = max(len(row.ids) for row in rows)

    def table(name: str, fill: int) -> torch.Tensor:
        out = torch.full((len(rows), size), fill)
        for i, row in enumerate(rows):
            values = getattr(row, name)
            out[i, : len(values)] = torch.tensor(values)
        return out

    turns, positions = table("turns", -1), table("positions", 0)
    alone = all(len(row.sample_ids) == 1 for row in rows)
    return VideoBatch(
        input_ids=table("ids", pad_id),
        attention_mask=turns >= 0,
        labels=table("labels", -100),
        pixel_values=join_frames([row.frames for row in rows if row.frames is not None]),
        position_ids=None if alone else positions,
        turns=None if alone else turns,
        times_s=tuple(row.times_s for row in rows),
        sample_ids=tuple(i for row in rows for i in row.sample_ids),
        datasets=tuple(row.dataset for row in rows),
        dropped=tuple(dropped),
    )


class VideoQuestions:
    """The videos of one shard folder that have questions of the wanted tasks: what a mixture draws from."""

    def __init__(self, dataset: ShardDataset, tasks: Sequence[str]) -> None:
        self.dataset, self.tasks = dataset, frozenset(tasks)
        self.videos = dataset.entries.with_tasks(self.tasks)
        if not len(self.videos):
            raise UserError(f"{dataset.path}: no video has a question of the tasks {', '.join(sorted(self.tasks))}.")

    def __len__(self) -> int:
        return len(self.videos)

    def pick(self, index: int, count: int, rng: np.random.Generator) -> list[Sample]:
        """At most ``count`` questions of the ``index``-th video, in random order."""
        return self._pick(self.dataset.video(int(self.videos[index])), count, rng)

    def frames_and_pick(self, index: int, count: int, rng: np.random.Generator) -> tuple[int | None, list[Sample]]:
        """Frames of the ``index``-th video (None where its shard does not say), and what :meth:`pick` gives."""
        record = self.dataset.video(int(self.videos[index]))
        frames = record.info.get("num_frames")
        return frames if isinstance(frames, int) and frames > 0 else None, self._pick(record, count, rng)

    def _pick(self, record: VideoRecord, count: int, rng: np.random.Generator) -> list[Sample]:
        samples = [s for s in record.samples if s.task in self.tasks]
        return [samples[i] for i in rng.permutation(len(samples))[:count]]


class BatchLoader:
    """Turns the draws of a planned batch into a :class:`VideoBatch`; pickles, so that workers can hold it.

    Everything random follows from (seed, draw), so a batch is the same in any worker and after any resume.
    What cannot be read is named in ``VideoBatch.dropped``, never replaced.
    """

    def __init__(
        self,
        sources: Sequence[VideoQuestions],
        reader: FrameReader,
        writer: RowWriter,
        reading: Reading,
    ) -> None:
        self.sources, self.reader, self.writer, self.reading = sources, reader, writer, reading

    def _rng(self, ref: SampleRef) -> np.random.Generator:
        return np.random.default_rng([self.reading.seed, ref.dataset, ref.serial])

    def length(self, ref: SampleRef) -> int:
        """Tokens of a draw, before decoding anything (an upper bound: one frame may be on screen at several times)."""
        rng, reading = self._rng(ref), self.reading
        frames = reading.count(ref, rng)
        there, samples = self.sources[ref.dataset].frames_and_pick(ref.index, reading.questions(ref), rng)
        frames = min(frames, there or frames)
        total = self.writer.video_length(frames)
        for sample in samples:
            try:
                times_s = uniform_times(sample.duration_s or 1.0, frames).tolist()
                shown = Shown(frames, sample.duration_s)
                total += len(self.writer.question(sample.prompt, times_s, sample.task))
                total += len(self.writer.answer(sample.task, sample.events, len(_shown_tracks(sample)), shown))
            except UserError:
                continue  # reported when the batch is loaded
        return min(total, reading.max_tokens)

    def row(self, ref: SampleRef) -> tuple[Row | None, list[tuple[str, str]]]:
        """One draw as a token row, and what was left out."""
        rng, reading, source = self._rng(ref), self.reading, self.sources[ref.dataset]
        count = reading.count(ref, rng)
        samples = source.pick(ref.index, reading.questions(ref), rng)
        video = int(source.videos[ref.index])
        mode = "random" if reading.sampling == "random" else "uniform"
        try:
            frames, times_s, duration_s = self.reader.read(
                source.dataset.entries[video].sha256,
                lambda: source.dataset.video_media(video),
                count,
                mode,  # type: ignore[arg-type]
                rng,
            )
            shown_s = self.writer.shown_s(times_s)
        except UserError as error:
            return None, [(sample.id, str(error)) for sample in samples]
        row, dropped = build_row(self.writer, samples, frames, shown_s, reading, times_s.tolist(), duration_s)
        row.dataset, row.seed = ref.dataset, int(rng.integers(2**32))
        return (row if row.sample_ids else None), dropped

    def __call__(self, refs: list[SampleRef]) -> VideoBatch | list[tuple[str, str]]:
        """The batch of ``refs``; only the reasons when nothing of it could be read."""
        rows, dropped = [], []
        for ref in refs:
            row, left_out = self.row(ref)
            dropped += left_out
            if row is not None:
                rows.append(row)
        return self.writer.batch(rows, dropped) if rows else dropped
