"""Which samples come next: a deterministic endless stream over data sets, and batches planned from it.

The whole state is how many samples each data set has given so far and, where weights count tokens, how many tokens.
Which data set is next is a function of those counts, and the order within a data set is a function of (seed, data
set, epoch). Resume is therefore exact in the middle of an epoch, for any number of workers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from timeexpert.errors import UserError

MixBy = Literal["samples", "tokens"]


class MixtureError(UserError):
    """Weights, sizes or a saved state that cannot be used."""


class SampleRef(NamedTuple):
    """One draw: sample ``index`` of data set ``dataset`` in its pass ``epoch``.

    ``serial`` counts all draws from 0 and is unique in a run: seed random choices for this draw with it, and they
    do not depend on the number of workers.
    """

    dataset: int
    index: int  # type: ignore[assignment]  # tuple has a method of this name, which nobody calls
    epoch: int
    serial: int


class Mixture:
    """An endless stream of :class:`SampleRef` over data sets of ``sizes`` samples, in proportion to ``weights``.

    Weights are relative (``[2, 1]`` is two of three samples from the first); weight 0 is never drawn. With n samples
    drawn so far, the next data set is the one that is furthest behind its share: argmax of
    ``share * (n + 1) - consumed``, the first of equals. With ``by="tokens"`` shares are of tokens: n and consumed
    count those instead, and :meth:`count` must be told the tokens of each draw before the next one. ``seed`` is an
    integer >= 0. Raises :class:`MixtureError`.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int, by: MixBy = "samples") -> None:
        if not sizes or len(sizes) != len(weights):
            raise MixtureError(f"sizes ({len(sizes)}) and weights ({len(weights)}) must have one entry per data set.")
        for i, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
            if isinstance(weight, bool) or not isfinite(weight) or weight < 0:
                raise MixtureError(f"weights[{i}] ({weight!r}) must be a finite number >= 0; 0 leaves a data set out.")
            if size < 0 or (size == 0 and weight > 0):
                raise MixtureError(f"sizes[{i}] ({size}) must be > 0 where weights[{i}] ({weight}) is > 0.")
        if sum(weights) <= 0:
            raise MixtureError(f"weights ({list(weights)}) are all 0; give at least one data set a weight > 0.")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise MixtureError(f"seed ({seed!r}) must be an integer >= 0.")
        if by not in get_args(MixBy):
            raise MixtureError(f"by ({by!r}) must be one of {', '.join(get_args(MixBy))}.")
        self.by = by
        self.sizes = [int(s) for s in sizes]
        self.weights = [float(w) for w in weights]
        self.seed = seed
        self.consumed = [0] * len(self.sizes)
        self.tokens = [0] * len(self.sizes)  # stays 0 where samples are counted
        largest = max(self.weights)
        total = sum(w / largest for w in self.weights)  # scaled first: huge weights must not add up to infinity
        self._shares = [w / largest / total for w in self.weights]
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def next(self) -> SampleRef:
        """Draw the next sample."""
        serial = sum(self.consumed)
        given = self.tokens if self.by == "tokens" else self.consumed
        total = sum(given)
        dataset, furthest = 0, -inf
        for i, (share, amount) in enumerate(zip(self._shares, given, strict=True)):
            if share > 0 and (behind := share * (total + 1) - amount) > furthest:
                dataset, furthest = i, behind
        epoch, position = divmod(self.consumed[dataset], self.sizes[dataset])
        self.consumed[dataset] += 1
        return SampleRef(dataset, int(self._order(dataset, epoch)[position]), epoch, serial)

    def count(self, ref: SampleRef, tokens: int) -> None:
        """Note that ``ref``, the latest draw, has ``tokens`` tokens."""
        if self.by == "tokens":
            self.tokens[ref.dataset] += tokens

    def place(self) -> tuple[list[int], list[int]]:
        """Where the stream is; :meth:`go_back` returns to it."""
        return list(self.consumed), list(self.tokens)

    def go_back(self, place: tuple[list[int], list[int]]) -> None:
        """Undo all draws since :meth:`place` gave ``place``."""
        self.consumed, self.tokens = list(place[0]), list(place[1])

    def _order(self, dataset: int, epoch: int) -> np.ndarray:
        """The permutation of a data set in one epoch; only the latest is kept in memory."""
        kept = self._orders.get(dataset)
        if kept is None or kept[0] != epoch:
            # Sorting raw bits instead of Generator.permutation: NumPy promises the raw stream between versions.
            bits = np.random.PCG64(np.random.SeedSequence([self.seed, dataset, epoch]))
            kept = (epoch, np.argsort(bits.random_raw(self.sizes[dataset]), kind="stable"))
            self._orders[dataset] = kept
        return kept[1]

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON: consumed counts, and what they belong to. Token counts only where they matter."""
        state = {
            "seed": self.seed,
            "sizes": list(self.sizes),
            "weights": list(self.weights),
            "consumed": list(self.consumed),
        }
        return state | {"tokens": list(self.tokens)} if self.by == "tokens" else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``. Raises :class:`MixtureError` that says what changed since it was saved."""
        _check_keys(state, ("seed", "sizes", "weights", "consumed"))
        mine, changes = self.state_dict(), []
        was_by = "tokens" if "tokens" in state else "samples"
        if was_by != self.by:
            changes.append(f"weights counted {was_by}, they count {self.by}")
        if state["seed"] != self.seed:
            changes.append(f"seed was {state['seed']}, is {self.seed}")
        for name in ("sizes", "weights"):
            was, now = list(state[name]), mine[name]
            if len(was) != len(now):
                changes.append(f"there were {len(was)} {name}, there are {len(now)}")
                continue
            changes += [f"{name}[{i}] was {a}, is {b}" for i, (a, b) in enumerate(zip(was, now, strict=True)) if a != b]
        if changes:
            raise MixtureError(
                f"the saved data state belongs to another mixture: {'; '.join(changes)}. "
                "Restore these settings, or start the data afresh without the saved state."
            )
        for name in ("consumed", "tokens") if self.by == "tokens" else ("consumed",):
            counts = state[name]
            if len(counts) != len(self.sizes) or any(not isinstance(c, int) or c < 0 for c in counts):
                raise MixtureError(
                    f"{name} ({counts!r}) in the saved data state must be {len(self.sizes)} integers >= 0."
                )
        self.go_back((state["consumed"], state.get("tokens", self.tokens)))


@dataclass(frozen=True)
class PlannedBatch:
    """The draws of one batch, and the planner's state once the batch has been used."""

    refs: list[SampleRef]
    state: dict[str, Any]


class BatchPlanner:
    """Cuts the stream of ``mixture`` into batches by length, in stream order.

    A batch is closed when one more sample would make its padded size (count * longest) exceed ``max_tokens`` or its
    count exceed ``max_samples``; the sample that did not fit opens the next batch. A sample that is longer than
    ``max_length`` or ``max_tokens`` by itself is dropped, and counted in ``dropped``. ``length`` must be a
    deterministic function of the draw. The limits may differ from one resume to the next.
    """

    def __init__(
        self,
        mixture: Mixture,
        length: Callable[[SampleRef], int],
        max_tokens: int | None = None,
        max_samples: int | None = None,
        max_length: int | None = None,
    ) -> None:
        for name, limit in (("max_tokens", max_tokens), ("max_samples", max_samples), ("max_length", max_length)):
            if limit is not None and limit < 1:
                raise MixtureError(f"{name} ({limit}) must be >= 1, or None for no limit.")
        if max_tokens is None and max_samples is None:
            raise MixtureError("max_tokens and max_samples are both None: a batch would never end. Set one of them.")
        self.mixture = mixture
        self.length = length
        self.max_tokens, self.max_samples = max_tokens, max_samples
        self.longest_allowed = min((n for n in (max_tokens, max_length) if n is not None), default=None)
        self.batches = 0
        self.dropped = 0
        self._drops_in_a_row = [0] * len(mixture.sizes)
        self._state = self._snapshot()

    def __iter__(self) -> Iterator[PlannedBatch]:
        while True:
            yield self.next()

    def next(self) -> PlannedBatch:
        """Plan the next batch. Raises :class:`MixtureError` when every sample of a data set is too long."""
        refs: list[SampleRef] = []
        longest = 0
        while self.max_samples is None or len(refs) < self.max_samples:
            before, ref, tokens = self._draw()
            if refs and self.max_tokens is not None and (len(refs) + 1) * max(longest, tokens) > self.max_tokens:
                # Undo this draw: it is repeated as the first of the next batch, and the counts remain the whole state.
                self.mixture.go_back(before)
                break
            refs.append(ref)
            longest = max(longest, tokens)
        self.batches += 1
        self._state = self._snapshot()
        return PlannedBatch(refs, self._snapshot())

    def _draw(self) -> tuple[tuple[list[int], list[int]], SampleRef, int]:
        """The next sample that is short enough: the place before it was drawn, the draw, its length."""
        while True:
            before = self.mixture.place()
            ref = self.mixture.next()
            tokens = int(self.length(ref))
            if self.longest_allowed is None or tokens <= self.longest_allowed:
                self.mixture.count(ref, tokens)
                self._drops_in_a_row[ref.dataset] = 0
                return before, ref, tokens
            self.dropped += 1
            self._drops_in_a_row[ref.dataset] += 1
            # Twice the size: any such run of draws holds one whole pass over the data set.
            if self._drops_in_a_row[ref.dataset] >= 2 * self.mixture.sizes[ref.dataset]:
                raise MixtureError(
                    f"every sample of data set {ref.dataset} is longer than {self.longest_allowed} tokens "
                    f"(the last has {tokens}). Raise max_tokens and max_length, use fewer frames, or set its weight 0."
                )

    def _snapshot(self) -> dict[str, Any]:
        return {"mixture": self.mixture.state_dict(), "batches": self.batches, "dropped": self.dropped}

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON: the state after the last planned batch."""
        return copy.deepcopy(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Plan on from ``state``. Raises :class:`MixtureError`, see :meth:`Mixture.load_state_dict`."""
        _check_keys(state, ("mixture", "batches", "dropped"))
        self.mixture.load_state_dict(state["mixture"])
        self.batches, self.dropped = int(state["batches"]), int(state["dropped"])
        self._drops_in_a_row = [0] * len(self.mixture.sizes)
        self._state = self._snapshot()


def _check_keys(state: Any, keys: tuple[str, ...]) -> None:
    if not isinstance(state, dict) or any(key not in state for key in keys):
        raise MixtureError(f"the saved data state must hold {', '.join(keys)}; it is {state!r}. Start without it.")
