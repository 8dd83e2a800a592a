"""The learning test of CI: in a few minutes and a fixed number of steps the model must beat its noise-frames control.

python scripts/learning_test.py [--keep DIR]. Exit code 1 when a change has stopped the model from learning.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

MARGINS = {"r1_0.5": 10.0, "f1": 5.0}  # points over the noise control; docs/log.md has what was measured
SMALLER = [  # the quickstart with shorter videos, fewer frames and fewer steps
    "synth.images.videos=600",
    *(f"synth.{name}.{key}" for name in ("videos", "held_out") for key in ("max_duration_s=26.0", "min_event_s=7.0")),
    "synth.videos.videos=250",
    "synth.held_out.videos=40",
    "stages.backbone.steps=150",
    "stages.task_modules.steps=20",
    "stages.moe_pretraining.steps=150",
    "stages.moe_pretraining.num_frames=[4, 6]",
    "stages.sft.steps=350",
    "stages.sft.num_frames=[8]",
    "eval.num_frames=8",
]


def main() -> int:
    """Train the small config, compare with its control."""
    # Here, not above: the processes that make videos import this file too, and need no torch.
    from rich.console import Console

    from timeexpert.quickstart import quickstart

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the run in this folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = args.keep or Path(scratch) / "run"
        code = quickstart("tiny", SMALLER, run, "cpu", Console())
        if code:
            return code
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    real, noise = summary["stages"][-1], summary["controls"]["noise_frames"]
    learned = summary["parse_rate"] == 100.0
    for figure, margin in MARGINS.items():
        learned = learned and real[figure] >= noise[figure] + margin
        print(f"learning test: {figure} {real[figure]:.1f}, with noise frames {noise[figure]:.1f}, margin {margin:.0f}")
    print(f"learning test: parse rate {summary['parse_rate']:.1f}")
    print("learning test passed" if learned else "learning test FAILED: this change stops the model from learning")
    return 0 if learned else 1


if __name__ == "__main__":
    sys.exit(main())
