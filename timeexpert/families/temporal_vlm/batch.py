"""ClipBatch and ClipWriter: how a TemporalVLM's rows are written and batched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from timeexpert.data.batch import VideoBatch
from timeexpert.data.collate import Row, Shown, pad_rows
from timeexpert.errors import UserError
from timeexpert.tokenization import EventSequence
from timeexpert.tokenization.answer_lines import answer_lines
from timeexpert.tokenization.text import TextTokenizer

from .windows import clip_of_frames

STAMP = "This frame is sampled at {:.1f} second."  # TimeChat's sentence


@dataclass(frozen=True, kw_only=True)
class ClipBatch(VideoBatch):
    """A batch whose frames lie in clips.

    ``frame_clips`` (F,) int64: row * clips + clip of each frame; ``stamp_ids`` (F, T) int64 and ``stamp_mask`` (F, T)
    bool: each frame's sentence with its time, padded (T is 0 for a model that reads none).
    """

    frame_clips: Tensor
    stamp_ids: Tensor
    stamp_mask: Tensor


@dataclass(frozen=True)
class ClipWriter:
    """As :class:`timeexpert.data.collate.RowWriter`: placeholders of the video, the question, an answer in words."""

    text: TextTokenizer
    clips: int
    frames_per_clip: int
    llm_tokens: int
    timestamps: bool
    prompt_times: str
    stamp_tokenizer: str | None = None
    _stamps: dict[float, list[int]] = field(default_factory=dict, compare=False)  # of times that were asked before

    @classmethod
    def of(cls, config: Any, text: TextTokenizer) -> ClipWriter:
        """For a model's config."""
        names = ("clips", "frames_per_clip", "llm_tokens", "timestamps", "prompt_times", "stamp_tokenizer")
        return cls(text, *(getattr(config, name) for name in names))

    def shown_s(self, times_s: Sequence[float] | np.ndarray) -> tuple[float, ...]:
        """Absolute seconds of the whole video, with one decimal, as the sentence says them."""
        return tuple(round(float(t), 1) for t in times_s)

    def video(self, times_s: Sequence[float]) -> list[int]:
        """As RowWriter. Raises ``UserError`` for no frames, and for more than there are frame positions."""
        most = self.clips * self.frames_per_clip
        if not times_s or len(times_s) > most:
            raise UserError(
                f"{len(times_s)} frames: this model takes 1 to {most} (clips {self.clips}, frames_per_clip "
                f"{self.frames_per_clip}). Ask for another number of frames."
            )
        return [*self.text.prompt("")[0], *[self.text.vocab_size] * self.llm_tokens]

    def video_length(self, num_frames: int) -> int:
        """As RowWriter: the same for any number of frames."""
        return len(self.text.prompt("")[0]) + self.llm_tokens

    def question(self, prompt: str, times_s: Sequence[float], task: str | None = None) -> list[int]:
        """As RowWriter; behind the times of the clips where ``prompt_times`` asks for them."""
        if self.prompt_times == "clips":
            own = clip_of_frames(len(times_s), self.clips)
            groups = [[t for t, c in zip(times_s, own, strict=True) if c == clip] for clip in range(own[-1] + 1)]
            spans = ", ".join(f"{group[0]:.1f} - {group[-1]:.1f}" for group in groups)
            prompt = f"The video has {len(groups)} clips, sampled at {spans} seconds. {prompt}"
        return self.text.prompt(prompt)[1]

    def answer(self, task: str, events: EventSequence, objects: int = 0, shown: Shown | None = None) -> list[int]:
        """As RowWriter: :func:`timeexpert.tokenization.answer_lines.answer_lines`, then the end of sequence."""
        return [*self.text.encode(answer_lines(task, events)), self.text.eos_id]

    def batch(self, rows: Sequence[Row], dropped: Sequence[tuple[str, str]] = ()) -> ClipBatch:
        """As RowWriter."""
        padded = pad_rows(rows, self.text.pad_id, dropped)
        clips = [
            i * self.clips + clip for i, row in enumerate(rows) for clip in clip_of_frames(len(row.times_s), self.clips)
        ]
        ids, mask = self.stamps([t for row in rows for t in row.times_s])
        common = {f.name: getattr(padded, f.name) for f in fields(padded)}
        return ClipBatch(**common, frame_clips=torch.tensor(clips), stamp_ids=ids, stamp_mask=mask)

    def stamps(self, times_s: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Ids (F, T) int64 and mask (F, T) bool of each frame's sentence; T is 0 where the model reads none."""
        rows = [self._stamp(t) for t in times_s] if self.timestamps else [[] for _ in times_s]
        size = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (size - len(row))] for row in rows], dtype=torch.long).view(len(rows), size)
        lengths = torch.tensor([len(row) for row in rows])
        return ids, torch.arange(size) < lengths[:, None]

    def _stamp(self, time_s: float) -> list[int]:
        if time_s not in self._stamps:
            sentence = STAMP.format(time_s)
            own = self._own_tokenizer
            self._stamps[time_s] = self.text.encode(sentence) if own is None else own.encode(sentence).ids
        return self._stamps[time_s]

    @cached_property
    def _own_tokenizer(self) -> Any:
        if self.stamp_tokenizer is None:
            return None
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.stamp_tokenizer)
