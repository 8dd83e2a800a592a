"""The decoding grammar: whatever is chosen among the allowed tokens, the answer parses within its budget."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.tokenization import EventCodec, EventGrammar, EventSequence, GrammarLimits, NumberFormat
from timeexpert.tokenization.grammar import GrammarError

COUNTS = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


def choices(grammar: EventGrammar, answer: list[int]) -> list[int]:
    """Every id that may follow, as a logits processor would mask it; a few text pieces stand for all."""
    allowed, text = grammar.allowed(answer), grammar.codec.text
    plain = [i for i in range(text.vocab_size - 3, text.vocab_size) if i not in text.special_ids]
    return [*allowed.ids, *(plain if allowed.text else ())]


def generate(grammar: EventGrammar, rng: random.Random, longest: int = 10_000) -> list[int]:
    """An answer chosen uniformly among what is allowed."""
    answer: list[int] = []
    while not answer or answer[-1] != grammar.codec.text.eos_id:
        answer.append(rng.choice(choices(grammar, answer)))
        assert len(answer) < longest, "the grammar never lets the answer close"
    return answer


def symbols(grammar: EventGrammar, answer: list[int]) -> set[str]:
    """What may follow ``answer`` inside a time list."""
    return {grammar.codec.times.symbols[i - grammar.codec.ids.time] for i in grammar.allowed(answer).ids}


@st.composite
def limits(draw: st.DrawFn) -> GrammarLimits:
    return GrammarLimits(
        times=draw(st.sampled_from(COUNTS)),
        scores=draw(st.sampled_from([(0,), (1,), (0, 1)])),
        max_events=draw(st.integers(1, 5)),
        max_time_s=draw(st.none() | st.floats(0, 1e5)),
    )


formats = st.sampled_from([NumberFormat(4, 1), NumberFormat(3, 2), NumberFormat(1, 1), NumberFormat(2, 0)])


@settings(deadline=None, max_examples=300)
@given(limits=limits(), formats=st.tuples(formats, formats), spare=st.none() | st.integers(0, 60), seed=st.integers(0))
def test_every_random_choice_among_the_allowed_tokens_parses(codec, limits, formats, spare, seed):
    codec = EventCodec(codec.text, *formats)
    if spare is not None:
        budget = EventGrammar(codec, limits).shortest_event + 1 + spare
        limits = GrammarLimits(limits.times, limits.scores, limits.max_events, budget, limits.max_time_s)
    answer = generate(EventGrammar(codec, limits), random.Random(seed))
    sequence, problems = codec.decode(answer)
    assert problems == []
    assert 1 <= len(sequence) <= limits.max_events
    assert len(answer) <= (limits.max_tokens or len(answer))
    cap = limits.max_time_s
    for event in sequence:
        # two equal times read back as one point, so a point also satisfies (2,)
        assert len(event.times_s) in limits.times or (len(event.times_s) == 1 and 2 in limits.times)
        assert len(event.scores) in limits.scores
        if cap is not None and codec.time_format.fits(cap):
            assert all(t <= float(codec.time_format.quantize(cap)) for t in event.times_s)


@pytest.mark.parametrize("times", COUNTS)
@pytest.mark.parametrize("scores", [(0,), (1,), (0, 1)])
def test_the_least_budget_leaves_one_shortest_event(codec: EventCodec, times, scores):
    cost = {0: 1, 1: 7, 2: 14}[min(times)] + {0: 1, 1: 4}[min(scores)]
    shortest = 1 + cost + 1  # <sync>, the lists, the end of sequence
    for seed in range(20):
        grammar = EventGrammar(codec, GrammarLimits(times, scores, max_tokens=shortest))
        assert len(generate(grammar, random.Random(seed))) == shortest
    words = rf"max_tokens \({shortest - 1}\) is less than the shortest answer \({shortest} tokens\). Allow more"
    with pytest.raises(GrammarError, match=words):
        EventGrammar(codec, GrammarLimits(times, scores, max_tokens=shortest - 1))


def test_a_second_event_may_begin_as_long_as_its_shortest_form_fits(codec: EventCodec):
    for budget, second in [(7, True), (6, False)]:  # <sync> time-<sync> score-<sync>, twice, and the end
        grammar = EventGrammar(codec, GrammarLimits((0,), (0,), max_tokens=budget))
        first = codec.encode_event(EventSequence.from_json([{}])[0])
        assert (codec.ids.sync in grammar.allowed(first).ids) is second


def test_two_times_are_begun_only_where_both_fit(codec: EventCodec):
    # (0, 2) asks for none or two; two take 14 tokens, then the score list and the end take 2
    start = [codec.ids.sync]
    for budget, digits in [(17, True), (16, False)]:
        grammar = EventGrammar(codec, GrammarLimits((0, 2), (0,), max_tokens=budget))
        assert ("0" in symbols(grammar, start)) is digits


def test_a_second_time_is_not_before_the_first(codec: EventCodec):
    grammar = EventGrammar(codec, GrammarLimits(times=(2,)))
    start = [codec.ids.sync, *(codec.ids.time + i for i in codec.times.encode_number(12.3))]
    assert symbols(grammar, start) == {"<sep>"}
    after = [*start, codec.ids.time + 1]
    assert symbols(grammar, after) == set("0123456789")
    zero, one, two, point = (codec.ids.time + codec.times.index(s) for s in "012.")
    assert symbols(grammar, [*after, zero, zero]) == set("123456789")
    assert symbols(grammar, [*after, zero, zero, one]) == set("23456789")
    assert symbols(grammar, [*after, zero, zero, one, two, point]) == set("3456789")
    assert symbols(grammar, [*after, zero, zero, two]) == set("0123456789")


def test_no_time_is_after_the_videos_last_second(codec: EventCodec):
    grammar = EventGrammar(codec, GrammarLimits(times=(1,), max_time_s=30.25))  # rounds to 30.2, as in training
    zero, three, point = (codec.ids.time + codec.times.index(s) for s in "03.")
    begin = [codec.ids.sync]
    assert symbols(grammar, begin) == {"0"}
    assert symbols(grammar, [*begin, zero, zero]) == set("0123")
    assert symbols(grammar, [*begin, zero, zero, three]) == {"0"}
    assert symbols(grammar, [*begin, zero, zero, three, zero, point]) == set("012")


def test_text_may_stand_only_after_the_score_list(codec: EventCodec):
    grammar = EventGrammar(codec, GrammarLimits(max_events=1))
    ids, eos = codec.ids, codec.text.eos_id
    assert [grammar.allowed(a).text for a in ([], [ids.sync], [ids.sync, ids.time])] == [False] * 3
    after_lists = grammar.allowed([ids.sync, ids.time, ids.score])
    assert (after_lists.ids, after_lists.text) == ((eos,), True)  # max_events: no second <sync>
    assert grammar.allowed([ids.sync, ids.time, ids.score, eos]).ids == (eos,)


@given(data=st.data())
def test_rows_that_left_the_grammar_still_get_a_next_token(codec: EventCodec, data: st.DataObject):
    # a beam search keeps rows of zero probability while fewer tokens are allowed than it has beams
    ids = codec.ids
    row = data.draw(st.lists(st.one_of(st.integers(ids.sync, ids.output_size - 1), st.integers()), max_size=30))
    limits = GrammarLimits(times=data.draw(st.sampled_from(COUNTS)), max_tokens=19, max_time_s=12.0)
    allowed = EventGrammar(codec, limits).allowed(row)
    assert allowed.ids and all(0 <= i < ids.output_size for i in allowed.ids)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"times": (3,)}, r"times \(\(3,\)\) must list counts between 0 and 2"),
        ({"scores": ()}, r"scores \(\(\)\) must list counts between 0 and 1"),
        ({"max_events": 0}, r"max_events \(0\) must be 1 or more"),
        ({"max_time_s": -1.0}, r"max_time_s \(-1\.0\) must be 0 s or more"),
        ({"max_time_s": float("nan")}, r"max_time_s \(nan\) must be 0 s or more"),
    ],
)
def test_limits_that_no_answer_can_keep_are_refused(fields: dict, words: str):
    with pytest.raises(GrammarError, match=words):
        GrammarLimits(**fields)
