"""LoomBatch and LoomWriter: how a VideoLoom's rows are written and batched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from timeexpert.config import from_tree
from timeexpert.data.batch import VideoBatch, join_frames, pixels_of
from timeexpert.data.collate import Row, Shown, pad_rows
from timeexpert.data.mask_tracks import SEG
from timeexpert.errors import UserError
from timeexpert.tokenization import EventSequence
from timeexpert.tokenization.text import TextTokenizer

from .answer_forms import AnswerForms
from .answer_text import write_answer
from .frame_ids import EndOf, FrameIds
from .settings import TIMED
from .visual import random_keyframes, spread_keyframes

# What a question of a known task ends with: the paper asks a combined question twice, the second time for masks.
HINTS = {
    "moment_retrieval": "Answer with frame ids.",
    "dense_captioning": "Describe each event with its frame ids.",
    "action_segmentation": "Name each step with its frame ids.",
    "highlight_detection": "Answer with frame ids and saliency scores.",
    "referring_segmentation": "Please segment.",
}


def hinted(prompt: str, task: str | None) -> str:
    """``prompt`` with the hint of its task behind it, once: the second prompt of a combined question ends with it."""
    hint = HINTS.get(task or "", "")
    return prompt if prompt.rstrip().endswith(hint) else f"{prompt} {hint}"


@dataclass(frozen=True, kw_only=True)
class LoomBatch(VideoBatch):
    """A batch with keyframes, and with the masks of its [SEG] tokens in the order in which they occur.

    ``frame_counts`` (B,) int64: frames of each row in ``pixel_values``; ``keyframes`` (B, K) int64: their places among
    these. ``sam_values`` (R * K, 3, S, S) uint8: the keyframes of the R rows that have masks, as SAM2 sees them;
    ``mask_rows`` (O,) int64: of each object, its row's place among those R; ``masks`` (O, K, S/4, S/4) float32, 0 to 1:
    how much of each pixel the object covers.
    """

    frame_counts: Tensor
    keyframes: Tensor
    sam_values: Tensor
    mask_rows: Tensor
    masks: Tensor


@dataclass(frozen=True)
class LoomWriter:
    """As :class:`timeexpert.data.collate.RowWriter`: placeholders of fast and slow frames, an answer in words."""

    text: TextTokenizer
    visual: str
    max_frames: int
    keyframes: int
    fast_tokens: int
    slow_tokens: int
    id_text: str
    end_of: EndOf
    task_hints: bool
    answers: AnswerForms
    image_size: int  # of the frames that InternVL sees
    sam_size: int
    _ids: dict[int, list[int]] = field(default_factory=dict, compare=False)  # what says a frame's number

    @classmethod
    def of(cls, config: Any, text: TextTokenizer) -> LoomWriter:
        """For a model's config."""
        names = ("visual", "max_frames", "keyframes", "fast_tokens", "slow_tokens", "id_text", "end_of", "task_hints")
        sizes = {"image_size": config.mllm_config.vision_config.image_size[0], "sam_size": config.sam_config.image_size}
        answers = from_tree(AnswerForms, config.answers, "answers")
        return cls(text, answers=answers, **{name: getattr(config, name) for name in names}, **sizes)

    @property
    def seg_id(self) -> int:
        """The id of [SEG]."""
        return self.text.vocab_size

    def shown_s(self, times_s: Sequence[float] | np.ndarray) -> tuple[float, ...]:
        """The exact times: nothing of them is written, frames are counted."""
        return tuple(float(t) for t in times_s)

    def video(self, times_s: Sequence[float]) -> list[int]:
        """As RowWriter. Raises ``UserError`` for no frames, and for more than the model takes."""
        if not 1 <= len(times_s) <= self.max_frames:
            raise UserError(
                f"{len(times_s)} frames: this model takes 1 to {self.max_frames} (max_frames). Ask for another number "
                "of frames."
            )
        return [*self.text.prompt("")[0], *self._of_video(self.visual, len(times_s))]

    def video_length(self, num_frames: int) -> int:
        """As RowWriter."""
        return len(self.text.prompt("")[0]) + len(self._of_video(self.visual, num_frames))

    def question(self, prompt: str, times_s: Sequence[float], task: str | None = None) -> list[int]:
        """As RowWriter, with the hint of its task; where ``visual`` is per_task, behind the tokens that it reads."""
        asked = self.text.prompt(hinted(prompt, task) if self.task_hints else prompt)[1]
        return [*self.of_task(task, len(times_s)), *asked]

    def of_task(self, task: str | None, num_frames: int) -> list[int]:
        """The video's ids that stand in a question, where ``visual`` is per_task; both kinds for an unknown task."""
        if self.visual != "per_task":
            return []
        return self._of_video("slowfast" if task is None else "fast" if task in TIMED else "slow", num_frames)

    def answer(self, task: str, events: EventSequence, objects: int = 0, shown: Shown | None = None) -> list[int]:
        """As RowWriter: :func:`.answer_text.write_answer`, then the end of sequence."""
        if shown is None or not shown.duration_s:
            raise UserError("duration_s is not known, and this model answers with frame ids, which depend on it.")
        ids = FrameIds(shown.num_frames, shown.duration_s, self.end_of)
        said = write_answer(task, events, ids, objects, self.answers)
        # only the answer to a question for masks has [SEG]; elsewhere these letters are text
        parts = said.split(SEG) if task == "referring_segmentation" else [said]
        out = self.text.encode(parts[0])
        for part in parts[1:]:
            out += [self.seg_id, *(self.text.encode(part) if part else [])]
        return [*out, self.text.eos_id]

    def said(self, tokens: Sequence[int]) -> str:
        """The text of an answer's tokens, without the end of sequence."""
        parts: list[list[int]] = [[]]
        for token in tokens:
            if token == self.seg_id:
                parts.append([])
            elif token != self.text.eos_id:
                parts[-1].append(token)
        text = self.text.decode(parts[0])
        for part in parts[1:]:
            after = self.text.decode(part).lstrip()
            text = f"{text.rstrip()} {SEG}".lstrip() + (f" {after}" if after[:1].isalnum() else after)
        return text

    def batch(self, rows: Sequence[Row], dropped: Sequence[tuple[str, str]] = ()) -> LoomBatch:
        """As RowWriter. A row's keyframes are drawn from its seed; without one they are spread as in inference."""
        seen, counts, keyframes = [], [], []
        sam_values, mask_rows, masks = list[Any](), list[Any](), list[Any]()
        for row in rows:
            pixels, count = pixels_of(row.frames), len(row.times_s)
            if row.seed is None:
                drawn = spread_keyframes(count, self.keyframes)
            else:
                drawn = random_keyframes(count, self.keyframes, np.random.default_rng(row.seed))
            frames = pixels[drawn] if self.visual == "slow" else pixels
            seen.append(replace(row, frames=resized(frames, self.image_size)))
            counts.append(len(frames))
            keyframes.append(list(range(self.keyframes)) if self.visual == "slow" else drawn)
            tracks = [track for answer in row.masks for track in answer.tracks]
            if tracks:
                mask_rows += [len(sam_values)] * len(tracks)
                sam_values.append(join_frames([resized(pixels[drawn], self.sam_size)]))
                masks += [self._covered([track.mask(k) for k in drawn]) for track in tracks]
        padded = pad_rows(seen, self.text.pad_id, dropped)
        common = {f.name: getattr(padded, f.name) for f in fields(padded)}
        size = self.sam_size // 4
        return LoomBatch(
            **common,
            frame_counts=torch.tensor(counts),
            keyframes=torch.tensor(keyframes),
            sam_values=torch.cat(sam_values) if sam_values else torch.zeros(0, 3, self.sam_size, self.sam_size).byte(),
            mask_rows=torch.tensor(mask_rows, dtype=torch.long),
            masks=torch.stack(masks) if masks else torch.zeros(0, self.keyframes, size, size),
        )

    def _covered(self, masks: Sequence[np.ndarray]) -> Tensor:
        """Bool masks of any one size as (K, S/4, S/4) float32."""
        whole = torch.from_numpy(np.stack(masks)).float()[:, None]
        size = self.sam_size // 4
        return functional.interpolate(whole, (size, size), mode="bilinear", antialias=True)[:, 0].clamp(0, 1)

    def _of_video(self, visual: str, num_frames: int) -> list[int]:
        out: list[int] = []
        if visual in ("fast", "slowfast"):
            for frame_id in range(num_frames):
                out += [self.seg_id + 1] * self.fast_tokens + self._said_id(frame_id)
        if visual in ("slow", "slowfast"):
            out += [self.seg_id + 2] * (self.keyframes * self.slow_tokens)
        return out

    def _said_id(self, frame_id: int) -> list[int]:
        if frame_id not in self._ids:
            self._ids[frame_id] = self.text.encode(self.id_text.format(id=frame_id))
        return self._ids[frame_id]


def resized(frames: np.ndarray, size: int) -> np.ndarray:
    """Frames uint8 (F, H, W, 3) as squares of ``size`` pixels, proportions not kept."""
    if frames.shape[1:3] == (size, size):
        return frames
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    scaled = functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
