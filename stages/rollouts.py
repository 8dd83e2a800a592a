"""Rollouts: a model answers each question several times, and rewards say which answers were good.

Q questions, G answers of each, B = Q * G answers, T tokens of the longest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from timeexpert.data.batch import VideoBatch
from timeexpert.data.collate import Row
from timeexpert.data.records import Sample
from timeexpert.data.shards import ShardDataset
from timeexpert.evaluation.segment_rewards import REWARDS, SegmentAnswer, answer_of_events, answer_of_text
from timeexpert.model.decoding import Sampler, Writing
from timeexpert.model.generation import RefusedTokens
from timeexpert.model.protocol import VideoLLM
from timeexpert.predict import Clip, Prediction, Predictor, Request
from timeexpert.tokenization import Event, EventSequence
from timeexpert.tokenization.grammar import Allowed

from .grpo import group_advantages
from .rl_config import QUESTION, RlConfig
from .rollout_server import RolloutServer


@dataclass(frozen=True)
class RolloutBatch:
    """Questions with their answers, as updates take them.

    ``batch``: one row per question, its answers packed behind the video, labels on their tokens. ``rules``: what the
    grammar allowed in the place of each label. ``mask`` (B, T) is true where an answer has a token; ``sampled``,
    ``old`` and ``reference`` (B, T) are the log-probabilities of the tokens when they were drawn, under the weights
    that drew them in the pass that updates make, and under the reference; ``advantages`` (B,).
    """

    batch: VideoBatch
    rules: tuple[Allowed, ...]
    mask: Tensor
    advantages: Tensor
    sampled: Tensor
    old: Tensor | None = None
    reference: Tensor | None = None

    @property
    def attention_mask(self) -> Tensor:
        """Of its rows."""
        return self.batch.attention_mask

    def to(self, device: torch.device) -> RolloutBatch:
        """The same on ``device``."""
        names = ("mask", "advantages", "sampled", "old", "reference")
        moved = {name: value.to(device) for name in names if (value := getattr(self, name)) is not None}
        return replace(self, batch=self.batch.to(device), **moved)


@dataclass(frozen=True)
class Asked:
    """One question of a batch: what is known of it, and the request that asks it."""

    sample: Sample
    request: Request


class QuestionBook:
    """The questions of a stage's data sets by (place in the mix, id), with the seconds that their videos last."""

    def __init__(self, datasets: Sequence[ShardDataset]) -> None:
        self.found: dict[tuple[int, str], tuple[Sample, float]] = {}
        for place, dataset in enumerate(datasets):
            for i in range(len(dataset.entries)):
                record = dataset.video(i)
                self.found.update({(place, s.id): (s, record.duration_s) for s in record.samples})

    def __getitem__(self, key: tuple[int, str]) -> tuple[Sample, float]:
        return self.found[key]


def asked_of(batch: VideoBatch, book: QuestionBook, prompt: str) -> list[Asked]:
    """The questions of a batch of one question per row, with their frames as the batch holds them."""
    clips = batch.pixel_values.split([len(times_s) for times_s in batch.times_s])
    asked = []
    for dataset, sample_id, times_s, clip in zip(batch.datasets, batch.sample_ids, batch.times_s, clips, strict=True):
        sample, duration_s = book[dataset, sample_id]
        words = prompt.replace(QUESTION, sample.prompt)
        own = Clip(clip, np.array(times_s), duration_s)
        asked.append(Asked(sample, Request(own, words, sample.task, masks=False)))  # rewards read segments only
    return asked


@torch.no_grad()
def with_features(batch: VideoBatch, model: VideoLLM) -> VideoBatch:
    """A batch with the tower's features in place of pixels, so that answers and updates share one pass of the tower.

    The same batch where the model takes frames only, and where there are features already.
    """
    if model.features_tower is None or batch.pixel_values.ndim == 3:
        return batch
    return replace(batch, pixel_values=model.features_tower.features(batch.pixel_values))


def draw_answers(
    predictor: Predictor,
    asked: Sequence[Asked],
    settings: RlConfig,
    seed: Sequence[int],
    server: RolloutServer | None = None,
) -> list[list[Writing]]:
    """``group_size`` answers to each question, by the model itself or by a ``server``. Random numbers follow from
    ``seed``, the question and the place in its group, so an answer does not depend on what it is drawn beside."""
    if server is not None:
        rngs = (np.random.default_rng([*seed, _number(a.sample.id)]) for a in asked)
        seeds = [int(rng.integers(2**31)) for rng in rngs]
        return server.draw(predictor, [a.request for a in asked], settings, seeds)

    def sampler(sample: Sample, place: int) -> Sampler:
        return Sampler(settings.temperature, np.random.default_rng([*seed, _number(sample.id), place]))

    samplers = [[sampler(a.sample, place) for place in range(settings.group_size)] for a in asked]
    return predictor.draw([a.request for a in asked], samplers)


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def judged(
    predictor: Predictor, asked: Asked, answers: Sequence[Writing], settings: RlConfig
) -> tuple[dict[str, Any], Tensor]:
    """The row of ``rollouts.jsonl`` of one question, and the advantages (G,) of its answers."""
    truth, rules = asked.sample.events.segments_s, settings.rules
    told = []
    for answer in answers:
        prediction = predictor.prediction(asked.request, answer)
        read = _read(prediction, settings)
        rewards = {name: REWARDS[name](read, truth, rules) for name in settings.rewards}
        told.append(
            {
                **_as_told(prediction, read, settings),
                "tokens": len(answer.tokens),
                "rewards": rewards,
                "reward": sum(settings.rewards[name] * value for name, value in rewards.items()),
            }
        )
    advantages = group_advantages(torch.tensor([[row["reward"] for row in told]], dtype=torch.float64))[0].float()
    for row, advantage in zip(told, advantages.tolist(), strict=True):
        row["advantage"] = advantage
    sample = asked.sample
    question = {"id": sample.id, "video": sample.video, "task": sample.task, "prompt": asked.request.prompt}
    times = {"duration_s": asked.request.clip.duration_s, "truth": sample.events.to_json()}
    return {**question, **times, "answers": told}, advantages


def _read(prediction: Prediction, settings: RlConfig) -> SegmentAnswer:
    """An answer as rewards read it."""
    if settings.answers == "thinking":
        return answer_of_text(prediction.text, settings.rules)
    segments = prediction.events.segments_s
    whole = segments if len(segments) == len(prediction.events) else None
    return answer_of_events(whole, not prediction.problems, settings.rules)


def _as_told(prediction: Prediction, read: SegmentAnswer, settings: RlConfig) -> dict[str, Any]:
    """What ``rollouts.jsonl`` keeps of an answer: its events, and its text where rewards read that."""
    if settings.answers == "events":
        return {"events": prediction.events.to_json(), "parsed": not prediction.problems}
    segments = [s for s in read.segments_s or () if 0 <= s[0] < s[1] < inf]
    events = EventSequence(tuple(Event(start_s, end_s) for start_s, end_s in segments))
    return {"events": events.to_json(), "parsed": read.form == 1.0, "text": prediction.text}


def rollout_batch(
    predictor: Predictor, asked: Sequence[Asked], groups: Sequence[Sequence[Writing]], advantages: Tensor
) -> RolloutBatch:
    """Questions and answers as one batch. ``advantages`` (B,)."""
    rows, rules, answers = [], [], [answer for group in groups for answer in group]
    for place, (question, group) in enumerate(zip(asked, groups, strict=True)):
        suffix = predictor.answering.question_ids(question.request)
        start = len(group[0].prompt_ids) - len(suffix)
        clip = question.request.clip
        shown_s = predictor.answering.shown_s(clip.times_s)
        row = Row(frames=clip.frames, times_s=shown_s, dataset=place, seed=None)
        row.add(group[0].prompt_ids[:start], 0, 0, False)
        for turn, answer in enumerate(group, 1):
            row.add(suffix, turn, start, False)
            row.add(answer.tokens, turn, start + len(suffix), True)
            row.sample_ids.append(f"{question.sample.id}#{turn}")
            rules += [answer.grammar.allowed(answer.tokens[:i]) for i in range(len(answer.tokens))]
        rows.append(row)
    lengths = torch.tensor([len(answer.tokens) for answer in answers])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    sampled = torch.zeros(mask.shape)
    sampled[mask] = torch.tensor([value for answer in answers for value in answer.logprobs])
    batch = predictor.answering.writer.batch(rows)
    return RolloutBatch(batch, tuple(rules), mask, advantages, sampled)


def answer_logprobs(model: VideoLLM, rollout: RolloutBatch, plain: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the answers' tokens among those that the grammar allowed, at ``temperature``, and the
    entropies (without gradient) of what they were chosen from; both (B, T), 0 where there is no token."""
    target = rollout.batch.labels[:, 1:]
    scores = model.label_logits(rollout.batch).float() / temperature
    refused = RefusedTokens(plain)(rollout.rules).to(scores.device)
    logprobs = scores.masked_fill(refused, float("-inf")).log_softmax(-1)
    picked = logprobs.gather(1, target[target >= 0][:, None])[:, 0]
    with torch.no_grad():
        entropy = torch.special.entr(logprobs.exp()).sum(-1)
    zeros = torch.zeros(rollout.mask.shape, device=scores.device)
    return zeros.masked_scatter(rollout.mask, picked), zeros.masked_scatter(rollout.mask, entropy)


def rollout_figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of the rollouts of one step: means and spreads of the rewards, length, parse rate, groups that teach nothing."""
    answers = [answer for row in rows for answer in row["answers"]]
    totals = [np.array([answer["reward"] for answer in row["answers"]]) for row in rows]
    figures = {
        "reward": float(np.mean([answer["reward"] for answer in answers])),
        "reward_std": float(np.mean([total.std(ddof=1) for total in totals])),
        "answer_tokens": float(np.mean([answer["tokens"] for answer in answers])),
        "answer_events": float(np.mean([len(answer["events"]) for answer in answers])),
        "parse_rate": 100.0 * float(np.mean([answer["parsed"] for answer in answers])),
        "zero_variance": 100.0 * float(np.mean([total.std() < 1e-9 for total in totals])),
    }
    for name in answers[0]["rewards"]:
        values = np.array([answer["rewards"][name] for answer in answers])
        figures |= {f"reward_{name}": float(values.mean()), f"reward_{name}_std": float(values.std())}
    return figures
