"""Settings of annotation: dataclass defaults, then a YAML file, then ``key.path=value``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from timeexpert.data.endpoint import EndpointConfig
from timeexpert.data.instructions import DEFAULT as DEFAULT_INSTRUCTIONS
from timeexpert.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ShotsConfig:
    """Where shots begin and end: PySceneDetect's cuts joined with KTS's change points.

    ``detector`` and ``threshold`` are PySceneDetect's; ``threshold: null`` is the tool's own default. KTS looks at
    ``kts_fps`` frames a second, described by their colours, or by ``kts_model``, a vision model of transformers (a
    folder or a name on the hub). ``kts_penalty`` is the paper's C. Shots shorter than ``min_shot_s`` are merged; a
    video with more than ``max_shots`` afterwards is dropped.
    """

    detector: Literal["adaptive", "content"] = "adaptive"
    threshold: float | None = None
    kts_fps: float = 2.0
    kts_model: str | None = None
    kts_penalty: float = 0.5
    kts_max_change_points: int = 32
    min_shot_s: float = 1.0
    max_shots: int = 10

    def __post_init__(self) -> None:
        within(self, ("kts_fps", 0.1, 30), ("kts_penalty", 0, 1e6), ("kts_max_change_points", 0, 1000))
        within(self, ("min_shot_s", 0, 3600), ("max_shots", 1, 10_000))
        if self.threshold is not None and not 0 < self.threshold <= 1e6:
            raise UserError(f"threshold ({self.threshold}) must be above 0, or null for PySceneDetect's own.")


@dataclass(frozen=True, kw_only=True)
class PersonConfig:
    """Who is followed: GroundingDINO's best box for ``text`` on the centre frame of the longest shot.

    ``model``: a GroundingDINO of transformers. A best box below ``min_score`` counts as none. Shots that the tracker
    leaves empty are looked at with the person's description; there ``fill_min_score`` holds.
    """

    model: str = "IDEA-Research/grounding-dino-base"
    text: str = "person"
    min_score: float = 0.35
    fill_min_score: float = 0.35

    def __post_init__(self) -> None:
        within(self, ("min_score", 0, 1), ("fill_min_score", 0, 1))
        if not self.text.strip() or "." in self.text:
            raise UserError(f"text ({self.text!r}) must be one phrase without full stops, for example person.")


@dataclass(frozen=True, kw_only=True)
class DescriptionConfig:
    """The person in words, from the endpoint: one phrase of at most ``max_words`` words.

    ``picture_height`` pixels of the picture that is sent; ``attempts`` questions before the video is left out.
    """

    picture_height: int = 480
    max_words: int = 40
    attempts: int = 3

    def __post_init__(self) -> None:
        within(self, ("picture_height", 64, 2160), ("max_words", 3, 120), ("attempts", 1, 10))


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """Masks of the person, from ``model``, a SAM2 of transformers, at ``fps`` frames a second.

    A shot has a tracklet where the person is visible in at least ``min_visible`` of its frames that were looked at.
    """

    model: str = "facebook/sam2.1-hiera-large"
    fps: float = 6.0
    min_visible: float = 0.25

    def __post_init__(self) -> None:
        within(self, ("fps", 0.5, 60), ("min_visible", 0, 1))


@dataclass(frozen=True, kw_only=True)
class ActionsConfig:
    """What the person does, from the endpoint: ranges of numbered frames, ``fps`` of them a second.

    A range has at least ``min_frames`` frames (or all, where there are fewer). ``max_frames`` is the most that one
    request may hold; a longer stretch is left out. ``attempts`` questions, each with what was wrong with the answer
    before, then the stretch is left out.
    """

    fps: float = 2.0
    min_frames: int = 13
    max_frames: int = 256
    picture_height: int = 360
    attempts: int = 3

    def __post_init__(self) -> None:
        within(self, ("fps", 0.1, 30), ("min_frames", 1, 1000), ("max_frames", 1, 4096))
        within(self, ("picture_height", 64, 2160), ("attempts", 1, 10))


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig:
    """Every step. ``verify``: only what people verified on the page goes on to actions and samples.

    ``endpoint`` describes the person and the actions; it needs a model that sees. ``device`` is where the models run.
    ``instructions``: the file with the wordings of the samples' questions.
    """

    endpoint: EndpointConfig | None = None
    device: str = "auto"
    verify: bool = True
    instructions: str = DEFAULT_INSTRUCTIONS
    shots: ShotsConfig = field(default_factory=ShotsConfig)
    person: PersonConfig = field(default_factory=PersonConfig)
    description: DescriptionConfig = field(default_factory=DescriptionConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    actions: ActionsConfig = field(default_factory=ActionsConfig)


def within(config: Any, *rules: tuple[str, float, float]) -> None:
    """Raises :class:`UserError` for the first field that is not between its two numbers."""
    for name, low, high in rules:
        value = getattr(config, name)
        if not low <= value <= high:
            raise UserError(f"{name} ({value}) must be between {low} and {high}.")
