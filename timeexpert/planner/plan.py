"""The plan of one stage on one cluster: memory, work, traffic, time, and which limit binds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from timeexpert.families.timeexpert.settings import ModelConfig
from timeexpert.stages.config import RunConfig, StageConfig

from .activations import Arithmetic, decoder_layer, frame_encoder, layer_parts
from .collectives import Collective, collectives
from .flops import Flops, Trains, flops
from .hardware import GIB, Cluster, PlanError
from .layout import Layout
from .memory import MASTER, Moment, peak, timeline
from .sizes import ModelSizes, build_on_meta, model_sizes
from .workload import TEXT_TOKENS, Batch, Dimensions, Rows, stage_rows, videos_per_batch

IMBALANCE = 1.2  # rows of the busiest rank's experts over the mean
# AdamW reads a weight, its gradient and two moments, and writes three of them.
OPTIMIZER_TRAFFIC = 7 * MASTER
LIMITS = ("compute", "memory bandwidth", "in-node link", "network", "host")


@dataclass(frozen=True, kw_only=True)
class StageModel:
    """What a stage trains, on which rows: all that does not depend on the GPUs."""

    stage: StageConfig
    sizes: ModelSizes
    dimensions: Dimensions
    rows: Rows
    videos: int  # of one batch of the config
    arithmetic: Arithmetic
    gradient_checkpointing: bool
    imbalance: float = IMBALANCE

    @property
    def trains(self) -> Trains:
        """Which gradients are needed."""
        return Trains(frozenset(self.stage.parts))

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """Names of the model's parts that are trained."""
        return tuple(part for part in self.stage.parts if part in self.sizes.parts)

    @property
    def videos_per_step(self) -> int:
        """Of one optimizer step, by the config."""
        return self.videos * self.stage.accumulate


def stage_model(
    config: RunConfig,
    stage: StageConfig,
    vocab_size: int,
    *,
    row_tokens: int | None = None,
    text_tokens: int = TEXT_TOKENS,
    experts_per_token: float | None = None,
    imbalance: float = IMBALANCE,
) -> StageModel:
    """Build the model on the meta device and read off what a plan needs. Raises :class:`PlanError`."""
    if imbalance < 1:
        raise PlanError(f"--imbalance ({imbalance:g}) must be 1 or more: the busiest rank over the mean of all.")
    if vocab_size < 1:
        raise PlanError(f"--vocab-size ({vocab_size}) must be 1 or more.")
    if not isinstance(config.model, ModelConfig):
        raise PlanError(
            f"the planner has figures of the family timeexpert only, not of {config.model.family} (model.family)."
        )
    model = build_on_meta(config, vocab_size)
    rows = stage_rows(config, stage, row_tokens, text_tokens, experts_per_token)
    return StageModel(
        stage=stage,
        sizes=model_sizes(model, stage),
        dimensions=Dimensions.of(config, model),
        rows=rows,
        videos=videos_per_batch(stage, rows),
        arithmetic=Arithmetic(compute=4 if config.train.precision == "fp32" else 2),
        gradient_checkpointing=config.train.gradient_checkpointing,
        imbalance=imbalance,
    )


def uncounted(model: StageModel, ranks: int) -> str | None:
    """What a plan leaves out of an rl stage (docs/rl.md); None for other stages."""
    settings = model.stage.rl
    if settings is None:
        return None
    copies = (settings.beta > 0) + (ranks > 1)  # the reference, and what draws answers where the model is sharded
    size_gib = copies * MASTER * model.sizes.total.weights / GIB
    return (
        f"stage {model.stage.name} is planned as training on one written answer per question. Not counted: drawing "
        f"answers, all {settings.group_size} of a question in its row, and on each GPU {copies} whole float32 copies "
        f"of the model ({size_gib:.1f} GiB)."
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One stage on one cluster. ``moments``: memory per GPU over a step with the longest rows. ``work``: of one
    micro-batch of typical rows. ``busy``: seconds per step that each limit would take alone."""

    model: StageModel
    cluster: Cluster
    layout: Layout
    moments: list[Moment]
    work: dict[str, Flops]
    traffic: list[Collective]
    busy: dict[str, float]
    step_s: float

    @property
    def batch(self) -> Batch:
        """A typical micro-batch."""
        return self.model.rows.batch(self.layout.micro_batch)

    @property
    def peak(self) -> Moment:
        """The fullest moment."""
        return peak(self.moments)

    @property
    def fits(self) -> bool:
        """Whether the fullest moment fits into a GPU, and what is offloaded into the memory of a node."""
        host = self.cluster.host_memory_gib * GIB
        return self.peak.total <= self.cluster.usable_bytes and self.host_bytes <= host

    @property
    def host_bytes(self) -> float:
        """Of one node's memory: weights, gradients and optimizer states of its GPUs where they are offloaded."""
        if not self.layout.offload:
            return 0.0
        kinds = ("weights", "trained", "states")
        numbers = sum(self.layout.sharing.numbers(self.model.sizes, kind) for kind in kinds)
        return MASTER * numbers * self.cluster.gpus_per_node

    @property
    def limit(self) -> str:
        """What binds: memory where it does not fit, else what takes longest."""
        return max(self.busy, key=lambda name: self.busy[name]) if self.fits else "memory"

    @property
    def tokens_per_s(self) -> float:
        """Of all GPUs."""
        return self.batch.tokens * self.layout.accumulate * self.layout.world / self.step_s

    @property
    def flops_per_step(self) -> float:
        """Of one GPU, recomputation included."""
        return sum(part.total for part in self.work.values()) * self.layout.accumulate

    @property
    def mfu(self) -> float:
        """Share of the GPU's peak that forward and backward passes are, without recomputation."""
        needed = sum(part.forward + part.backward for part in self.work.values()) * self.layout.accumulate
        return needed / (self.step_s * peak_flops(self.model, self.cluster))

    def to_json(self) -> dict[str, Any]:
        """As plain values: bytes, seconds, FLOPs."""
        layout = asdict(self.layout)
        layers = layer_parts(*self._layer_arguments(), self.layout.degrees.expert > 1)
        return {
            "stage": self.model.stage.name,
            "trains": list(self.model.trained_parts),
            "parameters": {name: asdict(count) for name, count in self.model.sizes.parts.items()},
            "layout": {**layout, "world": self.layout.world, "videos_per_step": self.layout.videos_per_step},
            "rows": asdict(self.model.rows),
            "fits": self.fits,
            "usable_bytes": self.cluster.usable_bytes,
            "host_bytes": round(self.host_bytes),
            "peak": self.peak.to_json(),
            "moments": [moment.to_json() for moment in fullest_by_phase(self.moments)],
            "layer_activations": {name: round(size) for name, size in layers.items()},
            "flops_per_micro_batch": {name: asdict(part) for name, part in self.work.items()},
            "flops_per_step": self.flops_per_step,
            "collectives": [collective.to_json() for collective in self.traffic],
            "busy_s": self.busy,
            "step_s": self.step_s,
            "tokens_per_s": self.tokens_per_s,
            "mfu": self.mfu,
            "limit": self.limit,
        }

    def _layer_arguments(self) -> tuple[Dimensions, Batch, Trains, Arithmetic, float]:
        model = self.model
        batch = model.rows.batch(self.layout.micro_batch, longest=True)
        return model.dimensions, batch, model.trains, model.arithmetic, batch.pairs * model.imbalance

    def activations(self) -> dict[str, float]:
        """Bytes of activations with the longest rows: of one layer and of all, with and without checkpointing."""
        d, batch, trains, arithmetic, pairs = self._layer_arguments()
        layer = decoder_layer(*self._layer_arguments(), 0.0, self.layout.degrees.expert > 1)
        stream = 4.0 * batch.tokens * d.dim if trains.hidden else 0.0
        return {
            "one layer": layer.kept,
            "all layers": layer.kept * d.layers,
            "all layers, checkpointing": stream * d.layers + layer.kept,
            "frames": frame_encoder(d, batch, trains, arithmetic).forward,
        }


def fullest_by_phase(moments: list[Moment]) -> list[Moment]:
    """The fullest moment of each phase, in the order of the phases."""
    best: dict[str, Moment] = {}
    for moment in moments:
        if moment.phase not in best or moment.total > best[moment.phase].total:
            best[moment.phase] = moment
    return list(best.values())


def peak_flops(model: StageModel, cluster: Cluster) -> float:
    """Of one GPU, per second, in the type that products run in."""
    gpu = cluster.gpu
    return 1e12 * (gpu.bf16_tflops if model.arithmetic.mixed else gpu.fp32_tflops)


def make_plan(model: StageModel, cluster: Cluster, layout: Layout) -> Plan:
    """The plan of one stage."""
    work = flops(model.dimensions, model.rows.batch(layout.micro_batch), model.trains, layout.gradient_checkpointing)
    traffic = collectives(
        model.sizes,
        model.dimensions,
        model.rows.batch(layout.micro_batch),
        model.trains,
        model.arithmetic,
        layout,
        cluster.gpus_per_node,
    )
    busy, step_s = _times(model, cluster, layout, work, traffic)
    return Plan(
        model=model,
        cluster=cluster,
        layout=layout,
        moments=memory(model, layout),
        work=work,
        traffic=traffic,
        busy=busy,
        step_s=step_s,
    )


def memory(model: StageModel, layout: Layout) -> list[Moment]:
    """Moments of a step with the longest rows."""
    return timeline(
        model.sizes,
        model.dimensions,
        model.rows.batch(layout.micro_batch, longest=True),
        model.trains,
        model.arithmetic,
        checkpointing=layout.gradient_checkpointing,
        accumulate=layout.accumulate,
        imbalance=model.imbalance if layout.degrees.expert > 1 else 1.0,
        sharing=layout.sharing,
    )


def with_checkpointing(plan: Plan, on: bool) -> Moment:
    """The fullest moment with gradient checkpointing on or off."""
    return peak(memory(plan.model, replace(plan.layout, gradient_checkpointing=on)))


def _times(
    model: StageModel, cluster: Cluster, layout: Layout, work: dict[str, Flops], traffic: list[Collective]
) -> tuple[dict[str, float], float]:
    """Seconds per step by limit, and of the step: what overlaps counts once.

    Gathering and reducing weights runs beside the arithmetic; the exchange of rows does not; the optimizer comes last.
    """
    d, sizes, trains = model.dimensions, model.sizes, model.trains
    batch = model.rows.batch(layout.micro_batch)
    rate = peak_flops(model, cluster) * cluster.matmul_efficiency
    bandwidth = cluster.gpu.memory_gb_s * 1e9 * cluster.bandwidth_efficiency
    passes = 1 + (1 + trains.decoder if trains.hidden else 0) + (layout.gradient_checkpointing and trains.hidden)
    experts = 6.0 * batch.pairs * d.dim * d.expert_dim * passes * d.layers
    others = sum(part.total for part in work.values()) - experts
    imbalance = model.imbalance if layout.degrees.expert > 1 else 1.0
    arithmetic_s = layout.accumulate * (others + experts * imbalance) / rate
    # few rows per expert: the experts' weights come from memory once per pass, and that takes longer
    weights = model.arithmetic.compute * sizes.experts.weights / layout.degrees.expert * passes * d.layers
    reading_s = layout.accumulate * weights / bandwidth
    compute_s = arithmetic_s + max(0.0, reading_s - layout.accumulate * experts * imbalance / rate)
    trained = layout.sharing.numbers(sizes, "trained")
    optimizer_s = 0.0 if layout.offload else trained * OPTIMIZER_TRAFFIC / bandwidth
    moved = {"link": 0.0, "network": 0.0}
    hidden_s = open_s = host_s = 0.0
    for collective in traffic:
        seconds, bound = collective.seconds(cluster)
        moved[bound] += seconds
        hidden_s += seconds if collective.hidden else 0.0
        open_s += 0.0 if collective.hidden else seconds
    if layout.offload:
        host_s = _host_seconds(model, cluster, layout)
    busy = dict(zip(LIMITS, (arithmetic_s, reading_s + optimizer_s, *moved.values(), host_s), strict=True))
    return busy, max(compute_s, hidden_s) + open_s + optimizer_s + host_s


def _host_seconds(model: StageModel, cluster: Cluster, layout: Layout) -> float:
    """Weights to the GPU and gradients from it for every micro-batch, and the optimizer in the node's memory."""
    weights, trained = (layout.sharing.numbers(model.sizes, kind) for kind in ("weights", "trained"))
    sent = MASTER * ((1 + model.trains.hidden) * weights + trained) * layout.accumulate
    updated = trained * OPTIMIZER_TRAFFIC * cluster.gpus_per_node
    rate = 1e9 * cluster.bandwidth_efficiency
    return sent / (cluster.gpu.host_gb_s * rate) + updated / (cluster.host_memory_gb_s * rate)


def gib(size: float) -> float:
    """Bytes as GiB."""
    return size / GIB
