"""A small all-reduce over the ranks of a torchrun job, on the devices of the training: ``all_reduce.py DEVICE``.

It fails where the sum is wrong or a rank does not answer within HEALTH_TIMEOUT_S.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

ELEMENTS = 1 << 20


def main(device: str) -> int:
    """0 where every element of the sum is right on this rank."""
    gpu = device != "cpu"
    place = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if gpu else "cpu")
    if gpu:
        torch.cuda.set_device(place)
    dist.init_process_group(
        "nccl" if gpu else "gloo", timeout=timedelta(seconds=float(os.environ.get("HEALTH_TIMEOUT_S", "120")))
    )
    try:
        ranks = dist.get_world_size()
        values = torch.full((ELEMENTS,), float(dist.get_rank() + 1), device=place)
        dist.all_reduce(values)
        wrong = int((values != ranks * (ranks + 1) / 2).sum())
        dist.barrier()
    finally:
        dist.destroy_process_group()
    if wrong:
        print(f"error: all-reduce over {ranks} ranks: {wrong} of {ELEMENTS} sums are wrong", file=sys.stderr)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
