"""What a stage is shown: frames, or features that the model's own untrained vision tower made of them before."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from timeexpert.config import ConfigError
from timeexpert.data.features import refuse_missing_frames, refuse_other_tower
from timeexpert.data.shards import ShardDataset, ShardError
from timeexpert.model.tower import Tower

from .config import RunConfig, StageConfig

Open = Callable[[str], ShardDataset]  # a shard folder, by its path in the config


def features_of(config: RunConfig, stage: StageConfig, dataset: Open) -> dict[str, dict[str, Any]]:
    """The kind of features of each data set of a stage's mix that holds features, by name."""
    kinds = {name: dataset(config.data.train[name]).features for name in stage.mix}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def check_frames(config: RunConfig, stage: StageConfig, dataset: Open) -> None:
    """What can be told before there is a model; data sets that are not there (yet) are left to their stage.

    Raises :class:`ConfigError` for a mix of frames and features and for features of a tower that is trained, and
    ``FeaturesError`` for frames whose features are not kept.
    """
    with suppress(ShardError):
        features = features_of(config, stage, dataset)
        others = [name for name in stage.mix if name not in features]
        if features and others:
            raise ConfigError(
                f"stages.{stage.name}.mix: {', '.join(features)} holds features and {', '.join(others)} frames; "
                "a stage reads one kind. Cache features of all of them, or of none."
            )
        _refuse_trained(stage, f"stages.{stage.name}.mix: {', '.join(features)}", bool(features))
        for name, kind in features.items():
            refuse_missing_frames(kind, stage.frames(name), stage.sampling, _where(stage, name))
    with suppress(ShardError):
        held_out = _held_out(config, stage, dataset)
        _refuse_trained(stage, f"data.eval: {config.data.eval}", held_out is not None)
        if held_out is not None:
            refuse_missing_frames(held_out, [config.eval.num_frames], "uniform", "data.eval")


def check_tower(config: RunConfig, stage: StageConfig, dataset: Open, tower: Tower | None) -> None:
    """Before a stage begins, with the weights it starts from. Raises :class:`ConfigError` and ``FeaturesError``, as
    :func:`check_frames`, and where features are of another tower than the model's."""
    check_frames(config, stage, dataset)
    kinds = {_where(stage, name): kind for name, kind in features_of(config, stage, dataset).items()}
    if (kind := _held_out(config, stage, dataset)) is not None:
        kinds["data.eval"] = kind
    if kinds:
        if tower is None:
            raise ConfigError(
                f"{', '.join(kinds)} holds features, and models of model.family {config.model.family!r} take frames "
                "only. Give shards with frames."
            )
        own = tower.identity()
        for where, kind in kinds.items():
            refuse_other_tower(kind, own, where)


def batch_bytes(config: RunConfig, stage: StageConfig, dataset: Open) -> int:
    """Of the frames, or features, of a stage's largest batch."""
    limits = []
    if stage.batch_videos is not None:
        limits.append(stage.batch_videos * max(stage.num_frames))
    if stage.batch_tokens is not None:
        limits.append(config.model.most_frames(stage.batch_tokens, max(stage.num_frames)))
    kinds = features_of(config, stage, dataset).values()
    sizes = [getattr(torch, k["dtype"]).itemsize * k["shape"][0] * k["shape"][1] for k in kinds]
    return min(limits) * max(sizes, default=3 * config.model.frame_size**2)


def _held_out(config: RunConfig, stage: StageConfig, dataset: Open) -> dict[str, Any] | None:
    """The kind of features that a stage is evaluated on, if there are any."""
    return dataset(config.data.eval).features if stage.evaluate and config.data.eval else None


def _refuse_trained(stage: StageConfig, where: str, features: bool) -> None:
    if features and "vision_tower" in stage.parts:
        raise ConfigError(
            f"{where} holds features, and stages.{stage.name} trains vision_tower: they would stay those of the tower "
            f"before. Leave vision_tower out of stages.{stage.name}.trains, or give shards with frames."
        )


def _where(stage: StageConfig, name: str) -> str:
    return f"stages.{stage.name}.mix: {name}"
