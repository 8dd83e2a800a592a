"""Reinforcement learning in the one loop: a feed that yields rollouts, and GRPO in place of the cross-entropies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from timeexpert.checkpoint import whole_model
from timeexpert.config import ConfigError
from timeexpert.data.batch import VideoBatch
from timeexpert.data.endpoint import key_from
from timeexpert.data.shards import ShardDataset
from timeexpert.model.protocol import ModelOutput, VideoLLM
from timeexpert.parallel import OneProcess
from timeexpert.predict import InferenceConfig, Predictor
from timeexpert.timing import Stopwatch
from timeexpert.tokenization.text import TextTokenizer

from .config import StageConfig
from .feed import Feed, Step
from .grpo import grpo_terms
from .rl_config import RlConfig
from .rollout_server import RolloutServer
from .rollouts import (
    QuestionBook,
    RolloutBatch,
    answer_logprobs,
    asked_of,
    draw_answers,
    judged,
    rollout_batch,
    rollout_figures,
    with_features,
)

PIECES = ("writing", "scoring")  # of a rollout: answers are drawn; their tokens pass policy and reference


def check_phase(stage: StageConfig, datasets: dict[str, ShardDataset]) -> None:
    """What can be told before anything is trained. Raises :class:`ConfigError` for a true segment without length, which
    no answer could match, and for features in place of the frames that a server is sent; ``EndpointError`` where the
    server's key is not set."""
    if stage.rl is not None and stage.rl.rollouts is not None:
        key_from(stage.rl.rollouts.key_env)
        features = [name for name, dataset in datasets.items() if dataset.features is not None]
        if features:
            raise ConfigError(
                f"stages.{stage.name}.mix: {', '.join(features)} holds features, and the server of "
                f"stages.{stage.name}.rl.rollouts is sent frames. Give shards with frames, or leave rollouts out."
            )
    for name, dataset in datasets.items():
        for i in range(len(dataset.entries)):
            for sample in dataset.video(i).samples:
                bad = [s for s in sample.events.segments_s if s[0] >= s[1]]
                if sample.task in stage.tasks and (bad or not sample.events.segments_s):
                    what = f"the segment {bad[0]} without length" if bad else "no segment"
                    raise ConfigError(
                        f"stages.{stage.name}.mix: {name}: question {sample.id!r} has {what}, which no answer can "
                        "match. Leave such questions out: timeexpert data convert museg rejects them by name."
                    )


def dropouts_of(model: nn.Module) -> list[tuple[nn.Module, str, float]]:
    """(module, attribute, share) of each dropout: torch's layers, and the shares that attention and recurrent layers
    keep as numbers (transformers' decoders as ``attention_dropout``, its vision towers and torch as ``dropout``)."""
    layers = [(m, "p", m.p) for m in model.modules() if isinstance(m, nn.Dropout)]
    names = ("attention_dropout", "dropout")
    numbers = [(m, n, float(vars(m)[n])) for m in model.modules() for n in names if isinstance(vars(m).get(n), float)]
    return [*layers, *numbers]


class GrpoObjective:
    """What an rl stage optimises. The reference is a frozen copy of the model that the stage starts from.

    The gates' losses, statistics and thresholds, and the experts that come and go, are left alone: the reference keeps
    routing near where the stage began.
    """

    counts_experts = False
    forward_methods: tuple[str, ...] = ("label_logits",)

    def __init__(
        self,
        stage: StageConfig,
        model: Any,  # a VideoLLM
        text: TextTokenizer,
        datasets: Sequence[ShardDataset],
        seed: int,
        engine: OneProcess,
        device: torch.device,
        autocast: Callable[[], Any],
        record: Callable[[dict[str, Any]], None],
    ) -> None:
        assert stage.rl is not None
        self.settings: RlConfig = stage.rl
        self.stage = stage.name
        self.model, self.engine, self.seed, self.autocast, self.record = model, engine, seed, autocast, record
        self.book = QuestionBook(datasets)
        # before the model is spread over ranks: answers are drawn by a whole copy on each
        self.writer = deepcopy(model).to(device) if engine.shards else model
        self.reference = deepcopy(model).to(device).eval().requires_grad_(False) if self.settings.beta > 0 else None
        limits = InferenceConfig(max(stage.num_frames), self.settings.max_new_tokens, self.settings.max_events)
        self.predictor = Predictor(self.writer, text, limits, free=not self.settings.grammar)
        self.server = None if self.settings.rollouts is None else RolloutServer(self.settings.rollouts)
        # a server sees frames, and a tower that learns has no features to keep
        self.keeps_features = self.server is None and "vision_tower" not in stage.parts
        # what is optimised is what was drawn: without dropout
        self.dropouts = dropouts_of(model)
        for module, name, _ in self.dropouts:
            setattr(module, name, 0.0)
        self.plain = self.predictor.answering.plain
        self.device, self.on_gpu = device, device.type == "cuda"
        self.watches = {name: Stopwatch() for name in PIECES}

    def feed(self, feed: Feed, step_of: Callable[[], int]) -> RolloutFeed:
        """The stage's batches of questions as rollouts."""
        return RolloutFeed(feed, self, step_of)

    def loss(self, batch: RolloutBatch, counts: dict[str, float]) -> ModelOutput:
        """GRPO of one micro-batch; ``counts["answers"]``: answers of the whole optimizer step."""
        logprobs, entropy = answer_logprobs(self.model, batch, self.plain, self.settings.temperature)
        terms = grpo_terms(
            logprobs,
            batch.mask,
            batch.advantages,
            old_BT=batch.old,
            reference_BT=batch.reference,
            beta=self.settings.beta,
            epsilon=self.settings.epsilon,
        )
        answers, tokens = counts["answers"], batch.mask.sum(1)
        with torch.no_grad():
            gap = (logprobs - batch.sampled).abs()
            figures = {
                "entropy": (entropy.sum(1) / tokens).sum() / answers,
                "clipped": terms.clipped.sum() / answers,
                "logprob_gap": (gap.sum(1) / tokens).sum() / answers,
            }
        losses = {"policy": terms.policy.sum() / answers}
        if self.reference is not None:
            figures["kl"] = terms.kl.detach().sum() / answers
            losses["kl"] = self.settings.beta * terms.kl.sum() / answers
        return ModelOutput(torch.stack(list(losses.values())).sum(), losses, figures=figures)

    def roll_out(self, batch: VideoBatch, serial: int) -> tuple[RolloutBatch, list[dict[str, Any]]]:
        """Answers to the questions of one batch, their rewards, and what updates need of them.

        ``serial``: global step of the first update that uses them.
        """
        settings, batch = self.settings, batch.to(self.device)
        self.writer.eval()
        with self.autocast(), torch.no_grad():
            if self.keeps_features:
                batch = with_features(batch, self.writer)
            asked = asked_of(batch, self.book, settings.prompt)
            with self.watches["writing"].running(self.on_gpu):
                groups = draw_answers(self.predictor, asked, settings, (self.seed, serial), self.server)
            rows, advantages = zip(
                *(judged(self.predictor, a, group, settings) for a, group in zip(asked, groups, strict=True)),
                strict=True,
            )
            rollout = rollout_batch(self.predictor, asked, groups, torch.cat(advantages)).to(self.device)
            with self.watches["scoring"].running(self.on_gpu):
                if settings.updates_per_rollout > 1:
                    rollout = replace(rollout, old=self._logprobs(self.writer, rollout))
                if self.reference is not None:
                    rollout = replace(rollout, reference=self._logprobs(self.reference, rollout))
        self.model.train()
        return rollout, list(rows)

    def _logprobs(self, model: VideoLLM, rollout: RolloutBatch) -> Tensor:
        return answer_logprobs(model, rollout, self.plain, self.settings.temperature)[0]

    def refresh_writer(self) -> None:
        """Give what draws answers the weights of now; a collective."""
        if self.engine.shards:
            weights = whole_model(self.engine.weights(self.model))
            assert weights is not None
            self.writer.load_state_dict(weights)
        if self.server is not None:
            self.engine.from_main(partial(self.server.renew_weights, self._save_writer))

    def _save_writer(self, folder: Path) -> None:
        self.writer.save_pretrained(folder)
        self.predictor.text.save(folder)

    def close(self) -> None:
        """Give the model its dropout back."""
        for module, name, share in self.dropouts:
            setattr(module, name, share)


@dataclass
class RolloutFeed:
    """Steps of rollouts: the questions of ``feed``, answered, and given out ``updates_per_rollout`` times."""

    questions: Feed
    objective: GrpoObjective
    step_of: Callable[[], int]  # global step of the update that comes next
    figures: dict[str, float] = field(default_factory=dict)
    _now: Step | None = None
    _left: int = 0

    @property
    def reading(self) -> Stopwatch:
        """See :class:`Feed`."""
        return self.questions.reading

    @property
    def pieces(self) -> dict[str, Stopwatch]:
        """Of a rollout."""
        return self.objective.watches

    @property
    def state(self) -> dict[str, Any]:
        """See :class:`Feed`."""
        return self.questions.state

    @property
    def at_boundary(self) -> bool:
        """Whether the next step draws answers anew, so that a checkpoint needs to hold none."""
        return self._left == 0

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`Feed`."""
        self.questions.load_state_dict(state)

    def close(self) -> None:
        """See :class:`Feed`."""
        self.questions.close()
        self.objective.close()

    def take(self, count: int) -> Step:
        """``count`` batches of questions with their answers, over all ranks."""
        if self._left == 0:
            self._now = self._roll_out(self.questions.take(count))
            self._left = self.objective.settings.updates_per_rollout
        self._left -= 1
        assert self._now is not None
        return self._now

    def _roll_out(self, step: Step) -> Step:
        objective, serial = self.objective, self.step_of()
        objective.refresh_writer()
        micro, rows = [], []
        for batch in step.micro:
            rollout, told = objective.roll_out(batch, serial)
            micro.append(rollout)
            rows += told
        shares = objective.engine.gather((rows, sum(int(m.attention_mask.sum()) for m in micro)))
        everything = [row for share, _ in shares for row in share]
        order = {sample: place for place, sample in enumerate(step.sample_ids)}
        everything.sort(key=lambda row: order[row["id"]])
        self.figures = rollout_figures(everything)
        for row in everything:
            objective.record({"stage": objective.stage, "global_step": serial, **row})
        answers = float(len(everything) * objective.settings.group_size)
        first = replace(step.notices[0], labels={"answers": answers}, tokens=sum(tokens for _, tokens in shares))
        others = [replace(notice, labels={}, tokens=0) for notice in step.notices[1:]]
        return Step(micro, [first, *others])
