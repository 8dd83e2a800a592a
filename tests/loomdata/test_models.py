"""GroundingDINO and SAM2 of transformers behind the adapters, tiny and random: wiring, not quality."""

import os

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from transformers import AutoProcessor, GroundingDinoForObjectDetection, Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from timeexpert.data.video import Video
from timeexpert.errors import UserError
from timeexpert.loomdata.features import VisionFeatures
from timeexpert.loomdata.models import identity
from timeexpert.loomdata.persons import GroundingDino, as_query, inside
from timeexpert.loomdata.tracking import Sam2Tracker

from .people import write_shots
from .tiny_models import SIDE, save_tiny_dino, save_tiny_grounding_dino, save_tiny_sam2

TIMES = [i / 5 for i in range(20)]
BOX = (10.0, 40.0, 60.0, 70.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_tiny_grounding_dino(folder / "dino")
    save_tiny_sam2(folder / "sam2")
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_shots(tmp_path_factory.mktemp("clip") / "clip.mp4", [(9, True)])


def test_the_best_box_is_the_one_with_the_highest_score(models):
    image = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    found = GroundingDino(str(models / "dino"), "cpu").best(image, "A man. In a RED shirt")
    processor = AutoProcessor.from_pretrained(models / "dino")
    model = GroundingDinoForObjectDetection.from_pretrained(models / "dino").eval()
    with torch.inference_mode():
        out = model(**processor(images=image, text="a man in a red shirt.", return_tensors="pt"))
    scores = out.logits.sigmoid().amax(-1)[0]
    best = int(scores.argmax())
    cx, cy, w, h = (out.pred_boxes[0, best] * torch.tensor([160.0, 90.0, 160.0, 90.0])).tolist()
    assert found.score == pytest.approx(float(scores[best]), abs=1e-6)
    assert found.box == pytest.approx(inside([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 90, 160), abs=1e-3)


def test_a_query_is_one_phrase_and_a_box_stays_in_the_picture():
    assert as_query(" A man. In a  RED shirt. ") == "a man in a red shirt."
    assert inside([-5, 3, 12, 400], 90, 160) == (0, 3, 12, 90)
    assert inside([159.5, 0, 300, 50], 90, 160) is None


def test_a_description_longer_than_the_detector_reads_is_cut_for_it(models):
    image = np.zeros((90, 160, 3), np.uint8)
    assert GroundingDino(str(models / "dino"), "cpu").best(image, "red shirt " * 400).score > 0


def stock_masks(folder, clip, prompt):
    """Masks of transformers' own propagation over frames that are all in memory, nothing forgotten."""
    model = Sam2VideoModel.from_pretrained(folder).eval()
    with Video.open(clip) as video:
        frames, _ = video.frames_at(TIMES, (SIDE, SIDE))
        size = (video.info.height, video.info.width)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255 - mean) / std
    session = Sam2VideoInferenceSession(pixels, video_height=size[0], video_width=size[1], dtype=torch.float32)
    scale = torch.tensor([SIDE / size[1], SIDE / size[0]])
    corners = torch.tensor([BOX[:2], BOX[2:]]) * scale
    index = session.obj_id_to_idx(1)
    session.add_point_inputs(
        index, prompt, {"point_coords": corners[None, None], "point_labels": torch.tensor([[[2, 3]]])}
    )
    session.obj_with_new_inputs = [1]
    masks = {}
    for reverse in (False, True):
        for out in model.propagate_in_video_iterator(session, start_frame_idx=prompt, reverse=reverse):
            logits = interpolate(out.pred_masks, size, mode="bilinear", align_corners=False)
            masks.setdefault(out.frame_idx, (logits[0, 0] > 0).numpy())
    return [masks[i] for i in range(len(TIMES))]


@pytest.mark.parametrize("prompt", [0, 10, 19])
def test_masks_are_those_of_transformers_whole_propagation(models, clip, prompt):
    """20 frames, and memory attention looks back 6: what is forgotten too early would show."""
    tracker = Sam2Tracker(str(models / "sam2"), "cpu")
    with Video.open(clip) as video:
        track = tracker.track(video, TIMES, prompt, BOX)
    expected = stock_masks(models / "sam2", clip, prompt)
    assert track.times_s == tuple(TIMES) and any(mask.any() for mask in expected)
    assert all(np.array_equal(track.mask(i), mask) for i, mask in enumerate(expected))


def test_what_a_long_video_leaves_in_memory_is_bounded(models, clip):
    tracker = Sam2Tracker(str(models / "sam2"), "cpu")
    kept = []
    forget = tracker._forget

    def counting(session, at, prompt):
        forget(session, at, prompt)
        (outputs,) = session.output_dict_per_obj.values()
        kept.append((len(outputs["non_cond_frame_outputs"]), len(session.processed_frames._blocks)))
        assert not any("high_res_masks" in out for out in outputs["non_cond_frame_outputs"].values())

    tracker._forget = counting
    with Video.open(clip) as video:
        tracker.track(video, [i / 10 for i in range(40)], 20, BOX)
    reach = max(tracker.model.config.num_maskmem, tracker.model.config.max_object_pointers_in_encoder)
    assert (
        len(kept) == 20 + 21
        and max(frames for frames, _ in kept) <= 4 * reach + 2 < 40
        and max(b for _, b in kept) <= 2
    )


def test_a_vision_model_describes_frames_for_kts(tmp_path, clip):
    save_tiny_dino(tmp_path / "dinov2")
    features = VisionFeatures(str(tmp_path / "dinov2"), "cpu").of(clip.parent, "clip.mp4", np.arange(0, 9, 0.5))
    assert features.shape == (18, 32) and np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


def test_other_weights_of_the_same_shape_are_another_model_and_a_copy_is_the_same(tmp_path):
    for name, weights in (("a", b"\0\1"), ("copy", b"\0\1"), ("trained", b"\0\2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    os.utime(tmp_path / "copy" / "model.safetensors", (0, 0))
    assert identity(str(tmp_path / "a")) == identity(str(tmp_path / "copy")) != identity(str(tmp_path / "trained"))
    assert identity("facebook/sam2-hiera-large") == "facebook/sam2-hiera-large"


def test_a_folder_without_a_model_is_named_with_its_setting(tmp_path):
    with pytest.raises(UserError, match=r"track.model \('.*'\): Sam2VideoModel cannot be read from it"):
        Sam2Tracker(str(tmp_path), "cpu")
    with pytest.raises(UserError, match="shots.kts_model"):
        VisionFeatures(str(tmp_path), "cpu")
