"""How sure a model was of the numbers it wrote."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from timeexpert.tokenization import EventCodec, NumericVocab

Confidence = dict[str, float | None]


def event_confidences(codec: EventCodec, tokens: Sequence[int], logprobs: Sequence[float]) -> list[Confidence]:
    """One ``{"start", "end", "score"}`` per event that :meth:`EventCodec.decode` finds in ``tokens``.

    Each value is the probability of the number as it was written: the product over its digits and its point of the
    probability of that symbol among those that the grammar allowed, given all before it. ``logprobs``: natural
    logarithms, one per token. ``None`` where an event has no such number; a point in time is its start and its end.
    """
    eos, ids = codec.text.eos_id, codec.ids
    stop = tokens.index(eos) if eos in tokens else len(tokens)
    starts = [i for i in range(stop) if tokens[i] == ids.sync]
    out: list[Confidence] = []
    for begin, end in pairwise([*starts, stop]):
        if not codec.decode([*tokens[begin:end], eos])[0]:
            continue  # it did not parse: no event, no confidence
        times = _numbers(tokens[begin:end], logprobs[begin:end], ids.time)
        scores = _numbers(tokens[begin:end], logprobs[begin:end], ids.score)
        out.append(
            {
                "start": times[0] if times else None,
                "end": times[-1] if times else None,
                "score": scores[0] if scores else None,
            }
        )
    return out


def _numbers(tokens: Sequence[int], logprobs: Sequence[float], start: int) -> list[float]:
    """The probability of each number of the list whose symbols begin at id ``start``."""
    sums: list[float] = []
    fresh = True
    for token, logprob in zip(tokens, logprobs, strict=True):
        symbol = token - start
        if not 0 <= symbol < NumericVocab.size:
            continue
        if symbol in (NumericVocab.sync, NumericVocab.sep):
            fresh = True
            continue
        if fresh:
            sums.append(0.0)
            fresh = False
        sums[-1] += logprob
    return [math.exp(total) for total in sums]
