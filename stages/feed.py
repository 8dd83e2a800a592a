"""The micro-batches of each optimizer step, the same ones in the same order for every number of ranks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

from timeexpert.data.batch import VideoBatch
from timeexpert.data.loader import PlannedLoader
from timeexpert.errors import UserError
from timeexpert.parallel import OneProcess
from timeexpert.timing import Stopwatch

EMPTY_BATCHES_IN_A_ROW = 100


class FeedError(UserError):
    """Data of which nothing can be read."""


@dataclass(frozen=True)
class Drawn:
    """What came from one data set: videos (rows), questions about them, tokens without padding."""

    videos: int = 0
    questions: int = 0
    tokens: int = 0

    def __add__(self, other: Drawn) -> Drawn:
        return Drawn(self.videos + other.videos, self.questions + other.questions, self.tokens + other.tokens)


@dataclass(frozen=True)
class Notice:
    """What every rank knows of a batch. ``labels``: labels of each stream, see ``TimeExpert.label_counts``.

    ``drawn``: by the place of a data set in the stage's mix.
    """

    readable: bool
    sample_ids: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...]
    tokens: int
    labels: dict[str, float]
    drawn: dict[int, Drawn] = field(default_factory=dict)


@dataclass
class _Loaded:
    """One batch of the stream: ``batch`` where this rank has it, ``state`` of the data after it."""

    owner: int
    notice: Notice
    batch: VideoBatch | None
    state: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """``micro``: this rank's batches, or what was made of them. ``notices``: of all batches of the step, in the
    stream's order."""

    micro: list[Any]
    notices: list[Notice]

    @property
    def label_counts(self) -> dict[str, float]:
        """Labels of each stream in the whole step."""
        counts: dict[str, float] = {}
        for notice in self.notices:
            for name, count in notice.labels.items():
                counts[name] = counts.get(name, 0.0) + count
        return counts

    @property
    def tokens(self) -> int:
        """Tokens of the whole step, without padding."""
        return sum(notice.tokens for notice in self.notices)

    @property
    def drawn(self) -> dict[int, Drawn]:
        """What the whole step drew from each data set, by its place in the stage's mix."""
        return _added((dataset, drawn) for notice in self.notices for dataset, drawn in notice.drawn.items())

    @property
    def sample_ids(self) -> list[str]:
        """Questions of the whole step."""
        return [sample for notice in self.notices for sample in notice.sample_ids]


@dataclass
class Feed:
    """Takes readable batches from the stream, and says what was dropped on the way.

    A step of n batches is the next n readable ones, whoever loads them; each rank trains on n / ranks of them. A rank
    that loaded an unreadable batch is sent one of a rank that has more than its share.
    """

    loader: PlannedLoader[Any]
    engine: OneProcess
    label_counts: Callable[[VideoBatch], dict[str, float]]
    on_dropped: Callable[[tuple[tuple[str, str], ...]], None]
    stage: str
    figures: dict[str, float] = field(default_factory=dict)  # see StepFeed
    pieces: dict[str, Stopwatch] = field(default_factory=dict)
    at_boundary: bool = True
    _waiting: deque[_Loaded] = field(default_factory=deque)
    _empty: int = 0

    def __post_init__(self) -> None:
        self.reading = Stopwatch()  # of this rank's own batches, without waiting for others
        self._batches: Generator[Any] | None = None
        self.state = self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after ``state``, before the first step is taken."""
        self.loader.load_state_dict(state)
        self.state = self.loader.state_dict()

    def close(self) -> None:
        """End the data workers; they ignore signals, and Python would wait for them at its exit."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def take(self, count: int) -> Step:
        """The next ``count`` readable batches, spread over the ranks, which divide it. Raises :class:`FeedError`."""
        chosen = self._next(count)
        return Step(self._spread(chosen), [loaded.notice for loaded in chosen])

    def take_all(self, count: int) -> list[VideoBatch]:
        """The next ``count`` readable batches, all of them on every rank."""
        chosen = self._next(count)
        per_rank = self.engine.gather([loaded.batch for loaded in chosen])
        return [per_rank[loaded.owner][i] for i, loaded in enumerate(chosen)]  # type: ignore[misc]

    def _next(self, count: int) -> list[_Loaded]:
        while (missing := count - sum(loaded.notice.readable for loaded in self._waiting)) > 0:
            self._load(-(-missing // self.engine.world_size))
        chosen: list[_Loaded] = []
        while len(chosen) < count:
            loaded = self._waiting.popleft()
            self.on_dropped(loaded.notice.dropped)
            self.state = loaded.state
            if loaded.notice.readable:
                chosen.append(loaded)
        return chosen

    def _load(self, rounds: int) -> None:
        """Read ``rounds`` batches on every rank and append all of them to the stream, in its order."""
        if self._batches is None:
            self._batches = iter(self.loader)
        own: list[tuple[VideoBatch | None, Notice]] = []
        states: list[list[dict[str, Any]]] = []
        for _ in range(rounds):
            with self.reading.running():
                batch, _ = next(self._batches)
            own.append(self._noticed(batch))
            states.append(self.loader.round_states)
        notices = self.engine.gather([notice for _, notice in own])
        for i in range(rounds):
            for rank in range(self.engine.world_size):
                batch = own[i][0] if rank == self.engine.rank else None
                self._append(_Loaded(rank, notices[rank][i], batch, states[i][rank]))

    def _noticed(self, batch: Any) -> tuple[VideoBatch | None, Notice]:
        if not isinstance(batch, VideoBatch):  # only reasons
            return None, Notice(False, (), tuple(batch), 0, {})
        tokens = int(batch.attention_mask.sum())
        return batch, Notice(True, batch.sample_ids, batch.dropped, tokens, self.label_counts(batch), _drawn(batch))

    def _append(self, loaded: _Loaded) -> None:
        self._waiting.append(loaded)
        self._empty = 0 if loaded.notice.readable else self._empty + 1
        if self._empty == EMPTY_BATCHES_IN_A_ROW:
            for waiting in self._waiting:
                self.on_dropped(waiting.notice.dropped)
            dropped = loaded.notice.dropped
            reason = dropped[-1][1].rstrip(".") if dropped else "no questions"
            raise FeedError(
                f"stage {self.stage!r}: {self._empty} batches in a row held nothing readable; the last reason: "
                f"{reason}. Run timeexpert data validate on the shards."
            )

    def _spread(self, chosen: list[_Loaded]) -> list[VideoBatch]:
        """This rank's share: its own batches, and those of others that it is short of."""
        ranks = self.engine.world_size
        room = [len(chosen) // ranks] * ranks
        mine: list[VideoBatch | None] = []
        left: list[_Loaded] = []
        for loaded in chosen:
            if not room[loaded.owner]:
                left.append(loaded)
                continue
            room[loaded.owner] -= 1
            if loaded.owner == self.engine.rank:
                mine.append(loaded.batch)
        for loaded in left:
            receiver = next(rank for rank in range(ranks) if room[rank])
            room[receiver] -= 1
            sent = self.engine.broadcast(loaded.batch, loaded.owner)
            if receiver == self.engine.rank:
                mine.append(sent)
        return [batch for batch in mine if batch is not None]


def _drawn(batch: VideoBatch) -> dict[int, Drawn]:
    """What each data set gave to one batch."""
    tokens = batch.attention_mask.sum(1).tolist()
    questions = [1] * len(tokens) if batch.turns is None else batch.turns.amax(1).tolist()
    rows = (Drawn(1, asked, size) for asked, size in zip(questions, tokens, strict=True))
    return _added(zip(batch.datasets, rows, strict=False))  # batches of other making say no data sets


def _added(parts: Iterable[tuple[int, Drawn]]) -> dict[int, Drawn]:
    sums: dict[int, Drawn] = {}
    for dataset, drawn in parts:
        sums[dataset] = sums.get(dataset, Drawn()) + drawn
    return dict(sorted(sums.items()))
