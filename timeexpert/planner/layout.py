"""How a stage is spread over GPUs: degrees, micro-batches, and what is recomputed or moved to the host."""

from __future__ import annotations

from dataclasses import dataclass

from timeexpert.config import ConfigError
from timeexpert.parallel import Degrees, ParallelConfig
from timeexpert.stages.config import RunConfig, StageConfig

from .hardware import Cluster
from .memory import Sharing


@dataclass(frozen=True, kw_only=True)
class Layout:
    """``degrees``: see ``timeexpert.parallel``. Each GPU computes ``accumulate`` micro-batches of ``micro_batch``
    videos per step. ``offload``: weights, gradients and optimizer live in the node's memory."""

    degrees: Degrees
    micro_batch: int
    accumulate: int
    gradient_checkpointing: bool = False
    offload: bool = False

    @property
    def world(self) -> int:
        """GPUs in all."""
        return self.degrees.ranks

    @property
    def sharing(self) -> Sharing:
        """Who holds which weights."""
        return Sharing(degrees=self.degrees, offload=self.offload)

    @property
    def videos_per_step(self) -> int:
        """Of all GPUs."""
        return self.world * self.micro_batch * self.accumulate


def configured(
    config: RunConfig, stage: StageConfig, cluster: Cluster, *, slots: int, videos: int, offload: bool = False
) -> Layout:
    """What ``timeexpert train`` would do on this cluster: the config's ``parallel``, batches of ``videos`` and its
    gradient checkpointing. Raises :class:`ConfigError` with the nearest that works."""
    degrees = config.parallel.degrees(cluster.world, slots, cluster.gpus_per_node)
    stage.check_ranks(cluster.world)
    return Layout(
        degrees=degrees,
        micro_batch=videos,
        accumulate=stage.accumulate // cluster.world,
        gradient_checkpointing=config.train.gradient_checkpointing,
        offload=offload,
    )


def possible(world: int, shard: int, expert: int, slots: int) -> Degrees | None:
    """These degrees, if the engine takes them."""
    try:
        return ParallelConfig(shard=shard, expert=expert).degrees(world, slots)
    except ConfigError:
        return None
