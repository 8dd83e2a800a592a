"""Checkpoints of training, written while it goes on: every rank its own blocks, into one folder."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from timeexpert.parallel import OneProcess

from .folder import CheckpointError, abandon, begin, cannot_be_saved, checked, commit, filling
from .pieces import Staging, file_name, write_blocks
from .state import TRAINER_STATE


@dataclass(frozen=True)
class Saved:
    """What a save took. ``stalled_s``: how long training waited for it; ``size``: bytes that this rank wrote."""

    folder: Path
    stalled_s: float
    seconds: float
    size: int


class Saver:
    """Writes one checkpoint at a time, in a thread where ``background``; all ranks call each method together.

    The tensors are copied first, which is all that training waits for. The folder gets its name when all ranks have
    written their files and those are on the disk (:func:`.folder.write_folder`).
    """

    def __init__(self, engine: OneProcess, *, background: bool = True) -> None:
        self.engine, self.background = engine, background
        self._staging: dict[str, Staging] = {}
        self._thread: threading.Thread | None = None
        self._problem: Exception | SystemExit | None = None
        self._done: list[Saved] = []

    @property
    def failed(self) -> bool:
        """Whether a save in the background has failed on this rank: :meth:`wait` raises why."""
        return self._problem is not None

    def prepare(self, files: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Make room for copies of such ``files`` while training goes on: the first save is then as quick as others."""

        def work() -> None:
            for stem, tensors in files.items():
                self._stage(stem).reserve(tensors, main=self.engine.is_main)

        if self.background:
            self._begin(work)

    def save(
        self,
        folder: Path,
        files: Mapping[str, Mapping[str, Tensor]],
        state: dict[str, Any],
        fill: Callable[[Path], None],
        after: Callable[[], None],
    ) -> None:
        """Save ``files`` (stem -> tensors by name) and, on rank 0, ``state`` as trainer.json and what ``fill`` writes.

        ``after`` runs on rank 0 once the folder has its name. Raises what the save before failed with.
        """
        began = time.monotonic()
        self.wait()
        blocks = {stem: self._stage(stem).blocks(tensors, main=self.engine.is_main) for stem, tensors in files.items()}

        def write(root: Path) -> list[Path]:
            paths = []
            for stem, own in blocks.items():
                if own:
                    paths.append(root / file_name(stem, self.engine.rank, self.engine.world_size))
                    write_blocks(paths[-1], own)
            if self.engine.is_main:
                fill(root)
                (root / TRAINER_STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
            return paths

        copied_s = time.monotonic() - began
        size = sum(b.values.nbytes for own in blocks.values() for b in own.values())

        def work() -> None:
            try:
                self._problem = self._write(folder, write, after)
            except Exception as error:  # as when another rank is gone: raised where training will see it
                self._problem = error
            if self._problem is None:
                taken = time.monotonic() - began
                self._done.append(Saved(folder, copied_s if self.background else taken, taken, size))

        if self.background:
            self._begin(work)
        else:
            work()
            self.wait()

    def _stage(self, stem: str) -> Staging:
        return self._staging.setdefault(stem, Staging())

    def _begin(self, work: Callable[[], Any]) -> None:
        # no daemon: a process that ends by an error still writes what it has begun
        self._thread = threading.Thread(target=work, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until what was begun is written. If it failed, rank 0 raises :class:`CheckpointError`; others just end."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem

    def done(self) -> list[Saved]:
        """The saves that have ended since the last call."""
        done, self._done = self._done, []
        return done

    def _write(
        self, folder: Path, write: Callable[[Path], list[Path]], after: Callable[[], None]
    ) -> CheckpointError | SystemExit | None:
        """All ranks' files and then the folder's name; why it failed, if it did."""
        main, gather = self.engine.is_main, self.engine.gather_beside
        rows: dict[str, Any] = {}
        reason = ""
        try:
            if main:
                begin(folder)
        except OSError as error:
            reason = str(error)
        root = filling(folder)
        if not any(gather(reason)):
            try:
                if not root.is_dir():
                    raise OSError(f"rank {self.engine.rank} does not see it: all nodes need one shared file system")
                rows = checked(root, write(root))
            except (OSError, SafetensorError) as error:
                reason = str(error)
        told = gather((reason, rows))
        reason = next((said for said, _ in told if said), "")
        if main and not reason:
            try:
                rows = {name: row for _, own in told for name, row in own.items()}
                small = (p for p in root.rglob("*") if p.is_file() and str(p.relative_to(root)) not in rows)
                commit(folder, rows | checked(root, small))
                after()
            except OSError as error:
                reason = str(error)
        reason = gather(reason)[0]
        if not reason:
            return None
        if not main:
            return SystemExit(2)
        abandon(folder)
        return cannot_be_saved(folder, reason)
