"""The wiring into SAM2, against transformers' own classes, and the losses of masks by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import Sam2Config, Sam2Model, Sam2VideoInferenceSession, Sam2VideoModel
from transformers.models.sam2.modeling_sam2 import Sam2PromptEncoder
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoPromptEncoder

from timeexpert.families.video_loom.mask_head import MaskHead, normalised
from timeexpert.families.video_loom.mask_losses import at_points, dice_loss, mask_losses, uncertain_points
from timeexpert.tokenization.text import SentencePieceText

from .loom import SIZE, TINY, make, noise


def pixels(frames: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(noise(frames, seed)).permute(0, 3, 1, 2)


def prompted(monkeypatch: pytest.MonkeyPatch, encoder: type, embedding: Tensor) -> None:
    """Let transformers' own prompt encoder put ``embedding`` (C,) behind what it makes of its points."""
    usual = encoder.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        sparse, dense = usual(self, *args, **kwargs)
        return torch.cat([sparse, embedding.expand(*sparse.shape[:2], 1, -1)], 2), dense

    monkeypatch.setattr(encoder, "forward", forward)


@pytest.fixture(scope="module", params=[True, False], ids=["multimask", "one mask"])
def head(request: pytest.FixtureRequest, words: SentencePieceText) -> MaskHead:
    return make(words, sam=replace(TINY["sam"], multimask=request.param)).mask_head


def test_masks_of_a_frame_are_those_of_transformers_sam2_with_the_same_prompt(
    head: MaskHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = head.sam.config.to_dict()
    parts = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    kept = {name: {k: v for k, v in config[name].items() if k != "model_type"} for name in parts}
    kept["vision_config"] = config["vision_config"]
    theirs = Sam2Model(Sam2Config(**kept)).eval()
    own = {name: value for name, value in head.sam.state_dict().items() if name in theirs.state_dict()}
    theirs.load_state_dict(own)  # every name of theirs is one of ours
    frames, embedding = pixels(3), torch.randn(64)
    with torch.inference_mode():
        logits, score = head.decode(head.features(frames), embedding.expand(3, -1))
        prompted(monkeypatch, Sam2PromptEncoder, embedding)
        out = theirs(normalised(frames, torch.float32), multimask_output=head.multimask)
    best = out.iou_scores[:, 0].argmax(-1)
    assert_close(logits, out.pred_masks[torch.arange(3), 0, best], atol=1e-5, rtol=1e-5)
    assert_close(score, out.object_score_logits[:, 0, 0], atol=1e-5, rtol=1e-5)
    assert logits.shape == (3, SIZE // 4, SIZE // 4) and logits.std() > 1e-3


def test_masks_of_a_video_are_those_of_transformers_sam2_with_the_same_prompt(
    head: MaskHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = Sam2VideoModel(head.sam.config).eval()
    theirs.load_state_dict(head.sam.state_dict())
    # a bug of transformers where pointers are as wide as memories: one dimension too many
    usual = Sam2VideoModel._process_object_pointers
    monkeypatch.setattr(
        Sam2VideoModel, "_process_object_pointers", lambda s, t, p, *a: usual(s, t, [x.flatten(0, -2) for x in p], *a)
    )
    frames, embedding = pixels(6, 1), torch.randn(64)
    ours = head.propagate(frames, embedding[None], [2, 4])[0]
    prompted_type = type(head.sam.prompt_encoder)
    assert issubclass(prompted_type, Sam2VideoPromptEncoder)
    session = Sam2VideoInferenceSession(normalised(frames, torch.float32), SIZE, SIZE, dtype=torch.float32)
    point = {"point_coords": torch.zeros(1, 1, 1, 2), "point_labels": -torch.ones(1, 1, 1, dtype=torch.int32)}
    with monkeypatch.context() as with_prompt:
        prompted(with_prompt, Sam2VideoPromptEncoder, embedding)
        for keyframe in (2, 4):
            session.add_point_inputs(session.obj_id_to_idx(0), keyframe, point)
            session.obj_with_new_inputs = [0]
            theirs(session, frame_idx=keyframe)
    out = {}
    for reverse in (False, True):
        for seen in theirs.propagate_in_video_iterator(session, start_frame_idx=2, reverse=reverse):
            out[seen.frame_idx] = seen.pred_masks[0, 0]
    assert sorted(out) == list(range(6))
    assert_close(ours, torch.stack([out[i] for i in range(6)]), atol=1e-5, rtol=1e-5)


def test_memory_reaches_frames_that_are_not_prompted(words: SentencePieceText) -> None:
    head = make(words).mask_head
    frames, prompts = pixels(5), torch.randn(1, 64)
    once = head.propagate(frames, prompts, [2])
    other = frames.clone()
    other[2] = 255 - other[2]
    changed = (head.propagate(other, prompts, [2]) - once).abs().amax((0, 2, 3))
    assert bool((changed[[0, 1, 3, 4]] > 1e-6).all())
    alone = (head.alone(other, prompts) - head.alone(frames, prompts)).abs().amax((0, 2, 3))
    assert alone[2] > 1e-6 and not alone[[0, 1, 3, 4]].any()


def test_objects_that_are_tracked_together_are_tracked_as_if_alone(words: SentencePieceText) -> None:
    head = make(words).mask_head
    frames, prompts = pixels(4), torch.randn(3, 64)
    together = head.propagate(frames, prompts, [1, 3])
    for i in range(3):
        assert_close(together[i], head.propagate(frames, prompts[i : i + 1], [1, 3])[0], atol=1e-5, rtol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_an_object_that_is_said_to_be_absent_has_no_mask(words: SentencePieceText) -> None:
    head = make(words).mask_head
    frames, prompts = pixels(3), torch.randn(1, 64)
    for keyframes in (None, [1]):
        head.sam.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(9.0)
        assert next(head.masks(frames, prompts, keyframes, (SIZE, SIZE))).any()
        head.sam.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(-9.0)
        assert not next(head.masks(frames, prompts, keyframes, (SIZE, SIZE))).any()


def test_masks_come_one_object_at_a_time_as_they_are_upsampled_together(
    words: SentencePieceText, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timeexpert.families.video_loom.mask_head.FRAMES_AT_ONCE", 2)
    head = make(words).mask_head
    frames, prompts = pixels(5), torch.randn(2, 64)
    logits = head.alone(frames, prompts)
    whole = torch.nn.functional.interpolate(logits, (40, 30), mode="bilinear", align_corners=False) > 0
    own = list(head.masks(frames, prompts, None, (40, 30)))
    assert [mask.shape for mask in own] == [(5, 40, 30)] * 2 and torch.stack(own).equal(whole) and whole.any()


def test_a_session_holds_no_masks_of_full_size(words: SentencePieceText, monkeypatch: pytest.MonkeyPatch) -> None:
    head, kept = make(words).mask_head, []
    usual = head.sam.propagate_in_video_iterator

    def watched(session: Any, **how: Any) -> Any:
        for seen in usual(session, **how):
            yield seen
            every = [o for p in session.output_dict_per_obj.values() for kind in p.values() for o in kind.values()]
            kept.append([len(every), sum("high_res_masks" in outputs for outputs in every)])

    monkeypatch.setattr(head.sam, "propagate_in_video_iterator", watched)
    head.propagate(pixels(5), torch.randn(2, 64), [1, 3])
    assert kept[-1] == [10, 0] and all(large == 0 for _, large in kept)


def test_losses_by_hand() -> None:
    logits, truth = torch.tensor([[[0.0, 0.0], [0.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    bce, dice = mask_losses(logits, truth, points=None)
    assert float(bce) == pytest.approx(0.6931472)
    assert float(dice) == pytest.approx(1 - (2 * 0.5 + 1) / (2 + 1 + 1))
    assert float(dice_loss(torch.full((1, 4), -99.0), torch.zeros(1, 4))) == pytest.approx(0.0)  # nothing, and said so


def test_points_are_taken_where_the_prediction_is_least_sure() -> None:
    torch.manual_seed(0)
    logits = torch.full((2, 8, 8), 5.0)
    logits[:, :, 4] = 0.0
    where = uncertain_points(logits, 200, 3.0, 0.5)
    assert where.shape == (2, 200, 2) and 0 <= float(where.min()) and float(where.max()) <= 1
    near = (where[..., 0] - 4.5 / 8).abs() < 1 / 8
    assert near[:, :100].float().mean() > 0.95 and near[:, 100:].float().mean() < 0.5
    ramp = torch.arange(8.0).expand(1, 8, 8)  # its value at x is 8 x - 0.5
    assert_close(at_points(ramp, torch.tensor([[[0.25, 0.5], [0.5, 0.1]]])), torch.tensor([[1.5, 3.5]]))


def test_sampled_points_give_the_loss_of_all_pixels_on_average() -> None:
    torch.manual_seed(1)
    logits, truth = torch.randn(1, 16, 16), (torch.rand(1, 16, 16) > 0.7).float()
    whole, _ = mask_losses(logits, truth, points=None)
    drawn = torch.stack([mask_losses(logits, truth, points=256, importance=0.0)[0] for _ in range(50)])
    assert abs(float(drawn.mean() / whole) - 1) < 0.25  # bilinear values are smoother than pixels
