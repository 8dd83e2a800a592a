"""An answer as lines to read, also while it is being written."""

from __future__ import annotations

from collections.abc import Sequence

from timeexpert.tokenization import Event, EventCodec, NumericVocab

HALF_CHARACTER = "\ufffd"  # bytes of a character whose other bytes are still to come


def readable(event: Event) -> str:
    """One line: ``12.3 - 15.6 s: caption``, ``12.3 s (score 4.5)``, or the text alone where there is no time."""
    times = f"{' - '.join(f'{t:.1f}' for t in event.times_s)} s" if event.times_s else ""
    scores = f"(score {', '.join(f'{s:g}' for s in event.scores)})" if event.scores else ""
    head, text = " ".join(filter(None, (times, scores))), " ".join(event.text.split())
    return f"{head}: {text}" if head and text else head or text


def text_so_far(codec: EventCodec, tokens: Sequence[int]) -> str:
    """What an unfinished answer says, as far as more tokens cannot change it: the beginning of its final text.

    An event counts from the moment its numbers are complete.
    """
    ids, eos = codec.ids, codec.text.eos_id
    last = max((i for i, token in enumerate(tokens) if token == ids.sync), default=len(tokens))
    numbers_complete = ids.score + NumericVocab.sync in tokens[last:]
    told = tokens if numbers_complete else tokens[:last]
    events = codec.decode([*told, eos])[0]
    return "\n".join(readable(event) for event in events).rstrip(HALF_CHARACTER)
