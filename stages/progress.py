"""What a person sees while a stage runs: a bar with rate and time left, or a line now and then without a terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

QUIET_EVERY_S = 15.0


class StageProgress:
    """Progress of one stage from step ``start`` to ``steps``."""

    def __init__(self, console: Console, stage: str, start: int, steps: int) -> None:
        self.console, self.stage, self.start, self.steps = console, stage, start, steps
        self.began = self.said = time.monotonic()
        self.bar: Progress | None = None
        if console.is_terminal:
            self.bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
            self.task = self.bar.add_task(stage, total=steps, completed=start, figures="")

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, done: int, loss: float, tokens_per_s: float) -> None:
        """``done`` steps are finished."""
        now = time.monotonic()
        rate = (done - self.start) / max(1e-9, now - self.began)
        figures = f"loss {loss:.3f}  {rate:.1f} steps/s  {tokens_per_s:,.0f} tokens/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=done, figures=figures)
        elif now - self.said >= QUIET_EVERY_S or done == self.steps:
            self.said = now
            left = (self.steps - done) / max(1e-9, rate)
            self.console.print(f"{self.stage}  {done}/{self.steps}  {figures}  {left:.0f} s left", highlight=False)
