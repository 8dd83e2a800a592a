"""Predictor: video and prompt in, events out. The one inference path of evaluation, serving and the command line."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from timeexpert.checkpoint import TRAINER_STATE, CheckpointError, load_weights, verify
from timeexpert.data.features import FeatureFile, FeaturesError, refuse_missing_frames, refuse_other_tower
from timeexpert.data.frames import FrameReader, Source
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.media import is_features
from timeexpert.data.video import Video
from timeexpert.errors import UserError
from timeexpert.families import family_in, family_of
from timeexpert.model.answering import Budget, Clip, Prediction, Request
from timeexpert.model.decoding import STEP_ROWS, EncodedVideo, Sampler, Writing
from timeexpert.tokenization import EventSequence
from timeexpert.tokenization.text import TextTokenizer, load_text

INFERENCE = "inference.json"
DRAW_ROWS = 64  # answers that are drawn side by side: one step costs little more than one of STEP_ROWS
DRAW_SLOTS = 128


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


def pick_device(name: str) -> torch.device:
    """``auto``: a CUDA or ROCm device where there is one, else the CPU. Raises :class:`UserError`."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} cannot be used: {reason} Choose auto, cpu, cuda or cuda:N.") from None


def load_model(folder: str | Path, config: Any = None) -> Any:
    """The model of a folder, with its own config or another one of the same shapes; also of a checkpoint of training.

    Its family follows from the folder's config.json; :class:`timeexpert.model.protocol.VideoLLM` says what it offers.

    Its weights are copied out of the mapped file: there they lie at odd addresses, where matrix products
    round otherwise, and a run that was interrupted would not repeat an unbroken one.
    """
    disable_progress_bar()  # transformers' bar over a few tensors would only flicker
    found = family_in(Path(folder))
    if (Path(folder) / TRAINER_STATE).is_file():  # its weights may lie in blocks of many ranks
        model = found.model_class(config or found.config_class.from_pretrained(folder, local_files_only=True))
        load_weights(model, Path(folder))
        return model.eval()
    model = found.model_class.from_pretrained(folder, config=config, local_files_only=True, use_safetensors=True)
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
    """Asks a model of any family. Greedy and deterministic; what differs between families is in :attr:`answering`.

    ``free``: answers are not held to the family's grammar.
    """

    def __init__(
        self,
        model: Any,
        text: TextTokenizer,
        config: InferenceConfig,
        *,
        reader: FrameReader | None = None,
        free: bool = False,
    ) -> None:
        self.model, self.text, self.config, self.free = model, text, config, free
        self.answering = family_of(model).answering(model, text)
        self.reader = reader or FrameReader(self.answering.image_size)
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

    @property
    def draws_masks(self) -> bool:
        """Whether answers may have tracks."""
        return family_of(self.model).draws_masks

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
    def _tower(self) -> dict[str, Any] | None:
        return None if self.answering.tower is None else self.answering.tower.identity()

    def check_features(self, kind: dict[str, Any], num_frames: int, where: object) -> None:
        """Raises :class:`FeaturesError` where features of ``kind`` are not what this model makes of ``num_frames``."""
        if self._tower is None:
            family = self.model.config.model_type
            raise FeaturesError(f"{where}: holds features, and models of the family {family} take frames only.")
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

    def budget(self, request: Request) -> Budget:
        """What the answer may take: what was asked for, within what the model was trained to write."""
        most = self.config.max_new_tokens
        return Budget(min(request.max_tokens or most, most), self.config.max_events, self.free)

    def prompt_ids(self, request: Request) -> tuple[list[int], tuple[float, ...]]:
        """Token ids up to where the answer begins, and the frame times as the model reads them.

        Raises ``UserError`` for a time or a text that cannot be written.
        """
        shown_s = self.answering.shown_s(request.clip.times_s)
        return [*self.answering.writer.video(shown_s), *self.answering.question_ids(request)], shown_s

    def encode(self, clip: Clip) -> EncodedVideo:
        """What the decoder keeps of a video, whatever is asked about it; for :meth:`begin`."""
        return self.encode_visual(self.visual_tokens(clip), clip.times_s)

    @torch.inference_mode()
    def visual_tokens(self, clip: Clip) -> Tensor:
        """The visual tokens of a clip, as the decoder takes them: (..., D)."""
        return self.answering.visual_tokens(clip)

    @torch.inference_mode()
    def encode_visual(self, visual: Tensor, times_s: Sequence[float] | np.ndarray) -> EncodedVideo:
        """:meth:`encode` from visual tokens and frame times. Raises ``UserError`` for a time outside the format."""
        return self.answering.encode(visual, times_s)

    @torch.inference_mode()
    def begin(self, request: Request, video: EncodedVideo, *, record: bool = False) -> Writing:
        """An answer whose question is still to be read. ``record`` keeps who computes each token."""
        return self.answering.begin(request, video, self.budget(request), record=record)

    @torch.inference_mode()
    def step(self, answers: Sequence[Writing]) -> None:
        """Go on with up to ``STEP_ROWS`` answers that are not done."""
        self.answering.step(answers)

    def prediction(self, request: Request, answer: Writing) -> Prediction:
        """What a finished answer says."""
        events, problems, said = self.answering.told(answer.tokens, request.task, request.clip)
        shown_s, duration_s = self.answering.shown_s(request.clip.times_s), request.clip.duration_s
        counts = len(answer.prompt_ids), len(answer.tokens)
        sure = self.answering.confidences(answer)
        tracks = self._tracks(request, answer) if request.masks else ()
        return Prediction(events, problems, shown_s, duration_s, *counts, said, sure, tracks)

    @torch.inference_mode()
    def _tracks(self, request: Request, answer: Writing) -> tuple[MaskTrack, ...]:
        return self.answering.tracks(request, answer)

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

    def written(self, requests: Sequence[Request]) -> Iterator[tuple[int, Writing]]:
        """The place of a request and its answer, as they are done. The model has to be in ``eval``."""
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
                active[i] = self.begin(request, encoded[clip])
                left[clip] -= 1
                if not left[clip]:
                    del encoded[clip]
            self.step(list(active.values()))
            for i in [i for i, answer in active.items() if answer.done]:
                yield i, active.pop(i)

    @torch.inference_mode()
    def draw(self, requests: Sequence[Request], samplers: Sequence[Sequence[Sampler]]) -> list[list[Writing]]:
        """Several drawn answers to each request, by its ``samplers``; video and question are read once.

        ``DRAW_ROWS`` answers are written side by side; what is beside one changes its log-probabilities by rounding
        only. Keys and values are dropped when an answer is done, so it has no tracks. The model has to be in ``eval``.
        """
        waiting = deque(enumerate(requests))
        groups: list[list[Writing]] = [[] for _ in requests]
        active: list[Writing] = []
        ready: deque[Writing] = deque()
        while waiting or ready or active:
            while waiting and len(active) + len(ready) < DRAW_ROWS:
                i, request = waiting.popleft()
                video = self.encode(request.clip)
                groups[i] = self.answering.begin_drawn(request, video, self.budget(request), samplers[i])
                ready += groups[i]
            active += [ready.popleft() for _ in range(min(len(ready), DRAW_ROWS - len(active)))]
            if active:
                self.answering.step(active, DRAW_SLOTS)
            for answer in active:
                if answer.done:
                    answer.cache = None  # type: ignore[assignment]  # keys and values are needed no more
            active = [answer for answer in active if not answer.done]
        return groups

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
        return Predictor(self.model, self.text, replace(self.config, **changes), reader=self.reader, free=self.free)


def _with_noise(request: Request, seed: int, size: int) -> Request:
    """The same question about pixels of noise, also where features were read. They follow from the question alone."""
    asked = hashlib.sha256(request.prompt.encode("utf-8", "replace") + request.clip.times_s.tobytes()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(asked[:8], "big")])
    noise = rng.integers(0, 256, (len(request.clip.times_s), size, size, 3), dtype=np.uint8)
    return replace(request, clip=replace(request.clip, frames=noise))


__all__ = [
    "INFERENCE",
    "Clip",
    "InferenceConfig",
    "Prediction",
    "Predictor",
    "Request",
    "load_model",
    "pick_device",
    "resolve_model",
]
