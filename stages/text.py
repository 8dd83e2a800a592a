"""The text tokenizer of a run: a folder's, or trained on the run's own data."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from timeexpert.data.shards import ShardDataset
from timeexpert.families import family
from timeexpert.tokenization.text import HuggingFaceText, SentencePieceText, TextTokenizer, load_text

from .config import RunConfig


def run_text(config: RunConfig, run: Path, dataset: Callable[[str], ShardDataset]) -> TextTokenizer:
    """The tokenizer that ``run/text`` keeps; at the first call made as ``config.text`` says, and kept there.

    ``dataset`` opens a shard folder by its path in the config.
    """
    settings, kept = config.text, run / "text"
    if kept.is_dir():
        return load_text(kept)
    temporary = run / "text.part"
    if settings.tokenizer != "train":
        text: TextTokenizer
        if (Path(settings.tokenizer) / "sentencepiece.model").is_file():
            text = load_text(settings.tokenizer)
        else:
            text = HuggingFaceText.load(settings.tokenizer, settings.prompt_format)
    else:
        datasets = [dataset(path) for path in config.data.train.values()]
        texts_of = partial(family(config.model.family).texts, settings=config.model)
        texts = sorted({t for d in datasets for i in range(len(d)) for t in texts_of(d.sample(i))})
        text = SentencePieceText.train(texts, settings.vocab_size, temporary, settings.pieces)
    text.save(temporary)
    os.replace(temporary, kept)
    return text
