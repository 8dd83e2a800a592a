"""Embeddings and heads: every block of ids has its own table, and frame times share that of times."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from timeexpert.model.number_tokens import TokenEmbedding, TokenHeads
from timeexpert.tokenization import IdSpace, TokenType

from .conftest import Make

IDS = IdSpace(20)  # text 0-19, sync 20, time 21-33, score 34-46, vision 47, frame time 48-60


def make_embedding() -> TokenEmbedding:
    torch.manual_seed(0)
    return TokenEmbedding(IDS, 4, pad_id=0)


def test_every_block_of_ids_goes_to_its_own_table():
    e = make_embedding()
    out = e(torch.arange(IDS.size)[None])[0]
    zero = torch.zeros(1, 4)
    tables = [e.text, e.sync, e.time_encoder, e.score_encoder]
    want = torch.cat([*(t.weight for t in tables), zero, e.time_encoder.weight])
    assert torch.equal(out, want)


def test_a_frames_timestamp_and_an_answers_time_train_one_table():
    e = make_embedding()
    e(torch.tensor([[IDS.time + 3, IDS.frame_time + 3]])).sum().backward()
    assert e.time_encoder.weight.grad is not None
    assert e.time_encoder.weight.grad[3].tolist() == [2.0] * 4
    assert e.text.weight.grad is None or e.text.weight.grad.count_nonzero() == 0  # row 0 stands in, without gradient


def test_number_tables_start_from_the_texts_digits():
    e = make_embedding()
    e.initialise_numbers(range(5, 15), 3)
    text = e.text.weight
    for table in (e.time_encoder.weight, e.score_encoder.weight):
        assert torch.equal(table[2:12], text[5:15]) and torch.equal(table[12], text[3])
        assert_close(table[0], text[5:15].mean(0))  # <sync>
        assert_close(table[1], text[5:15].mean(0))  # <sep>
    assert_close(e.sync.weight[0], text[5:15].mean(0))


def test_without_a_point_in_the_vocabulary_the_digits_mean_stands_in():
    e = make_embedding()
    e.initialise_numbers(range(5, 15), None)
    assert_close(e.time_encoder.weight[12], e.text.weight[5:15].mean(0))


def test_logits_come_in_the_id_spaces_order():
    heads = TokenHeads(IDS, 4)
    for i, head in enumerate((heads.text, heads.sync, heads.time, heads.score)):
        head.weight.data.fill_(float(i))
    logits = heads(torch.full((1, 4), 0.25))[0]
    assert logits.tolist() == [0.0] * 20 + [1.0] + [2.0] * 13 + [3.0] * 13
    assert len(logits) == IDS.output_size


def test_a_tokens_type_follows_from_its_id(make: Make):
    model = make()
    ids = model.ids
    row = torch.arange(ids.size)
    assert model.token_types(row[None])[0].tolist() == [int(ids.type_of(i)) for i in row.tolist()]
    few = [ids.sync - 1, ids.sync, ids.time, ids.score - 1, ids.score, ids.vision, ids.frame_time]
    kinds = [TokenType.TEXT, TokenType.SYNC, TokenType.TIME, TokenType.TIME, TokenType.SCORE, TokenType.VISION]
    assert model.token_types(torch.tensor([few]))[0].tolist() == [*kinds, TokenType.FRAME_TIME]
