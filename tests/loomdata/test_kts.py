"""Kernel temporal segmentation: planted change points are found exactly, in n squared steps and little memory."""

import tracemalloc
from itertools import combinations, pairwise

import numpy as np
import pytest

from timeexpert.errors import UserError
from timeexpert.loomdata import kts
from timeexpert.loomdata.kts import linear_kernel, memory_bound, segment


def planted(lengths, *, noise=0.0, dim=24, seed=0):
    """Segments of these lengths, each around a direction of its own; rows have length 1."""
    rng = np.random.default_rng(seed)
    means = np.linalg.qr(rng.normal(size=(dim, dim)))[0][: len(lengths)]
    rows = np.repeat(means, lengths, axis=0)
    rows = rows + noise * rng.normal(size=rows.shape) / dim**0.5
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("lengths", [[10, 20, 15], [7, 5, 9, 30, 6, 12], [40], [5, 200], [6] * 11])
def test_planted_change_points_are_found_exactly(lengths, noise):
    for seed in range(3):
        found = segment(planted(lengths, noise=noise, seed=seed), max_change_points=16, penalty=0.5)
        assert found.change_points == tuple(np.cumsum(lengths)[:-1].tolist())


def spread(rows):
    return float(((rows - rows.mean(0)) ** 2).sum())


def test_every_cost_is_that_of_the_best_of_all_segmentations():
    rows = np.random.default_rng(1).normal(size=(9, 3))
    costs = segment(rows, max_change_points=8, penalty=0.0).costs
    for m in range(9):
        every = (np.split(rows, points) for points in combinations(range(1, 9), m))
        assert costs[m] == pytest.approx(min(sum(map(spread, parts)) for parts in every), abs=1e-9)


def test_the_number_of_change_points_is_the_one_with_the_smallest_penalised_cost():
    rows = planted([9, 4, 11, 3, 8], noise=0.6, seed=4)
    n = len(rows)
    for penalty in (0.0, 0.05, 0.3, 1.0, 3.0, 50.0):
        found = segment(rows, max_change_points=10, penalty=penalty)
        m = np.arange(1, 11)
        total = np.concatenate([[0.0], penalty * m * (np.log(n / m) + 1)]) + found.costs
        assert len(found.change_points) == int(np.argmin(total))
    assert segment(rows, max_change_points=10, penalty=50.0).change_points == ()


def test_a_kernel_may_be_any_and_is_asked_for_half_a_square_of_values():
    asked = []

    def gaussian(samples, sample):
        asked.append(len(samples))
        return np.exp(-((samples - sample) ** 2).sum(1))

    for n in (50, 100, 200):
        asked.clear()
        lengths = [n // 5, n - n // 5]
        assert segment(planted(lengths), max_change_points=4, penalty=0.5, kernel=gaussian).change_points == (n // 5,)
        assert sum(asked) == n * (n + 1) // 2


class Counted(np.ndarray):
    """Counts every value that is read, computed or searched."""

    values = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=(None,), **kwargs):
        inputs = [x.view(np.ndarray) if isinstance(x, Counted) else x for x in inputs]
        if out[0] is not None:
            kwargs["out"] = (out[0].view(np.ndarray),)
        made = getattr(ufunc, method)(*inputs, **kwargs)
        Counted.values += max(map(np.size, (made, *inputs)))
        return np.asarray(made).view(Counted) if out[0] is None else out[0]

    def __getitem__(self, key):
        found = super().__getitem__(key)
        Counted.values += np.size(found)
        return found

    def argmin(self, *args, **kwargs):
        Counted.values += self.size
        return super().argmin(*args, **kwargs)


class CountingNumpy:
    """numpy, with arrays that count."""

    def __getattr__(self, name):
        made = getattr(np, name)
        counts = name in ("arange", "asarray", "empty", "full", "zeros")
        return (lambda *args, **kwargs: made(*args, **kwargs).view(Counted)) if counts else made


def test_steps_grow_no_faster_than_the_square_of_the_length(monkeypatch):
    monkeypatch.setattr(kts, "np", CountingNumpy())

    def values(n, most):
        Counted.values = 0
        assert segment(planted([n // 5, n - n // 5]), max_change_points=most, penalty=0.5).change_points == (n // 5,)
        return Counted.values

    for most in (1, 16):
        counts = [values(n, most) for n in (50, 100, 200, 400)]
        assert counts[0] > most * 50 * 50 / 2  # all pairs of a last change point and an end
        assert all(after <= 4 * before for before, after in pairwise(counts))
    assert values(100, 16) <= 16 * values(100, 1)


@pytest.mark.parametrize(("n", "most"), [(400, 4), (800, 4), (800, 32)])
def test_memory_stays_below_the_stated_bound_which_grows_with_n(n, most):
    rows = planted([n // 2, n - n // 2], noise=0.2)
    segment(rows[:50], max_change_points=most, penalty=0.5)  # what numpy keeps once is not counted
    tracemalloc.start()
    segment(rows, max_change_points=most, penalty=0.5, kernel=linear_kernel)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 12 * most * n < peak <= memory_bound(n, most) < 8 * n * n
    assert memory_bound(2 * n, most) < 2 * memory_bound(n, most)


def test_short_and_constant_sequences_have_no_change_points():
    assert segment(np.ones((1, 4)), max_change_points=5, penalty=0.5).change_points == ()
    assert segment(np.ones((30, 4)), max_change_points=5, penalty=0.5).change_points == ()
    assert segment(planted([5, 5]), max_change_points=0, penalty=0.5).change_points == ()


def test_what_is_no_sequence_is_refused():
    with pytest.raises(UserError, match=r"features \(shape \(0, 3\)\) must be a table of finite numbers"):
        segment(np.zeros((0, 3)), max_change_points=1, penalty=1.0)
    with pytest.raises(UserError, match="must be a table of finite numbers"):
        segment(np.full((4, 2), np.nan), max_change_points=1, penalty=1.0)
    with pytest.raises(UserError, match=r"penalty \(-1.0\) must be 0 or more"):
        segment(np.ones((4, 2)), max_change_points=1, penalty=-1.0)
