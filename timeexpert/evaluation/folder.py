"""An evaluation folder: answers kept as they come, so that a stopped evaluation goes on where it was.

``settings.json`` says what was asked of what; ``predictions.jsonl`` holds the answers of rank 0 as they come, and of
all ranks, in the order of the questions, once every question is answered. ``predictions.rank-N.jsonl`` exist while
ranks answer. ``metrics.json`` and ``report.html`` are made from the answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from timeexpert.data.lock import locked
from timeexpert.data.records import Sample

from .errors import EvaluationError
from .records import Answer, answer_of_row, answer_row

PREDICTIONS, SETTINGS, METRICS, REPORT = "predictions.jsonl", "settings.json", "metrics.json", "report.html"


class EvaluationFolder:
    """One evaluation in ``path``. Rank 0 opens and merges; every rank appends to a file of its own."""

    def __init__(self, path: Path, rank: int = 0) -> None:
        self.path, self.rank = path, rank

    @property
    def predictions(self) -> Path:
        """Where the answers are."""
        return self.path / PREDICTIONS

    @contextmanager
    def opened(self, settings: Mapping[str, Any]) -> Iterator[set[str]]:
        """Lock the folder and yield the ids that are answered already.

        Raises :class:`EvaluationError` where it cannot be written, was begun with other settings, or is in use.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = locked(self.path, "evaluation", EvaluationError)
            lock.__enter__()
        except OSError as error:
            raise EvaluationError(f"{self.path}: cannot be written: {error.strerror}. Choose another -o.") from None
        try:
            self._settle(settings)
            yield set(self.rows())
        finally:
            lock.__exit__(None, None, None)

    def _settle(self, settings: Mapping[str, Any]) -> None:
        path = self.path / SETTINGS
        if not path.is_file():
            if self.predictions.exists():
                raise EvaluationError(f"{self.path}: holds {PREDICTIONS} but no {SETTINGS}. Give another -o.")
            with writing(self.path):
                write_json(path, dict(settings))
            return
        try:
            begun = json.loads(path.read_text(encoding="utf-8"))
            differing = [name for name in {**begun, **settings} if begun.get(name) != settings.get(name)]
        except (OSError, ValueError, TypeError) as error:
            raise EvaluationError(f"{path}: cannot be read: {error}. Give another -o.") from None
        if differing:
            told = "; ".join(f"{n} ({begun.get(n)!r}), now {settings.get(n)!r}" for n in differing)
            raise EvaluationError(f"{self.path}: was begun with another {told}. Give another -o, or delete the folder.")

    def rows(self) -> dict[str, dict[str, Any]]:
        """Every kept answer by its question's id. A torn last line is cut off: its question is asked again."""
        found: dict[str, dict[str, Any]] = {}
        for path in [self.predictions, *sorted(self.path.glob("predictions.rank-*.jsonl"))]:
            if path.is_file():
                found.update((row["id"], row) for row in _read(path))
        return found

    def append(self, samples: Sequence[Sample], answers: Sequence[Answer]) -> None:
        """Keep a batch of this rank: on disk when this returns."""
        path = self.predictions if self.rank == 0 else self.path / f"predictions.rank-{self.rank}.jsonl"
        lines = "".join(
            json.dumps(answer_row(s, a), allow_nan=False) + "\n" for s, a in zip(samples, answers, strict=True)
        )
        with writing(self.path), open(path, "ab") as out:
            out.write(lines.encode("utf-8"))
            out.flush()
            os.fsync(out.fileno())

    def merge(self, samples: Sequence[Sample]) -> list[Answer]:
        """The answers to ``samples``, which ``predictions.jsonl`` then holds in their order; rank files are removed."""
        rows = self.rows()
        lacking = [sample.id for sample in samples if sample.id not in rows]
        if lacking:
            raise EvaluationError(
                f"{self.path}: {len(lacking)} questions have no answer, {lacking[0]!r} among them. All ranks must "
                "write to one folder: give -o on a file system that they share, and start the command again."
            )
        temporary = self.predictions.with_suffix(".part")
        with writing(self.path):
            with open(temporary, "w", encoding="utf-8") as out:
                for sample in samples:
                    out.write(json.dumps(rows[sample.id], allow_nan=False) + "\n")
            os.replace(temporary, self.predictions)
        for path in self.path.glob("predictions.rank-*.jsonl"):
            path.unlink()
        return [answer_of_row(rows[sample.id]) for sample in samples]


def _read(path: Path) -> Iterator[dict[str, Any]]:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    lines = data[:whole].split(b"\n")[:-1]
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            row["id"], answer_of_row(row)
        except (ValueError, TypeError, KeyError, EvaluationError) as error:
            if number == len(lines):  # a machine that went down may leave a whole line of other bytes
                os.truncate(path, whole - len(line) - 1)
                return
            raise EvaluationError(
                f"{path}:{number}: not an answer ({error}). Delete this line: it is asked again."
            ) from None
        yield row


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise :class:`EvaluationError` where what is written below ``folder`` cannot be: a full disk, a name in use."""
    try:
        yield
    except OSError as error:
        place = error.filename2 or error.filename or folder
        raise EvaluationError(
            f"{place}: cannot be written: {error.strerror}. Make room for it, or choose another -o."
        ) from None


def write_json(path: Path, value: Any) -> None:
    """JSON in a file, atomically."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
