"""The config of a run: model, text, data, stages, training, evaluation. One YAML file holds all of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from timeexpert.config import ConfigError, at_least
from timeexpert.data.mixes import load_mix
from timeexpert.data.mixture import MixBy
from timeexpert.data.records import TASKS
from timeexpert.data.scenes import SynthConfig
from timeexpert.families import FAMILIES, ModelSettings, all_kinds, settings_of
from timeexpert.parallel import ParallelConfig

from .rl_config import RlConfig

KINDS = all_kinds()  # what each kind of stage trains


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """``tokenizer``: a folder or name of a Hugging Face tokenizer, a folder with sentencepiece.model, or ``train``:
    sentencepiece of ``vocab_size`` ``pieces``, trained on the training data's prompts and answers. Where sentences
    repeat a few words, ``bpe`` makes whole words of them, and ``unigram`` leaves syllables."""

    tokenizer: str = "train"
    vocab_size: int = 512
    pieces: Literal["unigram", "bpe"] = "unigram"
    prompt_format: Literal["aria", "chat_template"] = "aria"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Shard folders by name. ``cache_gib``: decoded frames kept in memory per process; 0 decodes every time.

    ``prefetch_gib``: memory for batches that ``num_workers`` processes have loaded ahead; one each at least.
    """

    root: str = "."  # relative paths below start here
    train: dict[str, str] = field(default_factory=dict)
    eval: str | None = None
    cache_gib: float = 0.0
    num_workers: int = 0
    prefetch_gib: float = 4.0

    def __post_init__(self) -> None:
        at_least(0, self, "cache_gib", "num_workers", "prefetch_gib")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One training stage.

    ``kind`` says what is trained, as the model's family names it (``trains`` overrides it with names of parts);
    ``mix`` maps data-set names to weights, or names a mix file: ``data/stage1`` (docs/mixes.md); ``mix_by``: weights
    are shares of the videos drawn (``samples``) or of their tokens, padding left out; ``num_frames``: frames per video,
    one of them drawn per video (``growing``: the first of them at the start of the stage, the last at its end; needs
    ``batch_videos`` alone); ``snap``: target times to sampled frames (``none`` keeps them, ``nearest`` as TRACE,
    ``inside``: first and last sampled frame of the event). ``frames_of`` and ``questions_of``: numbers of data
    sets that are read otherwise (a mix file may say them), in place of ``num_frames``, whose largest they cannot pass,
    and of ``questions_per_video``.
    A batch holds at most ``batch_videos`` videos and ``batch_tokens`` padded tokens; ``accumulate`` batches make one
    optimizer step, over all ranks together. ``optimizer``: ``adamw`` (the paper's); ``muon`` for the matrices of
    attention and shared experts with ``adamw`` for the rest, at ``matrix_lr`` (None: ``lr``): fewer steps from nothing
    (docs/log.md); or plain ``sgd``, which shows a wrongly scaled gradient. ``gate_lr``: rate of the gates' rows and
    thresholds (None: ``lr``); cosines forget fast at the rates of a tiny model. ``calibrate_gates``: set the thresholds
    before the first step, on ``calibrate_batches`` batches that are then not trained on. ``schedule``: ``cosine`` or
    ``linear`` decay to ``final_lr_ratio``. ``rl``: settings of the kind ``rl`` (docs/rl.md).
    """

    name: str
    kind: str
    steps: int
    mix: dict[str, float]
    mix_by: MixBy = "samples"
    trains: tuple[str, ...] | None = None
    tasks: tuple[str, ...] = TASKS
    num_frames: tuple[int, ...] = (128,)
    frame_schedule: Literal["random", "growing"] = "random"
    sampling: Literal["random", "uniform"] = "random"
    snap: Literal["none", "nearest", "inside"] = "none"
    questions_per_video: int = 1
    frames_of: dict[str, int] = field(default_factory=dict)
    questions_of: dict[str, int] = field(default_factory=dict)
    batch_videos: int | None = None
    batch_tokens: int | None = 16384
    max_tokens: int = 4096
    accumulate: int = 1
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    lr: float = 5e-6
    matrix_lr: float | None = None
    gate_lr: float | None = None
    schedule: Literal["cosine", "linear"] = "cosine"
    final_lr_ratio: float = 0.0
    warmup_ratio: float = 0.01
    warmup_from: float = 0.0
    weight_decay: float = 0.1
    beta2: float = 0.95
    calibrate_gates: bool = False
    calibrate_batches: int = 1
    evaluate: bool = True
    rl: RlConfig | None = None

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "questions_per_video", "accumulate", "max_tokens", "calibrate_batches")
        at_least(0, self, "weight_decay")
        if not self.num_frames or min(self.num_frames) < 1:
            raise ConfigError(f"num_frames ({list(self.num_frames)}) must list numbers of 1 or more.")
        for name in ("lr", "matrix_lr", "gate_lr"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ConfigError(f"{name} ({getattr(self, name)}) must be positive.")
        for name in ("final_lr_ratio", "warmup_ratio", "warmup_from"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} ({getattr(self, name)}) must be between 0 and 1.")
        if not 0 < self.beta2 < 1:
            raise ConfigError(f"beta2 ({self.beta2}) must be between 0 and 1.")
        for task in self.tasks:
            if task not in TASKS:
                raise ConfigError(f"tasks: {task!r} is not one of {', '.join(TASKS)}.")
        if self.frame_schedule == "growing" and self.batch_videos is None:
            raise ConfigError("frame_schedule growing needs batch_videos: it says how many videos the stage will draw.")
        if self.frame_schedule == "growing" and self.batch_tokens is not None:
            raise ConfigError(
                f"frame_schedule growing needs batch_tokens: null, not {self.batch_tokens}: batches cut by length hold "
                "fewer videos than the schedule counts on. batch_videos says how many."
            )
        if self.trains == ():
            raise ConfigError("trains is empty; name at least one part, or leave it out.")
        if not self.mix:
            raise ConfigError(f"mix of stage {self.name!r} is empty; name at least one data set of data.train.")
        if min(self.mix.values()) < 0 or not any(self.mix.values()):
            raise ConfigError(f"mix of stage {self.name!r} ({self.mix}): weights are 0 or more, and not all 0.")
        self._check_own()
        self._check_batch()
        self._check_rl()

    def _check_rl(self) -> None:
        if (self.kind == "rl") != (self.rl is not None):
            raise ConfigError(f"kind ({self.kind!r}) and rl do not go together: kind rl has rl: {{...}}, no other has.")
        if self.rl is not None:
            own = {f"questions_of.{name}": count for name, count in self.questions_of.items()}
            self.rl.check_tasks(self.tasks, {"questions_per_video": self.questions_per_video, **own})
            if self.batch_videos is None:
                raise ConfigError(
                    "batch_videos (null) must be a number in an rl stage: batch_tokens does not count the group_size "
                    "answers of each question."
                )
            if self.snap != "none":
                raise ConfigError(
                    f"snap ({self.snap!r}) moves the times that answers are taught; an rl stage rewards the annotated "
                    "ones. Leave it out."
                )
            if self.calibrate_gates:
                raise ConfigError("calibrate_gates (true) sets thresholds anew, which an rl stage leaves alone.")

    def _check_own(self) -> None:
        for of in ("frames_of", "questions_of"):
            for name, value in getattr(self, of).items():
                if name not in self.mix:
                    raise ConfigError(f"{of} of stage {self.name!r} names {name!r}, which its mix lacks.")
                if value < 1:
                    raise ConfigError(f"{of}.{name} of stage {self.name!r} ({value}) must be 1 or more.")
        for name, value in self.frames_of.items():
            if value > max(self.num_frames):
                raise ConfigError(
                    f"frames_of.{name} of stage {self.name!r} ({value}) is more than its num_frames "
                    f"({max(self.num_frames)}), which memory is counted for. Raise num_frames, or lower it."
                )

    def frames(self, name: str) -> tuple[int, ...]:
        """How many frames may be sampled of a video of the data set ``name``."""
        return (self.frames_of[name],) if name in self.frames_of else self.num_frames

    def _check_batch(self) -> None:
        if self.batch_videos is None and self.batch_tokens is None:
            raise ConfigError("batch_videos and batch_tokens are both null: a batch would never end. Set one of them.")
        if self.batch_videos is not None:
            at_least(1, self, "batch_videos")
        if self.batch_tokens is not None and self.batch_tokens < self.max_tokens:
            raise ConfigError(
                f"batch_tokens ({self.batch_tokens}) is less than max_tokens ({self.max_tokens}), the longest row: "
                "it would fit into no batch. Raise batch_tokens or lower max_tokens."
            )

    def check_ranks(self, ranks: int) -> None:
        """Raises :class:`ConfigError` where the batches of a step cannot be shared evenly."""
        if self.accumulate % ranks:
            above = -(-self.accumulate // ranks) * ranks
            below = above - ranks
            fits = [n for n in range(1, self.accumulate + 1) if self.accumulate % n == 0]
            raise ConfigError(
                f"stages.{self.name}.accumulate ({self.accumulate}) batches make one optimizer step, and {ranks} ranks "
                f"cannot share them evenly. Set stages.{self.name}.accumulate to "
                f"{f'{below} or ' if below else ''}{above}, or start {', '.join(map(str, fits))} ranks."
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that are trained."""
        return self.trains if self.trains is not None else KINDS[self.kind]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How every stage runs. ``precision``: ``auto`` is bf16 on a GPU and fp32 elsewhere.

    ``async_checkpoints``: they are written while training goes on, from a copy in memory. A step whose loss or gradient
    is not finite is skipped; ``max_nonfinite_steps`` of them in a row end the run. ``log_samples``: the ids of each
    step's questions go to samples.jsonl.
    """

    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    gradient_checkpointing: bool = False
    max_grad_norm: float = 1.0
    max_nonfinite_steps: int = 5
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    async_checkpoints: bool = True
    log_every: int = 10
    log_samples: bool = False
    experts_every: int = 100
    threads: int | None = None

    def __post_init__(self) -> None:
        at_least(1, self, "max_nonfinite_steps", "checkpoint_every", "keep_checkpoints", "log_every", "experts_every")
        at_least(0, self, "seed")
        if self.max_grad_norm <= 0:
            raise ConfigError(f"max_grad_norm ({self.max_grad_norm}) must be positive.")
        if self.threads is not None:
            at_least(1, self, "threads")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Held-out evaluation: frames per video, questions per task (None: all), batch size, answer budget."""

    num_frames: int = 128
    max_questions: int | None = None
    batch_size: int = 32
    max_new_tokens: int = 512
    max_events: int = 64

    def __post_init__(self) -> None:
        at_least(1, self, "num_frames", "batch_size", "max_new_tokens", "max_events")
        if self.max_questions is not None:
            at_least(1, self, "max_questions")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run: stages are trained in order, each from the weights of the one before."""

    name: str
    stages: tuple[StageConfig, ...]
    model: ModelSettings = field(default_factory=settings_of(FAMILIES[0]))
    text: TextConfig = field(default_factory=TextConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    synth: dict[str, SynthConfig] = field(default_factory=dict)  # made by quickstart before training

    @staticmethod
    def prepare(tree: dict[str, Any]) -> dict[str, Any]:
        """``tree`` with the mix files that stages name (``mix: data/stage1``) written out.

        A data set of a mix is the shard folder of its name, unless ``data.train`` gives it another.
        """
        stages, data = tree.get("stages"), tree.get("data") or {}
        if not isinstance(stages, list) or not isinstance(data, dict):
            return tree  # refused later, with its place
        train = dict(data.get("train") or {})
        written = []
        for stage in stages:
            if isinstance(stage, dict) and isinstance(stage.get("mix"), str):
                mix = load_mix(stage["mix"])  # a data set of weight 0 need not be there
                train = {name: name for name in mix.weights} | train
                own = {
                    field: {d.name: getattr(d, of) for d, _ in mix.used() if getattr(d, of) is not None}
                    for field, of in (("frames_of", "num_frames"), ("questions_of", "questions_per_video"))
                }
                stage = {"mix_by": mix.mix_by, **own, **stage, "mix": mix.weights}
            written.append(stage)
        return tree | {"stages": written, "data": data | {"train": train}}

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names:
            raise ConfigError("stages is empty; list at least one.")
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"stages: the name {name!r} occurs twice; checkpoints are named after stages.")
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ConfigError(f"stages: the name {name!r} must be letters, digits, '-' and '_': it names folders.")
        shortest = self.model.shortest_answer
        if self.data.eval is not None and self.eval.max_new_tokens < shortest:
            raise ConfigError(
                f"eval.max_new_tokens ({self.eval.max_new_tokens}) must be {shortest} or more: "
                "that many tokens take an event of two times."
            )
        self.model.check_frames("eval.num_frames", self.eval.num_frames)
        for i, stage in enumerate(self.stages):
            self.model.check_stage(f"stages[{i}]", stage.kind, stage.trains, stage.num_frames)
            if stage.calibrate_gates and not self.model.has_experts:
                raise ConfigError(
                    f"stages[{i}].calibrate_gates is true, and models of model.family {self.model.family!r} have no "
                    "gates. Leave it out."
                )
            if stage.rl is not None:
                stage.rl.check_family(f"stages.{stage.name}", self.model.family, self.model.answers_in_words)
                stage.rl.check_run(f"stages.{stage.name}", stage.steps, shortest, self.train.checkpoint_every)
                if stage.rl.rollouts is not None:
                    stage.rl.rollouts.check_weights(f"stages.{stage.name}", self.model.pretrained)
                if self.parallel.engine == "deepspeed":
                    raise ConfigError(
                        f"stages.{stage.name}: an rl stage needs whole weights; set parallel.engine to 'torch'."
                    )
            if self.parallel.engine == "deepspeed" and stage.optimizer == "muon":
                raise ConfigError(
                    f"stages.{stage.name}.optimizer ('muon') needs whole matrices, which parallel.engine 'deepspeed' "
                    f"cuts. Set stages.{stage.name}.optimizer to 'adamw', or parallel.engine to 'torch'."
                )
            for dataset in stage.mix:
                if dataset not in self.data.train:
                    known = ", ".join(self.data.train) or "none"
                    raise ConfigError(f"stages.{stage.name}.mix names {dataset!r}, which data.train lacks ({known}).")
