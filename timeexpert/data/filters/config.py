"""Settings of the filters: dataclass defaults, then a YAML file, then ``key.path=value``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from timeexpert.data.endpoint import EndpointConfig
from timeexpert.data.records import SEGMENT_TASKS, TASKS
from timeexpert.errors import UserError

Action = Literal["drop", "flag"]
FilterName = Literal["timestamps", "captions", "consistency", "cuts", "alignment"]
MEDIA_FILTERS = ("timestamps", "cuts", "alignment")  # those that need the clips decoded


@dataclass(frozen=True, kw_only=True)
class TimestampsConfig:
    """Annotated times against the clip's real ones.

    An end may lie ``past_end_s`` after the last readable frame, and the annotated duration may differ from the file's
    by ``duration_differs_s``. All in seconds.
    """

    action: Action = "drop"
    past_end_s: float = 0.5
    duration_differs_s: float = 2.0

    def __post_init__(self) -> None:
        not_negative(self, "past_end_s", "duration_differs_s")


@dataclass(frozen=True, kw_only=True)
class CaptionsConfig:
    """Generic captions, by rules.

    ``min_words`` holds for dense captions. A caption is repeated when ``min_repeats`` captions and more than
    ``max_share`` of all are the same. ``extra_generic``: more words that say nothing in this data set.
    """

    action: Action = "drop"
    min_words: int = 2
    max_share: float = 0.05
    min_repeats: int = 20
    extra_generic: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        not_negative(self, "min_words", "min_repeats")
        _share(self, "max_share")


@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig:
    """Instruction against answer: by ``endpoint`` where one is given, else by rules.

    ``batch``: samples per request, on average. ``drop_generic``: drop what the endpoint calls generic, too.
    """

    action: Action = "drop"
    endpoint: EndpointConfig | None = None
    batch: int = 8
    drop_generic: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= 64:
            raise UserError(f"batch ({self.batch}) is samples per request, between 1 and 64.")


@dataclass(frozen=True, kw_only=True)
class CutsConfig:
    """Abrupt cuts inside clips.

    A cut is a step whose strength is ``threshold`` or more (docs/filters.md, "Cuts"). ``scope: event`` drops a sample
    with a cut inside one of its events, at least ``margin_s`` from both ends; ``clip`` one with a cut anywhere in its
    clip. ``tasks``: the tasks it applies to. ``analysis_fps``: most frames per second that are compared.
    """

    action: Action = "drop"
    threshold: float = 2.0
    scope: Literal["event", "clip"] = "event"
    margin_s: float = 0.3
    tasks: tuple[str, ...] = SEGMENT_TASKS
    analysis_fps: float = 15.0

    def __post_init__(self) -> None:
        not_negative(self, "threshold", "margin_s")
        known_tasks(self.tasks)
        if not 1 <= self.analysis_fps <= 120:
            raise UserError(f"analysis_fps ({self.analysis_fps}) must be between 1 and 120 frames per second.")


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """Whether the annotated place is where the event can be seen, against the same events shifted in time.

    ``scorer: boundaries`` looks for visible changes at the annotated starts and ends; ``encoder`` compares captions
    with frames by the dual encoder (CLIP-like) in the folder ``model``. A sample whose value is below ``threshold``
    (``None``: the scorer's own) is misaligned. Shifts of up to ``max_shift_s`` are tried.
    """

    action: Action = "drop"
    scorer: Literal["boundaries", "encoder"] = "boundaries"
    threshold: float | None = None
    max_shift_s: float = 15.0
    tolerance_s: float = 0.3
    model: str | None = None
    frames_per_s: float = 2.0
    max_frames: int = 64
    device: str = "cpu"

    def __post_init__(self) -> None:
        not_negative(self, "max_shift_s", "tolerance_s")
        if self.scorer == "encoder" and not self.model:
            raise UserError(
                "scorer (encoder) needs model, the folder of a CLIP-like model. Set alignment.model=DIR, or "
                "alignment.scorer=boundaries."
            )
        if not 0 < self.frames_per_s <= 30 or not 4 <= self.max_frames <= 1024:
            raise UserError(
                f"frames_per_s ({self.frames_per_s}) must be above 0 and at most 30, and max_frames "
                f"({self.max_frames}) between 4 and 1024."
            )


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which filters run, in which order, and their settings. A sample meets the filters until one drops it."""

    filters: tuple[FilterName, ...] = ("timestamps", "captions", "consistency", "cuts", "alignment")
    timestamps: TimestampsConfig = field(default_factory=TimestampsConfig)
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    cuts: CutsConfig = field(default_factory=CutsConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)

    def __post_init__(self) -> None:
        if not self.filters or len(set(self.filters)) != len(self.filters):
            raise UserError(f"filters ({list(self.filters)}) must name at least one filter, and each once.")

    @property
    def needs_media(self) -> bool:
        """Whether clips are decoded."""
        return any(name in MEDIA_FILTERS for name in self.filters)


def not_negative(config: object, *names: str) -> None:
    """Raises :class:`UserError` for a field below 0."""
    for name in names:
        if getattr(config, name) < 0:
            raise UserError(f"{name} ({getattr(config, name)}) must not be negative.")


def _share(config: object, name: str) -> None:
    if not 0 < getattr(config, name) <= 1:
        raise UserError(f"{name} ({getattr(config, name)}) is a share, above 0 and at most 1.")


def known_tasks(tasks: tuple[str, ...]) -> None:
    """Raises :class:`UserError` for a task that no sample can have."""
    for task in tasks:
        if task not in TASKS:
            raise UserError(f"tasks: {task!r} is not one of {', '.join(TASKS)}.")
