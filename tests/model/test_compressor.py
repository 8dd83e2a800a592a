"""The slots: a softmax over patches, and positions that turn but do not stretch."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from timeexpert.model.compressor import SlotCompressor, rotate_by_index


def make_compressor() -> SlotCompressor:
    torch.manual_seed(0)
    compressor = SlotCompressor(in_dim=6, model_dim=10, num_slots=3)
    torch.nn.init.normal_(compressor.slots)
    return compressor


def test_any_number_of_patches_becomes_the_same_number_of_tokens():
    compressor = make_compressor()
    assert compressor(torch.randn(2, 5, 6)).shape == compressor(torch.randn(2, 49, 6)).shape == (2, 3, 10)


def test_the_compressor_equals_a_loop_over_slots_and_patches():
    compressor, x = make_compressor(), torch.randn(1, 4, 6)
    rows = rotate_by_index(compressor.norm(x))[0]
    for k, token in enumerate(compressor(x)[0]):
        weights = torch.stack([row @ compressor.slots[:, k] for row in rows]).exp()
        weights = weights / weights.sum()  # over patches: each slot has its own
        assert_close(token, compressor.readout(sum(w * row for w, row in zip(weights, rows, strict=True))))


def test_a_single_patch_is_what_every_slot_sees():
    out = make_compressor()(torch.randn(2, 1, 6))
    assert_close(out[:, 0], out[:, 2])


def test_rotation_keeps_lengths_and_leaves_the_first_patch_alone():
    x = torch.randn(2, 7, 6)
    turned = rotate_by_index(x)
    assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert_close(turned[:, 0], x[:, 0])
    assert not torch.allclose(turned[:, 1:], x[:, 1:])


def test_rotation_turns_by_the_patch_index_and_passes_an_odd_channel():
    turned = rotate_by_index(torch.tensor([[[1.0, 0.0, 5.0]] * 3]))  # one pair, frequency 1, one channel left over
    want = [[torch.tensor(float(i)).cos().item(), torch.tensor(float(i)).sin().item(), 5.0] for i in range(3)]
    assert_close(turned[0], torch.tensor(want))


def test_the_product_of_two_turned_vectors_depends_on_their_distance_only():
    x = torch.randn(6).expand(1, 9, 6)
    turned = rotate_by_index(x)[0]
    assert_close(turned[2] @ turned[5], turned[4] @ turned[7], atol=1e-5, rtol=1e-5)
