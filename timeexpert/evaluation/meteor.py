"""METEOR 1.5 (Denkowski and Lavie, 2014): the published Java program aligns, numpy scores.

One process serves a whole evaluation. It is asked for statistics only (its ``SCORE`` line: what was matched, by
which stage); the score is computed here from them, with the program's own English parameters, so the score of a
corpus is the score of a sum of rows. Equal texts are asked once. The program is pycocoevalcap's
``meteor-1.5.jar`` with its ``data`` folder beside it.

Most of its start is its table of paraphrases, so it is given the entries that the texts can use (see
:mod:`.meteor_paraphrases`). Later texts that can use others start it again with those added, at most
``_STARTS`` times; then it takes the whole table.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import warnings
import weakref
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from .errors import EvaluationError, require_same_length
from .meteor_paraphrases import Paraphrases, TableError

JAR_VARIABLE = "TIMEEXPERT_METEOR_JAR"
VERSION = "METEOR 1.5 (meteor-1.5.jar, -l en -norm)"
INSTALL = (
    "METEOR needs Java 8 or newer and meteor-1.5.jar: `apt-get install default-jre-headless` (or any Java) and "
    f"`pip install 'timeexpert[eval]'`, or set {JAR_VARIABLE} to a meteor-1.5.jar with its data folder beside it."
)
COLUMNS = 6
_LINES_AT_ONCE = 2000
# The serial collector: other work wants the cores too. The first compiler alone: up to some 40,000 questions the second
# one costs more than it saves (5.4 against 9.2 CPU s for 7,400).
_JAVA = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_STARTS = 4  # with a part of the table, each about a tenth of reading the whole
_PART = "paraphrases.gz"
_NUMBERS = 23  # the program's statistics of one item
# Parameters of the program for English: weight of precision against recall, of fragmentation, of content words,
# and of the four ways to match (exact, stem, synonym, paraphrase).
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
_SEPARATOR = "|||"


class MeteorError(EvaluationError):
    """METEOR is not there, or stopped. The message says what to install or what it said last."""


def find_jar(jar: str | os.PathLike[str] | None = None) -> Path:
    """``jar``, else the path in the environment variable, else the one of an installed pycocoevalcap (not imported).

    Raises :class:`MeteorError` with what to install.
    """
    named = jar or os.environ.get(JAR_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise MeteorError(f"{named}: no such file. {INSTALL}")
        return Path(named).resolve()
    spec = find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        found = Path(folder) / "meteor" / "meteor-1.5.jar"
        if found.is_file():
            return found.resolve()
    raise MeteorError(f"meteor-1.5.jar was not found. {INSTALL}")


class Meteor:
    """The METEOR program, started at the first question and ended by :meth:`close`, ``with`` or the interpreter.

    ``timeout_s`` bounds each wait for 2,000 answers (the first one may load 60 MB of paraphrases). Not for use from
    several threads. Raises :class:`MeteorError` where Java or the jar are missing. Warns where the program has to
    read its whole table of paraphrases, which takes longer and gives the same figures.
    """

    def __init__(self, jar: str | os.PathLike[str] | None = None, *, timeout_s: float = 600.0) -> None:
        java = shutil.which("java")
        if java is None:
            raise MeteorError(f"there is no `java` on the PATH. {INSTALL}")
        self.jar = find_jar(jar)
        self._command = [os.path.abspath(java), "-Xmx2G", *_JAVA, "-Dfile.encoding=UTF-8", "-jar", str(self.jar)]
        self._command += ["-", "-", "-stdio", "-l", "en", "-norm"]
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._known: dict[str, NDArray[np.float64]] = {}
        self._announced: set[str] = set()
        self._paraphrases: Paraphrases | None = None
        self._table = self.jar.parent / "data" / "paraphrase-en.gz"
        self._rows = np.zeros(0, dtype=np.int64) if self._table.is_file() else None  # the program has; None: all
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._starts = 0

    def announce(self, texts: Iterable[str]) -> None:
        """Say which texts later questions will hold, so that one start does for all. No figure depends on it."""
        self._announced.update(texts)

    def statistics(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        """Statistics of each item against its best reference, float64 [items, 6]; see :func:`meteor`.

        Texts are tokens joined by blanks. Raises :class:`MeteorError` where the program stops or takes too long.
        """
        require_same_length(references, hypotheses)
        lines = [_line(hypothesis, texts) for hypothesis, texts in zip(hypotheses, references, strict=True)]
        unknown = [line for line in dict.fromkeys(lines) if line not in self._known]
        if unknown:
            self._choose_paraphrases({text for line in unknown for text in line.split(_SEPARATOR)})
        for begin in range(0, len(unknown), _LINES_AT_ONCE):
            asked = unknown[begin : begin + _LINES_AT_ONCE]
            self._known.update(zip(asked, self._ask(asked), strict=True))
        return np.array([self._known[line] for line in lines], dtype=np.float64).reshape(-1, COLUMNS)

    def close(self) -> None:
        """End the program. A later question starts it again."""
        if self._process is not None:
            self._finalizer()
            self._process = None
        if self._errors is not None:
            self._errors.close()
            self._errors = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Meteor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, lines: Sequence[str]) -> NDArray[np.float64]:
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        answers = []
        writer = threading.Thread(target=_write, args=(process.stdin, lines), daemon=True)
        watchdog = threading.Timer(self._timeout_s, process.kill)
        watchdog.start()
        writer.start()
        try:
            for line in lines:
                said = process.stdout.readline()
                try:
                    numbers = [float(word) for word in said.split()]
                except ValueError:
                    numbers = []
                if len(numbers) != _NUMBERS:
                    raise self._stopped(line, said)
                answers.append(numbers)
        finally:
            watchdog.cancel()
        writer.join()
        return _columns(np.array(answers))

    def _choose_paraphrases(self, texts: set[str]) -> None:
        """Have the program hold every paraphrase that the texts can use: end it where it does not."""
        if self._rows is None:
            return
        try:
            if self._paraphrases is None:
                self._paraphrases = Paraphrases(self._table)
            rows = self._paraphrases.rows(texts | self._announced)
            self._announced = set()
            if self._process is not None and np.isin(rows, self._rows).all():
                return
            self.close()
            self._rows = np.union1d(rows, self._rows) if self._starts < _STARTS else None
            self._starts += 1
            if self._rows is not None:
                self._folder = tempfile.TemporaryDirectory(prefix="meteor-")
                self._paraphrases.write(self._rows, Path(self._folder.name) / _PART)
        except (OSError, TableError) as error:
            self.close()
            self._rows = None
            warnings.warn(f"METEOR reads its whole table of paraphrases at its start: {error}.", stacklevel=3)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._errors = tempfile.TemporaryFile()  # a pipe that nobody reads would fill and block the program
            part = [] if self._folder is None else ["-a", _PART]
            self._process = subprocess.Popen(
                [*self._command, *part],
                cwd=None
                if self._folder is None
                else self._folder.name,  # the program takes the name for a piece of a URL
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
            self._finalizer = weakref.finalize(self, _end, self._process)
        return self._process

    def _stopped(self, line: str, said: bytes) -> MeteorError:
        assert self._errors is not None
        self._errors.seek(0)
        error = (said + self._errors.read()).decode("utf-8", "replace").strip()
        self.close()
        why = f"it said {error[-300:]!r}" if error else f"no answer within {self._timeout_s:g} s"
        return MeteorError(f"METEOR stopped on {line[:100]!r}: {why}. Its figures are left out.")


def meteor(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """METEOR score, 0 to 1, [...], of statistics (or sums of them, for a corpus) [..., 6].

    Columns: weighted matches and weighted length of the hypothesis, the same of the reference, chunks of matches
    in one piece (0 where both texts are one piece and wholly matched), matched words (mean of both sides).
    """
    matched, length, reference_matched, reference_length, chunks, words = np.moveaxis(statistics, -1, 0)
    some = (matched > 0) & (reference_matched > 0)
    precision = np.where(some, matched, 1.0) / np.where(some, length, 1.0)
    recall = np.where(some, reference_matched, 1.0) / np.where(some, reference_length, 1.0)
    mean = 1.0 / ((1.0 - _ALPHA) / precision + _ALPHA / recall)
    fragmentation = np.where(some, chunks, 0.0) / np.where(words > 0, words, 1.0)
    return np.asarray(np.where(some, mean * (1.0 - _GAMMA * fragmentation**_BETA), 0.0), dtype=np.float64)


def _line(hypothesis: str, references: Sequence[str]) -> str:
    """The question for one item; as published, the separator and doubled blanks go from the hypothesis."""
    said = " ".join(hypothesis.replace(_SEPARATOR, "").splitlines()).replace("  ", " ")
    texts = (" ".join(text.replace(_SEPARATOR, "").splitlines()) for text in references)
    return f" {_SEPARATOR} ".join(("SCORE", *texts, said))


def _columns(answers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Six columns of the program's 23 numbers, row by row.

    Those are the words of both texts, the function words of both; for each way to match four counts of matched
    words (content of hypothesis and reference, function words of both); chunks; matched words of both.
    """
    lengths, functions = answers[:, 0:2], answers[:, 2:4]
    matches = np.einsum("s,isk->ik", _STAGE_WEIGHTS, answers[:, 4:20].reshape(-1, 4, 4))
    matched = _DELTA * matches[:, 0:2] + (1 - _DELTA) * matches[:, 2:4]
    weighted = _DELTA * (lengths - functions) + (1 - _DELTA) * functions
    chunks, words = answers[:, 20], answers[:, 21:23]
    whole = (words == lengths).all(axis=1) & (chunks == 1)
    hypothesis, reference = (matched[:, 0], weighted[:, 0]), (matched[:, 1], weighted[:, 1])
    return np.stack([*hypothesis, *reference, np.where(whole, 0.0, chunks), words.mean(axis=1)], axis=1)


def _write(pipe: IO[bytes], lines: Sequence[str]) -> None:
    try:
        pipe.write("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
        pipe.flush()
    except (BrokenPipeError, ValueError):
        return  # the program ended: the reader says so


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                continue
    try:
        process.wait(timeout=2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
