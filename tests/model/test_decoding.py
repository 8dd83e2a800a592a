"""Rows that are written side by side: the numbers of the plain forward pass, and the same bits in any company."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from timeexpert.model.decoding import LONG_QUESTION, READ_TOKENS, STEP_ROWS, STEP_TOKENS, Sampler, Writing
from timeexpert.moe.fused_experts import FEW_TOKENS
from timeexpert.predict import Clip, Predictor, Request
from timeexpert.tokenization import NumericVocab

TINY = Path(__file__).resolve().parents[2] / "checkpoints" / "tiny"


@pytest.fixture(scope="module")
def tiny() -> Predictor:
    return Predictor.from_pretrained(TINY, device="cpu")


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    """Questions of all lengths, the last one too long for steps, about noise of 1 to 8 frames."""
    noise = np.random.default_rng(3)
    found = []
    for n in range(1, STEP_ROWS + 1):
        clip = Clip(noise.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), np.arange(n) * 1.5 + 0.1, n * 1.5 + 0.1)
        found.append(Request(clip, "When? " * (n if n < STEP_ROWS else LONG_QUESTION), None, 30 + n))
    return found


def write(predictor: Predictor, requests: list[Request]) -> list[Writing]:
    answers = [predictor.begin(request, predictor.encode(request.clip), record=True) for request in requests]
    while left := [answer for answer in answers if not answer.done]:
        predictor.step(left)
    return answers


def test_every_row_has_the_same_bits_in_any_company_and_any_place(tiny: Predictor, requests: list[Request]) -> None:
    alone = [write(tiny, [request])[0] for request in requests]
    together = write(tiny, requests)
    backwards = write(tiny, requests[::-1])[::-1]
    for one, other, third in zip(alone, together, backwards, strict=True):
        assert one.tokens == other.tokens == third.tokens
        assert one.logprobs == other.logprobs == third.logprobs
        length = one.cache.length
        for layer in range(len(one.cache.keys)):
            keys = one.cache.keys[layer][:, :, :length]
            assert keys.equal(other.cache.keys[layer][:, :, :length])
            assert keys.equal(third.cache.keys[layer][:, :, :length])
    assert len({tuple(answer.tokens) for answer in alone}) > 3  # the rows do not all say the same


def test_steps_give_the_probabilities_of_one_pass_over_the_whole_row(tiny: Predictor, requests: list[Request]) -> None:
    for request, answer in zip(requests, write(tiny, requests), strict=True):
        ids = torch.tensor([[*answer.prompt_ids, *answer.tokens]])
        pixels = torch.from_numpy(request.clip.frames).permute(0, 3, 1, 2).contiguous()
        with torch.inference_mode():
            logits = tiny.model(ids, pixels).logits[0, len(answer.prompt_ids) - 1 : -1]
        for i, token in enumerate(answer.tokens):
            rule = answer.grammar.allowed(answer.tokens[:i])
            allowed = tiny.answering.plain.clone() if rule.text else torch.zeros_like(tiny.answering.plain)
            allowed[list(rule.ids)] = True
            expected = logits[i].masked_fill(~allowed, float("-inf")).log_softmax(-1)
            assert float(expected[token]) == pytest.approx(answer.logprobs[i], abs=2e-4)


def test_records_hold_every_token_that_was_read(tiny: Predictor, requests: list[Request]) -> None:
    (answer,) = write(tiny, requests[2:3])
    assert answer.routed is not None
    mask = torch.cat([routed.mask for routed in answer.routed], 1)
    slots = tiny.model.config.moe_config.slots
    assert mask.shape == (len(tiny.model.gates), len(answer.prompt_ids) + len(answer.tokens) - 1, slots)
    assert bool(mask.any(-1).all())  # fallback top1


def test_what_the_grammar_leaves_no_choice_about_costs_no_step(tiny: Predictor, requests: list[Request]) -> None:
    request = replace(requests[2], task="moment_retrieval")
    answer = tiny.begin(request, tiny.encode(request.clip))
    ids = tiny.answering.codec.ids
    # an event, then 000: the video is shorter than 10 s
    assert answer.tokens == [ids.sync, *[ids.time + NumericVocab.symbols.index("0")] * 3]
    steps, question = 0, len(answer.unread)
    while not answer.done:
        tiny.step([answer])
        steps += 1

    def is_choice(i: int) -> bool:
        rule = answer.grammar.allowed(answer.tokens[:i])
        return rule.text or len(rule.ids) > 1 or answer.tokens[i] == tiny.answering.codec.text.eos_id

    chosen = sum(is_choice(i) for i in range(len(answer.tokens)))
    assert chosen <= len(answer.tokens) - 12  # <sync>000, point, <sep>000, point, two <sync>
    assert steps == math.ceil(question / READ_TOKENS) + chosen - 1
    assert all(is_choice(i) or answer.logprobs[i] == 0.0 for i in range(len(answer.tokens)))


def test_where_slots_are_few_who_came_first_reads_first(tiny: Predictor, requests: list[Request]) -> None:
    answers = [tiny.begin(request, tiny.encode(request.clip)) for request in requests[1:-1]]
    known = [len(answer.unread) for answer in answers]
    assert min(known) > READ_TOKENS
    tiny.step(answers)
    read = [before - len(answer.unread) for before, answer in zip(known, answers, strict=True)]
    first = STEP_TOKENS // READ_TOKENS
    assert read == [READ_TOKENS] * first + [0] * (len(answers) - first)


def test_only_a_long_question_is_read_by_itself(tiny: Predictor, requests: list[Request]) -> None:
    *short, long = [tiny.begin(request, tiny.encode(request.clip)) for request in requests]
    for answer, request in zip(short, requests, strict=False):
        assert answer.cache.length == len(tiny.encode(request.clip).ids)
    assert long.cache.length == len(long.prompt_ids) - 1


def test_a_step_is_small_enough_for_experts_of_one_shape() -> None:
    assert STEP_ROWS <= STEP_TOKENS <= FEW_TOKENS


def test_drawn_tokens_follow_their_probabilities_and_never_what_is_forbidden() -> None:
    logprobs = torch.tensor([float("-inf"), 0.25, float("-inf"), 0.75, float("-inf")]).log()
    logprobs[[0, 2, 4]] = float("-inf")
    sampler = Sampler(1.0, np.random.default_rng(0))
    drawn = np.bincount([sampler.draw(logprobs) for _ in range(4000)], minlength=5)
    assert drawn[[0, 2, 4]].tolist() == [0, 0, 0]
    assert drawn[3] / 4000 == pytest.approx(0.75, abs=0.03)


def test_a_drawn_answer_follows_from_its_own_random_numbers_in_any_company(
    tiny: Predictor, requests: list[Request]
) -> None:
    def drawn(places: list[int], temperature: float = 1.5) -> dict[int, Writing]:
        samplers = [[Sampler(temperature, np.random.default_rng([place, i])) for i in range(2)] for place in places]
        groups = tiny.draw([requests[place] for place in places], samplers)
        assert any(first.tokens != second.tokens for first, second in groups) == (temperature > 1)
        return {place: first for place, (first, _) in zip(places, groups, strict=True)}

    together, backwards, alone = drawn([0, 1, 2, 3]), drawn([3, 2, 1, 0]), drawn([2])
    assert all(together[place].tokens == backwards[place].tokens for place in range(4))
    assert alone[2].tokens == together[2].tokens
    assert alone[2].logprobs == pytest.approx(together[2].logprobs, abs=1e-5)
    assert not any(tiny.prediction(requests[place], answer).problems for place, answer in together.items())
    likeliest = {i: answer.tokens for i, answer in tiny.written(requests[:4])}
    assert any(likeliest[place] != together[place].tokens for place in range(4))
    cold = drawn([0, 1, 2, 3], temperature=1e-4)
    assert all(likeliest[place] == cold[place].tokens for place in range(4))
