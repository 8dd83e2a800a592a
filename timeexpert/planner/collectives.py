"""What GPUs send each other in one optimizer step: each collective with its group, its calls and its bytes.

Payloads are what the call is given, so that a recorded trace can be compared with the table. Bytes on the wire follow
from ring algorithms (all-gather and reduce-scatter send (n-1)/n of the payload from each rank, an all-reduce twice
that) and pairwise all-to-all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from timeexpert.parallel import Degrees

from .activations import INDEX, STREAM, Arithmetic
from .flops import Trains
from .hardware import Cluster
from .layout import Layout
from .memory import MASTER
from .sizes import ModelSizes
from .workload import Batch, Dimensions

Kind = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all"]


@dataclass(frozen=True, kw_only=True)
class Group:
    """``ranks`` of them, of which ``per_node`` stand in one node."""

    name: str
    ranks: int
    per_node: int


@dataclass(frozen=True, kw_only=True)
class Collective:
    """``calls`` per step and rank. ``payload``: bytes of one call: what an all-gather ends with, what a reduction
    starts with, or what one rank gives to an all-to-all. ``hidden``: runs while the GPU computes."""

    name: str
    kind: Kind
    group: Group
    calls: int
    payload: float
    hidden: bool = True

    @property
    def sent(self) -> float:
        """Bytes that one rank sends per step."""
        n = self.group.ranks
        return self.calls * self.payload * (n - 1) / n * (2 if self.kind == "all_reduce" else 1)

    @property
    def network(self) -> float:
        """Those of them that leave the node, mean over its ranks."""
        n, inside = self.group.ranks, self.group.per_node
        if inside >= n:
            return 0.0
        if self.kind == "all_to_all":
            return self.calls * self.payload * (n - inside) / n
        return self.sent / inside  # a ring leaves each node once

    @property
    def link(self) -> float:
        """Those that stay in the node."""
        return self.sent - self.network

    def seconds(self, cluster: Cluster) -> tuple[float, str]:
        """Time per step, and what it is bound by: ``link`` or ``network``."""
        rate = 1e9 * cluster.bandwidth_efficiency
        link, network = self.link / (cluster.gpu.link_gb_s * rate), self.network / (cluster.gpu.network_gb_s * rate)
        wait = self.calls * cluster.latency_us * 1e-6 * (self.group.ranks - 1).bit_length()
        return max(link, network) + wait, "network" if network > link else "link"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "group": self.group.name,
            "ranks": self.group.ranks,
            "ranks_per_node": self.group.per_node,
            "calls": self.calls,
            "payload_bytes": round(self.payload),
            "sent_bytes": round(self.sent),
            "network_bytes": round(self.network),
            "hidden": self.hidden,
        }


def groups(degrees: Degrees, gpus_per_node: int) -> dict[str, Group]:
    """The process groups by name, as ``timeexpert.parallel`` places them: neighbours first share the experts, then a
    copy of the model."""

    def group(name: str, ranks: int, stride: int) -> Group:
        return Group(name=name, ranks=ranks, per_node=min(ranks, max(1, gpus_per_node // stride)))

    sharded = degrees.expert * degrees.expert_shard
    found = (
        group("world", degrees.ranks, 1),
        group("shard", degrees.shard, 1),
        group("data", degrees.data, degrees.shard),
        group("expert", degrees.expert, 1),
        group("expert_shard", degrees.expert_shard, degrees.expert),
        group("expert_data", degrees.expert_data, sharded),
    )
    return {g.name: g for g in found}


def collectives(
    sizes: ModelSizes,
    d: Dimensions,
    batch: Batch,
    trains: Trains,
    arithmetic: Arithmetic,
    layout: Layout,
    gpus_per_node: int,
) -> list[Collective]:
    """One optimizer step of the engine ``torch``; groups of one rank are left out.

    FSDP2 gathers float32 weights of every unit before its forward pass, again before its backward pass if it has one
    (but for the root, which stays), and reduces float32 gradients after each micro-batch. Gates are summed once.
    """
    by_name, micro, layers = groups(layout.degrees, gpus_per_node), layout.accumulate, sizes.num_layers
    out: list[Collective] = []

    def add(name: str, kind: Kind, group: str, calls: int, payload: float, hidden: bool = True) -> None:
        if by_name[group].ranks > 1 and calls and payload:
            g = by_name[group]
            out.append(Collective(name=name, kind=kind, group=g, calls=calls, payload=payload, hidden=hidden))

    shard, data = ("shard", "data"), ("expert_shard", "expert_data")
    expert = layout.degrees.expert
    units = (
        ("frame encoder", sizes.frames, 1, *shard, 1, 1 + trains.frames),
        ("embedding", sizes.embedding, 1, *shard, 1, 1 + trains.embeddings),
        ("layers", sizes.layer, 1, *shard, layers, 1 + trains.hidden),
        ("experts", sizes.experts, expert, *data, layers, 1 + trains.hidden),
        ("root", sizes.root, 1, *shard, 1, 1),
    )
    for name, count, split, within, _, times, passes in units:
        add(f"{name}: weights", "all_gather", within, micro * times * passes, MASTER * count.weights / split)
    for name, count, split, within, copies, times, _ in units:
        whole = MASTER * count.trained / split
        add(f"{name}: gradients", "reduce_scatter", within, micro * times, whole)
        add(f"{name}: gradients of copies", "all_reduce", copies, micro * times, whole / by_name[within].ranks)
    add("gates: gradients", "all_reduce", "world", 1, MASTER * sizes.gate.trained * layers, hidden=False)
    again = layout.gradient_checkpointing and trains.hidden
    passes = 1 + trains.hidden + again
    row = arithmetic.compute * d.dim
    add("expert rows", "all_to_all", "expert", micro * layers * 2 * passes, row * batch.pairs, hidden=False)
    add("expert row weights", "all_to_all", "expert", micro * layers * passes, STREAM * batch.pairs, hidden=False)
    add("expert counts", "all_to_all", "expert", micro * layers * (1 + again), INDEX * d.experts, hidden=False)
    add("gradient norm", "all_reduce", "world", 1, 8, hidden=False)
    return out
