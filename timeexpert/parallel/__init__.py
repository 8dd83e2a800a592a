"""Training on many processes: which degrees fit, what is sharded how, and what the ranks agree on."""

from .config import Degrees, ParallelConfig
from .engine import OneProcess, TorchRanks, start

__all__ = ["Degrees", "OneProcess", "ParallelConfig", "TorchRanks", "start"]
