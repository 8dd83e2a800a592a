"""Settings of re-annotation: dataclass defaults, then a YAML file, then ``key.path=value``."""

from __future__ import annotations

from dataclasses import dataclass, field

from timeexpert.data.endpoint import EndpointConfig
from timeexpert.data.filters.config import known_tasks, not_negative
from timeexpert.data.records import SEGMENT_TASKS
from timeexpert.errors import UserError


@dataclass(frozen=True, kw_only=True)
class GroupingConfig:
    """Which fragments are one event, and which events are several, as a model says.

    ``endpoint`` or ``checkpoint`` (a run or model folder of this project, on ``device``) names the model; without
    either, nothing is grouped. A sample is asked about until an answer changes nothing, at most ``max_rounds`` times;
    one with more than ``max_events`` events is not asked about. A merge across more than ``max_gap_s`` seconds without
    an event is refused, and a split into parts shorter than ``min_part_s``. ``frames``: JPEG frames of the clip sent to
    the endpoint with each request, ``frame_height`` pixels high, spread evenly; 0 sends text alone.
    """

    endpoint: EndpointConfig | None = None
    checkpoint: str | None = None
    device: str = "auto"
    max_rounds: int = 3
    max_events: int = 64
    max_gap_s: float = 5.0
    min_part_s: float = 1.0
    frames: int = 0
    frame_height: int = 224
    tasks: tuple[str, ...] = ("dense_captioning",)

    def __post_init__(self) -> None:
        not_negative(self, "max_gap_s", "min_part_s")
        segment_tasks(self.tasks)
        if self.endpoint is not None and self.checkpoint is not None:
            raise UserError("endpoint and checkpoint are both given; set one of them to null.")
        for name, low, high in (
            ("max_rounds", 1, 20),
            ("max_events", 1, 1000),
            ("frames", 0, 64),
            ("frame_height", 32, 1080),
        ):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} ({getattr(self, name)}) must be between {low} and {high}.")


@dataclass(frozen=True, kw_only=True)
class RefinementConfig:
    """Rules for times, in seconds; 0 turns a rule off.

    Overlaps of up to ``trim_overlap_s`` between neighbours are cut away, gaps of up to ``close_gap_s`` closed. A start
    or end moves to the nearest cut within ``snap_s`` whose strength is ``cut_threshold`` or more (docs/filters.md,
    "Cuts"; clips are compared at ``analysis_fps`` frames per second). Events below ``min_length_s`` grow into
    free time.
    """

    snap_s: float = 0.5
    cut_threshold: float = 2.0
    trim_overlap_s: float = 0.3
    close_gap_s: float = 0.0
    min_length_s: float = 0.3
    analysis_fps: float = 30.0  # the filters' 15 would place cuts a frame or two late
    tasks: tuple[str, ...] = SEGMENT_TASKS

    def __post_init__(self) -> None:
        not_negative(self, "snap_s", "cut_threshold", "trim_overlap_s", "close_gap_s", "min_length_s")
        segment_tasks(self.tasks)
        if not 1 <= self.analysis_fps <= 120:
            raise UserError(f"analysis_fps ({self.analysis_fps}) must be between 1 and 120 frames per second.")


@dataclass(frozen=True, kw_only=True)
class ReannotateConfig:
    """Grouping, then refinement."""

    grouping: GroupingConfig = field(default_factory=GroupingConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)


def segment_tasks(tasks: tuple[str, ...]) -> None:
    """Raises :class:`UserError` for a task whose answers have no start and end."""
    known_tasks(tasks)
    for task in tasks:
        if task not in SEGMENT_TASKS:
            raise UserError(f"tasks: answers of {task} have no segments; choose among {', '.join(SEGMENT_TASKS)}.")
