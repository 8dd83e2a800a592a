"""The one training loop. A stage is: what trains, which data, how many steps."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.markup import escape
from torch import Tensor

from timeexpert.checkpoint import (
    MODEL,
    OPTIMIZER,
    TRAINER,
    load_optimizers,
    load_trainer,
    load_weights,
    optimizer_tensors,
)
from timeexpert.checkpoint.saver import Saver
from timeexpert.data.loader import PlannedLoader
from timeexpert.errors import UserError
from timeexpert.moe import AdaptiveExperts, LayerStatistics
from timeexpert.parallel import OneProcess
from timeexpert.reports.scalars import expert_scalars
from timeexpert.tokenization import TokenType

from .clock import StepClock, over_ranks, profiler
from .config import StageConfig, TrainConfig
from .feed import Feed, Step
from .memory import PeakMemory
from .objective import Objective, Supervised
from .optim import build_optimizers, freeze, set_rates
from .progress import StageProgress
from .run_folder import RunFolder
from .stopping import StopOnSignals, Stopped

if TYPE_CHECKING:  # rank 0 alone needs it
    from torch.utils.tensorboard import SummaryWriter


class TrainingError(UserError):
    """Training that cannot go on: a loss that is not finite, data that were rebuilt."""


@dataclass
class StageRun:
    """One stage in progress: everything that a checkpoint holds."""

    run: RunFolder
    stage: StageConfig
    train: TrainConfig
    model: Any  # a VideoLLM
    loader: PlannedLoader[Any]
    before: int  # global step at which the stage starts
    describe_model: Callable[[Path, int], None]  # all but the weights, into a folder, at a global step
    checksums: dict[str, str]  # of the index of each data set, by name
    console: Console = field(default_factory=Console)
    memory: PeakMemory = field(default_factory=PeakMemory)
    lap: Callable[[], None] = lambda: None  # notes the time spent so far
    engine: OneProcess = field(default_factory=OneProcess)
    flops_per_token: float | None = None  # of forward and backward, for MFU; with
    peak_flops: float | None = None  # what one device can do per second
    profile_steps: int = 0  # of this start, after the first two
    objective: Objective | None = None  # made of the model as it starts; None: what labels say

    def __post_init__(self) -> None:
        freeze(self.model, self.stage)
        self.aim = self.objective or Supervised(self.model)
        self.engine.shard(self.model, self.model.sharding_units(), self.aim.forward_methods)
        self.model.set_gradient_checkpointing(self.train.gradient_checkpointing)
        self.optimizers = self.engine.optimizers(build_optimizers(self.model, self.stage))
        self.statistics = self.model.statistics()
        if self.engine.world_size > 1:
            self.statistics.sum_over_ranks = self.engine.sum_over_ranks
        self.adaptive = self._adaptive()
        self.device = next(self.model.parameters()).device
        self.clock = StepClock(self.device)
        self.step = 0
        self.skipped = 0  # samples that could not be read
        self.nonfinite = 0  # steps in a row, up to now, that were skipped
        self.nonfinite_total = 0
        self.stop = False
        self.saver = Saver(self.engine, background=self.train.async_checkpoints)
        read = Feed(self.loader, self.engine, self.model.label_counts, self._note_dropped, self.stage.name)
        self.feed = self.aim.feed(read, lambda: self.before + self.step + 1)

    def _adaptive(self) -> AdaptiveExperts | None:
        """The process that removes and adds experts, where the config asks for it and the gates are trained."""
        layers = self.model.moe_layers
        if (
            not self.aim.counts_experts
            or not layers[0].gate.config.adaptive.enabled
            or not layers[0].gate.weight.requires_grad
        ):
            return None
        return AdaptiveExperts(layers, self.optimizers, self.train.seed + self.before, self.engine.whole)

    def execute(self) -> None:
        """Run the stage from its last checkpoint, or from its start, to its end."""
        self._resume()
        if not self.engine.is_main:
            self._train(None)
            return
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.run.path / "tensorboard"), purge_step=self.before + self.step) as writer:
            self._train(writer)

    def _train(self, writer: SummaryWriter | None) -> None:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        progress = StageProgress(self.console, self.stage.name, self.step, self.stage.steps)
        path = self.run.path / "profile" / f"{self.stage.name}-{self.engine.rank:05d}.json"
        with (
            StopOnSignals(self._ask_to_stop),
            closing(self.feed),
            progress,
            profiler(path, self.device, self.profile_steps, self.console) as profile,
        ):
            if self.step == 0 and self.stage.calibrate_gates:
                self._calibrate()
            self.clock.take()  # from the first step of this start
            first = self.step + 1
            while self.step < self.stage.steps:
                began = time.monotonic()
                self.model.train()
                with self.clock.piece("data"):
                    step = self.feed.take(self.stage.accumulate)
                figures = self._forward_backward(step) | self.feed.figures
                problem = _not_finite("loss", figures["loss"])
                if problem is None:
                    self.engine.reduce_gradients(trained)
                    figures["grad_norm"] = self.engine.clip_grad_norm_(trained, self.train.max_grad_norm)
                    problem = _not_finite("gradient norm", figures["grad_norm"])
                if problem is None:
                    figures["lr"] = set_rates(self.optimizers, self.stage, self.step)
                    with self.clock.piece("optimizer"):
                        for optimizer in self.optimizers:
                            optimizer.step()
                    counts = self.statistics.fold() if self.aim.counts_experts else []
                for optimizer in self.optimizers:
                    optimizer.zero_grad(set_to_none=True)
                self.step += 1
                figures["tokens_per_s"] = step.tokens / (time.monotonic() - began)
                own_tokens = sum(int(batch.attention_mask.sum()) for batch in step.micro)
                self.clock.end_step(step.tokens, len(step.sample_ids), own_tokens)
                self._record_drawn(step)
                if self.train.log_samples:
                    self.run.record({**self._place, "samples": step.sample_ids}, self.run.samples)
                if problem is None:
                    self.nonfinite = 0
                    self._record(writer, figures, len(step.sample_ids))
                    self._edit_experts(counts)
                else:
                    self._skip(step, problem)
                progress.update(self.step, figures["loss"], figures["tokens_per_s"])
                stop = self.engine.any(self.stop or self.saver.failed)
                due = self.step % self.train.checkpoint_every == 0 and self.step < self.stage.steps
                if self.step == first and self.train.checkpoint_every < self.stage.steps and not self.engine.gathers:
                    self.saver.prepare(self._to_save())  # optimizers have their states now
                stop = stop and self.feed.at_boundary
                if (stop or due) and not self.nonfinite:  # else the weights may be what is wrong
                    self.save()
                if stop:
                    self._finish_saving()
                    raise Stopped
                self._note_saved()
                if profile is not None:
                    profile.step()
            self._finish_saving()

    def _calibrate(self) -> None:
        """Every rank sees all of the batches: thresholds are quantiles, and those of parts do not add up."""
        assert isinstance(self.feed, Feed)
        batches = [batch.to(self.device) for batch in self.feed.take_all(self.stage.calibrate_batches)]
        with autocast(self.train, self.device):
            self.model.calibrate_gates(*batches)

    def _forward_backward(self, step: Step) -> dict[str, float]:
        counts = step.label_counts
        figures: dict[str, float] = {"loss": 0.0}
        for index, batch in enumerate(micro.to(self.device) for micro in step.micro):
            with self.clock.piece("forward"), autocast(self.train, self.device):
                out = self.aim.loss(batch, counts)
            with self.clock.piece("backward"):
                self.engine.backward(out.loss, last=index + 1 == len(step.micro))
            if self.aim.counts_experts:
                types, roles = self.model.token_types(batch.input_ids), self.model.token_roles(batch)
                self.statistics.update(out.routings, types.reshape(-1), roles.reshape(-1))
            figures["loss"] += float(out.loss.detach())
            for name, value in out.losses.items():
                key = {"z": "z_loss", "task": "aux_loss"}.get(name, f"loss_{name}")
                figures[key] = figures.get(key, 0.0) + float(value.detach())
            for name, value in out.figures.items():
                figures[name] = figures.get(name, 0.0) + float(value)
        sums = torch.tensor(list(figures.values()), dtype=torch.float64)
        self.engine.sum_over_ranks([sums])
        return dict(zip(figures, sums.tolist(), strict=True))

    def _skip(self, step: Step, problem: str) -> None:
        """A step that changes nothing but where the data are. Raises :class:`TrainingError` after too many in a row."""
        self.statistics.discard()
        self.nonfinite += 1
        self.nonfinite_total += 1
        self.run.record({"kind": "nonfinite", **self._place, "problem": problem, "samples": step.sample_ids})
        self.console.print(f"[yellow]step {self.step} is skipped:[/] {problem}", highlight=False)
        if self.nonfinite == self.train.max_nonfinite_steps:
            raise TrainingError(
                f"{problem} at step {self.step} of stage {self.stage.name!r}, the last of {self.nonfinite} in a row "
                f"(samples {', '.join(step.sample_ids[:3])}, ...; all are in {self.run.metrics}). Lower "
                f"stages.{self.stage.name}.lr ({self.stage.lr}) or train.max_grad_norm; the last checkpoint is in "
                f"{self.run.checkpoints}."
            )

    def _note_dropped(self, dropped: tuple[tuple[str, str], ...]) -> None:
        """Count what could not be read, and write it down with its reason."""
        self.skipped += len(dropped)
        if not dropped or not self.engine.is_main:
            return
        with open(self.run.dropped, "a", encoding="utf-8") as out:
            for sample, reason in dropped:
                row = {"stage": self.stage.name, "step": self.step, "sample": sample, "reason": reason}
                out.write(json.dumps(row) + "\n")

    @property
    def _place(self) -> dict[str, Any]:
        return {"stage": self.stage.name, "step": self.step, "global_step": self.before + self.step}

    def _record(self, writer: SummaryWriter | None, figures: dict[str, float], samples: int) -> None:
        place = self._place
        if self.step % self.train.log_every == 0 or self.step in (1, self.stage.steps):
            counts = {"samples": samples, "skipped": self.skipped, "skipped_steps": self.nonfinite_total}
            self.run.record({"kind": "train", **place, **figures, **counts})
            self._draw(writer, {f"train/{name}": value for name, value in figures.items()})
            self._record_speed(writer)
        last = self.step == self.stage.steps
        if self.aim.counts_experts and (self.step % self.train.experts_every == 0 or last):
            types = [t.name.lower() for t in TokenType]
            row = {"kind": "experts", **place, "token_types": types, "layers": self.statistics.to_json()}
            self.run.record(row)
            self._draw(writer, expert_scalars(row))
            self.statistics.reset()

    def _record_drawn(self, step: Step) -> None:
        """What each data set of the mix gave to this step."""
        names = list(self.stage.mix)
        drawn = {names[dataset]: asdict(amounts) for dataset, amounts in step.drawn.items()}
        self.run.record({"kind": "drawn", **self._place, "datasets": drawn})

    def _record_speed(self, writer: SummaryWriter | None) -> None:
        """Where the time of the steps since the last record went, and which rank the others wait for."""
        self.memory.sample()
        row = self.clock.take()
        row["seconds"] |= {name: watch.take() / row["steps"] for name, watch in self.feed.pieces.items()}
        if self.peak_flops is not None and self.flops_per_token is not None:
            row["mfu"] = row["tokens_per_s"] * self.flops_per_token / (self.peak_flops * self.engine.world_size)
        row["peak_rss_gib"] = round(self.memory.gib, 3)
        if self.device.type == "cuda":
            row["peak_gpu_gib"] = round(torch.cuda.max_memory_allocated(self.device) / 2**30, 3)
        if self.engine.world_size > 1:
            row["ranks"], slow = over_ranks(
                self.engine, row["rank_tokens"], self.feed.reading.take() / row["steps"], self.clock.probe()
            )
            for straggler in slow:
                self.console.print(f"[yellow]straggler:[/] {escape(str(straggler))}", highlight=False)
                self.run.record({"kind": "straggler", **self._place, **asdict(straggler)}, self.run.speed)
        self.run.record({"kind": "speed", **self._place, **row}, self.run.speed)
        self._draw(writer, {f"speed/{name}": value for name, value in row.items() if isinstance(value, float)})
        self._draw(writer, {f"seconds/{name}": value for name, value in row["seconds"].items()})

    def _draw(self, writer: SummaryWriter | None, values: dict[str, float]) -> None:
        """TensorBoard's curves, which rank 0 writes."""
        if writer is not None:
            for name, value in values.items():
                writer.add_scalar(name, value, self.before + self.step)

    def _edit_experts(self, counts: list[LayerStatistics]) -> None:
        """Let experts go and come, and write down why. None after the last step: it would never be trained."""
        if self.adaptive is None or self.step == self.stage.steps:
            return
        self.adaptive.record(self.step, counts)
        for edit in self.adaptive.edit(self.step):
            self.statistics.forget(edit.layer, edit.expert)
            self.run.record({"kind": "expert_edit", **self._place, **asdict(edit)})

    def _to_save(self) -> dict[str, dict[str, Tensor]]:
        """A checkpoint's tensors by file: those of training itself, not copies, unless the engine gathers them."""
        keep = self.engine.is_main or not self.engine.gathers
        moments = optimizer_tensors(self.model, self.optimizers, keep=keep)
        tensors = {**moments, **self.statistics.state_tensors()}
        if self.adaptive is not None:
            tensors |= self.adaptive.state_tensors()
        tensors["rng.torch"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        return {MODEL: self.engine.weights(self.model), TRAINER: tensors}

    def save(self) -> None:
        """Begin to write a checkpoint of this very step; old ones are removed when it is there."""
        state = {
            **self._place,
            "ranks": self.engine.world_size,
            "data": self.feed.state,
            "checksums": self.checksums,
            "skipped": self.skipped,
            "skipped_steps": self.nonfinite_total,
        }

        def prune() -> None:
            self.run.prune(self.stage.name, self.train.keep_checkpoints)

        folder = self.run.checkpoints / f"{self.stage.name}-{self.step:07d}"
        now = self.before + self.step
        self.saver.save(folder, self._to_save(), state, lambda root: self.describe_model(root, now), prune)
        self.lap()

    def _finish_saving(self) -> None:
        self.saver.wait()
        self._note_saved()

    def _note_saved(self) -> None:
        """Write down what finished saves took."""
        for saved in self.saver.done():
            taken = {"stalled_s": round(saved.stalled_s, 4), "seconds": round(saved.seconds, 4), "bytes": saved.size}
            self.run.record({"kind": "checkpoint", **self._place, "folder": saved.folder.name, **taken}, self.run.speed)

    def _resume(self) -> None:
        folder, problems = self.engine.from_main(lambda: self.run.latest_checkpoint(self.stage.name))
        for problem in problems:
            self.console.print(f"[yellow]left out a damaged checkpoint:[/] {escape(problem)}", highlight=False)
        if folder is None:
            self.run.forget_after(self.before, evals=False)
            self.run.forget_dropped(self.stage.name, 0)
            return
        load_weights(self.model, folder, self.engine.whole)
        stored, state = load_trainer(folder)
        self._check_data(folder, state["checksums"])
        load_optimizers(self.model, self.optimizers, stored)
        tensors = {name: stored.read(name) for name in stored.names if not name.startswith(OPTIMIZER)}
        self.statistics.load_state_tensors(tensors)
        if self.adaptive is not None:
            self.adaptive.load_state_tensors(tensors)
        torch.set_rng_state(tensors["rng.torch"])
        if "rng.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["rng.cuda"])
        self.feed.load_state_dict(state["data"])
        self.step, self.skipped = state["step"], state["skipped"]
        self.nonfinite_total = state["skipped_steps"]
        self.run.forget_after(self.before + self.step, evals=False)
        self.run.forget_dropped(self.stage.name, self.step)
        self.console.print(f"continuing stage {self.stage.name} at step {self.step} of {self.stage.steps}")

    def _check_data(self, folder: Path, saved: dict[str, str]) -> None:
        for name, checksum in self.checksums.items():
            if saved.get(name) != checksum:
                raise TrainingError(
                    f"{folder}: data set {name!r} has been rebuilt since this checkpoint (the checksum of its index "
                    "differs), so the run cannot go on as it began. Restore the shards (data.root may say another "
                    "place), or train into another folder with --out."
                )

    def _ask_to_stop(self) -> None:
        self.stop = True


def _not_finite(name: str, value: float) -> str | None:
    return None if math.isfinite(value) else f"the {name} is {value}"


def autocast(train: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    """What ``train.precision`` asks for: bfloat16 products, or nothing."""
    if train.precision == "bf16" or (train.precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
