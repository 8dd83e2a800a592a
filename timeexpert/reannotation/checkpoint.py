"""The annotator that is a model of this project: it hears of the events, watches the clip, and answers with events.

Its answer has times of its own and no numbers, so the groups are read off overlaps: events of the answer and of the
sample belong together where one covers at least half of the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from timeexpert.checkpoint import MANIFEST
from timeexpert.data.answer_cache import AnswerCache
from timeexpert.data.media import resolve_media
from timeexpert.predict import Predictor, Request, resolve_model
from timeexpert.tokenization import Event, EventSequence

from .grouping import Group, Question, Refused
from .traced import Span, span_of

BATCH = 4  # clips in memory at a time
SHARE = 0.5  # of an event that the other one covers, where they belong together

PROMPT = (
    "These events of the video may be fragments, or hold several events. Merge what is one event, split what is "
    "several, and give the start, the end and a description of each event.\n"
)


class CheckpointAnnotator:
    """``model`` is a run or model folder; answers are kept in ``cache``. Raises ``CheckpointError``."""

    def __init__(self, model: str | Path, device: str, cache: AnswerCache, media: Path) -> None:
        folder = resolve_model(model)
        self.predictor = Predictor.from_pretrained(folder, device=device)
        self.cache, self.media = cache, media
        self.name = f"checkpoint {folder.name}"
        self._weights = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()

    def group(self, questions: Sequence[Question]) -> Iterator[list[Group] | Refused]:
        """See :class:`Annotator`."""
        for first in range(0, len(questions), BATCH):
            some = questions[first : first + BATCH]
            keys = [self._key(question) for question in some]
            new = [(key, question) for key, question in zip(keys, some, strict=True) if self.cache.get(key) is None]
            requests = [self._request(question) for _, question in new]
            for (key, _), answer in zip(new, self.predictor.answer(requests), strict=True):
                rows = {"events": answer.events.to_json(), "problems": [p.reason for p in answer.problems]}
                self.cache.keep(key, json.dumps(rows))
            for key, (_, events) in zip(keys, some, strict=True):
                yield read_answer(self.cache.get(key) or "", events)

    def _request(self, question: Question) -> Request:
        sample, events = question
        clip = self.predictor.clip(resolve_media(self.media, sample.video), name=sample.video)
        return Request(clip, prompt_for(events), "dense_captioning")

    def _key(self, question: Question) -> str:
        sample, events = question
        status = resolve_media(self.media, sample.video).stat()
        about = [self._weights, sample.video, status.st_size, status.st_mtime_ns, prompt_for(events)]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def prompt_for(events: Sequence[Event]) -> str:
    """The question, with one line for each event."""
    spans = [span_of(event) for event in events]
    lines = [f"{s:.1f} to {e:.1f} s: {event.text}" for (s, e), event in zip(spans, events, strict=True)]
    return PROMPT + "\n".join(lines)


def read_answer(text: str, events: Sequence[Event]) -> list[Group] | Refused:
    """The groups of a kept answer."""
    kept = json.loads(text)
    if kept["problems"]:
        return Refused("not the form asked for", "; ".join(kept["problems"])[:300])
    return groups_of(EventSequence.from_json(kept["events"]), events)


def groups_of(answer: EventSequence, events: Sequence[Event]) -> list[Group] | Refused:
    """One event of the answer for several of ``events`` is a merge, several for one are a split, one for one stays."""
    told = sorted((event for event in answer if event.start_s is not None), key=span_of)
    links = [[i for i, event in enumerate(events) if _belong_together(span_of(event), span_of(one))] for one in told]
    groups: list[Group] = []
    for one, sources in zip(told, links, strict=True):
        if not sources:
            start_s, end_s = span_of(one)
            return Refused("not among the events", f"{start_s:g} to {end_s:g} s is the time of no event of the sample.")
        start_s, end_s = span_of(events[sources[0]])
        split = len(sources) == 1 and links.count(sources) > 1
        part = (max(start_s, span_of(one)[0]), min(end_s, span_of(one)[1]))
        new = split or len(sources) > 1
        groups.append(Group(tuple(sources), one.text if new else "", part if split else None))
    return groups


def _belong_together(a: Span, b: Span) -> bool:
    overlap_s = min(a[1], b[1]) - max(a[0], b[0])
    shorter_s = min(a[1] - a[0], b[1] - b[0])
    return overlap_s > 0 and overlap_s >= SHARE * shorter_s
