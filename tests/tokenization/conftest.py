"""One small text vocabulary for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from timeexpert.tokenization import EventCodec
from timeexpert.tokenization.text import SentencePieceText

CORPUS = [
    "a man opens the door at 12.5 seconds",
    "the dog catches a frisbee",
    "she pours milk, then stirs.",
    "find the moment: two cats jump",
]


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> SentencePieceText:
    return SentencePieceText.train(CORPUS * 3, 400, tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def codec(text: SentencePieceText) -> EventCodec:
    return EventCodec(text)


@pytest.fixture(scope="session")
def model_file(text: SentencePieceText, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    text.save(folder)
    return folder / "sentencepiece.model"
