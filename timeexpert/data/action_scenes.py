"""Long synthetic videos of steps that follow one another, each with a label out of a fixed set: action segmentation.

One shape is on screen during each step, and nothing between steps. Which steps come, in which order, how long each
takes and how long the pauses are is drawn per video: only a look at the frames tells a step's label and its times.
"""

from __future__ import annotations

import numpy as np

from timeexpert.data.records import Sample
from timeexpert.tokenization import Event

from .scene_questions import scene_sample
from .scenes import COLOURS, SHAPES, Scene, ShapeEvent, SynthConfig, radii

# What is done to a shape, and how it is drawn.
VERBS = {
    "place the {name}": "appear",
    "push the {name} left": "left",
    "push the {name} right": "right",
    "enlarge the {name}": "grow",
    "shrink the {name}": "shrink",
    "turn the {name}": "rotate",
}
ASK = (
    "Which actions follow one another, and when?",
    "Divide the video into actions, with the times of each.",
    "List every action with its start and its end.",
)
ASK_WHEN = ("When does one {label}?", "Find the moment of this action: {label}.")
LEAST_PAUSE_S = 0.1  # shorter ones are left out: times are written in tenths


def label_set(count: int) -> list[tuple[str, str, str, str]]:
    """The first ``count`` (1 to 24) labels: (label, colour, shape, action). Any six have all colours and all shapes."""
    colours, verbs = list(COLOURS), list(VERBS.items())
    out = []
    for i in range(count):
        colour, shape = colours[i % 6], SHAPES[(i % 6 + i // 6) % 4]
        verb, action = verbs[(i % 6 + 2 * (i // 6)) % 6]
        if (action, shape) == ("rotate", "circle"):  # a turning circle looks like one that stands
            verb, action = verbs[0]
        out.append((verb.format(name=f"{colour} {shape}"), colour, shape, action))
    return out


def make_action_scene(config: SynthConfig, index: int) -> Scene:
    """The ``index``-th scene of a config with ``actions``: a function of seed and index alone."""
    seed = int(np.random.SeedSequence([config.seed, index, 3]).generate_state(1)[0])
    rng = np.random.default_rng(seed)
    fps = int(rng.choice(config.frame_rates))
    height, width = config.sizes[int(rng.integers(len(config.sizes)))]
    frames = int(np.ceil(rng.uniform(config.min_duration_s, config.max_duration_s) * fps))
    duration_s = frames / fps
    count = int(rng.integers(config.min_events, config.max_events + 1))
    lengths = np.round(rng.uniform(config.min_event_s, config.max_event_s, count), 1)
    lengths = lengths[np.cumsum(lengths) <= duration_s]
    pauses = _pauses(rng, duration_s - float(lengths.sum()), len(lengths))
    labels, events, time_s, last = label_set(config.actions), [], 0.0, -1
    for pause_s, length_s in zip(pauses, lengths, strict=True):
        time_s = round(time_s + pause_s, 1)
        choices = [i for i in range(config.actions) if i != last]  # two in a row would look like one
        last = int(rng.choice(choices))
        label, colour, shape, action = labels[last]
        end_s = round(min(time_s + float(length_s), duration_s), 1)
        x, y = rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65)
        events.append(
            ShapeEvent(
                colour, shape, action, time_s, end_s, float(x), float(y), *radii(action, rng, False), label=label
            )
        )
        time_s = end_s
    return Scene(f"actions-{config.seed:03d}-{index:05d}", duration_s, fps, height, width, tuple(events), seed)


def _pauses(rng: np.random.Generator, left_s: float, steps: int) -> list[float]:
    """How long it takes until each of ``steps`` steps begins: parts of ``left_s`` that leave some for the end."""
    share = rng.dirichlet(np.full(steps + 1, 0.7))[:steps] * max(0.0, left_s - 0.1 * (steps + 1))
    return [float(np.floor(10 * part) / 10) if part >= LEAST_PAUSE_S else 0.0 for part in share]


def action_questions(scene: Scene, config: SynthConfig) -> list[Sample]:
    """The segmentation of a scene, and the moment of each action that comes once. ``meta.classes``: the label set."""
    rng = np.random.default_rng(scene.seed + 2)
    classes = [label for label, *_ in label_set(config.actions)]
    steps = [Event(e.start_s, e.end_s, text=e.label) for e in scene.events]
    asked = [("action_segmentation", str(rng.choice(ASK)), steps, {"classes": classes})]
    names = [step.text for step in steps]
    if "moment_retrieval" in config.tasks:
        for step in steps:
            if names.count(step.text) == 1:
                asked.append(("moment_retrieval", str(rng.choice(ASK_WHEN)).format(label=step.text), [step], {}))
    return [scene_sample(scene, number, *question) for number, question in enumerate(asked)]
