"""Questions of all four task types about a synthetic scene, with exact answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.records import Sample
from timeexpert.tokenization import Event, EventSequence

from .scenes import ACTIONS, CLIP_S, ORDINALS, SLIDE_S, Scene, ShapeEvent, SynthConfig


def clip_scores(event: ShapeEvent, duration_s: float) -> list[tuple[float, float]]:
    """(time in seconds, score) of each 2-s clip that holds the event, at the clip's centre."""
    out = []
    for clip in range(math.ceil(duration_s / CLIP_S)):
        centre_s = clip * CLIP_S + CLIP_S / 2
        if event.start_s <= centre_s <= min(event.end_s, duration_s):
            out.append((centre_s, event.saliency_at(centre_s)))
    return out


_ASK = {
    "moment_retrieval": (
        "When does the {name} {verb}?",
        "Find the moment when {caption}.",
        "When is this seen: {caption}?",
    ),
    "highlight_detection": ("Score the highlights of the {name}.", "Rate each moment of the {name}."),
    "dense_captioning": ("Describe all events with their times.", "What happens, and when?"),
}


def scene_sample(
    scene: Scene,
    number: int,
    task: str,
    prompt: str,
    events: list[Event],
    meta: dict[str, Any],
    tracks: tuple[MaskTrack, ...] = (),
) -> Sample:
    """The ``number``-th question about a scene, with its answer."""
    return Sample(
        id=f"{scene.name}/{number}",
        video=f"{scene.name}.mp4",
        duration_s=scene.duration_s,
        task=task,
        prompt=prompt,
        events=EventSequence(tuple(events)),
        source="synthetic",
        meta=meta,
        tracks=tracks,
    )


def questions(scene: Scene, config: SynthConfig) -> list[Sample]:
    """All samples about one scene, with exact answers."""
    rng = np.random.default_rng(scene.seed + 2)
    out: list[Sample] = []

    def add(task: str, prompt: str, events: list[Event], **meta: Any) -> None:
        out.append(scene_sample(scene, len(out), task, prompt, events, meta))

    def ask(task: str, **words: str) -> str:
        return str(rng.choice(_ASK[task])).format(**words)

    by_name: dict[str, list[ShapeEvent]] = {}
    for event in scene.events:
        by_name.setdefault(event.name, []).append(event)
    firsts = [events[0] for events in by_name.values()]
    if "general" in config.tasks and config.slides:
        asked = set()
        for picture in range(round(scene.duration_s / SLIDE_S)):
            shown = [e.name for e in scene.events if e.visible(picture * SLIDE_S)]
            for name in shown:
                if name not in asked:
                    wording = "Which picture shows" if len(by_name[name]) == 1 else "Which pictures show"
                    on = ", ".join(_ordinal(e) for e in by_name[name])
                    add("general", f"{wording} the {name}?", [Event(text=on)])
                    asked.add(name)
            if shown:
                add("general", f"What is on the {ORDINALS[picture]} picture?", [Event(text=", ".join(shown))])
    elif "general" in config.tasks:
        seen = sorted(firsts, key=lambda e: (round(e.y), e.x))
        add("general", "What is in the video?", [Event(text=", ".join(e.name for e in seen))])
        if config.images:
            for event in scene.events:
                if sum(e.shape == event.shape for e in scene.events) == 1:
                    add("general", f"Which colour is the {event.shape}?", [Event(text=event.colour)])
                if sum(e.colour == event.colour for e in scene.events) == 1:
                    add("general", f"Which shape is {event.colour}?", [Event(text=event.shape)])
    if "general" in config.tasks and config.every_size and (config.images or config.slides):
        for event in scene.events:
            where = "" if len(by_name[event.name]) == 1 else f" on the {_ordinal(event)} picture"
            add("general", f"How large is the {event.name}{where}?", [Event(text=event.size)])
    if config.images:
        return out
    if "general" in config.tasks and not config.slides:
        add("general", "In which order do they appear?", [Event(text=", ".join(e.name for e in firsts))])
        for event in firsts:
            add("general", f"What does the {event.name} do?", [Event(text=ACTIONS[event.action][0])])
    for event, *others in by_name.values():
        verb = ACTIONS[event.action][1]
        if "moment_retrieval" in config.tasks and (not others or not config.slides):
            prompt = ask("moment_retrieval", name=event.name, verb=verb, caption=event.caption)
            moments = [Event(e.start_s, e.end_s, text=e.caption) for e in (event, *others)]
            add("moment_retrieval", prompt, moments)
        still = [(e.start_s, e.saliency_at(e.start_s)) for e in (event, *others)]  # of a slide show: its pictures
        scores = still if config.slides else clip_scores(event, scene.duration_s)
        if (
            "highlight_detection" in config.tasks
            and (config.slides or not others)
            and max((s for _, s in scores), default=0.0) >= config.highlight_from
            and not event.persistent
        ):
            points = [Event(t, t, (s,), "") for t, s in scores]
            clip_s = SLIDE_S if config.slides else CLIP_S
            add("highlight_detection", ask("highlight_detection", name=event.name), points, clip_s=clip_s)
    if "dense_captioning" in config.tasks and len(by_name) == len(scene.events):
        captions = [Event(e.start_s, e.end_s, text=e.caption) for e in scene.events]
        add("dense_captioning", ask("dense_captioning"), captions)
    return out


def _ordinal(event: ShapeEvent) -> str:
    """Of the picture of a slide show that an event is on."""
    return ORDINALS[round(event.start_s / SLIDE_S)]
