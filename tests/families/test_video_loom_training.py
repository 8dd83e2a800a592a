"""What a VideoLoom is trained with: batches with masks, losses, which parameters they reach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from timeexpert.families.video_loom.family import FAMILY
from timeexpert.families.video_loom.visual import random_keyframes
from timeexpert.stages.config import StageConfig
from timeexpert.stages.optim import build_optimizers
from timeexpert.tokenization.text import SentencePieceText

from .loom import make, row, sample, writer_of


def test_a_batch_holds_the_masks_of_its_keyframes(words: SentencePieceText) -> None:
    writer = writer_of(make(words), words)
    asked = [sample("referring_segmentation", 6, 2, "a"), sample("moment_retrieval", 6, 0, "b")]
    rows = [row(writer, 4, sample("moment_retrieval", 4), seed=1), row(writer, 6, *asked, seed=2)]
    batch = writer.batch(rows)
    drawn = random_keyframes(6, 2, np.random.default_rng(2))
    assert batch.keyframes[1].tolist() == drawn and batch.frame_counts.tolist() == [4, 6]
    assert batch.pixel_values.shape == (10, 3, 32, 32) and batch.sam_values.shape == (2, 3, 64, 64)
    assert batch.mask_rows.tolist() == [0, 0] and batch.masks.shape == (2, 2, 16, 16)
    assert int((batch.input_ids == words.vocab_size).sum()) == 2
    for o, track in enumerate(rows[1].masks[0].tracks):
        for k, frame in enumerate(drawn):
            assert float(batch.masks[o, k].mean()) == pytest.approx(track.mask(frame).mean(), abs=0.03)
    assert (batch.masks[0] != batch.masks[1]).any()
    slow = writer_of(make(words, visual="slow"), words)
    only = slow.batch([row(slow, 6, asked[0], seed=2)])
    assert only.pixel_values.shape == (2, 3, 32, 32) and only.keyframes.tolist() == [[0, 1]]
    assert only.pixel_values.equal(batch.pixel_values[[4 + k for k in drawn]])


@pytest.mark.parametrize("visual", ["slowfast", "slow", "fast", "per_task"])
def test_micro_batches_and_packing_give_the_loss_of_one_batch(visual: str, words: SentencePieceText) -> None:
    model = make(words, visual=visual)
    writer = writer_of(model, words)
    asked = [sample("referring_segmentation", 5, 2, "a"), sample("dense_captioning", 5, 0, "b")]
    apart = [row(writer, 5, one, seed=4) for one in asked]
    apart.append(row(writer, 7, sample("referring_segmentation", 7, 1), seed=5))
    whole = writer.batch(apart)
    counts = model.label_counts(whole)
    assert counts["masks"] == 3 * 2
    losses = model.training_step(whole, counts).losses
    assert set(losses) == {"text", "mask_bce", "mask_dice"}
    parts = [model.training_step(writer.batch([one]), counts).losses for one in apart]
    packed = writer.batch([row(writer, 5, *asked, seed=4), apart[2]])
    for name, value in losses.items():
        assert_close(sum(part.get(name, 0.0) for part in parts), value, atol=1e-5, rtol=1e-4)
        assert_close(model.training_step(packed, counts).losses[name], value, atol=1e-5, rtol=1e-4)


def test_tracks_of_an_answer_without_seg_are_not_trained(words: SentencePieceText) -> None:
    model = make(words)
    writer = writer_of(model, words)
    caption = replace(sample("dense_captioning", 5, 1, "a"), prompt="What happens?")
    batch = writer.batch([row(writer, 5, caption, sample("referring_segmentation", 5, 1, "b"), seed=4)])
    assert batch.sample_ids == ("a", "b") and batch.masks.shape[0] == 1
    assert "mask_dice" in model.training_step(batch, model.label_counts(batch)).losses


def test_masks_depend_on_the_state_at_seg_itself(words: SentencePieceText) -> None:
    model = make(words)
    writer = writer_of(model, words)
    batch = writer.batch([row(writer, 4, sample("referring_segmentation", 4, 1))])
    counts = model.label_counts(batch)
    before = model.training_step(batch, counts).losses
    model.seg_embedding.data.add_(1.0)  # what [SEG] is read as; the state before it does not see it
    after = model.training_step(batch, counts).losses
    assert abs((after["mask_bce"] - before["mask_bce"]).item()) > 1e-5


def test_a_stage_that_trains_nothing_of_the_mask_head_has_no_mask_loss(words: SentencePieceText) -> None:
    model = make(words)
    batch = writer_of(model, words).batch(
        [row(writer_of(model, words), 7, sample("referring_segmentation", 7, 2, "a"))]
    )
    counts = model.label_counts(batch)
    assert "mask_dice" in model.training_step(batch, counts).losses
    model.mask_head.requires_grad_(False)
    assert set(model.training_step(batch, counts).losses) == {"text"}
    model.mask_head.projection.requires_grad_(True)
    assert "mask_dice" in model.training_step(batch, counts).losses


def test_muon_takes_the_mask_heads_matrices_and_no_tables(words: SentencePieceText) -> None:
    model = make(words)
    linear = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    of_head = {name for name, p in model.named_parameters() if name.startswith("mask_head.") and p.ndim == 2}
    assert {name for name in of_head if FAMILY.is_matrix(name)} == of_head & linear and of_head - linear


def test_recomputing_layers_changes_no_gradient(words: SentencePieceText) -> None:
    model = make(words).train()
    writer = writer_of(model, words)
    batch = writer.batch([row(writer, 4, sample("referring_segmentation", 4, 1))])
    gradients = []
    for enabled in (False, True):
        model.set_gradient_checkpointing(enabled)
        model.zero_grad()
        model.training_step(batch, model.label_counts(batch)).loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        assert_close(gradients[1][name], value, atol=1e-6, rtol=1e-5)


def test_a_few_steps_teach_the_masks_of_two_objects(words: SentencePieceText) -> None:
    model = make(words, initializer_range=0.08).train()
    writer = writer_of(model, words)
    batch = writer.batch([row(writer, 4, sample("referring_segmentation", 4, 2), seed=1)])
    stage = StageConfig(
        name="a", kind="joint_from_scratch", steps=60, mix={"a": 1.0}, optimizer="muon", lr=1.5e-3, matrix_lr=4e-3
    )
    optimizers = build_optimizers(model, stage)
    told = []
    for _ in range(60):
        out = model.training_step(batch, model.label_counts(batch))
        told.append({name: float(value.detach()) for name, value in out.losses.items()})
        out.loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert told[-1]["text"] < 0.3 * told[0]["text"]
    assert told[-1]["mask_dice"] < 0.4 * told[0]["mask_dice"]  # one mask for both objects would leave more
