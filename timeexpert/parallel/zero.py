"""DeepSpeed's ZeRO as an engine: every rank trains a copy, and the copies share moments, gradients and weights.

Gates stay out of it, whole on every rank: losses, statistics and the adaptive process read and edit them.
"""

from __future__ import annotations

import copy
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from timeexpert.moe import MoELayer

from .config import Degrees
from .engine import TorchRanks

PERSISTENT_NUMEL = 100_000  # stage 3 leaves smaller weights whole between steps, as is DeepSpeed's default


class ZeroRanks(TorchRanks):
    """Ranks that train through DeepSpeed at ZeRO ``stage`` 1, 2 or 3. See :func:`timeexpert.parallel.start`."""

    gathers = True

    def __init__(
        self, degrees: Degrees, device: torch.device, timeout: timedelta, *, stage: int, offload: bool
    ) -> None:
        super().__init__(degrees, device, "local", timeout)
        self.stage, self.offload = stage, offload
        os.environ.setdefault("DS_ACCELERATOR", device.type)  # else it takes a GPU that it sees

    def shard(self, model: nn.Module, units: list[nn.Module], forward_methods: Iterable[str]) -> None:
        """See :class:`OneProcess`. The weights are shared once there are :meth:`optimizers`."""
        self.root = _Root(model)
        for layer in self._layers():
            layer.gate.to(self.device)
        for name in forward_methods:
            setattr(model, name, partial(self._forward, name))

    def optimizers(self, optimizers: list[torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
        """See :class:`OneProcess`: DeepSpeed's for everything but the gates, and the given one for these."""
        import deepspeed

        # on a CPU it would compile collectives of its own first; gloo's will do
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        (given,) = optimizers
        gates = {p for layer in self._layers() for p in layer.gate.parameters()}
        inner = copy.copy(given)  # without its hooks, which know nothing of flat partitions
        inner.state = defaultdict(dict)
        inner.param_groups = [dict(group) for group in given.param_groups if gates.isdisjoint(group["params"])]
        given.param_groups = [group for group in given.param_groups if not gates.isdisjoint(group["params"])]
        groups = [dict(group) for group in inner.param_groups]
        with self._gates_hidden():
            if self.stage == 3:  # whole weights never meet on the device
                deepspeed.zero.Init(module=self.root, config_dict_or_path=self._config(), dtype=torch.float32)
            self.engine, *_ = deepspeed.initialize(model=self.root, optimizer=inner, config=self._config())
        self.zero = ZeroOptimizer(self, inner, groups)
        return [self.zero, given] if given.param_groups else [self.zero]  # type: ignore[list-item]

    def release(self) -> None:
        """See :class:`OneProcess`."""
        self.engine.destroy()
        del self.engine, self.zero, self.root

    def _config(self) -> dict[str, Any]:
        host = {"device": "cpu", "pin_memory": self.device.type == "cuda"}
        sharing: dict[str, Any] = {"stage": self.stage, "stage3_param_persistence_threshold": PERSISTENT_NUMEL}
        if self.offload:
            sharing["offload_optimizer"] = host
            if self.stage == 3:
                sharing["offload_param"] = host
        return {
            "train_micro_batch_size_per_gpu": 1,  # the loop says where a step ends
            "gradient_accumulation_steps": 1,
            "zero_optimization": sharing,
            "zero_allow_untested_optimizer": True,  # SGD
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": None,
        }

    def _layers(self) -> list[MoELayer]:
        return [module for module in self.root.modules() if isinstance(module, MoELayer)]

    @contextmanager
    def _gates_hidden(self) -> Iterator[None]:
        """DeepSpeed walks through the modules and takes every parameter that it meets for its own."""
        children = [(layer, dict(layer._modules)) for layer in self._layers()]
        for layer, _ in children:
            del layer._modules["gate"]
        try:
            yield
        finally:
            for layer, modules in children:
                layer._modules.clear()
                layer._modules.update(modules)

    def _forward(self, name: str, *args: Any) -> Any:
        """Run a method of the model through DeepSpeed, which gathers weights on the way."""
        device = self.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        loss = self.engine(name, kind, *args)
        out, self.root.out = self.root.out, None
        return out if loss is None else replace(out, loss=loss)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """See :class:`OneProcess`."""
        self.engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed takes the mean over ranks, ours is a sum: the loss is divided by the labels of all of them
        self.engine.backward(loss * self.world_size, scale_wrt_gas=False)

    def reduce_gradients(self, parameters: list[nn.Parameter]) -> None:
        """See :class:`OneProcess`: DeepSpeed has reduced all but those of the gates."""
        gates = self._gates(parameters)
        super().reduce_gradients(gates)
        for gate in gates:
            if gate.grad is not None:
                gate.grad /= self.world_size

    def _gates(self, parameters: list[nn.Parameter]) -> list[nn.Parameter]:
        gates = {p for layer in self._layers() for p in layer.gate.parameters()}
        return [p for p in parameters if p in gates]

    def clip_grad_norm_(self, parameters: list[nn.Parameter], most: float) -> float:
        """See :class:`OneProcess`. DeepSpeed scales its part of the gradients when it steps."""
        gradients = [p.grad for p in self._gates(parameters) if p.grad is not None]
        shared = self.zero.grad_norm()
        norm = float(torch.nn.utils.get_total_norm([*gradients, torch.tensor(shared, device=self.device)]))
        factor = min(1.0, most / (norm + 1e-6))
        for gradient in gradients:
            gradient.mul_(factor)
        self.zero.clip(shared, factor)
        return norm

    @contextmanager
    def whole(self, tensors: Iterable[Tensor]) -> Iterator[None]:
        """See :class:`OneProcess`."""
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        tensors = list(tensors)
        with GatheredParameters([t for t in tensors if _is_cut(t)], modifier_rank=0):
            yield
        for tensor in tensors:  # the optimizer has weights of its own, which the next step would put back
            if not tensor.requires_grad:
                continue
            if _is_cut(tensor):
                safe_set_local_fp32_param(tensor, tensor.ds_tensor)  # type: ignore[attr-defined]
            else:
                safe_set_full_fp32_param(tensor, tensor.detach())

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """See :class:`OneProcess`. One weight at a time is whole on the device."""
        from deepspeed.runtime.zero import GatheredParameters

        out = {}
        for name, value in model.state_dict(keep_vars=True).items():
            with GatheredParameters([value] if _is_cut(value) else [], modifier_rank=None):
                if self.is_main:
                    out[name] = value.detach().cpu().clone()
        return out


class ZeroOptimizer:
    """What training and checkpoints use of an optimizer, over DeepSpeed's flat partitions.

    ``param_groups``: as they were before, with the model's own parameters. ``state``: whole moments by parameter and
    name, gathered when read and spread when assigned; all ranks do so together.
    """

    def __init__(self, ranks: ZeroRanks, inner: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> None:
        self.ranks, self.inner, self.param_groups = ranks, inner, groups
        self.optimizer = ranks.engine.optimizer
        self.state = {p: _State(self, p) for group in groups for p in group["params"]}

    def grad_norm(self) -> float:
        """The norm of what DeepSpeed has reduced; infinite where it is not finite."""
        if self.ranks.stage < 3:
            return float(self.optimizer.scaled_global_norm())
        from deepspeed.runtime.utils import combine_grad_norm_groups

        return float(combine_grad_norm_groups(self.optimizer._get_norm_groups()))

    def clip(self, norm: float, factor: float) -> None:
        """Let the next step scale gradients of ``norm`` by ``factor``: DeepSpeed computes (norm + 1e-6) / clip_grad."""
        self.optimizer.clip_grad = (norm + 1e-6) * factor if factor < 1 else 0.0

    def step(self) -> None:
        """One step with the rates of ``param_groups``."""
        for group, inner in zip(self.param_groups, self.inner.param_groups, strict=True):
            inner["lr"] = group["lr"]
            if group.get("active_decay"):
                for stacked, gate in zip(group["params"], group["gates"], strict=True):
                    self._scale_rows(stacked, gate.decayed(group["lr"] * group["active_decay"]))
        first = not self.fields()
        with self.ranks._gates_hidden():
            self.ranks.engine.step()
        if first:
            self._link()

    @torch.no_grad()
    def _scale_rows(self, stacked: nn.Parameter, factor_E: Tensor) -> None:
        """Multiply each row by its factor in what this rank's optimizer holds of it."""
        from deepspeed.utils import safe_get_local_fp32_param, safe_set_local_fp32_param

        row = self.shape(stacked)[1:].numel()
        if _is_cut(stacked):
            part = safe_get_local_fp32_param(stacked)
            safe_set_local_fp32_param(stacked, part * _spread(factor_E, self.ranks.rank * len(part), part, row))
        elif stacked._hp_mapping is not None:  # type: ignore[attr-defined]
            mapping = stacked._hp_mapping  # type: ignore[attr-defined]
            part = mapping.get_hp_fragment()
            part.mul_(_spread(factor_E, mapping.lp_fragment_address.start, part, row))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, also of a step that is not made."""
        self.optimizer.zero_grad()
        if self.ranks.stage == 3:
            return
        from deepspeed.runtime.zero.stage_1_and_2 import INITIAL_MICRO_STEP_ID

        self.optimizer.micro_step_id = INITIAL_MICRO_STEP_ID
        if self.ranks.offload:
            self.optimizer.reset_cpu_buffers()
        for key in self.optimizer.averaged_gradients:
            self.optimizer.averaged_gradients[key] = None
            self.optimizer.all_grad_tensors[key] = None

    @staticmethod
    def shape(parameter: nn.Parameter) -> torch.Size:
        """Of the whole parameter."""
        return torch.Size(parameter.ds_shape) if _is_cut(parameter) else parameter.shape  # type: ignore[attr-defined]

    def partitions(self) -> list[Tensor]:
        """This rank's flat parts, which ``inner`` steps."""
        if self.ranks.stage == 3:
            return list(self.optimizer.fp32_partitioned_groups_flat)
        return list(self.optimizer.single_partition_of_fp32_groups)

    def fields(self) -> list[str]:
        """Names of what the optimizer keeps for each parameter, ``step`` included; none before the first step."""
        return list(self.inner.state[self.partitions()[0]])

    def add_field(self, name: str) -> None:
        """Zeros of that name, before a first step would make them."""
        for flat in self.partitions():
            self.inner.state[flat][name] = torch.tensor(0.0) if name == "step" else torch.zeros_like(flat)
        self._link()

    def _link(self) -> None:
        """Let DeepSpeed find the moments of each parameter; it does so itself when only one group has stepped."""
        if self.ranks.stage < 3:
            from deepspeed.utils import lazy_init_hp_params_optimizer_state

            for group, flat in zip(self.optimizer.bit16_groups, self.partitions(), strict=True):
                lazy_init_hp_params_optimizer_state(group, flat, self.inner.state)


class _State(MutableMapping[str, Tensor]):
    """The optimizer's state of one parameter, whole."""

    def __init__(self, owner: ZeroOptimizer, parameter: nn.Parameter) -> None:
        self.owner, self.parameter = owner, parameter

    def __iter__(self) -> Iterator[str]:
        return iter(self.owner.fields())

    def __len__(self) -> int:
        return len(self.owner.fields())

    def __getitem__(self, name: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        if name == "step":
            return self._steps()[0].clone()
        whole = safe_get_full_optimizer_state(self.parameter, name)
        shaped: Tensor = whole.view(self.owner.shape(self.parameter))
        return shaped.cpu()

    def __setitem__(self, name: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if name not in self.owner.fields():
            self.owner.add_field(name)
        if name == "step":  # one count for all: of those that were trained later, or never, it is that of the others
            for step in self._steps():
                step.copy_(torch.maximum(step, value.to(step)))
        elif _is_cut(self.parameter):
            part = torch.zeros(self.parameter.ds_tensor.numel())  # type: ignore[attr-defined]
            own = value.flatten()[self.owner.ranks.rank * len(part) :][: len(part)]
            part[: len(own)] = own
            safe_set_local_optimizer_state(self.parameter, part, name)
        else:
            safe_set_full_optimizer_state(self.parameter, value.to(self.parameter.device), name)

    def __delitem__(self, name: str) -> None:
        raise TypeError("DeepSpeed keeps the state of all parameters.")

    def _steps(self) -> list[Tensor]:
        return [self.owner.inner.state[flat]["step"] for flat in self.owner.partitions()]


class _Root(nn.Module):
    """The module that DeepSpeed sees: its forward runs any method of the model.

    Gradients are followed through what a forward returns, and that must be tensors: it is the loss, with the rest of
    the output left in ``out``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.out: Any = None

    def forward(self, name: str, kind: torch.dtype | None, *args: Any) -> Tensor | None:
        """``kind``: of autocast, which DeepSpeed has turned off."""
        device = next(self.model.buffers()).device.type
        with torch.autocast(device, dtype=kind, enabled=kind is not None):
            self.out = getattr(type(self.model), name)(self.model, *args)
        return getattr(self.out, "loss", None)


def _is_cut(tensor: Tensor) -> bool:
    """Whether stage 3 has spread it over the ranks."""
    return hasattr(tensor, "ds_id")


def _spread(factor_E: Tensor, start: int, part: Tensor, row: int) -> Tensor:
    """The factor of each element of ``part``, which begins at ``start`` of the flat tensor of rows of ``row``."""
    place = torch.arange(start, start + len(part), device=part.device) // row
    return factor_E.to(part.device)[place.clamp(max=len(factor_E) - 1)]
