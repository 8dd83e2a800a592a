"""Mixes: which data sets a training stage draws from, in which shares, and where each of them comes from.

A mix is a YAML file (``configs/data/stage1.yaml``): weights by name, over descriptions of data sets that it shares with
other mixes (``extends: datasets``). The same file tells training what to draw and ``data status`` what must be there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from timeexpert.config import ConfigError, load
from timeexpert.data.formats import ConvertOptions, get
from timeexpert.data.instructions import load_instructions
from timeexpert.data.mixture import MixBy
from timeexpert.data.records import TASKS
from timeexpert.errors import did_you_mean
from timeexpert.paths import config_path

TASK_TYPES = TASKS
ANNOTATIONS, VIDEOS, SAMPLES, SHARDS = "annotations", "videos", "samples", "shards"  # folders of a data root


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """One data set: what it is, where users get it, and where its files lie under a data root.

    ``tasks``: which of the task types its samples are (converters leave out others). ``licence``: as its page
    says; ``page`` and ``get``: where it is and what to fetch. ``format``: its converter. ``annotations``: files under
    ``annotations/``, ``*`` allowed; ``videos``: the folder under ``videos/`` from which the samples' video paths start;
    ``video_template`` and ``clip_to_duration``: options of the converter. ``instructions``: the file of questions
    (``data/instructions``, or your own) that replace the format's. Paths cannot leave the root. ``split``: the rows
    that are converted, where a format names splits. ``num_frames`` and ``questions_per_video``: what a stage that names
    the mix reads of each video of this data set, in place of its own numbers.
    """

    name: str
    tasks: tuple[str, ...]
    licence: str
    page: str
    get: str
    format: str
    annotations: tuple[str, ...]
    videos: str
    video_template: str | None = None
    clip_to_duration: bool = False
    instructions: str | None = None
    split: str | None = None
    num_frames: int | None = None
    questions_per_video: int | None = None

    def __post_init__(self) -> None:
        if not self.name.replace("_", "").replace("-", "").isalnum():
            raise ConfigError(f"name ({self.name!r}) must be letters, digits, '-' and '_': it names files.")
        for task in self.tasks:
            if task not in TASK_TYPES:
                raise ConfigError(
                    f"tasks: {task!r} is not one of {', '.join(TASK_TYPES)}.{did_you_mean(task, TASK_TYPES)}"
                )
        for name in ("tasks", "annotations"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; list at least one.")
        if not self.page.startswith(("https://", "http://")):
            raise ConfigError(f"page ({self.page!r}) must be the address of the data set's page.")
        for path in (*self.annotations, self.videos):
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or not path.strip():
                raise ConfigError(f"path ({path!r}) must be relative and without '..': it lies under the data root.")
        for name in ("num_frames", "questions_per_video"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} ({value}) must be 1 or more, or left out.")
        get(self.format), self.options()  # raise where they cannot be

    def options(self) -> ConvertOptions:
        """What its converter is told."""
        return ConvertOptions(
            source=self.name,
            video_template=self.video_template,
            clip_to_duration=self.clip_to_duration,
            tasks=self.tasks,
            instructions=load_instructions(self.instructions) if self.instructions is not None else None,
            split=self.split,
        )

    def annotation_files(self, root: Path) -> tuple[list[Path], list[str]]:
        """The annotation files under ``root``, in order, and the names or patterns that match none."""
        folder, found, missing = root / ANNOTATIONS, list[Path](), list[str]()
        for pattern in self.annotations:
            files = sorted(path for path in folder.glob(pattern) if path.is_file()) if folder.is_dir() else []
            found += [path for path in files if path not in found]
            if not files:
                missing.append(pattern)
        return found, missing


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """``mix``: weights by the name of a data set, any numbers from 0, relative to each other; 0 leaves it out.
    ``repeats``: how often a data set is counted (1), for mixes that are published as items and repeats.

    ``mix_by``: whether they are shares of the videos drawn (samples) or of their tokens. ``datasets``: what names mean.
    """

    name: str
    mix: dict[str, float]
    datasets: tuple[DatasetConfig, ...]
    mix_by: MixBy = "samples"
    repeats: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = [dataset.name for dataset in self.datasets]
        for name in known:
            if known.count(name) > 1:
                raise ConfigError(f"datasets: the name {name!r} occurs twice.")
        for name, weight in self.mix.items():
            if name not in known:
                raise ConfigError(
                    f"mix names {name!r}, which datasets lacks ({', '.join(known)}).{did_you_mean(name, known)}"
                )
            if weight < 0:
                raise ConfigError(f"mix.{name} ({weight}) must be 0 or more.")
        for name, times in self.repeats.items():
            if name not in self.mix:
                raise ConfigError(f"repeats names {name!r}, which mix lacks.{did_you_mean(name, self.mix)}")
            if not times > 0:
                raise ConfigError(f"repeats.{name} ({times}) must be more than 0. The weight 0 in mix leaves it out.")
        if not any(self.mix.values()):
            raise ConfigError("mix is empty, or all its weights are 0; name at least one data set.")

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the data sets that are drawn from, repeats counted, in the order of ``mix``."""
        return {name: round(weight * self.repeats.get(name, 1), 6) for name, weight in self.mix.items() if weight > 0}

    def used(self) -> Iterator[tuple[DatasetConfig, float]]:
        """The data sets that are drawn from, in the order of ``mix``, with their shares, which add up to 1."""
        by_name = {dataset.name: dataset for dataset in self.datasets}
        total = sum(self.weights.values())
        for name, weight in self.weights.items():
            yield by_name[name], weight / total


def load_mix(name: str | Path) -> MixConfig:
    """The mix that ``name`` means: a file, or one that comes with the package (``data/stage1``).

    Raises :class:`~timeexpert.config.ConfigError`.
    """
    return load(MixConfig, config_path(name))
