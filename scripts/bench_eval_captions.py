"""Made-up captions of English words, in which METEOR finds stems and synonyms, for scripts/bench_eval.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Event = tuple[float, float, str]
# Words of a kind stand in the place of each other in the made-up captions.
KINDS = [
    "a the one another this that her his their",
    "young old tall small happy tired blonde bearded careful smiling busy large",
    "man woman boy girl person player chef dancer child athlete lady crowd group instructor swimmer mother",
    "is was starts keeps begins finishes continues stops",
    "cutting chopping washing stirring mixing throwing kicking catching lifting painting cleaning pulling showing "
    "holding riding climbing jumping playing pouring slicing peeling folding",
    "a the some several two many",
    "onion potato ball rope board car horse bike knife bowl cake guitar piano drum boat ladder fence wall shirt shoe "
    "dough egg tomato lettuce chicken pasta",
    "in on near under behind beside over across",
    "a the",
    "kitchen gym field pool street park stage beach yard studio river garden court room pan oven table lake",
    "while then and as before after",
    "people others friends judges spectators someone everyone",
    "watch clap talk laugh cheer wait follow walk away help dance smile",
]


def captioned_events(rng: np.random.Generator, number: int) -> list[Event]:
    """Events of 25 s with a caption of some 13 English words."""
    starts = np.sort(rng.uniform(0, 150, number)).tolist()
    return [(s, s + 25.0, " ".join(str(rng.choice(kind.split())) for kind in KINDS)) for s in starts]


def told_again(rng: np.random.Generator, events: Sequence[Event]) -> list[Event]:
    """The events moved by some seconds, sorted by their starts, with one word in six left out."""
    moved = [np.sort(rng.normal(0, 4, 2) + event[:2]).tolist() for event in events]
    said = [" ".join(w for w in event[2].split() if rng.random() > 0.17) or "nothing" for event in events]
    return sorted((start, end, text) for (start, end), text in zip(moved, said, strict=True))
