"""Layouts that fit: the fewest changes to one that does not, and the fastest on any number of GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

from timeexpert.parallel import Degrees, ParallelConfig
from timeexpert.parallel.config import divisors

from .hardware import Cluster, PlanError
from .layout import Layout, possible
from .plan import Plan, StageModel, make_plan

MOST_GPUS = 4096


@dataclass(frozen=True)
class Change:
    """A plan that fits, and what was changed to get it, in words."""

    plan: Plan
    words: tuple[str, ...]


def candidates(model: StageModel, cluster: Cluster, layout: Layout, offload: bool = True) -> Iterator[Layout]:
    """Every layout of this cluster that computes the same videos per step."""
    slots, per_gpu = model.dimensions.experts, layout.micro_batch * layout.accumulate
    checkpointing = {layout.gradient_checkpointing, True}
    micro = [n for n in divisors(per_gpu) if n <= layout.micro_batch]
    moved = (False, True) if offload else (layout.offload,)
    for degrees in degrees_of(cluster.world, slots):
        for again, videos, host in product(checkpointing, micro, moved):
            yield Layout(
                degrees=degrees,
                micro_batch=videos,
                accumulate=per_gpu // videos,
                gradient_checkpointing=again,
                offload=host,
            )


@cache
def degrees_of(world: int, slots: int) -> list[Degrees]:
    """All that the engine takes."""
    both = [possible(world, shard, expert, slots) for shard in divisors(world) for expert in divisors(world)]
    return [degrees for degrees in both if degrees is not None]


def cheapest_changes(plan: Plan, most: int = 3) -> list[Change]:
    """Plans that fit on the same GPUs with the same videos per step: fewest changes first, then the fastest.

    Empty where none fits. One plan per set of settings that are changed.
    """
    found: dict[tuple[str, ...], Change] = {}
    for layout in candidates(plan.model, plan.cluster, plan.layout):
        words = changes(plan.model.stage.name, plan.layout, layout)
        if not words:
            continue
        other, key = make_plan(plan.model, plan.cluster, layout), tuple(words)
        if other.fits and (key not in found or other.step_s < found[key].plan.step_s):
            found[key] = Change(other, tuple(words.values()))
    return sorted(found.values(), key=lambda change: (len(change.words), change.plan.step_s))[:most]


def changes(stage: str, old: Layout, new: Layout) -> dict[str, str]:
    """What differs, by setting, as words for the command line."""
    words = {}
    if new.gradient_checkpointing != old.gradient_checkpointing:
        words["checkpointing"] = "train.gradient_checkpointing=true"
    if new.micro_batch != old.micro_batch:
        accumulate = new.accumulate * new.world
        words["batch"] = f"stages.{stage}.batch_videos={new.micro_batch} stages.{stage}.accumulate={accumulate}"
    if new.degrees.shard != old.degrees.shard:
        words["shard"] = f"parallel.shard={new.degrees.shard}"
    if new.degrees.expert != old.degrees.expert:
        words["expert"] = f"parallel.expert={new.degrees.expert}"
    if new.offload != old.offload:
        words["offload"] = "--offload" if new.offload else "without --offload"
    return words


def fastest(model: StageModel, cluster: Cluster, layout: Layout) -> Plan:
    """The fastest plan that fits on this cluster; where none does, the one that takes the least memory."""
    best: Plan | None = None
    for offload in (False, True):
        for other in candidates(model, cluster, replace(layout, offload=offload), offload=False):
            plan = make_plan(model, cluster, other)
            if best is None or _rank(plan) < _rank(best):
                best = plan
        if best is not None and best.fits:
            break
    assert best is not None  # there is always the layout of one GPU per group
    return best


def _rank(plan: Plan) -> tuple[bool, float]:
    return not plan.fits, plan.step_s if plan.fits else plan.peak.total


def sweep(model: StageModel, cluster: Cluster, most: int = MOST_GPUS) -> list[Plan]:
    """The fastest plan on 1, 2, 4, ... GPUs: nodes fill up first, then there are more of them.

    The config's videos per step are kept while every GPU has at least one of them; then there are more.
    Raises :class:`PlanError`.
    """
    if most < 1:
        raise PlanError(f"--max-gpus ({most}) must be 1 or more.")
    plans, world = [], 1
    while world <= most:
        per_node = min(world, cluster.gpus_per_node)
        if world % per_node == 0:
            sized = replace(cluster, nodes=world // per_node, gpus_per_node=per_node)
            plans.append(fastest(model, sized, starting_layout(model, sized)))
        world *= 2
    return plans


def starting_layout(model: StageModel, cluster: Cluster) -> Layout:
    """Default degrees, with as much of the config's batch on each GPU as comes nearest to its videos per step."""
    per_gpu = max(1, round(model.videos_per_step / cluster.world))
    micro = max(n for n in divisors(per_gpu) if n <= model.videos)
    return Layout(
        degrees=ParallelConfig().degrees(cluster.world, model.dimensions.experts, cluster.gpus_per_node),
        micro_batch=micro,
        accumulate=per_gpu // micro,
        gradient_checkpointing=model.gradient_checkpointing,
    )


def smallest_cluster(plan: Plan) -> Plan | None:
    """The fewest nodes, doubling, on which some layout fits; None up to :data:`MOST_GPUS` GPUs."""
    cluster = replace(plan.cluster, nodes=plan.cluster.nodes * 2)
    while cluster.world <= MOST_GPUS:
        found = fastest(plan.model, cluster, starting_layout(plan.model, cluster))
        if found.fits:
            return found
        cluster = replace(cluster, nodes=cluster.nodes * 2)
    return None
