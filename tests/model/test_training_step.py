"""The loss: three means over one optimizer step, the same however the step is cut into batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from timeexpert.data.batch import VideoBatch
from timeexpert.data.collate import Row, pad_rows
from timeexpert.model import TimeExpert
from timeexpert.moe import TokenRole
from timeexpert.tokenization import EventCodec, TokenType
from timeexpert.tokenization.text import SentencePieceText

from .conftest import Make, questions, row_of


@pytest.fixture
def rows(codec: EventCodec, text: SentencePieceText) -> list[Row]:
    """One row per question, of different lengths, each with its own video."""
    return [row_of(codec, text, [sample], 2 + i, i) for i, sample in enumerate(questions())]


def as_batch(rows: list[Row]) -> VideoBatch:
    return pad_rows(rows, 0)


def total(model: TimeExpert, batches: list[VideoBatch]) -> dict[str, float]:
    counts: dict[str, float] = {}
    for batch in batches:
        for name, value in model.label_counts(batch).items():
            counts[name] = counts.get(name, 0.0) + value
    return counts


def step(model: TimeExpert, batches: list[VideoBatch]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradients of one optimizer step made of ``batches``."""
    model.zero_grad()
    counts = total(model, batches)
    losses: dict[str, float] = {}
    for batch in batches:
        out = model.training_step(batch, counts)
        out.loss.backward()
        for name, value in {**out.losses, "loss": out.loss}.items():
            losses[name] = losses.get(name, 0.0) + value.item()
    return losses, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_each_stream_is_the_mean_over_its_own_labels(make: Make, rows: list[Row]):
    model, batch = make(), as_batch(rows)
    losses, _ = step(model, [batch])
    logits = model(batch.input_ids, batch.pixel_values, batch.decoder_mask, batch.position_ids).logits
    ids = model.ids
    blocks = {"text": (0, ids.time), "time": (ids.time, ids.score), "score": (ids.score, ids.output_size)}
    for name, (start, end) in blocks.items():
        terms = []
        for row in range(len(rows)):
            for i in range(1, batch.labels.shape[1]):
                label = int(batch.labels[row, i])
                if start <= label < end:  # predicted one step before, among the tokens of its own stream
                    terms.append(-F.log_softmax(logits[row, i - 1, start:end], -1)[label - start].item())
        assert losses[name] == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    assert losses["loss"] == pytest.approx(sum(losses[n] for n in ("text", "time", "score", "z", "task")), rel=1e-6)


def test_labels_are_counted_by_stream(make: Make, rows: list[Row], codec: EventCodec):
    model, batch = make(), as_batch(rows)
    answers = [codec.encode(sample.events) for sample in questions()]
    kinds = [codec.ids.type_of(i) for answer in answers for i in answer]
    want = {"text": (TokenType.TEXT, TokenType.SYNC), "time": (TokenType.TIME,), "score": (TokenType.SCORE,)}
    counts = model.label_counts(batch)
    assert counts == {**{n: float(sum(k in ks for k in kinds)) for n, ks in want.items()}, "micro_steps": 1.0}


def test_accumulated_batches_equal_one_large_batch(make: Make, rows: list[Row]):
    # both auxiliary terms are means over a batch's tokens, so they are compared by their own test below
    model = make(moe={"z_loss": 0.0, "task_loss": 0.0, "norm_loss": 0.0})
    large, large_grads = step(model, [as_batch(rows)])
    small, small_grads = step(model, [as_batch([row]) for row in rows])
    assert small == pytest.approx(large, abs=1e-6)
    assert small_grads.keys() == large_grads.keys()
    for name, grad in large_grads.items():
        assert_close(small_grads[name], grad, atol=1e-6, rtol=1e-5)


def test_auxiliary_terms_are_means_over_the_micro_batches(make: Make, rows: list[Row]):
    model = make()
    batch = as_batch(rows[:1])
    once, _ = step(model, [batch])
    thrice, _ = step(model, [batch] * 3)
    for name in ("z", "task", "text", "time"):
        assert thrice[name] == pytest.approx(once[name], rel=1e-5)


def test_a_stream_without_labels_adds_nothing(make: Make, rows: list[Row]):
    model, batch = make(), as_batch(rows)
    text_only = batch.labels.where(model.token_types(batch.labels.clamp(min=0)) == TokenType.TEXT, -100)
    losses, grads = step(model, [replace(batch, labels=text_only)])
    assert losses["time"] == losses["score"] == 0 and losses["text"] > 0
    assert grads["heads.time.weight"].count_nonzero() == 0
    nothing, grads = step(model, [replace(batch, labels=torch.full_like(batch.labels, -100))])
    assert nothing["text"] == 0 and all(bool(grad.isfinite().all()) for grad in grads.values())


def test_padding_changes_no_loss(make: Make, rows: list[Row]):
    model = make()
    alone = [step(model, [as_batch([row])])[0] for row in rows]
    counts = {"text": 1.0, "time": 1.0, "score": 1.0, "micro_steps": 1.0}
    padded = model.training_step(as_batch(rows), counts)
    labels = [model.label_counts(as_batch([row])) for row in rows]
    for name in ("text", "time", "score"):
        want = sum(losses[name] * count[name] for losses, count in zip(alone, labels, strict=True))
        assert padded.losses[name].item() == pytest.approx(want, rel=1e-5)


def test_topk_has_no_task_dependent_loss(make: Make, rows: list[Row]):
    losses, _ = step(make(moe={"router": "topk"}), [as_batch(rows)])
    assert set(losses) == {"text", "time", "score", "z", "loss"}


def test_every_trained_parameter_gets_a_gradient(make: Make, rows: list[Row]):
    model = make()
    for gate in model.gates:
        gate.activation_rates.uniform_(0, 1)
    _, grads = step(model, [as_batch(rows)])
    idle = {name for name, _ in model.named_parameters()} - set(grads)
    assert all(name.startswith("frame_encoder.vision_tower.post_layernorm") for name in idle)
    assert all(bool(grads[f"decoder.layers.{i}.moe.gate.threshold"].any()) for i in range(2))


HELD = {"threshold_update": "balance", "alpha_warmup_steps": 5, "learn_scale": True, "adaptive": {"enabled": True}}


@pytest.mark.parametrize("moe", [{}, HELD], ids=["default", "held"])
def test_recomputed_activations_change_neither_loss_nor_gradient_nor_statistics(
    make: Make, rows: list[Row], moe: dict[str, Any]
):
    results = []
    for recompute in (False, True):
        model, batch = make(moe=moe).train(), as_batch(rows)
        model.set_gradient_checkpointing(recompute)
        statistics = model.statistics()
        out = model.training_step(batch, total(model, [batch]))
        out.loss.backward()
        statistics.update(
            out.routings, model.token_types(batch.input_ids).reshape(-1), model.token_roles(batch).reshape(-1)
        )
        counts = statistics.fold()
        assert counts[0].tokens.sum() == batch.attention_mask.sum()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((out.loss, grads, counts[0].tensors(), statistics.to_json(), dict(model.named_buffers())))
    for ours, theirs in zip(results[1], results[0], strict=True):
        assert_close(ours, theirs)


def test_answers_are_the_tokens_with_labels(make: Make, rows: list[Row]):
    model, batch = make(), as_batch(rows)
    roles = model.token_roles(batch)
    assert (roles == TokenRole.PADDING).equal(~batch.attention_mask)
    answers = (roles == TokenRole.ANSWER).sum().item()
    assert answers == sum(n for name, n in model.label_counts(batch).items() if name != "micro_steps")
    kinds = model.token_types(batch.input_ids)[roles == TokenRole.ANSWER].unique().tolist()
    assert kinds == [TokenType.TEXT, TokenType.SYNC, TokenType.TIME, TokenType.SCORE]


def test_directions_are_summed_only_for_the_adaptive_process(make: Make, rows: list[Row]):
    model, batch = make(moe={"adaptive": {"enabled": True}}), as_batch(rows)
    for gate in model.gates:
        gate.threshold.data.fill_(2.0)  # type: ignore[union-attr]  # nobody accepts anything
    statistics = model.statistics()
    routings = model.training_step(batch, total(model, [batch])).routings
    statistics.update(routings, model.token_types(batch.input_ids).reshape(-1), model.token_roles(batch).reshape(-1))
    counts = statistics.fold()[0]
    answers = float((model.token_roles(batch) == TokenRole.ANSWER).sum())
    assert counts.answers.tolist() == [answers, answers]
    assert 0 < counts.directions[1].norm() < answers and counts.directions[0].norm() < counts.tokens.sum()
    assert make().training_step(batch, total(model, [batch])).routings[0].directions_2D is None


def mean_accepted(model: TimeExpert, batches: list[VideoBatch]) -> list[float]:
    """Experts that accept a token on average, by layer."""
    out = torch.zeros(2)
    for batch in batches:
        valid = batch.attention_mask.reshape(-1)
        routings = model.training_step(batch, total(model, [batch])).routings
        out += torch.stack([r.mask_TE[valid].sum() for r in routings])
    return (out / sum(float(b.attention_mask.sum()) for b in batches)).tolist()


def test_calibrated_gates_accept_top_k_experts_on_average(make: Make, rows: list[Row]):
    model, batch = make(moe={"num_experts": 8, "top_k": 2, "fallback": "skip"}), as_batch(rows)
    assert min(mean_accepted(model, [batch])) > 3
    model.calibrate_gates(batch)
    assert mean_accepted(model, [batch]) == pytest.approx([2, 2], abs=0.1)


def test_gates_are_calibrated_on_several_batches_as_on_one(
    make: Make, rows: list[Row], codec: EventCodec, text: SentencePieceText
):
    model = make(moe={"num_experts": 8, "top_k": 2, "fallback": "skip"})
    packed = as_batch([row_of(codec, text, questions(), 4, 7)])  # three questions behind one video
    batches = [as_batch(rows[:1]), packed, as_batch(rows[1:])]
    assert packed.turns is not None and batches[0].turns is None
    model.calibrate_gates(*batches)
    assert mean_accepted(model, batches) == pytest.approx([2, 2], abs=0.05)
    for batch in batches:  # but not on each of them
        assert mean_accepted(model, [batch]) != pytest.approx([2, 2], abs=0.05)


def test_bf16_autocast_trains(make: Make, rows: list[Row]):
    model, batch = make(), as_batch(rows)
    want, _ = step(model, [batch])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, grads = step(model, [batch])
    assert got["loss"] == pytest.approx(want["loss"], rel=0.05)
    assert all(bool(grad.isfinite().all()) for grad in grads.values())
