"""A small trace made by hand: two layers of four slots, two frames, one event."""

from __future__ import annotations

import numpy as np

from timeexpert.predict import Clip, Prediction, Request
from timeexpert.reports.trace import ExpertTrace, FrameTrace, TokenTrace
from timeexpert.tokenization import Event, EventSequence, Problem

from .fake_run import frames

EVIL = '"><script>alert(1)</script>'


def token(text: str, kind: str, word: int, *experts: tuple[int, ...], fell_back: bool = False) -> TokenTrace:
    return TokenTrace(text, kind, word, experts, (fell_back,) * len(experts))


def make_trace(*, text: str = "red", prompt: str = "What happens?", tokens: int = 1, slots: int = 4) -> ExpertTrace:
    """Expert 1 takes the first frame's visual tokens, 2 three quarters of the second's; 0 and 3 take the words."""
    clip = Clip(frames(2), np.array([1.0, 3.0]), 4.0)
    vision = np.zeros((2, 2, slots))
    vision[0, :, 1] = 1.0
    vision[1, :, 2], vision[1, :, 1] = 0.75, 0.25
    times = np.zeros((2, 2, slots))
    times[:, :, 2] = 1.0
    answer = [
        token("\u25b8", "sync", 0, (0,), (0,), fell_back=True),
        token("1", "time", 1, (2,), (2,)),
        token(";", "time", 1, (2,), (2,)),
        *(token(text, "text", 2 + i, (0, 3), ()) for i in range(tokens)),
    ]
    prediction = Prediction(
        EventSequence((Event(1.0, 1.0, text=text),)), [Problem(7, f"odd {text}")], (1.0, 3.0), 4.0, 30, len(answer) + 1
    )
    shown = [FrameTrace(t, vision[i], times[i]) for i, t in enumerate((1.0, 3.0))]
    active = [[True] * slots] * 2
    return ExpertTrace(Request(clip, prompt, "dense_captioning"), prediction, "topany", active, shown, answer)
