"""How a VideoLoom is asked: greedy, in words; frame ids become seconds, the states of [SEG] become masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from timeexpert.data.batch import pixels_of
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.errors import UserError
from timeexpert.model.answering import Answering, Budget, Clip, Request, plain_pieces
from timeexpert.model.decoding import EncodedVideo, Writing, encode_video
from timeexpert.tokenization import Event, EventSequence, Problem
from timeexpert.tokenization.grammar import TextGrammar
from timeexpert.tokenization.text import TextTokenizer

from .answer_text import read_answer
from .batch import LoomWriter, resized
from .frame_ids import FrameIds
from .model import VideoLoom
from .visual import spread_keyframes


@dataclass(frozen=True)
class UnreadVideo(EncodedVideo):
    """A prompt's lead, and the visual tokens (V, D) of which each question reads those of its task."""

    visual: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return super().nbytes + self.visual.nbytes


class LoomAnswering(Answering):
    """As :class:`timeexpert.model.answering.Answering`."""

    model: VideoLoom
    writer: LoomWriter

    def __init__(self, model: VideoLoom, text: TextTokenizer) -> None:
        config = model.config
        super().__init__(model, LoomWriter.of(config, text))
        self.image_size = max(self.writer.image_size, self.writer.sam_size)
        self.room = config.text_config.max_position_embeddings
        self.plain = torch.cat([plain_pieces(text), torch.ones(1, dtype=torch.bool)])  # [SEG] stands inside text

    def visual_tokens(self, clip: Clip) -> Tensor:
        """The tokens (V, D) of one clip: those of fast frames, then those of keyframes spread over it."""
        self.writer.video(self.shown_s(clip.times_s))  # the number of frames
        frames, visual = self._pixels(clip), self.model.config.visual
        keyframes = spread_keyframes(len(frames), self.model.config.keyframes)
        if visual == "slow":
            return self.model.look(frames[keyframes]).flatten(0, 1)
        tokens = self.model.look(frames)
        fast = self.model.fast(tokens).flatten(0, 1)
        return fast if visual == "fast" else torch.cat([fast, tokens[keyframes].flatten(0, 1)])

    def encode(self, visual: Tensor, times_s: Sequence[float] | np.ndarray) -> EncodedVideo:
        """As the base class; where ``visual`` is per_task, only the lead, and the tokens for later."""
        if self.model.config.visual != "per_task":
            return super().encode(visual, times_s)
        lead = super().encode(visual, times_s)
        return UnreadVideo(lead.ids, lead.keys, lead.values, lead.routed, visual)

    def prompt(self, request: Request, video: EncodedVideo) -> tuple[EncodedVideo, list[int]]:
        """As the base class; where ``visual`` is per_task, the video is read with the question's tokens of it."""
        ids = self.question_ids(request)
        if not isinstance(video, UnreadVideo):
            return video, ids
        count = len(self.writer.of_task(request.task, len(request.clip.times_s)))
        return encode_video(self.model, [*video.ids, *ids[:count]], video.visual), ids[count:]

    def grammar(self, request: Request, budget: Budget) -> TextGrammar:
        """Any text and [SEG], up to the budget."""
        return TextGrammar(self.writer.text.eos_id, budget.max_tokens)

    def told(
        self, tokens: Sequence[int], task: str | None, clip: Clip | None = None
    ) -> tuple[EventSequence, list[Problem], str]:
        """Events by :func:`.answer_text.read_answer`; problems stand at token 0. Frame ids need the clip."""
        if clip is None:
            raise UserError("frame ids cannot become seconds without the clip that was asked about.")
        text = self.writer.said(tokens)
        ids = FrameIds(len(clip.times_s), clip.duration_s, self.model.config.end_of)
        events, reasons = read_answer(text, task, ids, self.writer.answers)
        if self.writer.text.eos_id not in tokens:
            reasons = [*reasons, "the answer has no end of sequence"]
        objects, most = list(tokens).count(self.writer.seg_id), self.model.config.max_objects
        if objects > most:
            reasons = [
                *reasons,
                f"the answer names {objects} objects; masks are drawn of the first {most} (max_objects)",
            ]
        return events, [Problem(0, reason) for reason in reasons], text

    def events_so_far(self, tokens: Sequence[int], task: str | None) -> EventSequence:
        """Words without times, which can only become more; frame ids become seconds when the answer is done."""
        text = self.writer.said(tokens).strip()
        words = task in ("general", "referring_segmentation") and text
        return EventSequence((Event(text=text),) if words else ())

    def tracks(self, request: Request, answer: Writing) -> tuple[MaskTrack, ...]:
        """One track per [SEG] of a finished answer, up to ``max_objects``, at the frames of the clip and of the size
        that SAM2 sees them."""
        states = self.states(answer)[: self.model.config.max_objects]
        if not len(states):
            return ()
        head, size = self.model.mask_head, self.writer.sam_size
        prompts = head.projection(states.to(next(head.projection.parameters()).dtype))
        frames = self._pixels(request.clip, size)
        keyframes = None
        if self.model.config.prompted_frames == "keyframes":
            keyframes = spread_keyframes(len(frames), self.model.config.keyframes)
        masks = head.masks(frames, prompts, keyframes, (size, size))
        times_s = self.shown_s(request.clip.times_s)
        return tuple(MaskTrack.from_masks(list(own.cpu().numpy()), times_s, str(i)) for i, own in enumerate(masks))

    def states(self, answer: Writing) -> Tensor:
        """The decoder's states (O, D) at the [SEG] tokens themselves.

        The state from which [SEG] was written is that of the token before it. The answer is read once more, its last
        token included, so that each [SEG] has been read.
        """
        where = [i for i, token in enumerate(answer.tokens) if token == self.writer.seg_id]
        device = answer.cache.keys[0].device
        if not where:
            return torch.empty(0, self.model.config.text_config.hidden_size, device=device)
        cache, kept = DynamicCache(config=self.model.config.text_config), answer.cache.length
        kept = min(kept, len(answer.prompt_ids))  # of an answer that was only begun, its question is not there yet
        for layer, (key, value) in enumerate(zip(answer.cache.keys, answer.cache.values, strict=True)):
            cache.update(key[:, :, :kept], value[:, :, :kept], layer)
        unread = [*answer.prompt_ids[kept:], *answer.tokens]
        hidden, _ = self.model.read(torch.tensor([unread], device=device), cache=cache)
        return hidden[0, -len(answer.tokens) :][where]

    def _pixels(self, clip: Clip, size: int | None = None) -> Tensor:
        """Frames uint8 (n, 3, size, size) on the model's device; by default of the size that InternVL sees."""
        scaled = resized(pixels_of(clip.frames), size or self.writer.image_size)
        return torch.from_numpy(scaled).permute(0, 3, 1, 2).to(next(self.model.parameters()).device)
