"""A family that draws masks, made of the tiny TimeExpert: it shows what is bright in the red channel of each frame."""

from __future__ import annotations

import pytest

from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.families.timeexpert.family import TimeExpertFamily
from timeexpert.model.answering import EventAnswering, Request
from timeexpert.model.decoding import Writing

BRIGHT = 128


class DrawingAnswering(EventAnswering):
    """Every answer shows one object, in all frames of its clip."""

    def tracks(self, request: Request, answer: Writing) -> tuple[MaskTrack, ...]:
        masks = list(request.clip.frames[..., 0] >= BRIGHT)
        return (MaskTrack.from_masks(masks, request.clip.times_s.tolist(), "bright"),)


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the models of the family timeexpert draw masks."""
    monkeypatch.setattr(TimeExpertFamily, "draws_masks", True)
    monkeypatch.setattr(TimeExpertFamily, "answering", lambda self, model, text: DrawingAnswering(model, text))
