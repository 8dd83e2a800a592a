"""The planner's memory and FLOPs against real training steps on this CPU: ``python scripts/check_planner.py``.

Each case is a process of its own: a small model with random weights makes two optimizer steps on made-up rows while
``torch.profiler`` notes every allocation of torch's CPU allocator; the most that was allocated at once in the second
step is compared with the plan of exactly that model, batch and routing. FLOPs are ``torch.utils.flop_counter``'s of the
same step with ``attention: eager``. ``--write`` puts the table into docs/planner.md, ``--json`` prints it for programs.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import textwrap
import time
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from timeexpert.config import from_tree
from timeexpert.data.batch import VideoBatch
from timeexpert.model import TimeExpert
from timeexpert.moe.fused_experts import product_type
from timeexpert.planner.activations import Arithmetic
from timeexpert.planner.flops import flops
from timeexpert.planner.memory import Moment, peak, timeline
from timeexpert.planner.plan import StageModel, stage_model
from timeexpert.planner.workload import Batch
from timeexpert.stages.config import RunConfig
from timeexpert.stages.loop import autocast
from timeexpert.stages.models import model_config
from timeexpert.stages.optim import build_optimizers, freeze

DOC = Path(__file__).resolve().parent.parent / "docs" / "planner.md"
BEGIN, END = "<!-- check_planner: begin -->", "<!-- check_planner: end -->"
TIME_TOKENS = 6


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model, batch and way of training."""

    videos: int = 4
    frames: int = 16
    text: int = 128
    layers: int = 4
    dim: int = 128
    heads: int = 4
    kv_heads: int = 4
    experts: int = 8
    expert_dim: int = 64
    shared: int = 2
    top_k: int = 2
    router: str = "topany"
    vocabulary: int = 400
    vision_dim: int = 64
    vision_layers: int = 2
    image: int = 32
    compressor: str = "vision"
    kind: str = "sft"
    checkpointing: bool = False
    precision: str = "fp32"
    optimizer: str = "adamw"
    accumulate: int = 1
    attention: str = "sdpa"

    def config(self) -> RunConfig:
        """The run that this case is."""
        vision = {
            "model_type": "siglip_vision_model",
            "hidden_size": self.vision_dim,
            "intermediate_size": 2 * self.vision_dim,
            "num_hidden_layers": self.vision_layers,
            "num_attention_heads": 4,
            "image_size": self.image,
            "patch_size": 8,
            "extra": {"vision_use_head": False},
        }
        decoder = {
            "hidden_size": self.dim,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 8192,
        }
        moe = {
            "num_experts": self.experts,
            "expert_dim": self.expert_dim,
            "num_shared_experts": self.shared,
            "top_k": self.top_k,
            "router": self.router,
        }
        model = {
            "vision": vision,
            "decoder": decoder,
            "moe": moe,
            "compressor": self.compressor,
            "projector_queries": {(self.image // 8) ** 2: 16},
            "attention": self.attention,
        }
        stage = {
            "name": "stage",
            "kind": self.kind,
            "steps": 2,
            "mix": {"videos": 1},
            "num_frames": [self.frames],
            "batch_videos": self.videos,
            "batch_tokens": None,
            "accumulate": self.accumulate,
            "optimizer": self.optimizer,
        }
        tree = {
            "name": "check",
            "data": {"train": {"videos": "videos"}},
            "model": model,
            "text": {"vocab_size": self.vocabulary},
            "stages": [stage],
            "train": {"gradient_checkpointing": self.checkpointing, "precision": self.precision},
        }
        return from_tree(RunConfig, tree)

    def changes(self) -> str:
        """What differs from the first case, in words."""
        rows = [f"{f.name} {getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) != f.default]
        return ", ".join(rows).replace(" True", "") or "as listed above"


CASES = (
    Case(),
    Case(layers=8, checkpointing=True),
    Case(frames=64, image=64, vision_layers=6, layers=2),
    Case(precision="bf16"),
    Case(frames=64, videos=2),
    Case(compressor="projector", image=64, frames=8),
    Case(kind="task_modules"),
    Case(kind="backbone"),
    Case(experts=32, expert_dim=128, top_k=4),
    Case(vocabulary=8000),
    Case(accumulate=2),
    Case(precision="bf16", checkpointing=True, text=512),
    Case(dim=256, expert_dim=128),
    Case(kv_heads=2, router="topk"),
    Case(text=512),
    Case(kind="moe_pretraining", optimizer="muon"),
)
FEW = (Case(), Case(layers=8, checkpointing=True), Case(kind="task_modules"), Case(kind="backbone"))


def make_batch(model: TimeExpert, case: Case, seed: int) -> VideoBatch:
    """Rows of frames, then text that is all answer; the last row is padded to the length of the others."""
    random = torch.Generator().manual_seed(seed)
    frame = [model.ids.vision] * model.config.tokens_per_frame + [model.ids.frame_time] * TIME_TOKENS
    video = torch.tensor(frame * case.frames).repeat(case.videos, 1)
    text = torch.randint(1, case.vocabulary, (case.videos, case.text), generator=random)
    mask = torch.ones(case.videos, video.shape[1] + case.text, dtype=torch.bool)
    labels = torch.cat([torch.full_like(video, -100), text], 1)
    if case.videos > 1:
        mask[-1, -4:], labels[-1, -4:] = False, -100
    shape = (case.videos * case.frames, 3, case.image, case.image)
    pixels = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
    return VideoBatch(input_ids=torch.cat([video, text], 1), attention_mask=mask, labels=labels, pixel_values=pixels)


def build(case: Case) -> tuple[RunConfig, TimeExpert]:
    """The case's model, frozen as its stage says."""
    config = case.config()
    text: Any = SimpleNamespace(vocab_size=case.vocabulary, pad_id=0, eos_id=0)
    torch.manual_seed(0)
    model = TimeExpert(model_config(config, text))
    freeze(model, config.stages[0])
    model.set_gradient_checkpointing(case.checkpointing)
    return config, model.train()


@dataclass(frozen=True)
class Routed:
    """What the gates decided in the last micro-batch: mean experts per token, rows of the busiest expert."""

    experts_per_token: float
    busiest: int

    @classmethod
    def of(cls, routings: list[Any], tokens: int) -> Routed:
        """Over all layers."""
        pairs = sum(len(routing.token_P) for routing in routings) / len(routings)
        return cls(pairs / tokens, max(int(routing.tokens_per_expert_E.max()) for routing in routings))


def measure_memory(case: Case) -> tuple[int, Routed]:
    """Most bytes that torch had allocated at once during the second optimizer step."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        config, model = build(case)
        optimizers = build_optimizers(model, config.stages[0])
        batches = [make_batch(model, case, seed) for seed in range(case.accumulate)]
        model.calibrate_gates(*batches[:1])
        for _ in range(2):
            began = time.time_ns()
            counts: dict[str, float] = {}
            for batch in batches:
                for name, count in model.label_counts(batch).items():
                    counts[name] = counts.get(name, 0.0) + count
            for batch in batches:
                with autocast(config.train, torch.device("cpu")):
                    out = model.training_step(batch, counts)
                out.loss.backward()
            routed = Routed.of(out.routings, batches[0].input_ids.numel())
            torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    total = most = 0
    for start, size in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        total += size
        most = max(most, total) if start >= began else most
    return most, routed


def measure_flops(case: Case) -> tuple[int, Batch, StageModel]:
    """FLOPs of one micro-batch, forward and backward, and what they were of."""
    config, model = build(case)
    batch = make_batch(model, case, 0)
    model.calibrate_gates(batch)
    counts = model.label_counts(batch)
    with FlopCounterMode(display=False) as counter:
        out = model.training_step(batch, counts)
        out.loss.backward()
    routed = Routed.of(out.routings, batch.input_ids.numel())
    rows = Batch(
        videos=case.videos,
        frames=case.frames,
        row_tokens=batch.input_ids.shape[1],
        labels=int((batch.labels[:, 1:] >= 0).sum()) / case.videos,
        experts_per_token=routed.experts_per_token,
    )
    return counter.get_total_flops(), rows, stage_model(config, config.stages[0], case.vocabulary)


def planned_memory(case: Case, routed: Routed) -> Moment:
    """The plan's fullest moment for exactly these rows and this routing, with the kernels of a CPU."""
    config = case.config()
    tokens = case.frames * (config.model.tokens_per_frame + TIME_TOKENS) + case.text
    model = stage_model(config, config.stages[0], case.vocabulary, row_tokens=tokens)
    mixed = case.precision == "bf16"
    wide = mixed and product_type(torch.empty(0, dtype=torch.bfloat16)) == torch.float32
    arithmetic = Arithmetic(compute=2 if mixed else 4, kernels="fused", experts=4 if wide else None)
    batch = Batch(
        videos=case.videos,
        frames=case.frames,
        row_tokens=tokens,
        labels=case.text,
        experts_per_token=routed.experts_per_token,
        masked=case.videos > 1,
    )
    moments = timeline(
        model.sizes,
        model.dimensions,
        batch,
        model.trains,
        arithmetic,
        checkpointing=case.checkpointing,
        accumulate=case.accumulate,
        busiest=routed.busiest,
    )
    return peak(moments)


def planned_flops(case: Case, rows: Batch, model: StageModel) -> float:
    """The plan's FLOPs of one micro-batch."""
    return sum(part.total for part in flops(model.dimensions, rows, model.trains, case.checkpointing).values())


def check(case: Case) -> dict[str, Any]:
    """One row of the table."""
    measured, routed = measure_memory(case)
    moment = planned_memory(case, routed)
    counted, rows, model = measure_flops(Case(**{**asdict(case), "attention": "eager", "precision": "fp32"}))
    return {
        "case": asdict(case),
        "changes": case.changes(),
        "measured_bytes": measured,
        "planned_bytes": round(moment.total),
        "phase": moment.phase,
        "memory_error": moment.total / measured - 1,
        "flops_error": planned_flops(case, rows, model) / counted - 1,
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table and where it comes from."""
    import transformers

    errors = [abs(row["memory_error"]) for row in rows]
    head = (
        f"{datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{platform.machine()} CPU. First case: {describe(Case())}."
    )
    lines = [
        textwrap.fill(head, 120),
        "",
        "| what differs from the first case | measured MiB | planned MiB | error | fullest phase | FLOP error |",
        "|---|---|---|---|---|---|",
        *map(markdown_row, rows),
        "",
        f"Memory: mean error {sum(errors) / len(errors):.1%}, largest {max(errors):.1%}.",
    ]
    return "\n".join(lines)


def markdown_row(row: dict[str, Any]) -> str:
    """One line of the table."""
    sizes = " | ".join(f"{row[name] / 2**20:.1f}" for name in ("measured_bytes", "planned_bytes"))
    errors = f"{row['memory_error']:+.1%} | {row['phase']} | {abs(row['flops_error']):.0e}"
    return f"| {row['changes']} | {sizes} | {errors} |"


def describe(case: Case) -> str:
    """Every setting of a case."""
    return ", ".join(f"{name} {value}" for name, value in asdict(case).items() if value is not False)


def write(text: str, doc: Path = DOC, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Put a table between its marks in the document."""
    begin, finish = marks
    before, _, rest = doc.read_text(encoding="utf-8").partition(begin)
    _, end, after = rest.partition(finish)
    if not end:
        raise SystemExit(f"{doc}: the marks {begin} and {finish} are missing")
    doc.write_text(f"{before}{begin}\n{text}\n{finish}{after}", encoding="utf-8")


def main() -> int:
    """Run the cases and print the table."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--few", action="store_true", help="four cases instead of all")
    parser.add_argument("--write", action="store_true", help="put the table into docs/planner.md")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    rows = []
    with get_context("fork").Pool(1, maxtasksperchild=1) as pool:  # a process per case, which imports nothing again
        for row in pool.imap(check, FEW if args.few else CASES):
            rows.append(row)
            print(markdown_row(row), file=sys.stderr, flush=True)
    if args.write:
        write(markdown(rows))
    if args.json:
        print(json.dumps(rows))
        return 0
    table = Table("case", "measured MiB", "planned MiB", "error", "phase", "FLOP error")
    for row in rows:
        sizes = (f"{row[name] / 2**20:.1f}" for name in ("measured_bytes", "planned_bytes"))
        table.add_row(row["changes"], *sizes, f"{row['memory_error']:+.1%}", row["phase"], f"{row['flops_error']:.0e}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
