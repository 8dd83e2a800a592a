"""Kernel temporal segmentation: the change points of a feature sequence (Potapov et al., ECCV 2014, section 3).

A segmentation with m change points of n samples costs the sum over its segments of the squared distances, in the
kernel's feature space, between samples and their segment's mean. The number of change points is the m that makes this
cost plus ``penalty * m * (log(n / m) + 1)`` smallest. Dynamic programming finds the best segmentation for every m.

Time grows with n * n; memory with n. No kernel matrix is kept: the costs of all segments that end at one sample follow
from those that end at the sample before and from one row of the kernel. Beside the features and the temporaries of
``kernel``, at most :func:`memory_bound` bytes are in use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timeexpert.errors import UserError

Features = NDArray[np.floating]
Kernel = Callable[[Features, Features], NDArray[np.floating]]  # (samples [j, D], sample [D]) -> [j]


@dataclass(frozen=True)
class Segmentation:
    """``change_points``: the first sample of each segment but the first, rising. ``costs`` [M + 1]: the smallest sum of
    squared distances with 0, 1, ... M change points."""

    change_points: tuple[int, ...]
    costs: NDArray[np.float64]


def linear_kernel(samples: Features, sample: Features) -> NDArray[np.floating]:
    """Dot products: what the paper uses, on descriptors of length 1."""
    return samples @ sample


def memory_bound(num_samples: int, max_change_points: int) -> int:
    """Bytes that :func:`segment` takes at most, without the features and the kernel's own temporaries."""
    columns = num_samples + 1
    tables = (8 + 4) * (max_change_points + 1) * columns  # costs (float64) and where each came from (int32)
    candidates = 2 * 8 * max_change_points * columns  # numpy's argmin works on a copy
    rows = 8 * 12 * columns  # sums and temporaries as long as the sequence
    return tables + candidates + rows + 64 * 1024


def segment(
    features: Features, *, max_change_points: int, penalty: float, kernel: Kernel = linear_kernel
) -> Segmentation:
    """The best segmentation of ``features`` [n, D] with at most ``max_change_points`` change points.

    ``penalty`` is the paper's C, 0 or more. Of equally good ones the fewest and then the earliest change points are
    taken. Raises ``UserError`` where ``features`` is not a table of finite numbers.
    """
    if features.ndim != 2 or not len(features) or not np.isfinite(features).all():
        raise UserError(
            f"features (shape {features.shape}) must be a table of finite numbers with a row per sample, at least one."
        )
    if max_change_points < 0 or not penalty >= 0:
        raise UserError(
            f"max_change_points ({max_change_points}) and penalty ({penalty}) must be 0 or more, not negative."
        )
    n = len(features)
    most = min(max_change_points, n - 1)
    costs, came_from = _tables(features, most, kernel)
    m = np.arange(1, most + 1)
    total = costs[:, n].copy()
    total[1:] += penalty * m * (np.log(n / m) + 1)
    points, end = [], n
    for count in range(int(np.argmin(total)), 0, -1):
        end = int(came_from[count, end])
        points.append(end)
    return Segmentation(tuple(reversed(points)), costs[:, n].copy())


def _tables(features: Features, most: int, kernel: Kernel) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """``costs`` [m, j]: the smallest cost of the first j samples with m change points; where its last one is."""
    n = len(features)
    costs = np.full((most + 1, n + 1), np.inf)
    came_from = np.zeros((most + 1, n + 1), dtype=np.int32)
    inside = np.zeros(n)  # [s]: sum of the kernel over all pairs of samples s .. j - 1
    diagonal = np.zeros(n)  # [s]: sum over the pairs of a sample with itself
    lengths = np.arange(n, 0, -1, dtype=np.float64)
    room = np.empty((most, n))
    for j in range(1, n + 1):
        row = np.asarray(kernel(features[:j], features[j - 1]), dtype=np.float64)
        own = float(row[-1])
        inside[: j - 1] += 2 * np.cumsum(row[-2::-1])[::-1] + own
        inside[j - 1] = own
        diagonal[:j] += own
        spread = diagonal[:j] - inside[:j] / lengths[n - j :]
        np.maximum(spread, 0, out=spread)  # rounding may leave -1e-16
        costs[0, j] = spread[0]
        if most:
            candidates = np.add(costs[:most, :j], spread, out=room[:, :j])
            best = candidates.argmin(axis=1)
            costs[1:, j] = candidates[np.arange(most), best]
            came_from[1:, j] = best
    return costs, came_from
