"""Loads planned batches in worker processes, in the plan's order, with a state after each."""

from __future__ import annotations

import re
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import Any, Generic, Literal, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.signal_handling import _remove_worker_pids

from timeexpert.errors import UserError

from .mixture import BatchPlanner, SampleRef

B = TypeVar("B")
_WORKER_DEATH = re.compile(r"DataLoader worker.*(killed by signal|exited unexpectedly)")


MOST_AHEAD = 4  # batches; more smooth nothing further


def batches_ahead(batch_bytes: int, num_workers: int, memory_bytes: int) -> int:
    """The ``prefetch`` of :class:`PlannedLoader` whose batches take at most ``memory_bytes`` while they wait; 1 or
    more, and at most :data:`MOST_AHEAD`."""
    return max(1, min(MOST_AHEAD, memory_bytes // max(1, batch_bytes * max(1, num_workers))))


class LoaderError(UserError):
    """A batch that could not be loaded, or a worker that died."""


class PlannedLoader(Generic[B]):
    """Endless iterator over (batch, state after it).

    Batches are planned in this process and loaded by ``load_batch(refs)`` in ``num_workers`` processes (0: here),
    each up to ``prefetch`` batches ahead. Order and content do not depend on ``num_workers``. ``state`` is what
    ``load_state_dict`` of a loader or planner takes to go on with exactly the next batch; iterating again goes on
    after the last batch that was handed out, whatever had been loaded ahead.

    With data parallelism every rank makes the same plan and loads its own share: of each ``world_size`` consecutive
    batches rank r loads the r-th, and the state is the one after all of them (``round_states`` has the one after
    each). A saved state is therefore good for any world size.

    ``start_method="fork"`` needs ``load_batch`` to open its files lazily (:class:`~.shards.ShardDataset` does) and
    not to touch a GPU; ``"spawn"`` needs it to pickle. A :class:`UserError` of ``load_batch`` is raised here as a
    :class:`LoaderError` with the same message, any other exception with its type and the worker's traceback. Workers
    end with the iterator, and within seconds of this process; they ignore SIGINT and SIGTERM, which a terminal or a
    scheduler sends to the whole process group: the parent decides when to stop, and needs batches until then.
    """

    def __init__(
        self,
        planner: BatchPlanner,
        load_batch: Callable[[list[SampleRef]], B],
        num_workers: int = 0,
        prefetch: int = 2,
        *,
        rank: int = 0,
        world_size: int = 1,
        start_method: Literal["fork", "spawn"] = "fork",
    ) -> None:
        if num_workers < 0 or prefetch < 1:
            raise UserError(f"num_workers ({num_workers}) must be >= 0 and prefetch ({prefetch}) >= 1.")
        if not 0 <= rank < world_size:
            raise UserError(f"rank ({rank}) must be at least 0 and below world_size ({world_size}).")
        self.planner, self.load_batch = planner, load_batch
        self.num_workers, self.prefetch = num_workers, prefetch
        self.rank, self.world_size, self.start_method = rank, world_size, start_method
        self.state = planner.state_dict()
        self.round_states: list[dict[str, Any]] = []  # after each batch of the round last handed out

    def state_dict(self) -> dict[str, Any]:
        """The state after the last batch that was handed out (not after those loaded ahead)."""
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after ``state``. Raises :class:`~.mixture.MixtureError` when the data have changed."""
        self.planner.load_state_dict(state)
        self.state = self.planner.state_dict()

    def __iter__(self) -> Generator[tuple[B, dict[str, Any]], None, None]:
        self.planner.load_state_dict(self.state)
        states: deque[list[dict[str, Any]]] = deque()
        loader = DataLoader(
            _Batches(self.load_batch),
            batch_size=None,
            sampler=_Plan(self, states),
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch if self.num_workers else None,
            multiprocessing_context=self.start_method if self.num_workers else None,
            collate_fn=_unchanged,
            worker_init_fn=_leave_signals_to_the_parent,
            generator=torch.Generator(),  # else each start draws from the global one, and training would not repeat
        )
        batches = iter(loader)
        if self.num_workers:
            _ask_instead_of_interrupting(batches)
        # Also at the exit of a process in which something still holds this iterator (the frames of an error do), and
        # there before its queues close (priority 10): workers that are not told to end are waited for, 5 s each.
        end = Finalize(None, _end_workers, (batches,), exitpriority=20) if self.num_workers else None
        try:
            while True:
                batch = self._next(batches)
                self.round_states = states.popleft()
                self.state = self.round_states[-1]
                yield batch, self.state
        finally:
            if end is not None:
                end()

    def _next(self, batches: Iterator[Any]) -> B:
        try:
            batch = next(batches)
        except (RuntimeError, ConnectionError, EOFError) as error:
            # A dead worker shows as torch's RuntimeError, or as a lost connection while a tensor is fetched from it.
            if isinstance(error, RuntimeError) and not _WORKER_DEATH.search(str(error)):
                raise
            raise LoaderError(
                f"a data worker died ({error}), usually because memory ran out. "
                f"Lower num_workers ({self.num_workers}) or prefetch ({self.prefetch})."
            ) from error
        if isinstance(batch, _Refused):
            raise LoaderError(batch.message)
        return batch


class _Plan:
    """Each rank's batches, in order; the states of each round go to ``states`` as it is planned."""

    def __init__(self, loader: PlannedLoader[Any], states: deque[list[dict[str, Any]]]) -> None:
        self.loader, self.states = loader, states

    def __iter__(self) -> Iterator[list[SampleRef]]:
        planner = self.loader.planner
        while True:
            batches = [planner.next() for _ in range(self.loader.world_size)]
            self.states.append([batch.state for batch in batches])
            yield batches[self.loader.rank].refs


class _Batches(Dataset):
    """What the workers hold: a batch by its draws."""

    def __init__(self, load_batch: Callable[[list[SampleRef]], Any]) -> None:
        self.load_batch = load_batch

    def __getitem__(self, refs: list[SampleRef]) -> Any:
        try:
            return self.load_batch(refs)
        except UserError as error:
            return _Refused(str(error))  # raised by the other side: torch would put a traceback into the message


@dataclass(frozen=True)
class _Refused:
    message: str


def _unchanged(batch: Any) -> Any:
    return batch


def _ask_instead_of_interrupting(batches: Any) -> None:
    """Of a dead worker, let torch tell whoever asks for the next batch (it looks every 5 s), and nobody else.

    Its handler of SIGCHLD raises the error wherever this process happens to be: in a training step, in a destructor,
    in the clean-up after the same death.
    """
    if batches._worker_pids_set:
        _remove_worker_pids(id(batches))
        batches._worker_pids_set = False


def _end_workers(batches: Any) -> None:
    """Python itself would send SIGTERM to workers that are left, which they ignore, and wait for them for ever."""
    batches._shutdown_workers()
    for worker in batches._workers:
        worker.kill()


def _leave_signals_to_the_parent(worker: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # called after torch has set its own handler of SIGTERM
        signal.signal(number, signal.SIG_IGN)
