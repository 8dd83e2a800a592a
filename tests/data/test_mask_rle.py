from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.data.mask_rle import MaskError, decode_masklet, decode_rle, encode_rle, union_rle


def test_a_mask_written_by_hand():
    # Down the columns: 1 zero, 3 ones, 2 zeros of a 3 x 2 mask.
    expected = [[False, True], [True, False], [True, False]]
    assert decode_rle({"size": [3, 2], "counts": [1, 3, 2]}).tolist() == expected
    assert decode_rle({"size": [3, 2], "counts": "132"}).tolist() == expected
    assert encode_rle(np.array(expected)) == {"size": [3, 2], "counts": "132"}


def test_counts_beyond_a_digit_and_negative_differences():
    # 100 is the digits 4 and 3 (4 + 3 x 32); the fourth count 60 follows 90: the difference -30 is 2 and -1 (31).
    mask = np.repeat([0, 1, 0, 1], [100, 90, 50, 60]).reshape(30, 10).T
    rle = encode_rle(mask)
    assert rle["counts"] == "T3j2b1ROT0"[:-2]
    assert np.array_equal(decode_rle(rle), mask == 1)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.integers(1, 70))
def test_every_mask_comes_back(seed, height, width):
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < rng.choice([0, 0.02, 0.5, 1])
    assert np.array_equal(decode_rle(encode_rle(mask)), mask)
    as_bytes = {**encode_rle(mask), "counts": encode_rle(mask)["counts"].encode()}
    assert np.array_equal(decode_rle(as_bytes), mask)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 12), st.integers(1, 12))
def test_a_union_is_that_of_the_pixels(seed, count, height, width):
    rng = np.random.default_rng(seed)
    masks = rng.random((count, height, width)) < rng.choice([0, 0.1, 0.5, 1])
    assert union_rle([encode_rle(mask) for mask in masks]) == encode_rle(masks.any(axis=0))


def test_masks_of_two_sizes_have_no_union():
    with pytest.raises(MaskError, match=r"sizes \[\(2, 3\), \(3, 2\)\] differ"):
        union_rle([encode_rle(np.ones((3, 2))), encode_rle(np.ones((2, 3)))])


@pytest.mark.parametrize(
    ("rle", "words"),
    [
        ({"size": [3, 2], "counts": [1, 3]}, r"give 4 pixels.*not the 6 of size \[3, 2\]"),
        ({"size": [3, 2], "counts": [-1, 7]}, "some run of them below 0"),
        ({"size": [3, 2], "counts": None}, r"counts \(None\) must be a list"),
        ({"size": [3, 2], "counts": "é"}, "must be ASCII"),
        ({"size": [3, 2], "counts": "P"}, "out of range or break off"),
        ({"size": [3, 2], "counts": "ooooooooo0"}, "more than 35 bits"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "268435456 pixels at most"),
        ({"size": [3], "counts": [3]}, r"size \(\[3\]\) must be"),
        ("text", r"size \(None\) must be"),
    ],
)
def test_what_is_no_mask_is_refused(rle, words):
    with pytest.raises(MaskError, match=words):
        decode_rle(rle)


def test_a_masklet_needs_one_mask_of_the_videos_size_per_frame():
    rle = encode_rle(np.ones((3, 2)))
    masks = decode_masklet([None, rle], size=(3, 2), num_frames=2)
    assert masks.sum(axis=(1, 2)).tolist() == [0, 6]
    with pytest.raises(MaskError, match="1 masks for 2 frames"):
        decode_masklet([rle], size=(3, 2), num_frames=2)
    with pytest.raises(MaskError, match=r"frame 1: size \[3, 2\] is not \[2, 3\]"):
        decode_masklet([None, rle], size=(2, 3), num_frames=2)


junk = st.recursive(
    st.none() | st.floats() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.just([3, 2]) | junk, junk | st.text(alphabet="0123456789PQo"))
def test_anything_else_is_a_mask_error(size, counts):
    try:
        mask = decode_rle({"size": size, "counts": counts})
    except MaskError:
        return
    assert mask.dtype == bool and list(mask.shape) == list(size)


def test_more_masks_than_memory_are_refused_before_they_are_made():
    with pytest.raises(MaskError, match="2000000 masks of .64, 64. are more than 2147483648 pixels together"):
        decode_masklet([None] * 2_000_000, size=(64, 64), num_frames=2_000_000)
