"""Ranks that train together: real processes with gloo, forked from one server that has imported torch already."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.ranks", "timeexpert.stages.train", "timeexpert.parallel.sharding"])

needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed: DS_BUILD_OPS=0 pip install -e '.[deepspeed]'"
)


def run_ranks(world_size: int, job: Callable[..., Any], *args: Any, patience_s: float = 1800.0) -> list[Any]:
    """What ``job(*args)`` returns on each of ``world_size`` ranks; the traceback of the first that fails.

    ``job`` is a function of a module, and its results pickle. It is started as torchrun would start it.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the server, which starts with the first process
    port = free_port()
    pipes = [_SERVER.Pipe(duplex=False) for _ in range(world_size)]
    processes = [
        _SERVER.Process(target=_run, args=(job, args, rank, world_size, port, pipes[rank][1]), daemon=True)
        for rank in range(world_size)
    ]
    try:
        for process in processes:
            process.start()
        results = _results([receive for receive, _ in pipes], patience_s)
        for process in processes:
            process.join(patience_s)
            assert process.exitcode == 0, f"a rank ended with {process.exitcode} after its work"
        return results
    finally:
        for process in processes:
            process.kill()


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _results(pipes: list[Connection], patience_s: float) -> list[Any]:
    results: dict[int, Any] = {}
    deadline = time.monotonic() + patience_s
    while len(results) < len(pipes):
        ready = wait([p for i, p in enumerate(pipes) if i not in results], max(0.0, deadline - time.monotonic()))
        assert ready, f"only ranks {sorted(results)} of {len(pipes)} ended within {patience_s} s"
        for pipe in ready:
            rank = next(i for i, p in enumerate(pipes) if p is pipe)
            # by value: the pipe's own pickler would leave tensors with the rank, which may have ended
            results[rank], error = pickle.loads(pipe.recv_bytes())  # type: ignore[union-attr]
            assert error is None, f"rank {rank}:\n{error}"
    return [results[rank] for rank in range(len(pipes))]


def _run(job: Callable[..., Any], args: tuple[Any, ...], rank: int, world_size: int, port: int, pipe: Any) -> None:
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in {**here, **where}.items()})
    try:
        answer = job(*args), None
    except BaseException:
        answer = None, traceback.format_exc()
    pipe.send_bytes(pickle.dumps(answer))


def train_ranks(config: Any, out: Path, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """A job: train a RunConfig on these ranks, as ``timeexpert train`` does; returns rank 0's summary."""
    import torch
    from rich.console import Console

    from timeexpert.parallel import start
    from timeexpert.stages.run_folder import ForeignRunFolder, RunFolder
    from timeexpert.stages.train import Trainer

    torch.set_num_threads(1)
    with start(config.parallel, config.model.expert_slots, "cpu") as (engine, device):
        folder = RunFolder(out) if engine.is_main else ForeignRunFolder(out)
        with folder.locked():
            return Trainer(config, folder, device, Console(quiet=True), engine).execute(only)


def cut(job: Callable[..., Any], *args: Any) -> Any:
    """A job: the given one with every weight spread by ZeRO-3, also those that are too small to be worth it."""
    from timeexpert.parallel import zero

    zero.PERSISTENT_NUMEL = 0
    return job(*args)
