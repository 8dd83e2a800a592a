"""Weights that count tokens: the shares hold in tokens, the stream resumes exactly, old states keep their meaning."""

import json
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.data.mixture import BatchPlanner, Mixture, MixtureError, SampleRef

LENGTHS = ([100, 140, 60], [10, 20], [7])  # of the samples of three data sets


def length(ref: SampleRef) -> int:
    return LENGTHS[ref.dataset][ref.index]


def token_mixture(weights=(1, 1, 2), seed=0) -> Mixture:
    return Mixture([len(lengths) for lengths in LENGTHS], weights, seed, by="tokens")


def draw(mixture: Mixture) -> SampleRef:
    ref = mixture.next()
    mixture.count(ref, length(ref))
    return ref


@pytest.mark.parametrize("weights", [(1, 1, 2), (0.1, 0.7, 0.2), (0, 1, 1e-3), (5, 0, 0)])
def test_after_every_draw_each_data_set_has_its_share_of_the_tokens_but_for_a_sample(weights):
    mixture = token_mixture(weights)
    for _ in range(2000):
        draw(mixture)
        total = sum(mixture.tokens)
        for tokens, weight in zip(mixture.tokens, weights, strict=True):
            # who is furthest behind goes first: nobody is ahead by more than a sample, nor far behind
            assert tokens - weight / sum(weights) * total <= 140
            assert weight / sum(weights) * total - tokens <= 2 * 140
    assert [tokens > 0 for tokens in mixture.tokens] == [weight > 0 for weight in weights]


def test_short_samples_are_drawn_more_often_for_the_same_share():
    mixture = token_mixture((1, 0, 1))
    for _ in range(1500):
        draw(mixture)
    assert mixture.consumed[2] / mixture.consumed[0] == pytest.approx(100 / 7, rel=0.02)


def test_the_first_draw_is_from_the_largest_share():
    assert token_mixture((1, 3, 2)).next().dataset == 1


@pytest.mark.parametrize("cut", [0, 1, 17, 200])
def test_a_resumed_stream_gives_the_draws_of_an_unbroken_one(cut):
    whole, resumed = token_mixture(seed=3), token_mixture(seed=3)
    for _ in range(cut):
        draw(whole)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert [draw(resumed) for _ in range(100)] == [draw(whole) for _ in range(100)]


@settings(max_examples=60, deadline=None)
@given(
    budget=st.integers(140, 500), most=st.none() | st.integers(1, 5), cut=st.integers(0, 20),
    limit=st.sampled_from([None, 120]), weights=st.tuples(*[st.integers(1, 9)] * 3),
)  # fmt: skip
def test_batches_planned_on_from_any_place_repeat_an_unbroken_plan(budget, most, cut, limit, weights):
    def planner() -> BatchPlanner:
        return BatchPlanner(token_mixture(weights), length, budget, most, limit)

    whole = list(islice(planner(), 30))
    resumed = planner()
    if cut:
        resumed.load_state_dict(json.loads(json.dumps(whole[cut - 1].state)))
    assert list(islice(resumed, 30 - cut)) == whole[cut:]
    drawn = [ref for batch in whole for ref in batch.refs]
    tokens = [sum(length(ref) for ref in drawn if ref.dataset == i) for i in range(3)]
    assert whole[-1].state["mixture"]["tokens"] == tokens  # what was dropped or put back counts for nobody


def test_samples_that_are_too_long_do_not_use_up_their_data_sets_share():
    planner = BatchPlanner(token_mixture((1, 1, 0)), length, 120, None)  # drops the sample of 140
    refs = [ref for batch in islice(planner, 300) for ref in batch.refs]
    tokens = [sum(length(ref) for ref in refs if ref.dataset == i) for i in range(2)]
    assert tokens[0] == pytest.approx(tokens[1], rel=0.02) and planner.dropped > 0


def test_a_state_of_the_other_kind_of_weights_is_refused():
    by_samples = Mixture([3, 2, 1], (1, 1, 2), 0)
    with pytest.raises(MixtureError, match="weights counted samples, they count tokens"):
        token_mixture().load_state_dict(by_samples.state_dict())
    with pytest.raises(MixtureError, match="weights counted tokens, they count samples"):
        by_samples.load_state_dict(token_mixture().state_dict())


def test_a_state_by_samples_has_the_keys_it_always_had():
    assert set(Mixture([3], [1], 0).state_dict()) == {"seed", "sizes", "weights", "consumed"}


def test_bad_token_counts_and_kinds_are_refused():
    state = token_mixture().state_dict() | {"tokens": [1, -1, 0]}
    with pytest.raises(MixtureError, match=r"tokens \(\[1, -1, 0\]\) .* 3 integers >= 0"):
        token_mixture().load_state_dict(state)
    with pytest.raises(MixtureError, match=r"by \('videos'\) must be one of samples, tokens"):
        Mixture([1], [1], 0, by="videos")
