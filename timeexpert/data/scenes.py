"""What happens in a synthetic video: shapes, what they do, when, where and how large; from seed and index alone.

An event's shape is on screen only during its event, unless ``persistent`` asks for shapes that stay and act only during
their event (then single frames no longer tell when).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from timeexpert.data.records import TASKS
from timeexpert.errors import UserError

from .mask_wordings import MaskWordings

COLOURS = {
    "red": (225, 45, 40),
    "green": (50, 185, 70),
    "blue": (60, 95, 235),
    "yellow": (240, 215, 60),
    "purple": (165, 65, 200),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "cross")
# action -> (third person, base form)
ACTIONS = {
    "appear": ("appears", "appear"),
    "left": ("moves left", "move left"),
    "right": ("moves right", "move right"),
    "grow": ("grows", "grow"),
    "shrink": ("shrinks", "shrink"),
    "rotate": ("rotates", "rotate"),
}
# What shapes of videos with masks do: they are on screen before and after, so none of them appears. A dot shows in any
# single frame; the others show only beside other frames.
MASKED_ACTIONS = {name: words for name, words in ACTIONS.items() if name != "appear"} | {
    "dot": ("shows a dot", "show a dot")
}
MASKED_TASKS = ("moment_retrieval", "referring_segmentation")  # of their questions
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
SIZES = ("tiny", "small", "medium", "large", "huge")  # fifths of the range of radii
SLIDE_S = 1.0  # how long a picture of a slide show stays
CLIP_S = 2.0  # a highlight is scored per clip of two seconds, as in QVHighlights
MAX_DURATION_S = 3600.0
LONGEST_SHARE = 0.75  # of a video, for one event
MIN_EVENT_S = 0.2  # times are written in tenths: a shorter event could start where it ends
PAUSE_S = 2.0  # at least, between two times that a shape acts
MIN_RADIUS, MAX_RADIUS = 0.13, 0.26  # of the shorter side
STILL_RADII = (0.17, 0.215)  # of shapes that neither grow nor shrink
LEAST_GROWTH = 0.05  # what can be seen as growing
MAX_STEPS = 60  # of a video of actions


@dataclass(frozen=True)
class SynthConfig:
    """What to make. Durations and event lengths in seconds.

    ``images`` makes clips of a single frame. ``slides`` makes slide shows: one frame per second, and each shape
    is on one of them; general questions then ask which picture shows a shape, and what a picture shows.
    ``repeats``: a shape of a slide show is on up to so many pictures, and one of a video acts up to so many times, with
    a pause between; they are then asked for and scored together.
    ``every_size``: shapes are of all sizes, and those that grow or shrink pass through any part of the range, so that
    only a look at a shape tells its score. General questions about images and slides ask for the size; the highlight
    of a slide show's shape is its picture.
    ``actions``: long videos of steps that follow one another, whose labels come from a set of so many
    (:mod:`timeexpert.data.action_scenes`); they are asked for their action segmentation, and with the task
    ``moment_retrieval`` for the moment of each action that comes once.
    ``masks``: several shapes on screen at once, most of them for the whole video, each with one thing that it does
    (:mod:`timeexpert.data.mask_scenes`), asked for when, where, and both; ``does``: which things, by name (none: all);
    ``wordings`` of these questions (none: those that come with the package).
    ``tasks``: which of the questions that such videos have are asked. An action segmentation always is.
    """

    videos: int = 100
    seed: int = 0
    images: bool = False
    slides: bool = False
    every_size: bool = False
    repeats: int = 1
    actions: int = 0
    masks: bool = False
    does: tuple[str, ...] = ()
    wordings: MaskWordings | None = None
    min_duration_s: float = 20.0
    max_duration_s: float = 40.0
    min_events: int = 2
    max_events: int = 3
    min_event_s: float = 5.0
    max_event_s: float = 10.0
    persistent: float = 0.0
    highlight_from: float = 4.0  # ask for highlights where the best score is this or more (4: very good)
    frame_rates: tuple[int, ...] = (4, 5, 8, 10)
    sizes: tuple[tuple[int, int], ...] = ((64, 64), (80, 64), (96, 96), (64, 80))
    tasks: tuple[str, ...] = TASKS

    def __post_init__(self) -> None:
        if self.videos < 1:
            raise UserError(f"videos ({self.videos}) must be 1 or more.")
        if self.seed < 0:
            raise UserError(f"seed ({self.seed}) must be 0 or more.")
        most = MAX_STEPS if self.actions else 6
        if not 1 <= self.min_events <= self.max_events <= most:
            raise UserError(
                f"events ({self.min_events} to {self.max_events}) must be between 1 and {most}, smallest first."
            )
        if not 0 < self.min_duration_s <= self.max_duration_s <= MAX_DURATION_S:
            raise UserError(
                f"durations ({self.min_duration_s} to {self.max_duration_s} s) must be positive, smallest first, and "
                f"at most {MAX_DURATION_S:g} s."
            )
        if self.images and self.slides:
            raise UserError("images and slides are both set: a clip is one picture or a show of several. Set one.")
        if self.slides and self.max_duration_s > len(ORDINALS) * SLIDE_S:
            raise UserError(
                f"max_duration_s ({self.max_duration_s}) is more than {len(ORDINALS) * SLIDE_S:g} s, the longest slide "
                "show (one picture a second). Set min_duration_s and max_duration_s lower."
            )
        if self.repeats < 1 or (self.repeats > 1 and (self.images or self.actions or self.masks)):
            raise UserError(f"repeats ({self.repeats}) must be 1 or more, and 1 for images, actions and masks.")
        if self.repeats > 1 and not self.slides and self.repeats * (self.min_event_s + PAUSE_S) > self.min_duration_s:
            raise UserError(
                f"repeats ({self.repeats}) events of min_event_s ({self.min_event_s} s), with {PAUSE_S:g} s of pause "
                f"each, must fit into min_duration_s ({self.min_duration_s} s). Lower one of the first two."
            )
        if self.actions:
            self._check_actions()
        self._check_masks()
        of_events = not self.images and not self.slides  # whose lengths are drawn
        if of_events and not MIN_EVENT_S <= self.min_event_s <= self.max_event_s <= self.min_duration_s:
            raise UserError(
                f"event lengths ({self.min_event_s} to {self.max_event_s} s) must be {MIN_EVENT_S} s or more, "
                f"smallest first, and no longer than the shortest video ({self.min_duration_s} s)."
            )
        if of_events and self.min_event_s > LONGEST_SHARE * self.min_duration_s:
            raise UserError(
                f"min_event_s ({self.min_event_s}) must be at most {LONGEST_SHARE:g} of the shortest video "
                f"({self.min_duration_s} s): an event leaves some of its video free."
            )
        if not 0 <= self.persistent <= 1:
            raise UserError(f"persistent ({self.persistent}) is a share of the events, between 0 and 1.")
        if not 1 <= self.highlight_from <= 5:
            raise UserError(f"highlight_from ({self.highlight_from}) is a score, between 1 and 5.")
        if not self.frame_rates or not all(1 <= rate <= 120 for rate in self.frame_rates):
            raise UserError(f"frame_rates ({list(self.frame_rates)}) must list rates between 1 and 120 per second.")
        if not self.sizes or not all(side % 2 == 0 and 16 <= side <= 2048 for size in self.sizes for side in size):
            raise UserError(f"sizes ({list(self.sizes)}) must list heights and widths that are even, 16 to 2048.")
        for task in self.tasks:
            if task not in TASKS:
                raise UserError(f"tasks: {task!r} is not one of {', '.join(TASKS)}.")

    def _check_masks(self) -> None:
        for name in ("images", "slides", "every_size", "persistent", "actions") if self.masks else ():
            if getattr(self, name):
                raise UserError(
                    f"masks and {name} are both set: videos with masks are of a kind of their own. Set one."
                )
        if self.does and not self.masks:
            raise UserError(f"does ({list(self.does)}) is for videos with masks. Set masks, or leave it out.")
        if self.wordings is not None and not self.masks:
            raise UserError("wordings are of questions about videos with masks. Set masks, or leave them out.")
        for name in self.does:
            if name not in MASKED_ACTIONS:
                raise UserError(f"does: {name!r} is not one of {', '.join(MASKED_ACTIONS)}.")
        if self.masks and not set(self.tasks) & set(MASKED_TASKS):
            raise UserError(f"tasks ({list(self.tasks)}): videos with masks need {' or '.join(MASKED_TASKS)}. Add one.")
        if self.masks and self.max_events > 4:
            raise UserError(f"max_events ({self.max_events}) must be at most 4 with masks: one shape a quarter.")

    def _check_actions(self) -> None:
        if not 2 <= self.actions <= len(COLOURS) * len(SHAPES):
            raise UserError(
                f"actions ({self.actions}) is the size of a label set, 2 to {len(COLOURS) * len(SHAPES)} (0: none)."
            )
        for name in ("images", "slides", "every_size", "persistent"):
            if getattr(self, name):
                raise UserError(f"actions and {name} are both set: a video is made of steps or of shapes. Set one.")
        if self.min_events * self.max_event_s > self.min_duration_s:
            raise UserError(
                f"{self.min_events} steps (min_events) of {self.max_event_s:g} s (max_event_s) do not fit into the "
                f"shortest video ({self.min_duration_s:g} s). Lower either, or raise min_duration_s."
            )


@dataclass(frozen=True)
class ShapeEvent:
    """One shape and what it does from ``start_s`` to ``end_s``; places and sizes as shares of the frame.

    ``radius`` of the shorter side at the start, ``end_radius`` at the end. ``seen_s``: when a ``persistent`` shape
    is on screen.
    """

    colour: str
    shape: str
    action: str
    start_s: float
    end_s: float
    x: float
    y: float
    radius: float
    end_radius: float
    persistent: bool = False
    label: str = ""  # of a step in a video of actions
    seen_s: tuple[float, float] = (0.0, math.inf)

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def caption(self) -> str:
        return f"a {self.name} {ACTIONS[self.action][0]}"

    def phase(self, time_s: float) -> float:
        """0 at the event's start, 1 at its end; clamped outside."""
        return min(1.0, max(0.0, (time_s - self.start_s) / (self.end_s - self.start_s)))

    def visible(self, time_s: float) -> bool:
        start_s, end_s = self.seen_s if self.persistent else (self.start_s, self.end_s)
        return start_s <= time_s <= end_s

    def radius_at(self, time_s: float) -> float:
        """Radius as a share of the shorter side."""
        return self.radius + (self.end_radius - self.radius) * self.phase(time_s)

    @property
    def size(self) -> str:
        """The word for its radius."""
        share = (self.radius - MIN_RADIUS) / (MAX_RADIUS - MIN_RADIUS)
        return SIZES[min(len(SIZES) - 1, int(len(SIZES) * share))]

    def saliency_at(self, time_s: float) -> float:
        """1 (smallest) to 5 (largest): how much of the frame the shape takes, in steps of a half."""
        share = (self.radius_at(time_s) - MIN_RADIUS) / (MAX_RADIUS - MIN_RADIUS)
        return round(2 * (1 + 4 * share)) / 2


@dataclass(frozen=True)
class Scene:
    """One video: its events and how it is encoded."""

    name: str
    duration_s: float
    fps: int
    height: int
    width: int
    events: tuple[ShapeEvent, ...]
    seed: int


def make_scene(config: SynthConfig, index: int) -> Scene:
    """The ``index``-th scene of ``config``: a function of seed and index alone."""
    kind = "image" if config.images else "slides" if config.slides else "video"
    place = ("video", "image", "slides").index(kind)
    seed = int(np.random.SeedSequence([config.seed, index, place]).generate_state(1)[0])
    rng = np.random.default_rng(seed)
    fps = int(1 / SLIDE_S) if config.slides else int(rng.choice(config.frame_rates))
    height, width = config.sizes[int(rng.integers(len(config.sizes)))]
    frames = 1 if config.images else math.ceil(rng.uniform(config.min_duration_s, config.max_duration_s) * fps)
    duration_s = frames / fps
    count = int(rng.integers(config.min_events, config.max_events + 1))
    names = [(c, s) for c in COLOURS for s in SHAPES]
    picked = [names[i] for i in rng.choice(len(names), size=count, replace=False)]
    places = [(0.25, 0.27), (0.75, 0.27), (0.25, 0.73), (0.75, 0.73), (0.5, 0.27), (0.5, 0.73)][: max(4, count)]
    order = rng.permutation(len(places))
    events = []
    for i, (colour, shape) in enumerate(picked):
        actions = [a for a in ACTIONS if not (a == "rotate" and shape == "circle")]
        action = "appear" if config.images or config.slides else str(rng.choice(actions))
        spans = [(0.0, duration_s)]
        if config.slides:
            most = min(config.repeats, frames)
            pictures = [rng.integers(frames)] if most == 1 else rng.permutation(frames)[: rng.integers(1, most + 1)]
            spans = [(p * SLIDE_S, (p + 0.9) * SLIDE_S) for p in map(int, pictures)]
        elif not config.images:
            length = rng.uniform(config.min_event_s, min(config.max_event_s, duration_s * LONGEST_SHARE))
            start_s = round(float(rng.uniform(0, duration_s - length)), 1)
            spans = [(start_s, round(min(start_s + float(length), duration_s), 1))]
            if config.repeats > 1:
                spans = _repeated(config, duration_s, rng)
        x, y = places[order[i]]
        x = float(np.clip(x + rng.uniform(-0.06, 0.06), 0.24, 0.76))
        y = float(np.clip(y + rng.uniform(-0.03, 0.03), 0.24, 0.76))
        for start_s, end_s in spans:
            sizes = radii(action, rng, config.every_size)
            persistent = bool(rng.random() < config.persistent and action != "appear")
            events.append(ShapeEvent(colour, shape, action, start_s, end_s, x, y, *sizes, persistent))
    events.sort(key=lambda e: (e.start_s, e.end_s))
    return Scene(f"{kind}-{config.seed:03d}-{index:05d}", duration_s, fps, height, width, tuple(events), seed)


def _repeated(config: SynthConfig, duration_s: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Start and end of one to ``repeats`` acts, in order of time, each in a part of the video of its own."""
    count = int(rng.integers(1, config.repeats + 1))
    part_s = duration_s / count
    spans = []
    for place in range(count):
        longest_s = min(config.max_event_s, part_s - PAUSE_S, duration_s * LONGEST_SHARE)
        length_s = rng.uniform(config.min_event_s, max(config.min_event_s, longest_s))
        start_s = place * part_s + rng.uniform(0, part_s - PAUSE_S - length_s)
        spans.append((round(float(start_s), 1), round(float(start_s + length_s), 1)))
    return spans


def radii(action: str, rng: np.random.Generator, every_size: bool) -> tuple[float, float]:
    """The radius at the start and at the end of an event, as shares of the shorter side.

    The first draw is made for every shape, also where it is not used.
    """
    still = float(rng.uniform(*((MIN_RADIUS, MAX_RADIUS) if every_size else STILL_RADII)))
    if action not in ("grow", "shrink"):
        return still, still
    small, large = MIN_RADIUS, MAX_RADIUS
    if every_size:
        small = float(rng.uniform(MIN_RADIUS, MAX_RADIUS - LEAST_GROWTH))
        large = float(rng.uniform(small + LEAST_GROWTH, MAX_RADIUS))
    return (small, large) if action == "grow" else (large, small)
