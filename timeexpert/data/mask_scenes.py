"""Synthetic videos with masks: shapes that stand beside one another, each of which does one thing for a while.

Most shapes are on screen for the whole video, so that where a shape is does not tell when it does something, and the
other way round: "Where is the red circle while it grows?" needs both. Questions are LoomBench's three kinds (VideoLoom,
section 3.3), told apart by ``meta.question_kind``, and one about each shape over the whole video; their wordings are
those of :mod:`.mask_wordings`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.records import Sample
from timeexpert.tokenization import Event

from .mask_wordings import default_mask_wordings
from .scene_questions import scene_sample
from .scenes import COLOURS, LONGEST_SHARE, MASKED_ACTIONS, SHAPES, Scene, ShapeEvent, SynthConfig

PLACES = ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73))
RADII = (0.11, 0.21)  # of the shorter side; those of shapes that neither grow nor shrink lie well inside
MARGIN_S = 1.0  # how long a shape that comes late or leaves early is on screen around what it does, at least
LATE_OR_EARLY = 0.25  # share of shapes


def make_mask_scene(config: SynthConfig, index: int) -> Scene:
    """The ``index``-th scene of a config with ``masks``: a function of seed and index alone."""
    seed = int(np.random.SeedSequence([config.seed, index, 4]).generate_state(1)[0])
    rng = np.random.default_rng(seed)
    fps = int(rng.choice(config.frame_rates))
    height, width = config.sizes[int(rng.integers(len(config.sizes)))]
    duration_s = math.ceil(rng.uniform(config.min_duration_s, config.max_duration_s) * fps) / fps
    count = int(rng.integers(config.min_events, config.max_events + 1))
    names = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    picked = [names[i] for i in rng.choice(len(names), size=count, replace=False)]
    order = rng.permutation(len(PLACES))
    events = []
    for i, (colour, shape) in enumerate(picked):
        choices = [name for name in config.does or MASKED_ACTIONS if (name, shape) != ("rotate", "circle")]
        action = str(rng.choice(choices or ["dot"]))
        length_s = float(rng.uniform(config.min_event_s, min(config.max_event_s, duration_s * LONGEST_SHARE)))
        start_s = round(float(rng.uniform(0, duration_s - length_s)), 1)
        end_s = round(min(start_s + length_s, duration_s), 1)
        x, y = (float(p + rng.uniform(-0.04, 0.04)) for p in PLACES[order[i]])
        radii = _radii(action, rng)
        seen_s = _seen(rng, start_s, end_s, duration_s)
        events.append(ShapeEvent(colour, shape, action, start_s, end_s, x, y, *radii, persistent=True, seen_s=seen_s))
    events.sort(key=lambda e: (e.start_s, e.end_s))
    return Scene(f"masks-{config.seed:03d}-{index:05d}", duration_s, fps, height, width, tuple(events), seed)


def _radii(action: str, rng: np.random.Generator) -> tuple[float, float]:
    small, large = RADII
    still = float(rng.uniform(small + 0.03, large - 0.03))
    return {"grow": (small, large), "shrink": (large, small)}.get(action, (still, still))


def _seen(rng: np.random.Generator, start_s: float, end_s: float, duration_s: float) -> tuple[float, float]:
    """When a shape is on screen: always, or from a time before what it does, or to a time after it."""
    draw, share = rng.random(2)
    if draw < LATE_OR_EARLY / 2:
        return float(share) * max(0.0, start_s - MARGIN_S), math.inf
    if draw < LATE_OR_EARLY:
        return 0.0, min(duration_s, end_s + MARGIN_S) + float(share) * max(0.0, duration_s - end_s - MARGIN_S)
    return 0.0, math.inf


def mask_questions(scene: Scene, config: SynthConfig, tracks: Sequence[MaskTrack]) -> list[Sample]:
    """When, where, both, and over the whole video: of each shape; ``tracks`` are the masks of the scene's shapes.

    The event of a segmentation is the segment asked about; its track covers the shape wherever it is on screen.
    """
    rng = np.random.default_rng(scene.seed + 2)
    wordings = config.wordings or default_mask_wordings()
    out: list[Sample] = []
    for event, track in zip(scene.events, tracks, strict=True):
        verbs, verb = MASKED_ACTIONS[event.action]
        words = {"name": event.name, "verb": verb, "verbs": verbs, "start": event.start_s, "end": event.end_s}
        span = (event.start_s, event.end_s)
        asked = [
            ("when", wordings.when, Event(*span, text=f"a {event.name} {verbs}")),
            ("where", wordings.where, Event(*span, text=event.name)),
            ("combined", wordings.combined, Event(*span, text=f"{event.name} while it {verbs}")),
            ("", wordings.whole, Event(text=event.name)),
        ]
        for kind, ways, answer in asked:
            task = "moment_retrieval" if kind == "when" else "referring_segmentation"
            prompt = str(rng.choice(ways)).format(**words)
            if task not in config.tasks:
                continue
            meta: dict[str, Any] = {"question_kind": kind} if kind else {}
            if kind == "combined":  # which is asked twice: for the segment, then for the masks
                meta["prompts"] = {"when": wordings.when[0].format(**words), "where": prompt}
            masks = () if kind == "when" else (track,)
            out.append(scene_sample(scene, len(out), task, prompt, [answer], meta, masks))
    return out
