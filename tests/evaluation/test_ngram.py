from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.evaluation import EvaluationError, ngram

TEXT = st.lists(st.sampled_from(["a", "b", "c", "d", "\u00e9", "1/2", ""]), max_size=9).map(" ".join)


def test_scores_equal_pycocoevalcap_on_its_own_tokens(shared: Path):
    document = json.loads((shared / "oracles/caption_ngram/pycocoevalcap.json").read_text("utf-8"))
    for case in document["cases"]:
        expected, order = case["expected"], case["item_order"]
        said = [expected["tokenized_res"][name][0] for name in order]
        true = [expected["tokenized_gts"][name] for name in order]
        cider, rouge, statistics = ngram.cider(said, true), ngram.rouge_l(said, true), ngram.bleu_statistics(said, true)
        assert cider == pytest.approx(expected["cider"]["items"], abs=1e-9), case["id"]
        assert rouge == pytest.approx(expected["rouge"]["items"], abs=1e-12), case["id"]
        assert ngram.bleu(statistics).T == pytest.approx(np.array(expected["bleu"]["items"]), abs=1e-12), case["id"]
        assert ngram.bleu(statistics.sum(axis=0)) == pytest.approx(expected["bleu"]["corpus"], abs=1e-12), case["id"]


def test_rouge_by_hand():
    # 3 of 4 words in order: precision 3/4, recall 3/6
    (score,) = ngram.rouge_l(["the cat sat down"], [["the big cat sat on it"]])
    assert score == pytest.approx((1 + 1.44) * 0.75 * 0.5 / (0.5 + 1.44 * 0.75))


def test_bleu_by_hand():
    (statistics,) = ngram.bleu_statistics(["the the the"], [["the cat", "the the dog barks"]])
    assert statistics.tolist() == [2, 1, 0, 0, 3, 2, 1, 0, 3, 2]  # lengths 2 and 4 are equally close: the shorter
    assert ngram.bleu(statistics)[0] == pytest.approx(2 / 3)


def test_a_corpus_of_one_item_has_no_rare_words_and_scores_0_in_cider():
    assert ngram.cider(["a man opens the door"], [["a man opens the door"]]).tolist() == [0.0]


def test_groups_are_scored_as_corpora_of_their_own():
    said = ["a man runs", "a dog runs fast", "the sea is calm", "the sky is blue today"]
    true = [["a man walks"], ["a dog runs"], ["the sea is calm"], ["the sky is grey today", "blue sky"]]
    together = ngram.cider(said, true, groups=[7, 7, 3, 3])
    apart = np.concatenate([ngram.cider(said[:2], true[:2]), ngram.cider(said[2:], true[2:])])
    assert together == pytest.approx(apart, abs=1e-12)
    assert together != pytest.approx(ngram.cider(said, true), abs=1e-3)


def test_an_empty_text_is_one_empty_word_in_rouge_and_no_word_elsewhere():
    assert ngram.rouge_l([""], [[""]]).tolist() == [1.0]
    assert ngram.bleu_statistics([""], [["a"]])[0].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert ngram.cider(["", "a"], [["b"], ["a"]])[0] == 0.0


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3), st.integers(-2, 2)), max_size=6))
def test_any_texts_stay_in_range(rows):
    said, true, groups = [r[0] for r in rows], [r[1] for r in rows], np.array([r[2] for r in rows], dtype=np.int64)
    cider, rouge, bleu = (
        ngram.cider(said, true, groups),
        ngram.rouge_l(said, true),
        ngram.bleu(ngram.bleu_statistics(said, true)),
    )
    assert cider.shape == rouge.shape == (len(rows),) and bleu.shape == (len(rows), 4)
    for values, top in ((cider, 10), (rouge, 1), (bleu, 1)):
        assert ((values >= 0) & (values <= top + 1e-9)).all()


def test_texts_of_different_number_are_refused():
    with pytest.raises(EvaluationError, match="1 items and predictions has 2"):
        ngram.cider(["a", "b"], [["a"]])
