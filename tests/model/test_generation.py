"""Generation: batches, caches and beams change nothing, and every answer parses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from timeexpert.model import EventGrammarProcessor, TimeExpert
from timeexpert.tokenization import EventCodec, EventGrammar, GrammarLimits
from timeexpert.tokenization.interleave import interleave
from timeexpert.tokenization.text import SentencePieceText

from .conftest import TOKENS_PER_FRAME, Make, noise_frames

NEW_TOKENS = 24
PROMPTS = ["when does it grow?", "what happens, and when does it grow?"]


def frames(count: int, seed: int) -> Tensor:
    return torch.from_numpy(noise_frames(count, seed)).permute(0, 3, 1, 2)


def ask(
    model: TimeExpert, codec: EventCodec, text: SentencePieceText, which: list[int], **options: object
) -> list[list[int]]:
    """Answers of the chosen questions in one batch: question i has 2 + i frames and its own prompt."""
    prompts = []
    for i in which:
        times_s = [float(t) for t in range(2 + i)]
        prompts.append(interleave(codec, text, PROMPTS[i], times_s, visual_tokens_per_frame=TOKENS_PER_FRAME))
    longest = max(map(len, prompts))
    ids = torch.tensor([[text.pad_id] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    limits = GrammarLimits(max_events=2, max_tokens=NEW_TOKENS, max_time_s=8.0)
    grammars = [EventGrammar(codec, limits) for _ in which]
    out = model.generate(
        ids,
        pixel_values=torch.cat([frames(2 + i, i) for i in which]),
        attention_mask=mask,
        max_new_tokens=NEW_TOKENS,
        logits_processor=[EventGrammarProcessor(grammars, longest, text.special_ids)],
        pad_token_id=text.pad_id,
        eos_token_id=text.eos_id,
        **{"do_sample": False, **options},
    )
    answers = out[:, longest:].tolist()
    return [a[: a.index(text.eos_id) + 1] if text.eos_id in a else a for a in answers]


@pytest.fixture
def model(make: Make) -> TimeExpert:
    return make()


def test_a_batch_padded_on_the_left_answers_as_one_by_one(
    model: TimeExpert, codec: EventCodec, text: SentencePieceText
):
    together = ask(model, codec, text, [0, 1])
    assert together == [ask(model, codec, text, [i])[0] for i in (0, 1)]
    assert together[0] != together[1]


def test_the_cache_changes_no_answer(model: TimeExpert, codec: EventCodec, text: SentencePieceText):
    assert ask(model, codec, text, [0, 1], use_cache=False) == ask(model, codec, text, [0, 1], use_cache=True)


def test_logits_with_a_cache_equal_those_without(model: TimeExpert):
    ids = torch.randint(0, model.ids.output_size, (2, 9))
    want = model(ids).logits
    first = model(ids[:, :6], use_cache=True)
    second = model(ids[:, 6:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "temperature": 2.0}])
def test_every_answer_parses(model: TimeExpert, codec: EventCodec, text: SentencePieceText, options: dict[str, object]):
    torch.manual_seed(0)
    for answer in ask(model, codec, text, [0, 1], **options):
        events, problems = codec.decode(answer)
        assert answer[-1] == text.eos_id and problems == [] and 1 <= len(events) <= 2
        assert all(t <= 8.0 for event in events for t in event.times_s)


def test_beams_of_a_batch_keep_the_frames_of_each_question_together(
    model: TimeExpert, codec: EventCodec, text: SentencePieceText
):
    together = ask(model, codec, text, [0, 1], num_beams=3)
    assert together == [ask(model, codec, text, [i], num_beams=3)[0] for i in (0, 1)]
    ids = torch.full((2, 4), model.ids.vision)
    ids[0, :2] = 0  # one frame, then two
    _, kwargs = model._expand_inputs_for_generation(2, False, ids, pixel_values=torch.arange(3.0))
    assert kwargs["pixel_values"].tolist() == [0, 0, 1, 2, 1, 2]


def test_without_the_grammar_the_three_heads_compete(model: TimeExpert):
    out = model.generate(torch.tensor([[1]]), max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert out.shape == (1, 5) and int(out.max()) < model.ids.output_size
