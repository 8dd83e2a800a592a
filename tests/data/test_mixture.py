"""The stream of samples is a function of (seed, counts): proportional, complete in each epoch, resumable anywhere."""

import json
from itertools import islice
from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.data.mixture import BatchPlanner, Mixture, MixtureError


def datasets(mixture: Mixture, count: int) -> list[int]:
    return [mixture.next().dataset for _ in range(count)]


def test_weights_two_to_one_draw_the_pattern_0_1_0():
    assert datasets(Mixture([5, 5], [2, 1], seed=0), 9) == [0, 1, 0] * 3


def test_equal_weights_alternate_and_weight_zero_is_never_drawn():
    assert datasets(Mixture([5, 5, 5], [1, 0, 1], seed=0), 6) == [0, 2] * 3


def test_weights_are_relative_so_those_above_one_mean_the_same():
    assert datasets(Mixture([9, 9], [0.2, 0.6], 0), 40) == datasets(Mixture([9, 9], [1e300, 3e300], 0), 40)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_no_data_set_is_ever_more_than_one_draw_ahead_of_its_share(weights):
    mixture = Mixture([3] * len(weights), weights, seed=1)
    for n in range(1, 60):
        mixture.next()
        assert all(c - n * w / sum(weights) < 1 for c, w in zip(mixture.consumed, weights, strict=True))


def test_each_epoch_holds_every_sample_once_in_an_order_of_its_own():
    mixture = Mixture([50], [1], seed=0)
    epochs = [[mixture.next() for _ in range(50)] for _ in range(2)]
    assert [sorted(r.index for r in epoch) for epoch in epochs] == [list(range(50))] * 2
    assert [r.index for r in epochs[0]] != [r.index for r in epochs[1]]
    assert [{r.epoch for r in epoch} for epoch in epochs] == [{0}, {1}]
    assert [r.serial for epoch in epochs for r in epoch] == list(range(100))


def test_the_order_is_pinned_so_that_a_new_numpy_cannot_change_a_resumed_run():
    mixture = Mixture([6], [1], seed=7)
    assert [mixture.next().index for _ in range(12)] == [3, 4, 0, 2, 5, 1, 5, 1, 2, 4, 0, 3]


def test_another_seed_is_another_order():
    first, second = (([m.next().index for _ in range(50)]) for m in (Mixture([50], [1], 0), Mixture([50], [1], 1)))
    assert first != second


@pytest.mark.parametrize("done", [0, 1, 7, 20, 33])
def test_a_state_saved_anywhere_gives_exactly_the_next_draws(done):
    whole, resumed = Mixture([4, 9], [1, 2], seed=3), Mixture([4, 9], [1, 2], seed=3)
    for _ in range(done):
        whole.next()
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert [resumed.next() for _ in range(40)] == [whole.next() for _ in range(40)]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (Mixture([4, 9], [1, 2], seed=4), "seed was 3, is 4"),
        (Mixture([4, 8], [1, 2], seed=3), r"sizes\[1\] was 9, is 8"),
        (Mixture([4, 9], [1, 3], seed=3), r"weights\[1\] was 2.0, is 3.0"),
        (Mixture([4], [1], seed=3), "there were 2 sizes, there are 1; there were 2 weights, there are 1"),
    ],
)
def test_a_state_of_another_mixture_is_refused_with_what_changed(changed, words):
    with pytest.raises(MixtureError, match=words + ".*Restore these settings"):
        changed.load_state_dict(Mixture([4, 9], [1, 2], seed=3).state_dict())


def test_a_state_that_is_no_state_is_refused():
    with pytest.raises(MixtureError, match="must hold seed, sizes, weights, consumed"):
        Mixture([4], [1], seed=0).load_state_dict({"step": 3})
    with pytest.raises(MixtureError, match=r"consumed \(\[-1\]\).*1 integers >= 0"):
        Mixture([4], [1], seed=0).load_state_dict({"seed": 0, "sizes": [4], "weights": [1.0], "consumed": [-1]})


@pytest.mark.parametrize(
    ("sizes", "weights", "seed", "words"),
    [
        ([3, 3], [1, -0.5], 0, r"weights\[1\] \(-0.5\) must be a finite number >= 0"),
        ([3, 3], [1, nan], 0, r"weights\[1\] \(nan\)"),
        ([3, 3], [inf, 1], 0, r"weights\[0\] \(inf\)"),
        ([3, 3], [0, 0], 0, "are all 0; give at least one"),
        ([3, 0], [1, 1], 0, r"sizes\[1\] \(0\) must be > 0 where weights\[1\]"),
        ([3], [1, 1], 0, r"sizes \(1\) and weights \(2\) must have one entry"),
        ([3], [1], -1, r"seed \(-1\) must be an integer >= 0"),
    ],
)
def test_bad_mixtures_are_refused(sizes, weights, seed, words):
    with pytest.raises(MixtureError, match=words):
        Mixture(sizes, weights, seed)


# --- batches ---------------------------------------------------------------------------------------------------


def planner_of(lengths, seed=0, **limits) -> BatchPlanner:
    return BatchPlanner(Mixture([len(lengths)], [1], seed), lambda ref: lengths[ref.index], **limits)


def test_a_batch_ends_before_its_padded_size_passes_the_budget_and_the_stream_order_is_kept():
    lengths = [10, 20, 30, 40]
    planner = planner_of(lengths, max_tokens=60)
    stream = Mixture([4], [1], 0)
    expected = [stream.next() for _ in range(40)]
    batches = list(islice(planner, 20))
    drawn = [ref for batch in batches for ref in batch.refs]
    assert drawn == expected[: len(drawn)]
    for batch, following in zip(batches, batches[1:], strict=False):
        longest = max(lengths[r.index] for r in batch.refs)
        assert len(batch.refs) * longest <= 60
        assert (len(batch.refs) + 1) * max(longest, lengths[following.refs[0].index]) > 60


def test_max_samples_closes_a_batch_by_count():
    assert [len(b.refs) for b in islice(planner_of([1] * 7, max_samples=3), 4)] == [3, 3, 3, 3]


def test_too_long_samples_are_dropped_and_counted():
    planner = planner_of([5, 99, 5, 7], max_tokens=50, max_samples=3)
    refs = [ref for batch in islice(planner, 2) for ref in batch.refs]  # six draws of three that fit: two epochs
    assert 1 not in {r.index for r in refs}
    assert planner.dropped >= 1


def test_max_length_drops_what_the_budget_would_take():
    planner = planner_of([5, 30], max_tokens=50, max_length=20)
    assert {r.index for batch in islice(planner, 5) for r in batch.refs} == {0}


def test_a_data_set_in_which_nothing_fits_is_an_error_and_not_an_endless_search():
    with pytest.raises(MixtureError, match=r"every sample of data set 0 is longer than 10 tokens \(the last has 11\)"):
        planner_of([11, 11], max_tokens=10).next()


@pytest.mark.parametrize(
    ("limits", "words"),
    [({}, "both None: a batch would never end"), ({"max_tokens": 0}, r"max_tokens \(0\) must be >= 1")],
)
def test_limits_that_cannot_be_are_refused(limits, words):
    with pytest.raises(MixtureError, match=words):
        planner_of([1], **limits)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_planning_on_from_any_batch_repeats_exactly_what_an_unbroken_plan_gives(data):
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=2, max_size=12))
    limits = {"max_tokens": data.draw(st.integers(40, 90)), "max_length": 38}
    if all(n > 38 for n in lengths):
        lengths[0] = 1
    whole = list(islice(planner_of(lengths, **limits), 25))
    cut = data.draw(st.integers(0, 20))
    resumed = planner_of(lengths, **limits)
    resumed.load_state_dict(json.loads(json.dumps(whole[cut].state)))
    assert list(islice(resumed, 25 - cut - 1)) == whole[cut + 1 :]


def test_the_carried_sample_is_in_the_next_batch_after_a_resume_too():
    planner = planner_of([30, 30, 30], max_tokens=40)  # one sample per batch; the second is always carried over
    first = planner.next()
    resumed = planner_of([30, 30, 30], max_tokens=40)
    resumed.load_state_dict(first.state)
    assert first.state["mixture"]["consumed"] == [1]
    assert resumed.next() == planner.next()
