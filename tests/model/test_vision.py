"""Frames to visual tokens: three placements of the slots, two kinds of tower."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from timeexpert.model import vision
from timeexpert.model.vision import FrameEncoder

from .conftest import IDEFICS, SIGLIP, tiny_config


def make_encoder(placement: str, tower: dict[str, object] = SIGLIP, **settings: object) -> FrameEncoder:
    torch.manual_seed(0)
    encoder = FrameEncoder(tiny_config(vision=tower, compressor=placement, **settings))
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return encoder.eval()


@pytest.mark.parametrize("tower", [SIGLIP, IDEFICS], ids=["siglip", "idefics3"])
@pytest.mark.parametrize("placement", ["vision", "projector", "queries"])
def test_every_placement_gives_the_same_shape_and_trains(placement: str, tower: dict[str, object]):
    encoder = make_encoder(placement, tower)
    out = encoder(torch.rand(3, 3, 16, 16) * 2 - 1)
    assert out.shape == (3, 2, 32)
    out.square().sum().backward()
    idle = {name for name, p in encoder.named_parameters() if p.grad is None}
    assert idle == {"vision_tower.post_layernorm.weight", "vision_tower.post_layernorm.bias"}  # as ARIA


@pytest.mark.parametrize("tower", [SIGLIP, IDEFICS], ids=["siglip", "idefics3"])
def test_the_towers_last_layer_is_read_before_its_layer_norm(tower: dict[str, object]):
    encoder = make_encoder("vision", tower)
    seen = []
    encoder.vision_tower.encoder.layers[-1].register_forward_hook(lambda m, a, out: seen.append(out))
    x = torch.rand(1, 3, 16, 16)
    out = encoder(x)
    last = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    assert encoder.compressor is not None
    assert_close(out, encoder.compressor(last.view(1, 16, 16)))


def test_bytes_are_scaled_to_minus_one_and_one():
    encoder = make_encoder("vision")
    frames = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert_close(encoder(frames), encoder(frames.float() / 127.5 - 1))


def test_frames_do_not_see_each_other():
    encoder = make_encoder("projector")
    frames = torch.rand(3, 3, 16, 16)
    assert_close(encoder(frames)[1:2], encoder(frames[1:2]))


def test_many_frames_go_through_the_tower_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch):
    encoder = make_encoder("vision")
    frames, sizes = torch.rand(5, 3, 16, 16), []
    encoder.vision_tower.register_forward_hook(lambda m, a, out: sizes.append(len(a[0])))
    whole = encoder(frames)
    state_bytes = 16 * SIGLIP["hidden_size"] * SIGLIP["num_hidden_layers"] * 4  # of a frame: 4 x 4 patches
    monkeypatch.setattr(vision, "TOWER_BYTES", 2 * state_bytes)
    assert_close(encoder(frames), whole)
    monkeypatch.setattr(vision, "TOWER_BYTES", 1)
    assert_close(encoder(frames), whole)
    assert sizes == [5, 2, 2, 1, 1, 1, 1, 1, 1]


def test_a_number_of_patches_without_queries_is_refused_when_the_model_is_built():
    with pytest.raises(ValueError, match=r"image_size \(16\) gives 16 patches.*projector_queries \(\{9: 4\}\)"):
        make_encoder("projector", projector_queries={9: 4})


@pytest.mark.parametrize("placement", ["vision", "projector", "queries"])
def test_features_of_the_tower_stand_for_the_frames_they_are_of(placement):
    encoder = make_encoder(placement)
    frames = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    features = vision.tower_features(encoder.vision_tower, frames)
    assert features.shape == (3, 16, SIGLIP["hidden_size"])
    assert encoder(features).equal(encoder(frames))


def test_a_towers_identity_is_that_of_its_weights_and_settings():
    tower = make_encoder("vision").vision_tower
    known = vision.tower_of(tower).identity()
    assert vision.tower_of(tower).identity() == known and len(known["weights"]) == 64 and known["image_size"] == 16
    tower.config.layer_norm_eps = 1e-3
    assert {k for k, v in vision.tower_of(tower).identity().items() if v != known[k]} == {"layer_norm_eps"}
    list(tower.parameters())[-1].data[0] += 1e-3
    assert vision.tower_of(tower).identity()["weights"] != known["weights"]
