"""What an optimizer step spends its time on, on this rank and on the slowest one."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from timeexpert.moe.dispatch import EXCHANGED
from timeexpert.parallel import OneProcess
from timeexpert.timing import Stopwatch

# "all_to_all" is part of forward and backward; what is left of a step is writing records and checkpoints
PIECES = ("data", "forward", "backward", "optimizer")
SLOW = 1.5  # a rank is a straggler from so many times the median
LEAST_S = 0.01  # and from so many seconds per step above it
PROBE_SIZE, PROBE_REPEATS = 256, 8


class StepClock:
    """Seconds per step of each piece, between two calls of :meth:`take`."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.device = device
        self._pieces = {name: Stopwatch() for name in PIECES}
        self._steps, self._tokens, self._samples, self._rank_tokens = 0, 0, 0, 0
        self._began = time.monotonic()
        self.take()  # an earlier stage may have left something

    def piece(self, name: str) -> AbstractContextManager[None]:
        """Time a piece of a step."""
        return self._pieces[name].running(self.on_gpu and name != "data")

    def end_step(self, tokens: int, samples: int, rank_tokens: int) -> None:
        """A step of ``tokens`` and ``samples`` on all ranks is done, ``rank_tokens`` of them on this one."""
        self._steps += 1
        self._tokens += tokens
        self._samples += samples
        self._rank_tokens += rank_tokens

    def take(self) -> dict[str, Any]:
        """``seconds`` per step of each piece, rates, and per step the bytes this rank sent to other ranks' experts."""
        steps, elapsed = max(1, self._steps), time.monotonic() - self._began
        seconds = {name: watch.take() / steps for name, watch in self._pieces.items()}
        exchanged_s, exchanged = EXCHANGED.take()
        out = {
            "steps": steps,
            "tokens_per_s": self._tokens / elapsed,
            "samples_per_s": self._samples / elapsed,
            "rank_tokens": self._rank_tokens / steps,
            "seconds": {**seconds, "all_to_all": exchanged_s / steps, "step": elapsed / steps},
            "all_to_all_bytes": exchanged / steps,
        }
        self._steps, self._tokens, self._samples, self._rank_tokens = 0, 0, 0, 0
        self._began = time.monotonic()
        return out

    @torch.no_grad()
    def probe(self) -> float:
        """Seconds of a small fixed piece of work: more on a device that is slower than the others."""
        x = torch.ones(PROBE_SIZE, PROBE_SIZE, device=self.device)
        watch, best = Stopwatch(), float("inf")
        for _ in range(PROBE_REPEATS):  # the best: an interruption is not slowness
            with watch.running(self.on_gpu):
                x = (x @ x).clamp_(max=1.0)
            best = min(best, watch.take())
        return best


@dataclass(frozen=True)
class Straggler:
    """A rank that the others wait for. ``why``: reading its data, or its device."""

    rank: int
    host: str
    why: str
    seconds: float
    median_s: float

    def __str__(self) -> str:
        what = "reads its data" if self.why == "data" else "computes a fixed probe"
        return (
            f"rank {self.rank} on {self.host} {what} in {self.seconds:.4f} s, the median rank in "
            f"{self.median_s:.4f} s: all wait for it."
        )


def stragglers(hosts: Sequence[str], data_s: Sequence[float], probe_s: Sequence[float]) -> list[Straggler]:
    """Ranks whose data or whose probe take :data:`SLOW` times the median (data: and :data:`LEAST_S` more)."""
    found = []
    for why, values, least in (("data", data_s, LEAST_S), ("device", probe_s, 0.0)):
        median = statistics.median_low(values)
        for rank, value in enumerate(values):
            if value > SLOW * median and value - median > least:
                found.append(Straggler(rank, hosts[rank], why, value, median))
    return found


def over_ranks(
    engine: OneProcess, rank_tokens: float, reading_s: float, probe_s: float
) -> tuple[dict[str, Any], list[Straggler]]:
    """How evenly the ranks work: tokens of the fullest over the mean, and who is waited for. A collective."""
    told = engine.gather((platform.node(), rank_tokens, reading_s, probe_s))
    hosts, tokens, data_s, probes = (list(column) for column in zip(*told, strict=True))
    mean = statistics.fmean(tokens)
    row = {"token_imbalance": max(tokens) / mean if mean else 1.0, "reading_s": data_s, "probe_s": probes}
    return row, stragglers(hosts, data_s, probes)


def profiler(
    path: Path, device: torch.device, steps: int, console: Console
) -> AbstractContextManager[torch.profiler.profile | None]:
    """Operators of ``steps`` steps after the first two, for Perfetto or chrome://tracing; the longest are printed."""
    if not steps:
        return nullcontext()
    on_gpu = device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_gpu else [])]

    def write(profile: torch.profiler.profile) -> None:
        path.parent.mkdir(exist_ok=True)
        profile.export_chrome_trace(str(path))
        by = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
        console.print(profile.key_averages().table(sort_by=by, row_limit=15), markup=False, highlight=False)
        console.print(f"profile of {steps} steps: {path}", highlight=False, soft_wrap=True)

    schedule = torch.profiler.schedule(wait=1, warmup=1, active=steps, repeat=1)
    return torch.profiler.profile(activities=kinds, schedule=schedule, on_trace_ready=write)
