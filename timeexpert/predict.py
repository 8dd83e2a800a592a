"""Predictor: video and prompt in, events out. The one inference path of evaluation, serving and the command line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from timeexpert.checkpoint import TRAINER_STATE, CheckpointError, load_weights, verify
from timeexpert.data.batch import Frames, join_frames
from timeexpert.data.features import FeatureFile, FeaturesError, refuse_missing_frames, refuse_other_tower
from timeexpert.data.frames import FrameReader, Source
from timeexpert.data.media import is_features
from timeexpert.data.video import Video
from timeexpert.errors import UserError
from timeexpert.model import EventGrammarProcessor, TimeExpert, TimeExpertConfig
from timeexpert.model.vision import tower_identity
from timeexpert.tokenization import EventCodec, EventGrammar, EventSequence, GrammarLimits, Problem, interleave
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
    """One question about one clip. ``task`` narrows the grammar (see ``TASK_LIMITS``)."""

    clip: Clip
    prompt: str
    task: str | None = None


@dataclass(frozen=True)
class Prediction:
    """The answer: events, what did not parse, which frame times the model saw, and how many tokens it took
    (visual and frame-time tokens are the prompt's, the end of sequence is the completion's). ``text`` is the answer
    as it was written (:meth:`EventCodec.transcript`)."""

    events: EventSequence
    problems: list[Problem] = field(default_factory=list)
    frame_times_s: tuple[float, ...] = ()
    duration_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    text: str = ""

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

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> Predictor:
        """From a run folder or a model folder. Raises :class:`CheckpointError` where something is damaged."""
        place = pick_device(device)
        folder = resolve_model(path)
        verify(folder)
        config = InferenceConfig.read(folder)
        model = load_model(folder)
        return cls(model.to(place).eval(), load_text(str(folder)), config)

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
            max_tokens=self.config.max_new_tokens,
            max_time_s=request.clip.duration_s,
        )

    def prompt_ids(self, request: Request) -> tuple[list[int], tuple[float, ...]]:
        """Token ids up to where the answer begins, and the frame times as the model reads them."""
        shown_s = tuple(float(self.codec.time_format.quantize(float(t))) for t in request.clip.times_s)
        ids = interleave(
            self.codec,
            self.text,
            request.prompt,
            shown_s,
            visual_tokens_per_frame=self.model.config.tokens_per_frame,
        )
        return ids, shown_s

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request], *, noise_seed: int | None = None) -> list[Prediction]:
        """Answers of a batch, in order. ``noise_seed`` replaces every frame by noise: the control that shows
        what the model knows without looking."""
        if not requests:
            return []
        self.model.eval()
        device = next(self.model.parameters()).device
        built = [self.prompt_ids(request) for request in requests]
        longest = max(len(ids) for ids, _ in built)
        input_ids = torch.full((len(built), longest), self.text.pad_id)
        mask = torch.zeros(input_ids.shape, dtype=torch.long)
        for i, (ids, _) in enumerate(built):
            input_ids[i, longest - len(ids) :] = torch.tensor(ids)
            mask[i, longest - len(ids) :] = 1
        shown = [request.clip.frames for request in requests]
        if noise_seed is not None:
            shown = [_noise(request, noise_seed, self.reader.size) for request in requests]
        frames = join_frames(shown)
        grammars = [EventGrammar(self.codec, self.limits(request)) for request in requests]
        out = self.model.generate(
            input_ids.to(device),
            pixel_values=frames.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=self.config.max_new_tokens,
            do_sample=False,
            logits_processor=[EventGrammarProcessor(grammars, longest, self.text.special_ids)],
            pad_token_id=self.text.pad_id,
            eos_token_id=self.text.eos_id,
        )
        predictions = []
        for request, (asked, shown_s), ids in zip(requests, built, out[:, longest:].tolist(), strict=True):
            events, problems = self.codec.decode(ids)
            tokens = ids.index(self.text.eos_id) + 1 if self.text.eos_id in ids else len(ids)
            said = self.codec.transcript(ids)
            predictions.append(Prediction(events, problems, shown_s, request.clip.duration_s, len(asked), tokens, said))
        return predictions

    def with_config(self, **changes: Any) -> Predictor:
        """The same model asked differently, for example with another ``num_frames``."""
        return Predictor(self.model, self.text, replace(self.config, **changes), reader=self.reader)


def _noise(request: Request, seed: int, size: int) -> np.ndarray:
    """Pixels of noise, also where features were read. They follow from the question alone, not from its batch."""
    asked = hashlib.sha256(request.prompt.encode("utf-8", "replace") + request.clip.times_s.tobytes()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(asked[:8], "big")])
    return rng.integers(0, 256, (len(request.clip.times_s), size, size, 3), dtype=np.uint8)
