"""One id space: a token's kind follows from its id."""

from __future__ import annotations

import pytest

from timeexpert.tokenization import IdSpace, NumberFormat, NumberFormatError, NumericVocab, TokenType


def test_thirteen_symbols_in_traces_order():
    assert NumericVocab.symbols == ("<sync>", "<sep>", *"0123456789", ".")


def test_a_list_joins_numbers_with_sep_and_ends_with_sync():
    vocab = NumericVocab(NumberFormat(1, 1))
    assert vocab.encode_list([2.5, 3.0]) == [4, 12, 7, 1, 5, 12, 2, 0]
    assert vocab.encode_list([]) == [0]
    assert vocab.decode_number([4, 12, 7]) == 2.5


def test_separators_inside_a_number_are_refused():
    with pytest.raises(NumberFormatError, match="'<sep>' at place 1"):
        NumericVocab(NumberFormat(1, 1)).decode_number([4, 1, 7])


def test_blocks_of_ids_follow_each_other_after_arias_100352_pieces():
    ids = IdSpace(100352)
    assert (ids.sync, ids.time, ids.score) == (100352, 100353, 100366)
    assert (ids.output_size, ids.vision, ids.frame_time, ids.size) == (100379, 100379, 100380, 100393)


def test_every_id_has_one_kind():
    ids = IdSpace(3)
    kinds = [ids.type_of(i) for i in range(ids.size)]
    assert kinds == (
        [TokenType.TEXT] * 3
        + [TokenType.SYNC]
        + [TokenType.TIME] * 13
        + [TokenType.SCORE] * 13
        + [TokenType.VISION]
        + [TokenType.FRAME_TIME] * 13
    )


@pytest.mark.parametrize("token_id", [-1, 44])
def test_an_id_outside_the_space_has_no_kind(token_id: int):
    with pytest.raises(ValueError, match=rf"token id {token_id} is outside 0\.\.43"):
        IdSpace(3).type_of(token_id)
