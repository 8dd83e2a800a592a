from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.evaluation import ptb


def test_tokens_equal_the_java_program_on_every_reference_caption(shared: Path):
    document = json.loads((shared / "oracles/caption_ngram/pycocoevalcap.json").read_text("utf-8"))
    for case in document["cases"]:
        for raw, tokens in (("gts", "tokenized_gts"), ("res", "tokenized_res")):
            for name, texts in case["inputs"][raw].items():
                assert ptb.tokenize(texts) == case["expected"][tokens][name], (case["id"], name)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't stop, it's John's dogs' house!", "do n't stop it 's john 's dogs house"),
        ("CANNOT gonna wanna 'tis rock'n'roll", "can not gon na wan na 't is rock 'n' roll"),
        ("Mr. Smith of the U.S.A. arrives at 5 p.m.", "mr. smith of the u.s.a. arrives at 5 p.m."),
        (
            "add 1 1/2 cups (about 350\u00b0F), \u00bd tsp.",
            "add 1\u00a01/2 cups -lrb- about 350 \u00b0 f -rrb- 1/2 tsp",
        ),
        ("No. 5 is no. Not 5.", "no. 5 is no not 5"),
        ("5:30 - 6, 1,000.5 3-2 -5 and/or w/o", "5:30 6 1,000.5 3-2 -5 and/or w/o"),
        ("$5.00 \u00a35 \u20ac5 10% #tag @user AT&T a&b", "$ 5.00 # 5 $ 5 10 % #tag @user at&t a & b"),
        ("what?! wow!! yes!", "what ?! wow !! yes"),
        ("\u201csmart\u201d \u2018quotes\u2019 \u2013 it\u2019s", "smart quotes it 's"),
        ("a tag <b> and a < b", "a tag <b> and a < b"),
        ("caf\u00e9 \u8df3\u821e \U0001f483 tab\there\nand there", "caf\u00e9 \u8df3\u821e tab here and there"),
        ("", ""),
        ("... !?!", "!?!"),
    ],
)
def test_tokens_by_the_rules_of_the_treebank(text: str, tokens: str):
    assert ptb.tokenize([text]) == [tokens]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.decode("latin-1")))
def test_any_text_has_tokens_without_blanks_or_bare_punctuation(text: str):
    (line,) = ptb.tokenize([text])
    tokens = line.split(" ") if line else []
    assert all(token and token not in ptb.PUNCTUATION and "\n" not in token for token in tokens)


def test_one_very_long_word_takes_no_square_of_its_length():
    assert ptb.tokenize(["a" * 20_000]) == ["a" * 20_000]
