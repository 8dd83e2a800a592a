"""Worker processes for work on files that nobody vouches for: results in order, crashes and hangs contained."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from timeexpert.errors import UserError

R = TypeVar("R")
_SPAWN = multiprocessing.get_context("spawn")  # fork would copy threads' locks (a progress bar's) in any state


def workers_or_default(workers: int | None) -> int:
    """``workers``, or where none are named one for each core that this process may use, at most 8."""
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none
    return min(8, cores)


def check_pool(workers: int, timeout_s: float) -> None:
    """Raises ``UserError`` where no :class:`WorkerPool` can be made of these; for work that may need none."""
    if workers < 1:
        raise UserError(f"workers ({workers}) must be >= 1.")
    if not timeout_s > 0:
        raise UserError(f"timeout_s ({timeout_s}) must be > 0.")


@dataclass(frozen=True)
class Failed:
    """A task without a result: the file was refused, or the worker crashed or took too long."""

    reason: str
    kind: str = field(default="refused", compare=False)  # or "crash", "timeout", "memory"

    def about(self, name: str) -> str:
        """The reason, with the file's name in front unless it begins with it."""
        return self.reason if self.reason.startswith(name) else f"{name}: {self.reason}"


class WorkerPool(Generic[R]):
    """``workers`` processes that run ``function(*task)``. Use as a context manager; leaving it ends them.

    A task that raises, crashes its process (a decoder's segmentation fault) or runs longer than ``timeout_s`` gives
    :class:`Failed`; the process is replaced and the others go on. Workers also end when this process is killed.

    ``max_memory_bytes``: address space that a worker may take beyond what its libraries take (Linux: RLIMIT_AS of
    setrlimit(2)). A task that needs more gives :class:`Failed` too.
    """

    def __init__(
        self, function: Callable[..., R], workers: int, timeout_s: float, max_memory_bytes: int | None = None
    ) -> None:
        check_pool(workers, timeout_s)
        if max_memory_bytes is not None and max_memory_bytes < 1:
            raise UserError(f"max_memory_bytes ({max_memory_bytes}) must be >= 1.")
        self.timeout_s = timeout_s
        self._workers = [_Worker(function, max_memory_bytes) for _ in range(workers)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for worker in self._workers:
            worker.stop()

    def map(self, tasks: Iterable[tuple[Any, ...]]) -> Iterator[R | Failed]:
        """One result per task, in the order of ``tasks``, which are read a few ahead of the result awaited."""
        source = enumerate(tasks)
        order: deque[int] = deque()
        done: dict[int, R | Failed] = {}
        exhausted = False
        while True:
            for worker in self._workers:
                if worker.task is None and not exhausted and len(order) < 4 * len(self._workers):
                    number, task = next(source, (-1, ()))
                    if number < 0:
                        exhausted = True
                        break
                    worker.start(number, task)
                    order.append(number)
            if not order:
                return
            if order[0] in done:
                yield done.pop(order.popleft())
                continue
            for worker in self._finished():
                finished = worker.task
                assert finished is not None
                done[finished] = worker.result(self.timeout_s)

    def as_finished(self, tasks: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, R | Failed]]:
        """(number of the task, result) as each ends: a slow task holds up none but itself."""
        source = enumerate(tasks)
        while True:
            for worker in self._workers:
                if worker.task is None:
                    number, task = next(source, (-1, ()))
                    if number < 0:
                        break
                    worker.start(number, task)
            if all(worker.task is None for worker in self._workers):
                return
            for worker in self._finished():
                finished = worker.task
                assert finished is not None
                yield finished, worker.result(self.timeout_s)

    def _finished(self) -> list[_Worker]:
        """Wait until a busy worker has a result, has died, or is out of time."""
        busy = [w for w in self._workers if w.task is not None]
        left = min(w.started + self.timeout_s for w in busy) - time.monotonic()
        ready = wait([w.connection for w in busy if w.connection], timeout=max(left, 0))
        late = time.monotonic() - self.timeout_s
        return [w for w in busy if w.connection in ready or w.started <= late]


class _Worker:
    """One process and its pipe; started with the first task, and again after a crash."""

    def __init__(self, function: Callable[..., Any], max_memory_bytes: int | None) -> None:
        self.function, self.max_memory_bytes = function, max_memory_bytes
        self.process: Any = None
        self.connection: Connection | None = None
        self.task: int | None = None
        self.started = 0.0

    def start(self, number: int, task: tuple[Any, ...]) -> None:
        """Send ``task`` to the process, which is started where there is none."""
        if self.connection is None:
            self.connection, theirs = _SPAWN.Pipe()
            self.process = _SPAWN.Process(
                target=_serve, args=(self.function, theirs, self.max_memory_bytes), daemon=True
            )
            self.process.start()
            theirs.close()  # so that the end of the process is the end of the pipe
        self.task, self.started = number, time.monotonic()
        try:
            self.connection.send(task)
        except BrokenPipeError:
            pass  # it died between two tasks: the pipe's end says so to result()

    def result(self, timeout_s: float) -> Any:
        """What the task gave, or :class:`Failed` where the process died or said nothing; it is ended then."""
        assert self.connection is not None
        if not self.connection.poll():
            self.stop()
            return Failed(f"took longer than {timeout_s:g} s", "timeout")
        try:
            result = self.connection.recv()
            self.task = None
            if isinstance(result, Failed) and result.kind == "memory":
                self.stop()  # what it could not free would be missing in the next task
            return result
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            self.stop()
            how = signal.Signals(-code).name if code < 0 else f"exit {code}"
            return Failed(f"crashed the worker ({how})", "crash")

    def stop(self) -> None:
        if self.connection is not None:
            self.connection.close()
            if self.process.pid is not None:  # it may never have started
                self.process.kill()
                self.process.join()
            self.connection = self.task = None


def _serve(function: Callable[..., Any], connection: Connection, max_memory_bytes: int | None) -> None:
    """Run tasks until the other end of the pipe closes, as it does when its process is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    if max_memory_bytes is not None:
        _limit_memory(max_memory_bytes)
    try:
        while True:
            task = connection.recv()
            try:
                connection.send(_result(function, task))
            except MemoryError:  # also where the result is copied to be sent
                connection.send(Failed(f"needs more than {(max_memory_bytes or 0) >> 20} MiB of memory", "memory"))
    except (EOFError, OSError):
        return


def _result(function: Callable[..., Any], task: tuple[Any, ...]) -> Any:
    try:
        return function(*task)
    except UserError as error:
        return Failed(str(error))
    except MemoryError:
        raise
    except Exception as error:
        return Failed(f"unexpected {type(error).__name__}: {error}", "crash")


def _limit_memory(more_bytes: int) -> None:
    statm = Path("/proc/self/statm")
    if not statm.exists():  # only Linux says what is taken already
        return
    pages = int(statm.read_text().split()[0])
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + more_bytes
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # crashes of decoders leave no files behind


def memory_is_used_up(margin_bytes: int = 64 * 2**20) -> bool:
    """Whether this worker came within ``margin_bytes`` of its limit.

    Some of FFmpeg's decoders say "invalid data" where they got no memory (h264, FFmpeg 8), so damage may be none.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/status")
    if limit == resource.RLIM_INFINITY or not status.exists():
        return False
    (peak,) = re.findall(r"VmPeak:\s+(\d+) kB", status.read_text())
    return limit - int(peak) * 1024 < margin_bytes
