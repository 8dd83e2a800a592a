"""pycocoevalcap: PTB tokens, CIDEr-D, METEOR, BLEU, ROUGE-L of single captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timeexpert.evaluation import meteor as meteor_scores
from timeexpert.evaluation import ngram, ptb
from timeexpert.evaluation.oracle import NotCovered

from .meteor_process import shared_meteor


def figures(reference: str, inputs: Mapping[str, Any], case: Mapping[str, Any]) -> Any:
    """Tokens as they are, scores as fractions, CIDEr of 10, items in ``item_order``."""
    res = {name: ptb.tokenize(texts) for name, texts in inputs["res"].items()}
    gts = {name: ptb.tokenize(texts) for name, texts in inputs["gts"].items()}
    if reference in ("tokenized_res", "tokenized_gts"):
        return res if reference == "tokenized_res" else gts
    hypotheses, references = [res[name][0] for name in case["item_order"]], [gts[name] for name in case["item_order"]]
    if reference == "bleu":
        statistics = ngram.bleu_statistics(hypotheses, references)
        return {"corpus": ngram.bleu(statistics.sum(axis=0)), "items": ngram.bleu(statistics).T}
    if reference == "meteor":
        statistics = shared_meteor().statistics(hypotheses, references)
        return {"corpus": meteor_scores.meteor(statistics.sum(axis=0)), "items": meteor_scores.meteor(statistics)}
    if reference not in ("cider", "rouge"):
        raise NotCovered(f"no such figure: {reference}")
    score = ngram.cider if reference == "cider" else ngram.rouge_l
    items = score(hypotheses, references)
    return {"corpus": float(items.mean()), "items": items}
