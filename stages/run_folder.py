"""A run folder: config, metrics, checkpoints, finished models. One process at a time writes into it."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from timeexpert import __version__
from timeexpert.checkpoint import CheckpointError, recover, verify
from timeexpert.config import dump, load, to_tree
from timeexpert.errors import UserError

from .config import RunConfig

# What may differ when a run is continued: it changes speed or reports, never the weights. A * is the name of a stage.
FREE_KEYS: tuple[str, ...] = (
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.async_checkpoints",
    "train.log_every",
    "train.log_samples",
    "train.experts_every",
    "data.num_workers",
    "data.cache_gib",
    "data.prefetch_gib",
    "data.root",
    "parallel.engine",
    "parallel.zero",
    "parallel.offload",
    "parallel.dispatcher",
    "parallel.data",
    "parallel.shard",
    "parallel.expert",
    "parallel.timeout_s",
    *(f"stages.*.rl.rollouts.{name}" for name in ("url", "weights", "key_env", "timeout_s", "concurrency")),
)


class RunError(UserError):
    """A run folder that cannot be used: another process writes into it, or its config is another one."""


class RunFolder:
    """Paths and records of one run. ``metrics.jsonl`` is append-only but for the rows a kill made stale."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metrics = self.path / "metrics.jsonl"
        self.dropped = self.path / "dropped.jsonl"
        self.times = self.path / "times.jsonl"
        self.speed = self.path / "speed.jsonl"
        self.samples = self.path / "samples.jsonl"
        self.rollouts = self.path / "rollouts.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.models = self.path / "models"

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl of one kind, in their order."""
        if not self.metrics.is_file():
            return []
        rows = [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines() if line]
        return [row for row in rows if row["kind"] == kind]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process. Raises :class:`RunError` when another one has it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / ".lock", "a+", encoding="utf-8")
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunError(f"{self.path}: not a usable run folder: {reason}. Choose another with --out.") from None
        with lock as file:
            try:
                # lockf, not flock: data workers would inherit that and hold it for seconds after a kill
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise RunError(
                    f"{self.path}: another process (pid {owner}) is writing into this run folder. "
                    "Wait for it, stop it, or choose another folder with --out."
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def settle(self, config: RunConfig) -> None:
        """Save the merged config; on a second start, check that nothing else was asked."""
        saved = self.path / "config.yaml"
        if saved.is_file():
            changes = list(_changes(config, saved))
            if changes:
                raise RunError(
                    f"{saved}: this folder holds a run with another config: {'; '.join(changes[:5])}. "
                    "Give the same settings to continue it, or another folder with --out."
                )
        else:
            temporary = saved.with_suffix(".part")
            temporary.write_text(dump(config), encoding="utf-8")
            os.replace(temporary, saved)

    def start(self, config: RunConfig) -> None:
        """Settle the config, tidy up after a kill, and note where this start came from."""
        self.settle(config)
        self.checkpoints.mkdir(exist_ok=True)
        self.models.mkdir(exist_ok=True)
        recover(self.checkpoints)
        recover(self.models)
        for file in (self.metrics, self.times, self.speed, self.samples, self.rollouts):
            self._keep(file, lambda row: True)  # drops a last line that a kill cut in half
        row = {"argv": sys.argv, "versions": versions(), "git": git_state(), "platform": platform.platform()}
        with open(self.path / "starts.jsonl", "a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")

    def record(self, row: dict[str, Any], file: Path | None = None) -> None:
        """Append one line to metrics.jsonl (what training did, the same for every run with one seed) or to ``file``.

        ``speed`` takes what clocks measured, ``samples`` the ids of what was trained on.
        """
        with open(file or self.metrics, "a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")

    @contextmanager
    def timed(self, what: str) -> Iterator[Callable[[], None]]:
        """Note the seconds that a piece of work took in times.jsonl, however it ends.

        Yields a function that notes the time so far: called at checkpoints, it saves it from a kill.
        """
        began = time.monotonic()

        def lap() -> None:
            nonlocal began
            now = time.monotonic()
            with open(self.times, "a", encoding="utf-8") as out:
                out.write(json.dumps({"what": what, "seconds": round(now - began, 3)}) + "\n")
            began = now

        try:
            yield lap
        finally:
            lap()

    def seconds(self) -> dict[str, float]:
        """Seconds spent on each piece of work, over all starts, in the order in which they began."""
        spent: dict[str, float] = {}
        if self.times.is_file():
            for row in map(json.loads, self.times.read_text(encoding="utf-8").splitlines()):
                spent[row["what"]] = spent.get(row["what"], 0.0) + row["seconds"]
        return {what: round(seconds, 1) for what, seconds in spent.items()}

    def forget_after(self, global_step: int, *, evals: bool) -> None:
        """Drop metric rows of steps that will be done again, and a line that a kill cut in half.

        ``evals``: whether evaluations recorded at exactly ``global_step`` are done again too.
        """

        def stays(row: dict[str, Any]) -> bool:
            again = evals and row.get("kind") == "eval" and row["global_step"] == global_step
            return bool(row["global_step"] <= global_step and not again)

        for file in (self.metrics, self.speed, self.samples, self.rollouts):
            self._keep(file, stays)

    def forget_dropped(self, stage: str, step: int) -> None:
        """Drop rows of dropped.jsonl that ``stage`` will write again, going on after ``step`` steps."""
        self._keep(self.dropped, lambda row: row["stage"] != stage or row["step"] < step)

    @staticmethod
    def _keep(file: Path, stays: Callable[[dict[str, Any]], bool]) -> None:
        """Rewrite a file of JSON lines with the rows that stay; a line that is not JSON was cut by a kill."""
        if not file.is_file():
            return
        temporary = file.with_suffix(".part")
        with (  # line by line: rollouts of a long run are many
            open(file, encoding="utf-8", errors="replace") as lines,
            open(temporary, "w", encoding="utf-8") as out,
        ):
            for line in lines:
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue
                if stays(row):
                    out.write(line if line.endswith("\n") else line + "\n")
        os.replace(temporary, file)

    def _checkpoints_of(self, stage: str) -> list[Path]:
        """Oldest first. Seven digits and no more: ``sft-2-0000010`` is none of stage ``sft``."""
        return sorted(self.checkpoints.glob(f"{stage}-{'[0-9]' * 7}"))

    def latest_checkpoint(self, stage: str) -> tuple[Path | None, list[str]]:
        """The newest undamaged checkpoint of a stage, and what was wrong with newer ones."""
        problems: list[str] = []
        for folder in reversed(self._checkpoints_of(stage)):
            try:
                verify(folder)
                return folder, problems
            except CheckpointError as error:
                problems.append(str(error))
        return None, problems

    def prune(self, stage: str, keep: int) -> None:
        """Remove all but the newest ``keep`` checkpoints of a stage."""
        found = self._checkpoints_of(stage)
        for folder in found[: max(0, len(found) - keep)]:
            shutil.rmtree(folder)


class ForeignRunFolder(RunFolder):
    """The run folder on a rank that only reads: rank 0 holds it and writes into it."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Rank 0 has the lock."""
        yield

    def record(self, row: dict[str, Any], file: Path | None = None) -> None:
        """Nothing."""

    @contextmanager
    def timed(self, what: str) -> Iterator[Callable[[], None]]:
        """Nothing."""
        yield lambda: None

    def forget_after(self, global_step: int, *, evals: bool) -> None:
        """Nothing."""

    def forget_dropped(self, stage: str, step: int) -> None:
        """Nothing."""

    def prune(self, stage: str, keep: int) -> None:
        """Nothing."""


def _changes(config: RunConfig, saved: Path) -> Iterator[str]:
    old = _flat(to_tree(load(RunConfig, saved)))
    new = _flat(to_tree(config))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key) and not any(fnmatchcase(key, free) for free in FREE_KEYS):
            yield f"{key} was {old.get(key)!r}, is {new.get(key)!r}"


def _flat(tree: Any, where: str = "") -> dict[str, Any]:
    if isinstance(tree, dict) and tree:
        return {k: v for key, node in tree.items() for k, v in _flat(node, f"{where}.{key}" if where else key).items()}
    if isinstance(tree, list) and tree and isinstance(tree[0], dict):
        return {k: v for i, node in enumerate(tree) for k, v in _flat(node, f"{where}.{node.get('name', i)}").items()}
    return {where: tree}


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    import numpy
    import torch
    import transformers

    return {
        "timeexpert": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
    }


def git_state() -> dict[str, Any] | None:
    """Commit and whether the tree differs from it; ``None`` outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
