"""How much of a frame its predecessor explains: block-matching optical flow on small colour frames, in numpy.

Each frame is cut into blocks; for each block the best match in the frame before is looked for among all whole-pixel
displacements of up to ``REACH`` pixels (full search, the oldest of optical-flow methods). What is left after the best
match is the block's residual, in levels of 255: motion leaves little, a new scene leaves much.
"""

from __future__ import annotations

import numpy as np

HEIGHT, WIDTH = 36, 48  # pixels of the analysed frames
BLOCK = 6  # pixels: 6 x 8 blocks
REACH = 3  # pixels: a sixteenth of the width per step
BUSIEST = 5  # blocks of 48 that say how much changes somewhere


def block_residuals(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Residual of each block of ``after`` against ``before``: float64 [48], sorted, in levels of 255.

    Both are uint8 [HEIGHT, WIDTH, 3].
    """
    padded = np.pad(before, ((REACH, REACH), (REACH, REACH), (0, 0)), mode="edge").astype(np.float32)
    shifted = np.lib.stride_tricks.sliding_window_view(padded, (HEIGHT, WIDTH), axis=(0, 1))
    difference = np.subtract(shifted, after.transpose(2, 0, 1).astype(np.float32))
    np.abs(difference, out=difference)
    columns = difference.reshape(-1, 3 * HEIGHT, WIDTH) @ _ACROSS  # products sum five times faster than sums do
    return np.sort((_DOWN @ columns).reshape(len(columns), -1).min(axis=0)) / (3.0 * BLOCK * BLOCK)


def _summing(blocks: int) -> np.ndarray:
    """float32 [blocks * BLOCK, blocks]: a product with it sums each block."""
    return np.repeat(np.eye(blocks, dtype=np.float32), BLOCK, axis=0)


_ACROSS = _summing(WIDTH // BLOCK)
_DOWN = np.tile(_summing(HEIGHT // BLOCK), (3, 1)).T  # over the three colours, too


class MotionMeter:
    """Fed with frames in order; gives two signals per step from one analysed frame to the next.

    ``change``: mean residual of the busiest blocks, which an object that appears raises. ``novelty``: median residual
    over all blocks, which only a change of most of the picture raises; the least of three comparisons around the
    step, so that a flash of one frame raises it neither at its start nor at its end.
    """

    LOOK_TWICE = 2.0  # levels: below, no cut is possible and the further comparisons are spared

    def __init__(self) -> None:
        self._frames: list[np.ndarray] = []  # the last two
        self.times_s: list[float] = []
        self.change: list[float] = []
        self._next: list[float] = []  # median residual against the frame before
        self._over_one: list[float] = []  # and against the one before that

    def add(self, time_s: float, frame: np.ndarray) -> None:
        """Frame uint8 [HEIGHT, WIDTH, 3] that begins at ``time_s``."""
        if self._frames:
            residuals = block_residuals(self._frames[-1], frame)
            median = float(np.median(residuals))
            before = self._next[-1] if self._next else 0.0
            over_one = np.inf  # not compared
            if len(self._frames) == 2 and max(median, before) >= self.LOOK_TWICE:
                over_one = float(np.median(block_residuals(self._frames[-2], frame)))
            self.times_s.append(time_s)
            self.change.append(float(residuals[-BUSIEST:].mean()))
            self._next.append(median)
            self._over_one.append(over_one)
        self._frames = [*self._frames[-1:], frame]

    @property
    def novelty(self) -> np.ndarray:
        """float32 [steps], levels of 255."""
        step, over = np.array(self._next, np.float32), np.array(self._over_one, np.float32)
        after = np.append(over[1:], np.inf)  # the last step has nothing after it
        return np.minimum(np.minimum(step, over), after).astype(np.float32)


NEIGHBOURS = 5  # steps before and after that a step is held against
FLOOR = 2.0  # levels: keeps noise in still clips from looking strong


def around(signal: np.ndarray) -> np.ndarray:
    """Median of the NEIGHBOURS before and after each step, without the step itself: float64 [steps]."""
    out = np.zeros(len(signal))
    for i in range(len(signal)):
        near = np.concatenate((signal[max(0, i - NEIGHBOURS) : i], signal[i + 1 : i + 1 + NEIGHBOURS]))
        out[i] = np.median(near) if len(near) else 0.0
    return out


def cut_strength(novelty: np.ndarray) -> np.ndarray:
    """How far each step stands out of its neighbours: novelty / (FLOOR + :func:`around`), float64 [steps].

    Shaky hands and fades raise the neighbours too, and so are not taken for cuts.
    """
    return novelty / (FLOOR + around(novelty))


def boundary_evidence(change: np.ndarray) -> np.ndarray:
    """How suddenly something changes in each step: log(1 + (change - :func:`around`) / FLOOR), float64 [steps].

    Steady motion raises the neighbours too, and gives no evidence.
    """
    return np.log1p(np.maximum(0.0, change - around(change)) / FLOOR)
