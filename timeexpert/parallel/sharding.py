"""A model over ranks: FSDP2 for everything but gates, experts also over the expert axis.

Gates stay whole on every rank: they are small, and losses, statistics and the adaptive process read and edit them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import Shard, distribute_tensor

from timeexpert.moe import MoELayer
from timeexpert.moe.dispatch import AllToAllDispatch
from timeexpert.moe.experts import Experts

from .config import Degrees


@dataclass(frozen=True)
class Meshes:
    """``dense``: (data, shard), or (shard) for one copy. ``expert``: the ranks that share the experts.
    ``same_expert``: the ranks that hold the same experts, (copies, shards) or (shards)."""

    dense: DeviceMesh
    expert: DeviceMesh
    same_expert: DeviceMesh

    @classmethod
    def build(cls, degrees: Degrees, device_type: str) -> Meshes:
        """Both views of all ranks; those of one expert group, and of one copy, are neighbours."""
        dense = init_device_mesh(device_type, (degrees.data, degrees.shard), mesh_dim_names=("data", "shard"))
        sizes = (degrees.expert_data, degrees.expert_shard, degrees.expert)
        names = ("expert_data", "expert_shard", "expert")
        experts = init_device_mesh(device_type, sizes, mesh_dim_names=names)
        return cls(
            dense if degrees.data > 1 else dense["shard"],
            experts["expert"],
            experts["expert_data", "expert_shard"] if degrees.expert_data > 1 else experts["expert_shard"],
        )

    def groups(self) -> list[dist.ProcessGroup]:
        """Every process group of this rank."""
        return [group for mesh in (self.dense, self.expert, self.same_expert) for group in mesh.get_all_groups()]


def shard(
    model: nn.Module,
    units: list[nn.Module],
    forward_methods: Iterable[str],
    meshes: Meshes,
    device: torch.device,
    *,
    dispatches: bool,
) -> None:
    """See :meth:`OneProcess.shard`."""
    layers = [module for module in model.modules() if isinstance(module, MoELayer)]
    gates = {parameter for layer in layers for parameter in layer.gate.parameters()}
    for layer in layers:
        layer.gate.to(device)
        if dispatches:
            layer.dispatch = AllToAllDispatch(meshes.expert.get_group())
        if meshes.expert.size() > 1:
            _spread(layer.experts, meshes.expert)
        _shard_experts(layer.experts, meshes.same_expert)
    for unit in units:
        fully_shard(unit, mesh=meshes.dense, ignored_params=gates)
    fully_shard(model, mesh=meshes.dense, ignored_params=gates)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # The loss is divided by counts of all ranks, so gradients are summed. With any other factor torch 2.13
            # divides twice on a mesh of one, gloo refuses, and NCCL may give zeros in bfloat16 (pytorch 190745).
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    for name in forward_methods:
        register_fsdp_forward_method(model, name)


def _spread(experts: Experts, mesh: DeviceMesh) -> None:
    """Leave each rank of ``mesh`` its experts. Every rank has the same weights, so none is sent."""
    for name, parameter in list(experts.named_parameters()):
        spread = distribute_tensor(parameter.detach(), mesh, [Shard(0)], src_data_rank=None)
        setattr(experts, name, nn.Parameter(spread, requires_grad=parameter.requires_grad))


def _shard_experts(experts: Experts, mesh: DeviceMesh) -> None:
    """Over the ranks with the same experts: by expert, or by column where there are more ranks than experts."""
    ranks = mesh.size(mesh.ndim - 1)

    def placement(parameter: nn.Parameter) -> Shard | None:
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        fits = local.shape[0] < ranks and local.shape[1] % ranks == 0
        return Shard(1) if fits else None

    fully_shard(experts, mesh=mesh, shard_placement_fn=placement)
