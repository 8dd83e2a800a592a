"""What a run draws at random follows from its config's seed."""

from __future__ import annotations

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """torch and numpy; everything in the data follows from the config's seed by itself."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


def stage_seed(seed: int, place: int) -> int:
    """The seed of the stage at ``place``: a restart between stages then draws what an unbroken run would."""
    return int(np.random.SeedSequence([seed, place]).generate_state(1)[0])
