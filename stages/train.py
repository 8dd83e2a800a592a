"""A run from its config: text, model, stages in order, an evaluation after each, controls at the end."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.markup import escape
from transformers.utils.logging import disable_progress_bar

from timeexpert.checkpoint import verify, whole_model, write_folder
from timeexpert.config import ConfigError
from timeexpert.data.action_steps import classes_of
from timeexpert.data.collate import BatchLoader, Reading, VideoQuestions
from timeexpert.data.frames import FrameReader
from timeexpert.data.loader import PlannedLoader, batches_ahead
from timeexpert.data.mixture import BatchPlanner, Mixture
from timeexpert.data.records import Sample
from timeexpert.data.shards import ShardDataset
from timeexpert.errors import UserError
from timeexpert.evaluation.folder import write_json
from timeexpert.evaluation.records import Answer
from timeexpert.evaluation.runner import evaluate, mean_segment, score, scored_questions, scored_tasks
from timeexpert.families import family
from timeexpert.parallel import OneProcess
from timeexpert.predict import INFERENCE, InferenceConfig, Predictor, load_model, pick_device
from timeexpert.reports.rollouts_page import write_rollouts_page
from timeexpert.tokenization import EventSequence
from timeexpert.tokenization.text import TextTokenizer

from .answers import NOISE_SEED, answerer
from .config import RunConfig, StageConfig
from .frames import batch_bytes, check_frames, check_tower, features_of
from .loop import StageRun, autocast
from .memory import PeakMemory, keep_freed_memory
from .models import build_model, model_config
from .rl import GrpoObjective, check_phase
from .run_folder import RunError, RunFolder
from .seeds import seed_everything, stage_seed
from .stopping import Stopped
from .tables import flat_figures, summary_table
from .text import run_text

if TYPE_CHECKING:  # matplotlib comes with it, which most ranks never need
    from timeexpert.reports.run_report import Example

EXIT_TERMINATED = 143  # what shells say of SIGTERM
# How many of the examples of a report are of which task.
EXAMPLES = {"moment_retrieval": 0.5, "dense_captioning": 0.25, "highlight_detection": 0.25, "action_segmentation": 0.5}
DISK_REFUSES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@dataclass
class Trainer:
    """One run in one process. ``execute`` does what is not done yet and returns the summary."""

    config: RunConfig
    run: RunFolder
    device: str = "auto"
    console: Console = field(default_factory=Console)
    engine: OneProcess = field(default_factory=OneProcess)
    profile_steps: int = 0  # of each stage, whose operators are written down
    # of (config, stage, vocabulary, device): what StageRun measures MFU against
    utilisation: Callable[[RunConfig, StageConfig, int, torch.device], dict[str, float]] | None = None

    def __post_init__(self) -> None:
        for stage in self.config.stages:
            stage.check_ranks(self.engine.world_size)
        if self.config.train.threads is not None:
            torch.set_num_threads(self.config.train.threads)
        disable_progress_bar()  # transformers' bar for one small file would only flicker
        self.place = pick_device(self.device)
        self.home = torch.device("cpu") if self.engine.shards else self.place  # a rank's GPU takes its share only
        if self.place.type == "cpu":
            keep_freed_memory()
        self.datasets: dict[str, ShardDataset] = {}
        self.memory = PeakMemory()
        cache = int(self.config.data.cache_gib * 2**30)
        self.reader = FrameReader(self.config.model.frame_size, cache)

    def dataset(self, path: str) -> ShardDataset:
        """A shard folder of the config, opened once; relative paths start at data.root."""
        if path not in self.datasets:
            self.datasets[path] = ShardDataset(Path(self.config.data.root) / path)
        return self.datasets[path]

    def execute(self, only: Sequence[str] = ()) -> dict[str, Any]:
        """Train (only the named stages, or all), evaluate, write summary.json."""
        names = [stage.name for stage in self.config.stages]
        for name in only:
            if name not in names:
                raise ConfigError(f"--stage {name!r} is not a stage of this config; there are {', '.join(names)}.")
        try:
            return self._execute(only)
        except OSError as error:
            if error.errno not in DISK_REFUSES:
                raise
            raise RunError(
                f"{self.run.path}: cannot be written: {error.strerror}. Free some space and run the same command again "
                "to continue from the last checkpoint."
            ) from None

    def _execute(self, only: Sequence[str]) -> dict[str, Any]:
        for stage in self.config.stages:
            check_frames(self.config, stage, self.dataset)
            if stage.rl is not None:
                check_phase(stage, self._mix_of(stage))
        if self.config.data.eval and any(stage.evaluate for stage in self.config.stages):
            self.held_out()  # data that cannot be scored are refused before anything is written
        self.engine.from_main(lambda: self.run.start(self.config))
        seed_everything(self.config.train.seed)
        self.engine.from_main(lambda: self._text().vocab_size)  # made once, and read by every rank
        text = self._text()
        model = self._model(text)
        before = 0
        unfinished: list[str] = []
        for place, stage in enumerate(self.config.stages):
            folder = self.run.models / stage.name
            if self._is_finished(folder):
                model = load_model(folder, model_config(self.config, text)).to(self.home)
                self.run.prune(stage.name, 0)
            elif only and stage.name not in only:
                unfinished.append(stage.name)
            elif unfinished:
                raise ConfigError(
                    f"--stage {stage.name!r} starts from the weights of {unfinished[-1]!r}, which is not finished. "
                    f"Train it first: --stage {unfinished[0]}, or all stages without --stage."
                )
            else:
                seed_everything(stage_seed(self.config.train.seed, place))
                check_tower(self.config, stage, self.dataset, model.features_tower)
                self._train(stage, model, text, before)
                if self.engine.shards:  # the next stage may train, and so shard, other parts
                    self.engine.release()
                    model = load_model(folder, model_config(self.config, text))
            before += stage.steps
            if stage.name not in unfinished and self.config.data.eval and stage.evaluate:
                self._evaluate(stage, model, text, before)
        return self.engine.from_main(partial(self._summary, model))

    def _is_finished(self, folder: Path) -> bool:
        """Whether a stage's model is there. Raises CheckpointError where it is damaged."""

        def look() -> bool:
            there = (folder / INFERENCE).is_file()
            if there:
                verify(folder)
            return there

        return self.engine.from_main(look)

    def _text(self) -> TextTokenizer:
        return run_text(self.config, self.run.path, self.dataset)

    def _model(self, text: TextTokenizer) -> Any:
        try:
            model = build_model(self.config, text).to(self.home)
            tower = model.features_tower
            reads = "pixel_values" if tower is None else getattr(tower.module, "main_input_name", "pixel_values")
            if reads != "pixel_values":
                raise ValueError(f"a vision tower reads pixel_values, this one {reads}.")
            return model
        except UserError:
            raise
        except (AttributeError, ImportError, KeyError, TypeError, ValueError) as error:  # transformers' own
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            raise ConfigError(f"model: cannot be built: {reason} Check {self.config.model.suspects}.") from None

    def _loader(self, stage: StageConfig, text: TextTokenizer) -> PlannedLoader[Any]:
        growing = stage.frame_schedule == "growing" and stage.batch_videos is not None
        reading = Reading(
            num_frames=stage.num_frames,
            sampling=stage.sampling,
            snap=stage.snap,
            tasks=stage.tasks,
            questions_per_video=stage.questions_per_video,
            max_tokens=stage.max_tokens,
            seed=self.config.train.seed,
            frames_of=tuple(stage.frames_of.get(name) for name in stage.mix),
            questions_of=tuple(stage.questions_of.get(name) for name in stage.mix),
            total_draws=stage.steps * stage.accumulate * stage.batch_videos if growing else None,  # type: ignore[operator]
        )
        sources = [VideoQuestions(self.dataset(self.config.data.train[name]), stage.tasks) for name in stage.mix]
        writer = family(self.config.model.family).writer(model_config(self.config, text), text)
        load = BatchLoader(sources, self.reader, writer, reading)
        mixture = Mixture([len(s) for s in sources], list(stage.mix.values()), self.config.train.seed, stage.mix_by)
        # rows are cut at max_tokens, which batch_tokens is never below: the planner has nothing to drop
        planner = BatchPlanner(mixture, load.length, stage.batch_tokens, stage.batch_videos)
        workers, rank, ranks = self.config.data.num_workers, self.engine.rank, self.engine.world_size
        size, room = batch_bytes(self.config, stage, self.dataset), int(self.config.data.prefetch_gib * 2**30)
        ahead = batches_ahead(size, workers, room)
        return PlannedLoader(planner, load, workers, ahead, rank=rank, world_size=ranks)

    def _train(self, stage: StageConfig, model: Any, text: TextTokenizer, before: int) -> None:
        def describe(folder: Path, global_step: int) -> None:
            model.config.save_pretrained(folder)
            text.save(folder)
            self._inference(stage, global_step).write(folder)

        parts = ", ".join(part for part in stage.parts if part in self.config.model.PARTS)
        self.console.print(f"[bold]stage {stage.name}[/] ({stage.kind}): {stage.steps} steps, trains {parts}")
        loader = self._loader(stage, text)
        data = {name: self.dataset(self.config.data.train[name]).manifest["index_sha256"] for name in stage.mix}
        peak: dict[str, float] = {}  # it counts the tower's work, which features leave out
        if self.utilisation and not stage.rl and not features_of(self.config, stage, self.dataset):
            peak = self.utilisation(self.config, stage, text.vocab_size, self.place)
        with self.run.timed(stage.name) as lap:
            StageRun(
                self.run,
                stage,
                self.config.train,
                model,
                loader,
                before,
                describe,
                data,
                console=self.console,
                memory=self.memory,
                lap=lap,
                engine=self.engine,
                profile_steps=self.profile_steps,
                objective=self._objective(stage, model, text),
                **peak,
            ).execute()
        self._export(stage, model, text, before + stage.steps)
        self.engine.from_main(partial(write_rollouts_page, self.run.path))

    def _mix_of(self, stage: StageConfig) -> dict[str, ShardDataset]:
        return {name: self.dataset(self.config.data.train[name]) for name in stage.mix}

    def _objective(self, stage: StageConfig, model: Any, text: TextTokenizer) -> GrpoObjective | None:
        if stage.rl is None:
            return None
        datasets, in_precision = list(self._mix_of(stage).values()), partial(autocast, self.config.train, self.place)
        record = partial(self.run.record, file=self.run.rollouts)
        seed = self.config.train.seed
        return GrpoObjective(stage, model, text, datasets, seed, self.engine, self.place, in_precision, record)

    def _export(self, stage: StageConfig, model: Any, text: TextTokenizer, global_step: int) -> None:
        weights = whole_model(self.engine.weights(model), keep=self.engine.is_main) if self.engine.shards else None

        def fill(folder: Path) -> None:
            model.save_pretrained(folder, state_dict=weights)
            text.save(folder)
            self._inference(stage, global_step).write(folder)

        def write() -> None:
            write_folder(self.run.models / stage.name, fill)
            self.run.prune(stage.name, 0)

        self.engine.from_main(write)

    def _inference(self, stage: StageConfig, global_step: int) -> InferenceConfig:
        settings = self.config.eval
        return InferenceConfig(
            num_frames=settings.num_frames,
            max_new_tokens=settings.max_new_tokens,
            max_events=settings.max_events,
            stage=stage.name,
            global_step=global_step,
        )

    def held_out(self) -> list[Sample]:
        """The questions that are asked after each stage."""
        assert self.config.data.eval is not None
        dataset = self.dataset(self.config.data.eval)
        questions = [dataset.sample(i) for i in range(len(dataset))]
        return scored_questions(questions, self.config.eval.max_questions, dataset.path, self.scored)

    @property
    def scored(self) -> tuple[str, ...]:
        """The tasks that the run's model can be asked."""
        return scored_tasks(family(self.config.model.family).draws_masks)

    def _evaluate(self, stage: StageConfig, model: Any, text: TextTokenizer, step: int) -> None:
        last = stage is self.config.stages[-1]
        for control in (None, "noise_frames", "mean_segment") if last else (None,):
            if self.engine.from_main(partial(self._recorded, stage.name, control)):
                continue
            with self.run.timed(f"evaluate {stage.name}" + (f" {control}" if control else "")):
                figures = self._figures(stage, control, model, text)
            row = {"kind": "eval", "stage": stage.name, "global_step": step, "control": control, **figures}
            self.run.record(row)
            told = ", ".join(f"{name} {value}" for name, value in flat_figures(row).items())
            self.console.print(f"evaluated {stage.name}{f' ({control})' if control else ''}: {told}", highlight=False)

    def _recorded(self, stage: str, control: str | None) -> bool:
        return any(r["stage"] == stage and r.get("control") == control for r in self.run.rows("eval"))

    def _figures(self, stage: StageConfig, control: str | None, model: Any, text: TextTokenizer) -> dict[str, Any]:
        samples = self.held_out()
        if control == "mean_segment":
            samples = [s for s in samples if s.task == "moment_retrieval"]
            training = [self.dataset(self.config.data.train[name]) for name in stage.mix]
            seen = [d.sample(i) for d in training for i in range(len(d))]
            return score(samples, mean_segment(samples, seen))
        settings = self.config.eval
        inference = InferenceConfig(settings.num_frames, settings.max_new_tokens, settings.max_events)
        predictor = Predictor(model.to(self.place), text, inference, reader=self.reader)
        noise = NOISE_SEED if control == "noise_frames" else None
        assert self.config.data.eval is not None
        plain = answerer(predictor, self.dataset(self.config.data.eval), noise)

        def ask(asked: Sequence[Sample]) -> list[Answer]:
            """Each rank answers its share."""
            rank, ranks = self.engine.rank, self.engine.world_size
            with autocast(self.config.train, self.place):
                shares = self.engine.gather(plain(asked[rank::ranks]))
            return [shares[i % ranks][i // ranks] for i in range(len(asked))]

        name = stage.name if control is None else f"{stage.name}.{control}"
        path = self.run.path / "predictions" / f"{name}.jsonl"
        figures: dict[str, Any] = {}
        with self.console.status("") as status:
            kept = path if self.engine.is_main else None
            answers = evaluate(samples, ask, batch_size=settings.batch_size, predictions=kept, tasks=self.scored)
            for done, result in answers:
                self.memory.sample()
                status.update(f"evaluating {name}: {done} of {len(samples)} questions")
                figures = result or figures
        return figures

    def examples(self, count: int = 8) -> list[Example]:
        """Some held-out questions of the last evaluated stage with frames, truth and answer, for the report."""
        stages = [r["stage"] for r in self.run.rows("eval") if r["control"] is None]
        path = self.run.path / "predictions" / f"{stages[-1]}.jsonl" if stages else Path()
        if not path.is_file() or self.config.data.eval is None or self.dataset(self.config.data.eval).features:
            return []  # of features no picture can be made
        from timeexpert.reports.run_report import Example

        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        dataset = self.dataset(self.config.data.eval)
        where = {dataset.sample(i).id: i for i in range(len(dataset))}
        picked: list[dict[str, Any]] = []
        for task, share in EXAMPLES.items():
            own = [r for r in rows if r["task"] == task and r["error"] is None]
            picked += [own[i * len(own) // max(1, round(count * share))] for i in range(round(count * share)) if own]
        out = []
        for row in picked:
            i = where[row["id"]]
            frames, times_s, duration_s = self.reader.read(
                dataset.video_key(i), partial(dataset.media, i), self.config.eval.num_frames
            )
            told = None if row["prediction"] is None or row["problems"] else EventSequence.from_json(row["prediction"])
            truth = EventSequence.from_json(row["truth"])
            classes = classes_of(row["meta"]) if row["task"] == "action_segmentation" else None
            out.append(
                Example(frames, list(times_s), truth, told, row["prompt"], duration_s, row["video"], classes)  # type: ignore[arg-type]
            )
        return out

    def _summary(self, model: Any) -> dict[str, Any]:
        rows = self.run.rows("eval")
        stages = [{"name": r["stage"], **flat_figures(r)} for r in rows if r["control"] is None]
        controls = {r["control"]: flat_figures(r) for r in rows if r["control"] is not None}
        old = self.run.path / "summary.json"
        peak_gib = json.loads(old.read_text(encoding="utf-8")).get("peak_rss_gib", 0.0) if old.is_file() else 0.0
        self.memory.sample()
        finished = [s for s in self.config.stages if (self.run.models / s.name / INFERENCE).is_file()]
        summary = {
            "stages": stages,
            "controls": controls,
            "parse_rate": stages[-1]["parse_rate"] if stages else None,
            "unreadable": stages[-1]["unreadable"] if stages else None,
            "steps": sum(stage.steps for stage in finished),
            "parameters": sum(p.numel() for p in model.parameters()),
            "seconds": self.run.seconds(),
            "peak_rss_gib": max(peak_gib, round(self.memory.gib, 2)),
        }
        write_json(old, summary)
        return summary


def run_and_report(trainer: Trainer, only: Sequence[str] = ()) -> int:
    """Execute a run, print its table and write its report. Returns the exit code; 143 after an orderly stop."""
    try:
        summary = trainer.execute(only)
    except Stopped:
        where = escape(str(trainer.run.path))
        trainer.console.print(f"stopped; the state is saved. Continue with the same command ({where}).", soft_wrap=True)
        trainer.engine.from_main(partial(write_rollouts_page, trainer.run.path))
        return EXIT_TERMINATED
    if not trainer.engine.is_main:
        return 0
    from timeexpert.reports.run_report import write_report

    trainer.console.print(summary_table(summary))
    report = escape(str(write_report(trainer.run.path, trainer.examples(), experts=trainer.config.model.has_experts)))
    if (rollouts := write_rollouts_page(trainer.run.path)) is not None:
        trainer.console.print(f"rollouts: {escape(str(rollouts))}", highlight=False, soft_wrap=True)
    trainer.console.print(f"report: {report}", highlight=False, soft_wrap=True)
    return 0
