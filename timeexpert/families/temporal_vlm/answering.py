"""How a TemporalVLM is asked: greedy, in words; events are read from the text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from timeexpert.data.batch import join_frames
from timeexpert.evaluation.answer_events import events_of_text
from timeexpert.model.answering import Answering, Budget, Clip, Request, plain_pieces
from timeexpert.tokenization import EventSequence, Problem
from timeexpert.tokenization.grammar import TextGrammar
from timeexpert.tokenization.text import TextTokenizer

from .batch import ClipWriter
from .model import TemporalVLM
from .windows import clip_of_frames


class TextAnswering(Answering):
    """As :class:`timeexpert.model.answering.Answering`."""

    model: TemporalVLM
    writer: ClipWriter

    def __init__(self, model: TemporalVLM, text: TextTokenizer) -> None:
        config = model.config
        super().__init__(model, ClipWriter.of(config, text))
        self.image_size = config.vision_config.image_size
        self.room = config.text_config.max_position_embeddings
        self.plain = plain_pieces(text)
        self.tower = model.features_tower

    def visual_tokens(self, clip: Clip) -> Tensor:
        """The video tokens (llm_tokens, D) of one clip, which is encoded alone."""
        shown_s = self.shown_s(clip.times_s)
        self.writer.video(shown_s)  # the number of frames
        device = next(self.model.parameters()).device
        clips = torch.tensor(clip_of_frames(len(shown_s), self.model.config.clips), device=device)
        ids, mask = self.writer.stamps(shown_s)
        frames = join_frames([clip.frames]).to(device)
        return self.model.see(frames, clips, ids.to(device), mask.to(device), videos=1)[0]

    def grammar(self, request: Request, budget: Budget) -> TextGrammar:
        """Any text, up to the budget."""
        return TextGrammar(self.writer.text.eos_id, budget.max_tokens)

    def told(
        self, tokens: Sequence[int], task: str | None, clip: Clip | None = None
    ) -> tuple[EventSequence, list[Problem], str]:
        """Events by :func:`timeexpert.evaluation.answer_events.events_of_text`; problems stand at token 0."""
        text = self._said(tokens)
        events, reasons = events_of_text(text, task)
        if self.writer.text.eos_id not in tokens:
            reasons = [*reasons, "the answer has no end of sequence"]
        return events, [Problem(0, reason) for reason in reasons], text

    def events_so_far(self, tokens: Sequence[int], task: str | None) -> EventSequence:
        """Of the lines that are complete; words without times can only become more."""
        text = self._said(tokens)
        return events_of_text(text if task == "general" else text.rpartition("\n")[0], task)[0]

    def _said(self, tokens: Sequence[int]) -> str:
        return self.writer.text.decode([t for t in tokens if t != self.writer.text.eos_id])
