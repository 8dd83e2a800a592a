"""A progress bar on the terminal for work that reports (done, total, name)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def shown(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int, str], None] | None]:
    """Yields a callback that moves a bar on stderr, or ``None`` when ``quiet``."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{what}: {escape(name[-40:])}")

        yield update
