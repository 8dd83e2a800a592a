"""What training asks of the processes it runs in: one, or many under ``torchrun``.

Every method of an engine is a collective: all ranks call it, in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from timeexpert.errors import UserError

from .config import Degrees, ParallelConfig
from .gradients import clip_sharded_grad_norm_, sum_replicated_gradients

T = TypeVar("T")
JOINING = timedelta(minutes=30)  # for all ranks to start: nodes come up one after the other
# for waiting on what one rank does alone (writing a checkpoint); the launcher notices ranks that end
PATIENCE = timedelta(days=7)


class OneProcess:
    """One process: nothing to agree on, nothing to shard."""

    rank = 0
    world_size = 1
    shards = False  # whether models are spread, so that their weights must be gathered
    gathers = False  # whether what a checkpoint holds is gathered, and whole on rank 0 only
    degrees = Degrees()

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def shard(self, model: nn.Module, units: list[nn.Module], forward_methods: Iterable[str]) -> None:
        """Spread a model over the ranks: ``units`` are gathered one at a time, experts stay on their ranks.

        ``forward_methods`` run the model and are not ``forward``. Freeze parameters before and make optimizers after.
        """

    def release(self) -> None:
        """Let go of the model of :meth:`shard`, which is not trained any more."""

    def optimizers(self, optimizers: list[torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
        """The optimizers to step and to save, given those made for the model of :meth:`shard`."""
        return optimizers

    def whole(self, tensors: Iterable[Tensor]) -> AbstractContextManager[None]:
        """Within it, these weights may be read and edited in place (on every rank alike) where ranks share them
        without being DTensors."""
        return nullcontext()

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Weights and buffers by name, as a checkpoint takes them; if it ``gathers``, empty but on rank 0."""
        return dict(model.state_dict())

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a micro-batch's gradients; ``last``: the step has no further one."""
        loss.backward()

    def sum_over_ranks(self, tensors: list[Tensor]) -> None:
        """Add up each tensor over all ranks, in place."""

    def reduce_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Before clipping: sum over ranks the gradients that have not been summed during the backward pass."""

    def clip_grad_norm_(self, parameters: list[nn.Parameter], most: float) -> float:
        """Scale gradients so that their norm over all parameters and ranks is at most ``most``; returns the norm."""
        return float(torch.nn.utils.clip_grad_norm_(parameters, most))

    def gather(self, value: T) -> list[T]:
        """Each rank's value, on every rank."""
        return [value]

    def gather_beside(self, value: T) -> list[T]:
        """As :meth:`gather`, for the thread that writes checkpoints beside training, however long it takes."""
        return [value]

    def broadcast(self, value: T | None, source: int) -> T:
        """The value that rank ``source`` gave, on every rank."""
        assert value is not None
        return value

    def any(self, value: bool) -> bool:
        """Whether it is true on any rank."""
        return value

    def from_main(self, make: Callable[[], T]) -> T:
        """What ``make`` returns on rank 0, on every rank; the others wait, however long it takes.

        A :class:`UserError` is raised by rank 0 alone, and ends the others without a word.
        """
        return make()


class TorchRanks(OneProcess):
    """Ranks of torch.distributed: gloo on CPUs, NCCL on GPUs. See :func:`start`."""

    shards = True

    def __init__(self, degrees: Degrees, device: torch.device, dispatcher: str, timeout: timedelta) -> None:
        from .sharding import Meshes

        self.rank, self.world_size, self.degrees = dist.get_rank(), dist.get_world_size(), degrees
        self.device = device
        self.meshes = Meshes.build(degrees, device.type)
        for group in (*self.meshes.groups(), dist.group.WORLD):
            # a mesh's groups would wait for torch's default, 10 or 30 minutes
            dist.distributed_c10d._set_pg_timeout(timeout, group)
        self.dispatches = degrees.expert > 1 or dispatcher == "all_to_all"
        self._patient = dist.new_group(backend="gloo", timeout=PATIENCE)
        self._beside = dist.new_group(backend="gloo", timeout=PATIENCE)

    def shard(self, model: nn.Module, units: list[nn.Module], forward_methods: Iterable[str]) -> None:
        """See :class:`OneProcess`."""
        from .sharding import shard

        shard(model, units, forward_methods, self.meshes, self.device, dispatches=self.dispatches)

    def sum_over_ranks(self, tensors: list[Tensor]) -> None:
        """See :class:`OneProcess`."""
        if not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))

    def reduce_gradients(self, parameters: list[nn.Parameter]) -> None:
        """See :class:`OneProcess`."""
        sum_replicated_gradients(parameters, self.sum_over_ranks)

    def clip_grad_norm_(self, parameters: list[nn.Parameter], most: float) -> float:
        """See :class:`OneProcess`."""
        return clip_sharded_grad_norm_(parameters, most, self.world_size)

    def gather(self, value: T) -> list[T]:
        """See :class:`OneProcess`."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def gather_beside(self, value: T) -> list[T]:
        """See :class:`OneProcess`."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._beside)
        return values

    def broadcast(self, value: T | None, source: int) -> T:
        """See :class:`OneProcess`."""
        values: list[Any] = [value]
        dist.broadcast_object_list(values, source)
        return values[0]

    def any(self, value: bool) -> bool:
        """See :class:`OneProcess`."""
        votes = torch.tensor(int(value))
        dist.all_reduce(votes)
        return bool(votes)

    def from_main(self, make: Callable[[], T]) -> T:
        """See :class:`OneProcess`."""
        answer: list[Any] = [None, False]
        error: UserError | None = None
        if self.is_main:
            try:
                answer[0] = make()
            except UserError as raised:
                error, answer[1] = raised, True
        dist.broadcast_object_list(answer, 0, group=self._patient)
        if error is not None:
            raise error
        if answer[1]:
            raise SystemExit(2)
        return answer[0]


def launched() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, started this process."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


@contextmanager
def start(config: ParallelConfig, slots: int, device: str = "auto") -> Iterator[tuple[OneProcess, str]]:
    """The engine of this process and the device it uses; what was started is ended.

    Without a launcher it is :class:`OneProcess`, with no process group. ``slots``: expert slots of a layer.
    Raises ConfigError for degrees that do not fit the number of ranks, UserError where DeepSpeed is needed and missing.
    """
    if config.engine == "deepspeed":
        check_deepspeed()  # one process does without, but the run was meant for several
    if not launched():
        config.degrees(1, slots)
        if config.offload:
            raise UserError(
                "parallel.offload (true) needs DeepSpeed's processes, also for one GPU. Start the command with "
                "torchrun --nproc-per-node 1 -m timeexpert, or set parallel.offload to false."
            )
        yield OneProcess(), device
        return
    ranks, local = int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0"))
    degrees = config.degrees(ranks, slots, int(os.environ.get("LOCAL_WORLD_SIZE", ranks)))
    place = _device(device, local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo", timeout=JOINING)
    try:
        yield _ranks(config, degrees, place), str(place)
        dist.barrier()  # a rank that leaves early would break the others' connections
    finally:
        dist.destroy_process_group()


def _ranks(config: ParallelConfig, degrees: Degrees, place: torch.device) -> TorchRanks:
    timeout = timedelta(seconds=config.timeout_s)
    if config.engine == "torch":
        return TorchRanks(degrees, place, config.dispatcher, timeout)
    from .zero import ZeroRanks

    assert config.zero is not None
    return ZeroRanks(degrees, place, timeout, stage=config.zero, offload=config.offload)


def check_deepspeed() -> None:
    """Raise a UserError where DeepSpeed is not installed."""
    if find_spec("deepspeed") is None:
        raise UserError(
            "parallel.engine ('deepspeed') needs DeepSpeed, which is not installed. Install it: DS_BUILD_OPS=0 pip "
            "install -e '.[deepspeed]'; or set parallel.engine to 'torch'."
        )


def _device(name: str, local: int) -> torch.device:
    """The GPU of this rank on its node, or what was asked for."""
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        if local >= torch.cuda.device_count():
            raise UserError(
                f"rank {local} of this node needs a GPU of its own, and there are {torch.cuda.device_count()}. Start "
                "torchrun with --nproc-per-node at most that, or give --device cpu."
            )
        name = f"cuda:{local}"
    device = torch.device("cpu" if name == "auto" else name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
