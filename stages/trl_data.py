"""Questions about videos as rows for TRL's GRPOTrainer.

The trainer of TRL 1.16 reads pictures and no videos, so a clip goes to the model as sampled frames, each behind its
time in words: the positions of a video's frames tell Qwen2.5-VL their times, those of pictures do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from PIL import Image

from timeexpert.data.formats import Converted, Rejected, detect, get
from timeexpert.data.formats.to_museg import to_museg
from timeexpert.data.media import MediaError, require_media, resolve_media
from timeexpert.data.sampling import sample_frames
from timeexpert.data.video import Video
from timeexpert.errors import UserError

from .rl_config import QUESTION

FORMATS = ("museg", "samples")
MERGED_PATCH = 28  # pixels a side of what becomes one token of Qwen2.5-VL: 2 x 2 patches of 14
FRAME_TOKENS = 16  # MUSEG's fewest, of a frame

_ANSWER = (
    "Write your reasoning between <think> and </think>. Behind it write, between <answer> and </answer>, the start and "
    "the end of every segment in seconds with two digits behind the point, in order of time, and nothing else: "
    "<think>...</think><answer>START-END START-END</answer>"
)


@dataclass(frozen=True)
class Phase:
    """A phase of MUSEG's training: its rewards, of weight 1 each, and its prompt (in our words)."""

    rewards: tuple[str, ...]
    prompt: str


PHASES = {
    1: Phase(
        ("format_timestamps", "segment_matching"),
        f"{QUESTION} {_ANSWER} YOUR REASONING HAS TO NAME THE EXACT TIMES, IN SECONDS, AT WHICH EACH SEGMENT BEGINS "
        "AND ENDS.",
    ),
    2: Phase(("format", "segment_matching"), f"{QUESTION} {_ANSWER}"),
}


class TrlDataError(UserError):
    """Questions or settings of which no rows can be made."""


@dataclass(frozen=True)
class Question:
    """``solution``: the true segments, ``[start, end]`` in seconds. ``video``: a path within the media folder."""

    text: str
    video: str
    solution: list[list[float]]


def read_questions(annotations: Path, media: Path) -> tuple[list[Question], list[Rejected]]:
    """The questions of MUSEG's lines or of Sample lines, and what was left out, each with its place and the reason.

    The answers of samples are gathered as ``timeexpert data convert --to museg`` does it. Left out are lines that break
    a rule, segments without length, and questions whose video is not in ``media``. Raises :class:`TrlDataError` where
    nothing is left, or ``annotations`` is of another format, ``UserError`` for files that cannot be read.
    """
    require_media(media, TrlDataError)
    chosen = get(detect(annotations))
    if chosen.name not in FORMATS:
        raise TrlDataError(
            f"{annotations}: is of the format {chosen.name!r}; questions are read from {' or '.join(FORMATS)}. Run "
            f"timeexpert data convert {chosen.name} {annotations} -o SAMPLES.jsonl, and give SAMPLES.jsonl."
        )
    items = chosen.convert(annotations)
    questions: list[Question] = []
    rejected: list[Rejected] = []
    for row in to_museg(items) if chosen.name == "samples" else _lines(items):
        if isinstance(row, dict) and (why := _missing(media, row["video"])):
            row = Rejected(f"{row['video']}: {row['problem']}", "no_video", why, row)
        if isinstance(row, Rejected):
            rejected.append(row)
        else:
            solution = [[float(start_s), float(end_s)] for start_s, end_s in row["solution"]]
            questions.append(Question(row["problem"], row["video"], solution))
    if not questions:
        first = f" The first of {len(rejected)} rejected: {rejected[0].where}: {rejected[0].reason}" if rejected else ""
        raise TrlDataError(f"{annotations}: there is no question to train on.{first}")
    return questions, rejected


def _lines(items: Iterable[Converted]) -> Iterator[dict[str, Any] | Rejected]:
    for item in items:
        if isinstance(item, Rejected):
            yield item
        else:
            yield {"problem": item.prompt, "solution": item.events.segments_s, "video": item.video}


def _missing(media: Path, video: str) -> str:
    try:
        resolve_media(media, video)
    except MediaError as error:
        return str(error)
    return ""


@dataclass(frozen=True, kw_only=True)
class ClipFrames:
    """Which frames a model sees: ``num_frames`` at most, uniformly sampled, in ``video_tokens`` tokens at most.

    The budget is MUSEG's, which gives each frame :data:`FRAME_TOKENS` or more. A picture takes as many tokens as two
    frames of a video do. Raises :class:`TrlDataError` where the frames do not fit.
    """

    num_frames: int = 64
    video_tokens: int = 3584

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise TrlDataError(f"num_frames ({self.num_frames}) must be 1 or more.")
        if self.video_tokens < FRAME_TOKENS * self.num_frames:
            raise TrlDataError(
                f"video_tokens ({self.video_tokens}) must be {FRAME_TOKENS * self.num_frames} or more: "
                f"{FRAME_TOKENS} for each of num_frames ({self.num_frames}). Ask for fewer frames, or more tokens."
            )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width, multiples of :data:`MERGED_PATCH`, at which frames of this size are decoded."""
        tokens = self.video_tokens // self.num_frames
        rows, columns = height / MERGED_PATCH, width / MERGED_PATCH
        scale = min(1.0, sqrt(tokens / (rows * columns)))
        rows_kept = min(max(int(rows * scale), 1), tokens)
        return MERGED_PATCH * rows_kept, MERGED_PATCH * min(max(int(columns * scale), 1), tokens // rows_kept)

    def read(self, path: Path) -> tuple[list[Image.Image], list[float]]:
        """The frames of a video as pictures, and their exact times in seconds. Raises ``VideoError``."""
        with Video.open(path) as video:
            size = self.size(video.info.height, video.info.width)
            frames, times_s = sample_frames(video, self.num_frames, size=size)
        return [Image.fromarray(frame) for frame in frames], times_s.tolist()


def conversation(prompt: str, question: str, times_s: Sequence[float]) -> list[dict[str, Any]]:
    """What the model is asked: each frame's time and place, then ``prompt`` with the question in it."""
    parts: list[dict[str, Any]] = []
    for time_s in times_s:
        parts += [{"type": "text", "text": f"{time_s:.2f} s"}, {"type": "image"}]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": prompt.replace(QUESTION, question)}]}]


class GrpoRows:
    """A transform of ``datasets``: what a batch of questions is to the trainer; videos are decoded here.

    It keeps the clips of one batch: TRL asks for a question once for each of its answers, and for the same batch
    again at each step of its answers.
    """

    def __init__(self, media: Path, prompt: str, frames: ClipFrames) -> None:
        self.media, self.prompt, self.frames = media, prompt, frames
        self._kept: dict[str, tuple[list[Image.Image], list[float]]] = {}

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        videos = batch["video"]
        self._kept = {name: self._kept.get(name) or self._read(name) for name in dict.fromkeys(videos)}
        return {
            "prompt": [
                conversation(self.prompt, text, self._kept[name][1])
                for text, name in zip(batch["text"], videos, strict=True)
            ],
            "images": [self._kept[name][0] for name in videos],
            "solution": batch["solution"],
        }

    def _read(self, video: str) -> tuple[list[Image.Image], list[float]]:
        return self.frames.read(resolve_media(self.media, video))


def grpo_dataset(questions: Sequence[Question], media: Path, prompt: str, frames: ClipFrames | None = None) -> Any:
    """A ``datasets.Dataset`` for ``GRPOTrainer``: ``prompt`` (a conversation), ``images`` (PIL) and ``solution``.

    ``prompt`` holds ``{question}`` once, as those of :data:`PHASES` do. Only questions are in memory; frames are
    decoded when rows are asked for, and a video that cannot be raises ``VideoError`` then. Raises
    :class:`TrlDataError`.
    """
    from datasets import Dataset

    if prompt.count(QUESTION) != 1:
        raise TrlDataError(f"prompt ({prompt!r}) must hold {QUESTION} once: the question goes there.")
    rows = [{"text": q.text, "video": q.video, "solution": q.solution} for q in questions]
    return Dataset.from_list(rows).with_transform(GrpoRows(media, prompt, frames or ClipFrames()))
