"""What a rollout earns, what its figures are, and the log-probabilities of its tokens, by hand."""

from __future__ import annotations

from math import exp, log
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from timeexpert.data.records import Sample
from timeexpert.model.answering import Clip, Prediction, Request
from timeexpert.stages.rl_config import RlConfig
from timeexpert.stages.rollouts import Asked, RolloutBatch, answer_logprobs, judged, rollout_figures
from timeexpert.tokenization import Event, EventSequence, Problem
from timeexpert.tokenization.grammar import Allowed

SAMPLE = Sample(
    id="q", video="a.mp4", task="moment_retrieval", prompt="When?", events=EventSequence((Event(2.0, 6.0),))
)
ASKED = Asked(SAMPLE, Request(Clip(np.zeros((0, 2, 2, 3), np.uint8), np.zeros(0), 10.0), "Say. When?"))


def told(settings: RlConfig, *predictions: Prediction) -> tuple[dict[str, Any], list[float]]:
    """The row and the advantages of these answers."""
    answers: Any = [SimpleNamespace(tokens=[1, 2], prediction=prediction) for prediction in predictions]
    predictor: Any = SimpleNamespace(prediction=lambda request, answer: answer.prediction)
    row, advantages = judged(predictor, ASKED, answers, settings)
    return row, advantages.tolist()


def events(*segments: tuple[float, float] | None) -> Prediction:
    return Prediction(EventSequence(tuple(Event(*s) if s else Event(text="a word") for s in segments)))


def test_an_event_without_times_is_no_segment_so_that_its_answer_matches_nothing() -> None:
    settings = RlConfig(rewards={"format": 1, "global_matching": 2})
    row, advantages = told(settings, events((2.0, 6.0)), events((2.0, 6.0), None))
    assert [a["rewards"] for a in row["answers"]] == [
        {"format": 1.0, "global_matching": 1.0},
        {"format": 0.2, "global_matching": 0.0},
    ]
    assert [a["reward"] for a in row["answers"]] == [3.0, 0.2]
    assert advantages == pytest.approx([2**-0.5, -(2**-0.5)], rel=1e-3)
    assert (row["prompt"], row["truth"]) == ("Say. When?", SAMPLE.events.to_json())


def test_an_answer_that_does_not_parse_earns_nothing() -> None:
    broken = Prediction(events((2.0, 6.0)).events, [Problem(3, "no number")])
    row, _ = told(RlConfig(), broken, events((2.0, 6.0)))
    assert [(a["parsed"], a["reward"]) for a in row["answers"]] == [(False, 0.0), (True, 3.0)]


@pytest.mark.parametrize(
    ("settings", "earned"),
    [
        (RlConfig(), [0.5, (1 - 2 / 8) / 2 / 2]),  # 2 of 4 s told, 2 of 4 s true; 8 to 10 s is 2 s off in a hull of 8 s
        (RlConfig(overlap="iou"), [2 / 6, (1 - 2 / 8) / 2 / 2]),
        (RlConfig(local="optimal"), [0.5, (1 + 2 / 4) / 2 / 2]),
    ],
    ids=["default", "iou", "optimal"],
)
def test_overlap_and_local_say_how_segments_are_compared(settings: RlConfig, earned: list[float]) -> None:
    row, _ = told(settings, events((8.0, 10.0), (2.0, 4.0)), events((2.0, 6.0)))
    first, second = (answer["rewards"] for answer in row["answers"])
    assert [first["global_matching"], first["local_matching"]] == pytest.approx(earned)
    assert [second["global_matching"], second["local_matching"]] == [1.0, 1.0]


@pytest.mark.parametrize("convention", ["strict", "compat"])
def test_words_with_an_endless_segment_are_told_without_it(convention: Any) -> None:
    settings = RlConfig(answers="thinking", rewards={"segment_matching": 1}, convention=convention)
    words = [f"<think></think><answer>{item}</answer>" for item in ("2-inf", "2-6")]
    row, _ = told(settings, *(Prediction(EventSequence(), text=text) for text in words))
    assert [len(a["events"]) for a in row["answers"]] == [0, 1]
    assert [a["reward"] for a in row["answers"]] == pytest.approx([0.0, 2.0], abs=1e-5)


def answer(total: float, format_: float, tokens: int, count: int, parsed: bool = True) -> dict[str, Any]:
    return {"reward": total, "rewards": {"format": format_}, "tokens": tokens, "events": [{}] * count, "parsed": parsed}


def test_figures_are_means_over_answers_and_spreads_within_groups() -> None:
    rows = [
        {"answers": [answer(1.0, 1.0, 10, 1), answer(3.0, 1.0, 20, 2)]},
        {"answers": [answer(2.0, 0.2, 10, 0), answer(2.0, 0.2, 40, 1, parsed=False)]},
    ]
    assert rollout_figures(rows) == pytest.approx(
        {
            "reward": 2.0,
            "reward_std": (2**0.5 + 0.0) / 2,
            "answer_tokens": 20.0,
            "answer_events": 1.0,
            "parse_rate": 75.0,
            "zero_variance": 50.0,
            "reward_format": 0.6,
            "reward_format_std": 0.4,
        }
    )


def test_logprobs_are_those_among_the_allowed_tokens_at_the_temperature() -> None:
    labels = torch.tensor([[-100, -100, 1, 3], [-100, 0, -100, -100]])
    logits = torch.tensor([[2.0, 4.0, 6.0, 0.0], [1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 0.0, 9.0]])
    rules = (Allowed((0, 1)), Allowed((2, 3)), Allowed((0,)))
    mask = torch.tensor([[True, True], [True, False]])
    none = torch.zeros(mask.shape)
    batch: Any = SimpleNamespace(labels=labels)
    model: Any = SimpleNamespace(label_logits=lambda batch: logits)
    rollout = RolloutBatch(batch, rules, mask, torch.zeros(2), none)
    logprobs, entropy = answer_logprobs(model, rollout, torch.zeros(4, dtype=torch.bool), 2.0)
    likely = 1 / (1 + exp(-1))  # of 4 against 2, halved by the temperature; 6 is not allowed
    torch.testing.assert_close(logprobs, torch.tensor([[log(likely), log(0.5)], [0.0, 0.0]]))
    spread = -likely * log(likely) - (1 - likely) * log(1 - likely)
    torch.testing.assert_close(entropy, torch.tensor([[spread, log(2)], [0.0, 0.0]]))
