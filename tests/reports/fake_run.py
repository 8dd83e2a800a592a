"""Makes a run folder as training writes it: two stages, evaluations, controls, expert records and edits."""

from __future__ import annotations

import json
from math import cos, exp, sin
from pathlib import Path
from typing import Any

import numpy as np

from timeexpert.reports.run_report import Example
from timeexpert.tokenization import Event, EventSequence

TYPES = ["text", "sync", "time", "score", "vision", "frame_time"]


def train_row(stage: str, step: int, global_step: int, **changes: Any) -> dict[str, Any]:
    noise = 0.15 * sin(7 * step) * exp(-step / 60)
    parts = {"loss_text": 3.2 * exp(-step / 40) + 0.2, "loss_time": 2.5 * exp(-step / 55) + 0.3, "loss_score": 0.1}
    row = {
        "kind": "train",
        "stage": stage,
        "step": step,
        "global_step": global_step,
        "loss": sum(parts.values()) + noise,
    }
    row |= parts | {"z_loss": 1e-4, "aux_loss": 1.02, "grad_norm": 1 + noise, "lr": 3e-4, "tokens_per_s": 900.0 + step}
    return row | {"samples": 8 * (step + 1), "skipped": 0} | changes


def experts_row(stage: str, step: int, *, layers: int = 2, slots: int = 8, dead: int | None = 5) -> dict[str, Any]:
    """Slots 6 and 7 are free; slot 6 is filled from step 60 on; expert ``dead`` gets nothing."""
    active = [i < slots - 2 or (i == slots - 2 and step >= 60) for i in range(slots)]
    made = []
    for layer in range(layers):
        rates = []
        for kind in range(len(TYPES)):
            liked = [1 + 0.9 * cos(kind + layer + i * (1 + step / 100)) for i in range(slots)]
            raw = [w if on and i != dead else 0.0 for i, (w, on) in enumerate(zip(liked, active, strict=True))]
            rates.append([round(2.1 * r / sum(raw), 5) for r in raw])
        load = [sum(column) for column in zip(*rates, strict=True)]
        load = [share / sum(load) for share in load]
        by_type = {"tokens": [40 * (kind + 1) for kind in range(len(TYPES))], "fallback_by_type": [0.01] * len(TYPES)}
        use = {"layer": layer, "active": active, "rates": rates, "load": load, "mean_k": 2.1, "fallback": 0.003}
        made.append(use | {"flipped": 0.0004} | by_type)
    row = {"kind": "experts", "stage": stage, "step": step, "global_step": step, "token_types": TYPES}
    return row | {"layers": made}


def eval_row(stage: str, step: int, r1: float, control: str | None = None) -> dict[str, Any]:
    moments = {
        "r1_0.3": min(100.0, r1 + 10),
        "r1_0.5": r1,
        "r1_0.7": r1 / 2,
        "miou": r1 * 0.8,
        "count": 40,
        "unparsed": 0,
    }
    captions = {"f1": r1 * 0.7, "precision": r1 * 0.7, "recall": r1 * 0.7, "caption_exact_match_0.5": None}
    row = {"kind": "eval", "stage": stage, "global_step": step, "control": control, "moment_retrieval": moments}
    return row | {
        "dense_captioning": captions,
        "highlight_detection": {"map": r1 / 3, "hit1": r1 / 2},
        "parse_rate": 100.0,
    }


def prediction_row(i: int) -> dict[str, Any]:
    """Every fourth answer has a problem; the fifth failed."""
    problems = [{"position": 3, "reason": "a time list is not closed"}] if i % 4 == 3 else []
    event = {"start_s": 3.0, "end_s": 9.5, "scores": [], "text": "a red circle grows"}
    row = {"id": f"v/{i}", "video": "v.mp4", "task": "moment_retrieval", "prompt": "When?", "duration_s": 28.0}
    answer = {"truth": [event], "prediction": None if i == 5 else [event], "problems": problems}
    return row | answer | {"frame_times_s": [0.0, 4.0], "error": "no frames" if i == 5 else None, "meta": {}}


def write_lines(path: Path, rows: list[dict[str, Any]], tail: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail, encoding="utf-8")


def make_run(run: Path) -> Path:
    """A finished run of two stages."""
    rows: list[dict[str, Any]] = []
    for i, stage in enumerate(("moe_pretraining", "sft")):
        for step in range(100):
            rows.append(train_row(stage, step, 100 * i + step))
            if step % 20 == 0:
                rows.append(experts_row(stage, step) | {"global_step": 100 * i + step})
        rows.append(eval_row(stage, 100 * (i + 1), 40.0 + 35 * i))
    edit = {
        "kind": "expert_edit",
        "stage": "sft",
        "step": 60,
        "global_step": 160,
        "layer": 0,
        "rate": 0.0,
        "tokens": 900,
    }
    gone = {"action": "remove", "expert": 7, "reason": "rate 0 is under tau_min", "parent": None, "active": 6}
    new = {"action": "add", "expert": 6, "reason": "4.1 % of tokens reached no expert", "parent": 2, "active": 7}
    rows += [edit | gone, edit | new | {"rate": 0.041}]
    rows += [eval_row("sft", 200, 4.0, "noise_frames"), eval_row("sft", 200, 22.0, "mean_segment")]
    write_lines(run / "metrics.jsonl", rows)
    write_lines(run / "predictions" / "sft.jsonl", [prediction_row(i) for i in range(12)])
    summary = {"stages": [{"name": "sft", "r1_0.5": 75.0}], "controls": {"noise_frames": {"r1_0.5": 4.0}}}
    summary |= {"parse_rate": 99.2, "seconds": {"moe_pretraining": 61.0, "sft": 119.0}, "peak_rss_gib": 1.9}
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return run


def frames(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A red disc that moves from left to right over a dark ground."""
    y, x = np.mgrid[:height, :width]
    out = np.full((count, height, width, 3), (40, 44, 60), dtype=np.uint8)
    for i in range(count):
        out[i][(x - width * (i + 0.5) / count) ** 2 + (y - height / 2) ** 2 < 64] = (220, 60, 60)
    return out


def example(prompt: str = "When does the red circle grow?", text: str = "a red circle grows") -> Example:
    return Example(
        frames=frames(6),
        frame_times_s=[0.0, 5.0, 10.0, 15.0, 20.0, 25.0],
        truth=EventSequence((Event(3.0, 9.5, text=text),)),
        prediction=EventSequence((Event(3.2, 9.9, text=text),)),
        prompt=prompt,
        duration_s=28.0,
        video="v.mp4",
    )
