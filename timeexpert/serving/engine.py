"""The engine: questions in from any thread, answers out, through one model and :class:`timeexpert.predict.Predictor`.

A question's video is decoded in a process of its own, then one thread asks the model: it takes in whatever waits,
writes one token of up to ``STEP_ROWS`` answers at a time, and lets each go as it ends. Who is answered beside, and
what was cached, changes no answer (see :mod:`timeexpert.model.decoding`).
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from timeexpert.model.decoding import STEP_ROWS, Writing
from timeexpert.predict import Clip, Predictor, Request
from timeexpert.tokenization.grammar import GrammarError
from timeexpert.tokenization.interleave import InterleaveError
from timeexpert.tokenization.number_format import NumberFormatError
from timeexpert.tokenization.text import TextError

from .encoder import Encoder, Known, sampled
from .expert_use import expert_use
from .limits import RequestError, ServingLimits, stopping
from .media import DecodedVideo, Decoder
from .ticket import Busy, FrameSequence, Question, Reply, Ticket, Video

__all__ = ["Busy", "Engine", "FrameSequence", "Question", "Reply", "Ticket", "Video"]


@dataclass
class _Job:
    """A ticket on its way. ``decoded``: its frames, where they had to be read for it or for one beside it."""

    ticket: Ticket
    key: Hashable
    num_frames: int
    decoded: DecodedVideo | None = None
    decode_s: float = 0.0
    encode_s: float = 0.0
    began: float = 0.0
    request: Request | None = None
    answer: Writing | None = None
    damage: str | None = None


class Engine:
    """Answers questions. Use as a context manager: it owns decoder processes and the model's thread."""

    def __init__(self, predictor: Predictor, name: str, limits: ServingLimits | None = None) -> None:
        self.predictor, self.name = predictor, name
        self.limits = limits or ServingLimits()
        self._encoder = Encoder(predictor, self.limits)
        size = predictor.answering.image_size
        self._decoders = [Decoder(size, self.limits) for _ in range(self.limits.decode_workers)]
        self._free: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(self.limits.decode_workers, "decode")
        self._model = threading.Thread(target=self._run, name="model", daemon=True)
        self._changed = threading.Condition()  # guards all below
        self._open: set[Ticket] = set()
        self._ready: deque[_Job] = deque()
        self._decoding: dict[Hashable, list[_Job]] = {}
        self._draining = self._stopping = False
        self._counts: Counter[str] = Counter()
        self._rows: Counter[int] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def __enter__(self) -> Self:
        for decoder in self._decoders:
            self._free.put(decoder.__enter__())
        self._model.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_up()
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._model.join()
        for decoder in self._decoders:  # ends a decoding that is going on
            decoder.__exit__(kind, error, trace)
        self._threads.shutdown(cancel_futures=True)

    def submit(self, question: Question) -> Ticket:
        """Hand a question in. Raises :class:`Busy` where too many wait, :class:`RequestError` when stopping."""
        ticket = Ticket(question, self.predictor.answering.events_so_far)
        with self._changed:
            if self._draining:
                raise stopping()
            if len(self._open) >= self.limits.max_queue:
                self._counts["refused"] += 1
                raise Busy(len(self._open), self._retry_after_s())
            self._open.add(ticket)
        video = question.video
        num_frames = question.num_frames or self.predictor.config.num_frames
        if isinstance(video, FrameSequence):
            self._add_frames(ticket, video)
        else:
            self._find(_Job(ticket, (video.sha256, num_frames), num_frames))
        return ticket

    def answer(self, question: Question) -> Reply:
        """Hand a question in and wait. Raises :class:`RequestError` for what the asker can mend."""
        return self.submit(question).result()

    def drain(self, timeout_s: float) -> bool:
        """Take no more questions and wait until those that were handed in are answered. False where time ran out."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not self._open, timeout_s)

    def give_up(self) -> None:
        """Take no more questions, and refuse those that are not answered yet."""
        with self._changed:
            self._draining = True
            left = list(self._open)
        for ticket in left:
            ticket.cancel()
            self._close(ticket, stopping())

    def stats(self) -> dict[str, Any]:
        """Counts since the start. ``steps``: by the number of answers written side by side."""
        names = ("answered", "cancelled", "failed", "refused", "decoded_videos", "cache_hits", "cache_misses")
        with self._changed:
            return {
                "queue_length": len(self._open),
                "steps": dict(self._rows),
                **{name: self._counts[name] for name in names},
                **self._encoder.stats(),
                "seconds": {name: self._seconds[name] for name in ("queue", "decode", "encode", "generate", "step")},
            }

    def _retry_after_s(self) -> int:
        """When the questions that wait now may be answered, by the mean so far."""
        mean_s = self._seconds["generate"] / max(1, self._counts["answered"])
        return min(60, max(1, math.ceil(mean_s * len(self._open) / STEP_ROWS)))

    # -- decoding, in threads that wait for the decoder processes

    def _find(self, job: _Job) -> None:
        """To the model where the video is known, to a decoder where it is not and nobody is at it."""
        with self._changed:
            if self._encoder.knows(job.key):
                self._ready.append(job)
                self._changed.notify_all()
            elif job.key in self._decoding:
                self._decoding[job.key].append(job)
            else:
                self._decoding[job.key] = [job]
                self._threads.submit(self._decode, job)

    def _decode(self, job: _Job) -> None:
        with self._changed:
            if all(one.ticket.cancelled for one in self._decoding[job.key]):
                waiting = self._decoding.pop(job.key)
                for one in waiting:
                    self._close(one.ticket, _gave_up())
                return
        outcome: DecodedVideo | Exception
        decoder, began = self._free.get(), time.monotonic()
        try:
            video = job.ticket.question.video
            assert isinstance(video, Video)
            outcome = decoder(video.path, job.num_frames, video.identity)
        except Exception as error:  # one video's failure is its askers'
            outcome = error
        finally:
            self._free.put(decoder)
        spent_s = time.monotonic() - began
        with self._changed:
            waiting = self._decoding.pop(job.key)
            self._counts["decoded_videos"] += 1
            if isinstance(outcome, DecodedVideo):
                for one in waiting:
                    one.decoded, one.decode_s = outcome, spent_s
                self._ready.extend(waiting)
                self._changed.notify_all()
        if isinstance(outcome, Exception):
            for one in waiting:
                self._close(one.ticket, outcome)

    def _add_frames(self, ticket: Ticket, video: FrameSequence) -> None:
        try:
            decoded, key = sampled(video, self.predictor.answering.image_size)
        except RequestError as error:
            self._close(ticket, error)
            raise
        with self._changed:
            self._ready.append(_Job(ticket, key, len(decoded.frames), decoded))
            self._changed.notify_all()

    # -- the model's thread

    def _run(self) -> None:
        active: list[_Job] = []
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or active or self._stopping)  # noqa: B023
                if self._stopping:
                    return
                room = min(STEP_ROWS - len(active), len(self._ready))
                new = [self._ready.popleft() for _ in range(room)]
            active += [job for job in new if self._guarded(self._begin, [job])]
            active = [job for job in active if self._goes_on(job)]
            if active and not self._guarded(self._step, active):
                active = []

    def _guarded(self, work: Any, jobs: list[_Job]) -> bool:
        """Run ``work`` for jobs; a failure closes them and leaves the thread alive. False where they are done with."""
        try:
            return bool(work(jobs))
        except Exception as error:
            for job in jobs:
                self._close(job.ticket, _told(error))
            return False

    def _begin(self, jobs: list[_Job]) -> bool:
        """Encode the video where it is new, and write the first token."""
        (job,) = jobs
        question = job.ticket.question
        if job.ticket.cancelled:
            self._close(job.ticket, _gave_up())
            return False
        began = time.monotonic()
        known, found = self._encoder(job.key, job.decoded)
        if known is None:  # it was thrown out since; with its frames in hand it cannot happen again
            self._find(job)
            return False
        job.began = time.monotonic()
        job.encode_s, job.damage, job.decoded = 0.0 if found else job.began - began, known.damage, None
        clip = Clip(known.frames, known.times_s, known.duration_s)
        job.request = Request(clip, question.prompt, question.task, question.max_tokens, question.tracks)
        self._check_length(job.request, known)
        with self._changed:
            self._counts["cache_hits" if found else "cache_misses"] += 1
        if question.experts and not self.predictor.model.gates:
            raise RequestError("experts: this model has none. Leave experts out of the request.")
        if (question.tracks or question.task == "referring_segmentation") and not self.predictor.draws_masks:
            raise RequestError("this model draws no masks. Leave include_tracks out, and choose another task.")
        job.answer = self.predictor.begin(job.request, known.video, record=question.experts)
        return True

    def _step(self, jobs: list[_Job]) -> bool:
        began = time.monotonic()
        answers = [job.answer for job in jobs if job.answer is not None]
        self.predictor.step(answers)
        with self._changed:
            self._rows[len(jobs)] += 1
            self._seconds["step"] += time.monotonic() - began
        for job, answer in zip(jobs, answers, strict=True):
            job.ticket.wrote(list(answer.tokens))
        return True

    def _goes_on(self, job: _Job) -> bool:
        """False for an answer that is finished or that nobody waits for."""
        assert job.answer is not None
        if job.ticket.cancelled:
            self._close(job.ticket, _gave_up())
            return False
        if not job.answer.done:
            return True
        return self._guarded(self._finish, [job])

    def _finish(self, jobs: list[_Job]) -> bool:
        (job,) = jobs
        assert job.request is not None and job.answer is not None
        prediction = self.predictor.prediction(job.request, job.answer)
        now, budget = time.monotonic(), job.answer.grammar.max_tokens
        spent = {"decode_s": job.decode_s, "encode_s": job.encode_s, "generate_s": now - job.began}
        waited_s = max(0.0, now - job.ticket.handed_in - sum(spent.values()))
        reply = Reply(
            prediction,
            prediction.confidences,
            prediction.completion_tokens == budget,
            job.damage,
            {"queue_s": waited_s, **spent},
            expert_use(job.answer) if job.ticket.question.experts else None,
        )
        self._close(job.ticket, reply)
        return False

    def _close(self, ticket: Ticket, outcome: Reply | Exception) -> None:
        with self._changed:
            if ticket not in self._open:
                return
            self._open.remove(ticket)
            if isinstance(outcome, Reply):
                self._counts["answered"] += 1
                for name, spent_s in outcome.timings.items():
                    self._seconds[name.removesuffix("_s")] += spent_s
            else:
                self._counts["cancelled" if ticket.cancelled else "failed"] += 1
            self._changed.notify_all()
        ticket.close(outcome)

    def _check_length(self, request: Request, known: Known) -> None:
        budget = self.predictor.budget(request).max_tokens
        prompt = len(known.video.ids) + len(self.predictor.answering.question_ids(request))
        room = self.predictor.answering.room
        if prompt + budget > room:
            raise RequestError(
                f"{len(known.times_s)} frames and the text take {prompt} tokens; with {budget} for the answer "
                f"that is more than the model's {room}. Ask for fewer frames (media_io_kwargs.video.num_frames) or "
                "less text."
            )


def _gave_up() -> RequestError:
    return RequestError("the asker gave up.", 499, "cancelled")


def _told(error: Exception) -> Exception:
    """What the asker can mend, in words without anything of the server's machine; any other error as it is."""
    if isinstance(error, TextError):  # its text may name the tokenizer's folder
        return RequestError("text: the model's vocabulary cannot write it. Leave unusual characters out.")
    if isinstance(error, NumberFormatError):  # of a frame's time
        return RequestError(
            "video_url: the video is longer than the times that this model can write. Send a part of it."
        )
    if isinstance(error, (GrammarError, InterleaveError)):
        return RequestError(str(error))
    return error
