"""Several questions behind one video answer as if each stood alone."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from timeexpert.data.collate import pad_rows
from timeexpert.tokenization import EventCodec
from timeexpert.tokenization.text import SentencePieceText

from .conftest import Make, questions, row_of


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_questions_give_the_logits_and_losses_of_separate_rows(
    make: Make, codec: EventCodec, text: SentencePieceText, attention: str
):
    model, samples = make(attn_implementation=attention), questions()
    packed = pad_rows([row_of(codec, text, samples)], 0)
    rows = [row_of(codec, text, [sample]) for sample in samples]
    apart = pad_rows(rows, 0)
    assert packed.pixel_values.shape[0] == 3 and apart.pixel_values.shape[0] == 9  # the video is encoded once

    def logits(batch):
        return model(batch.input_ids, batch.pixel_values, batch.decoder_mask, batch.position_ids).logits

    together, alone = logits(packed)[0], logits(apart)
    assert packed.turns is not None
    assert apart.turns is None and apart.position_ids is None  # single questions: plain causal attention
    for i, row in enumerate(rows):
        turns = torch.tensor(row.turns)
        asked = alone[i][: len(turns)]
        assert_close(together[packed.turns[0] == i + 1], asked[turns == 1], atol=1e-5, rtol=1e-5)
        assert_close(together[packed.turns[0] == 0], asked[turns == 0], atol=1e-5, rtol=1e-5)

    counts = model.label_counts(apart)
    assert model.label_counts(packed) == counts
    losses = [model.training_step(batch, counts).losses for batch in (packed, apart)]
    for name in ("text", "time", "score"):
        assert losses[0][name].item() == pytest.approx(losses[1][name].item(), rel=1e-5)


def test_a_question_sees_the_video_and_itself(codec: EventCodec, text: SentencePieceText):
    batch = pad_rows([row_of(codec, text, questions()), row_of(codec, text, questions()[:1])], 0)
    mask, turns = batch.decoder_mask[:, 0], batch.turns
    assert turns is not None
    for row, i in ((0, int((turns[0] == 2).nonzero()[-1])), (1, int((turns[1] == 1).nonzero()[-1]))):
        own = turns[row, i]
        want = [j <= i and turns[row, j] in (0, own) for j in range(turns.shape[1])]
        assert mask[row, i].tolist() == want
    assert mask.any(-1).all()  # padding too: a row that sees nothing would be NaN


def test_positions_start_again_behind_the_video(codec: EventCodec, text: SentencePieceText):
    batch = pad_rows([row_of(codec, text, questions())], 0)
    assert batch.turns is not None and batch.position_ids is not None
    video = int((batch.turns[0] == 0).sum())
    for turn in (1, 2, 3):
        positions = batch.position_ids[0][batch.turns[0] == turn]
        assert positions.tolist() == list(range(video, video + len(positions)))


def test_attention_that_takes_no_such_mask_is_refused(make: Make, codec: EventCodec, text: SentencePieceText):
    model, batch = make(), pad_rows([row_of(codec, text, questions())], 0)
    model.config.text_config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="flash_attention_2 takes no mask of questions packed.*use attention sdpa"):
        model.training_step(batch, model.label_counts(batch))


def test_frames_and_placeholders_must_agree(make: Make, codec: EventCodec, text: SentencePieceText):
    model, batch = make(), pad_rows([row_of(codec, text, questions()[:1])], 0)
    with pytest.raises(ValueError, match="6 vision placeholders for 2 frames of 2 tokens"):
        model(batch.input_ids, batch.pixel_values[:2])
    with torch.no_grad():
        assert model(batch.input_ids[:, :1], batch.pixel_values[:0]).logits.shape[1] == 1  # no frames, no placeholders
