"""Predictor: video and prompt in, events out. The one inference path of evaluation, serving and the command line."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from timeexpert.checkpoint import TRAINER_STATE, CheckpointError, load_weights, verify
from timeexpert.data.batch import Frames, join_frames
from timeexpert.data.features import FeatureFile, FeaturesError, refuse_missing_frames, refuse_other_tower
from timeexpert.data.frames import FrameReader, Source
from timeexpert.data.media import is_features
from timeexpert.data.video import Video
from timeexpert.errors import UserError
from timeexpert.model import TimeExpert, TimeExpertConfig
from timeexpert.model.confidence import Confidence, event_confidences
from timeexpert.model.decoding import STEP_ROWS, EncodedVideo, Sampler, Writing, begin, encode_video, step
from timeexpert.model.generation import plain_text
from timeexpert.model.vision import tower_identity
from timeexpert.tokenization import EventCodec, EventGrammar, EventSequence, GrammarLimits, Problem, interleave
from timeexpert.tokenization.interleave import frame_ids
from timeexpert.tokenization.text import TextTokenizer, load_text

INFERENCE = "inference.json"
# What an answer of each task looks like: times per event, scores per event. Free prompts may be anything.
TASK_LIMITS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "general": ((0,), (0,)),
    "dense_captioning": ((2,), (0,)),
    "action_segmentation": ((2,), (0,)),
    "moment_retrieval": ((2,), (0,)),
    "highlight_detection": ((1,), (1,)),
}


@dataclass(frozen=True)
class InferenceConfig:
    """How a model is asked: kept beside its weights in ``inference.json``."""

    num_frames: int = 128
    max_new_tokens: int = 512
    max_events: int = 64
    stage: str = ""
    global_step: int = 0

    @classmethod
    def read(cls, folder: Path) -> InferenceConfig:
        """The settings of a model folder. Raises :class:`CheckpointError`."""
        try:
            return cls(**json.loads((folder / INFERENCE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{folder / INFERENCE}: cannot be read: {error}. Use a folder under RUN/models."
            ) from None

    def write(self, folder: Path) -> None:
        """Into a model folder."""
        (folder / INFERENCE).write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


@dataclass(frozen=True)
class Clip:
    """Sampled frames of one video (uint8 [n, H, W, 3], or features of them), their times, its duration (seconds)."""

    frames: Frames
    times_s: np.ndarray
    duration_s: float


@dataclass(frozen=True)
class Request:
    """One question about one clip. ``task`` narrows the grammar (see ``TASK_LIMITS``); ``max_tokens`` is an upper limit
    of the answer within the model's own."""

    clip: Clip
    prompt: str
    task: str | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class Prediction:
    """The answer: events, what did not parse, which frame times the model saw, and how many tokens it took
    (visual and frame-time tokens are the prompt's, the end of sequence is the completion's). ``text`` is the answer
    as it was written (:meth:`EventCodec.transcript`). ``confidences``: one per event, see
    :func:`timeexpert.model.confidence.event_confidences`."""

    events: EventSequence
    problems: list[Problem] = field(default_factory=list)
    frame_times_s: tuple[float, ...] = ()
    duration_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    text: str = ""
    confidences: list[Confidence] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """JSON object; times in seconds."""
        return {
            "events": self.events.to_json(),
            "problems": [{"position": p.position, "reason": p.reason} for p in self.problems],
            "frame_times_s": list(self.frame_times_s),
            "duration_s": self.duration_s,
        }


def pick_device(name: str) -> torch.device:
    """``auto``: a CUDA or ROCm device where there is one, else the CPU. Raises :class:`UserError`."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} cannot be used: {reason} Choose auto, cpu, cuda or cuda:N.") from None


def load_model(folder: str | Path, config: TimeExpertConfig | None = None) -> TimeExpert:
    """The model of a folder, with its own config or another one of the same shapes; also of a checkpoint of training.

    Its weights are copied out of the mapped file: there they lie at odd addresses, where matrix products
    round otherwise, and a run that was interrupted would not repeat an unbroken one.
    """
    disable_progress_bar()  # transformers' bar over a few tensors would only flicker
    if (Path(folder) / TRAINER_STATE).is_file():  # its weights may lie in blocks of many ranks
        model = TimeExpert(config or TimeExpertConfig.from_pretrained(folder, local_files_only=True))
        load_weights(model, Path(folder))
        return model.eval()
    model = TimeExpert.from_pretrained(folder, config=config, local_files_only=True, use_safetensors=True)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def resolve_model(path: str | Path) -> Path:
    """The model folder of a run (its last finished stage) or of a path that is one already."""
    path = Path(path)
    if (path / INFERENCE).is_file():
        return path
    found = [p.parent for p in path.glob(f"models/*/{INFERENCE}")]
    if not found:
        raise CheckpointError(
            f"{path}: neither a model folder (no {INFERENCE}) nor a run with a finished stage (no "
            f"models/*/{INFERENCE}). Give a run folder after its first stage, or checkpoints/tiny."
        )
    return max(found, key=lambda p: InferenceConfig.read(p).global_step)


class Predictor:
    """Asks a model. Greedy and deterministic; every answer follows the event grammar, so it parses."""

    def __init__(
        self, model: TimeExpert, text: TextTokenizer, config: InferenceConfig, *, reader: FrameReader | None = None
    ) -> None:
        self.model, self.text, self.config = model, text, config
        formats = model.config
        self.codec = EventCodec(text, formats.time_format, formats.score_format)
        self.reader = reader or FrameReader(formats.vision_config.image_size)
        self.plain = plain_text(self.codec.ids, text.special_ids)
        self._asking = threading.Lock()

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str = "auto") -> Predictor:
        """From a run folder or a model folder. Raises :class:`CheckpointError` where something is damaged."""
        place = pick_device(device)
        folder = resolve_model(path)
        verify(folder)
        config = InferenceConfig.read(folder)
        model = load_model(folder)
        return cls(model.to(place).eval(), load_text(str(folder)), config)

    load = from_pretrained

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def clip(self, source: Source, *, name: str | None = None, num_frames: int | None = None) -> Clip:
        """Uniformly sampled frames of a video file or of its bytes, or features of them from a file of ``data cache``.

        Raises ``VideoError``, and :class:`FeaturesError` for features of another tower.
        """
        label = name or (str(source) if not isinstance(source, bytes) else "video")
        key = hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else label
        count = num_frames or self.config.num_frames
        if is_features(label):
            self.check_features(FeatureFile(source, label).kind, count, label)
        return Clip(*self.reader.read(key, lambda: (source, label), count))

    @cached_property
    def _tower(self) -> dict[str, Any]:
        return tower_identity(self.model.frame_encoder.vision_tower)

    def check_features(self, kind: dict[str, Any], num_frames: int, where: object) -> None:
        """Raises :class:`FeaturesError` where features of ``kind`` are not what this model makes of ``num_frames``."""
        refuse_other_tower(kind, self._tower, where)
        refuse_missing_frames(kind, [num_frames], "uniform", where)

    def frames_for_display(
        self, source: Source, times_s: Sequence[float] | np.ndarray, height: int = 144
    ) -> np.ndarray:
        """The frames at the exact times of a :class:`Clip`, in their own proportions: uint8 [n, height, W, 3].

        Raises ``VideoError``, and :class:`FeaturesError` for a file that holds no pictures.
        """
        if not isinstance(source, bytes) and is_features(source):
            raise FeaturesError(f"{source}: holds features, of which no picture can be made. Add --no-png.")
        with Video.open(source) as video:
            width = max(2, round(height * video.info.width / video.info.height))
            return video.frames_at(times_s, (height, width))[0]

    def ask(self, source: Source, prompt: str, *, task: str | None = None, name: str | None = None) -> Prediction:
        """Events of one video for one prompt."""
        return self.answer([Request(self.clip(source, name=name), prompt, task)])[0]

    def limits(self, request: Request) -> GrammarLimits:
        """What the answer may hold: the task's counts, times within the video, the token budget."""
        times, scores = TASK_LIMITS.get(request.task or "", ((0, 1, 2), (0, 1)))
        return GrammarLimits(
            times=times,
            scores=scores,
            max_events=1 if times == (0,) else self.config.max_events,
            max_tokens=min(request.max_tokens or self.config.max_new_tokens, self.config.max_new_tokens),
            max_time_s=request.clip.duration_s,
        )

    def shown_s(self, times_s: Sequence[float] | np.ndarray) -> tuple[float, ...]:
        """Frame times as the model reads them: rounded to what its digits can say."""
        return tuple(float(self.codec.time_format.quantize(float(t))) for t in times_s)

    def prompt_ids(self, request: Request) -> tuple[list[int], tuple[float, ...]]:
        """Token ids up to where the answer begins, and the frame times as the model reads them."""
        shown_s = self.shown_s(request.clip.times_s)
        ids = interleave(
            self.codec,
            self.text,
            request.prompt,
            shown_s,
            visual_tokens_per_frame=self.model.config.tokens_per_frame,
        )
        return ids, shown_s

    def encode(self, clip: Clip) -> EncodedVideo:
        """What the decoder keeps of a video, whatever is asked about it; for :meth:`begin`."""
        return self.encode_visual(self.visual_tokens(clip.frames), clip.times_s)

    @torch.inference_mode()
    def visual_tokens(self, frames: Frames) -> Tensor:
        """Frames, or features of them, through tower and compressor: (n, tokens per frame, D)."""
        return self.model.frame_encoder(join_frames([frames]).to(self.device))

    @torch.inference_mode()
    def encode_visual(self, visual: Tensor, times_s: Sequence[float] | np.ndarray) -> EncodedVideo:
        """:meth:`encode` from visual tokens and frame times. Raises ``UserError`` for a time outside the format."""
        ids = [*self.text.prompt("")[0], *frame_ids(self.codec, self.shown_s(times_s), visual.shape[1])]
        return encode_video(self.model, ids, visual)

    @torch.inference_mode()
    def begin(
        self, request: Request, video: EncodedVideo, *, record: bool = False, sampler: Sampler | None = None
    ) -> Writing:
        """The first token of an answer. ``record`` keeps who computes each token; ``sampler`` draws the tokens."""
        question = self.text.prompt(request.prompt)[1]
        grammar = EventGrammar(self.codec, self.limits(request))
        return begin(self.model, video, question, grammar, self.plain, record=record, sampler=sampler)

    @torch.inference_mode()
    def step(self, answers: Sequence[Writing]) -> None:
        """One token more of each of up to ``STEP_ROWS`` answers that are not done."""
        step(self.model, answers, self.plain)

    def prediction(self, request: Request, answer: Writing) -> Prediction:
        """What a finished answer says."""
        events, problems = self.codec.decode(answer.tokens)
        shown_s, duration_s = self.shown_s(request.clip.times_s), request.clip.duration_s
        confidences = event_confidences(self.codec, answer.tokens, answer.logprobs)
        counts = len(answer.prompt_ids), len(answer.tokens)
        said = self.codec.transcript(answer.tokens)
        return Prediction(events, problems, shown_s, duration_s, *counts, said, confidences)

    def answer(self, requests: Sequence[Request], *, noise_seed: int | None = None) -> list[Prediction]:
        """Answers of a batch, in order, each as if it were asked alone. Requests with the same clip share its encoding.

        ``noise_seed`` replaces every frame by noise: the control that shows what the model knows without looking.
        """
        self.model.eval()
        if noise_seed is not None and requests:
            requests = [_with_noise(request, noise_seed, self.reader.size) for request in requests]
        predictions: dict[int, Prediction] = {}
        for i, answer in self.written(requests):
            predictions[i] = self.prediction(requests[i], answer)
        return [predictions[i] for i in range(len(requests))]

    def written(
        self, requests: Sequence[Request], samplers: Sequence[Sampler] | None = None
    ) -> Iterator[tuple[int, Writing]]:
        """The place of a request and its answer, as they are done. ``samplers``: one per request; without, the
        likeliest tokens are written. The model has to be in ``eval``."""
        left = Counter(id(request.clip) for request in requests)
        encoded: dict[int, EncodedVideo] = {}
        waiting = deque(enumerate(requests))
        active: dict[int, Writing] = {}
        while waiting or active:
            while waiting and len(active) < STEP_ROWS:
                i, request = waiting.popleft()
                clip = id(request.clip)
                if clip not in encoded:
                    encoded[clip] = self.encode(request.clip)
                active[i] = self.begin(request, encoded[clip], sampler=samplers[i] if samplers else None)
                left[clip] -= 1
                if not left[clip]:
                    del encoded[clip]
            self.step(list(active.values()))
            for i in [i for i, answer in active.items() if answer.done]:
                yield i, active.pop(i)

    def events(self, video: Source, prompt: str, task: str | None = None) -> EventSequence:
        """The events of one video for one prompt. ``video``: a file, or its bytes.

        ``task`` narrows the answer to one form (see ``TASK_LIMITS``). Raises ``UserError`` for a video that cannot be
        read and for a prompt that the vocabulary cannot write.
        """
        return self.events_batch([(video, prompt, task)])[0]

    def events_batch(
        self, questions: Iterable[tuple[Source, str] | tuple[Source, str, str | None]]
    ) -> list[EventSequence]:
        """One result per (video, prompt) or (video, prompt, task), in order; equal to :meth:`events` of each.

        A video that comes more than once is read and encoded once. Raises as :meth:`events`, for the first that fails.
        """
        clips: dict[Source, Clip] = {}
        requests = []
        for video, prompt, *task in questions:
            if video not in clips:
                clips[video] = self.clip(video)
            requests.append(Request(clips[video], prompt, task[0] if task else None))
        with self._asking:
            return [prediction.events for prediction in self.answer(requests)]

    async def events_async(self, video: Source, prompt: str, task: str | None = None) -> EventSequence:
        """:meth:`events` in a thread, so that an event loop goes on. Calls take turns at the model."""
        return await asyncio.to_thread(self.events, video, prompt, task)

    def with_config(self, **changes: Any) -> Predictor:
        """The same model asked differently, for example with another ``num_frames``."""
        return Predictor(self.model, self.text, replace(self.config, **changes), reader=self.reader)


def _with_noise(request: Request, seed: int, size: int) -> Request:
    """The same question about pixels of noise, also where features were read. They follow from the question alone."""
    asked = hashlib.sha256(request.prompt.encode("utf-8", "replace") + request.clip.times_s.tobytes()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(asked[:8], "big")])
    noise = rng.integers(0, 256, (len(request.clip.times_s), size, size, 3), dtype=np.uint8)
    return replace(request, clip=replace(request.clip, frames=noise))
