"""Answers in VideoLoom's words, written and read: times as frame ids, an object as [SEG].

The wordings are :class:`.answer_forms.AnswerForms`. An answer to a referring segmentation is the event's own text where
that has one [SEG] for each object; a general answer is its text. Two moments of one frame are one highlight.
"""

from __future__ import annotations

from collections.abc import Iterable

from timeexpert.data.mask_tracks import SEG
from timeexpert.tokenization import Event, EventError, EventSequence
from timeexpert.tokenization.answer_lines import AnswerError

from .answer_forms import AnswerForms
from .frame_ids import FrameIds

LINE_TASKS = ("dense_captioning", "action_segmentation")
PAPER = AnswerForms()


def write_answer(
    task: str, events: Iterable[Event], ids: FrameIds, objects: int = 0, forms: AnswerForms = PAPER
) -> str:
    """The text that answers a question of ``task``; ``objects``: how many objects have masks.

    Raises :class:`AnswerError` for a task without such a form, and for an event or a number of objects that does not
    fit its form.
    """
    events = list(events)
    if not events:
        raise AnswerError(f"task {task}: there are no events to write; an answer has one or more.")
    if task == "referring_segmentation":
        return _shown(events, objects, forms)
    if task == "general":
        return " ".join(_plain(event.text) for event in events)
    if task in LINE_TASKS:
        return " ".join(forms.write_event(*_span(task, i, e, ids), _words(task, i, e)) for i, e in enumerate(events))
    if task == "moment_retrieval":
        return forms.write_moments([_span(task, i, event, ids) for i, event in enumerate(events)])
    if task == "highlight_detection":
        scores: dict[int, float] = {}  # of two moments in one frame the higher one
        for i, event in enumerate(events):
            if event.start_s is None or not event.scores:
                raise AnswerError(f"task {task}: events[{i}] needs a time and a score; it has {event.to_json()}.")
            frame_id = ids.at(event.start_s)
            scores[frame_id] = max(event.scores[0], scores.get(frame_id, event.scores[0]))
        return forms.write_highlights(list(scores), list(scores.values()))
    known = ", ".join(("general", *LINE_TASKS, "moment_retrieval", "highlight_detection", "referring_segmentation"))
    raise AnswerError(f"task {task!r} has no answer in words with frame ids; there are {known}.")


def read_answer(
    text: str, task: str | None, ids: FrameIds, forms: AnswerForms = PAPER
) -> tuple[EventSequence, list[str]]:
    """The events of an answer to a question of ``task``, in seconds, and what of it could not be read, in words.

    Without a task the text decides: highlights, then spans of frames, else words without a time. A span that ends
    before it starts, or names a frame that was not shown, is no event: it is named, and the others stay. Never raises.
    """
    if not text.strip():
        return EventSequence(), ["the answer is empty"]
    if task == "general":
        return EventSequence((Event(text=text.strip()),)), []
    if task == "referring_segmentation":
        return EventSequence((Event(text=text.strip()),)), [] if SEG in text else [f"the answer names no {SEG}"]
    if task in (None, "highlight_detection"):
        highlights = forms.read_highlights(text)
        if highlights is not None:
            return _highlights(*highlights, ids)
        if task is not None:
            return EventSequence(), ["no frames with scores were read from the text"]
    spans = forms.read(text, task)
    if not spans:
        if task is None:
            return EventSequence((Event(text=text.strip()),)), []
        return EventSequence(), ["no frames were read from the text"]
    events, problems = [], []
    for first, last, said in spans:
        if not 0 <= first <= last < ids.num_frames:
            problems.append(f"from {first} to {last}: frames go from 0 to {ids.num_frames - 1}, and no end is before")
            continue
        events.append(Event(ids.start_s(first), ids.end_s(last), text="" if task == "moment_retrieval" else said))
    return EventSequence(tuple(events)), problems


def _highlights(frames: list[int], scores: list[float], ids: FrameIds) -> tuple[EventSequence, list[str]]:
    if len(frames) != len(scores):
        return EventSequence(), [f"{len(frames)} frames with {len(scores)} saliency scores"]
    events, problems = [], []
    for frame_id, score in zip(frames, scores, strict=True):
        if 0 <= frame_id < ids.num_frames:
            time_s = ids.moment_s(frame_id)
            try:
                events.append(Event(time_s, time_s, (score,)))
            except EventError as error:
                problems.append(f"{frame_id}: {error}")
        else:
            problems.append(f"{frame_id}: frames go from 0 to {ids.num_frames - 1}")
    return EventSequence(tuple(events)), problems


def _shown(events: list[Event], objects: int, forms: AnswerForms) -> str:
    if objects < 1:
        raise AnswerError("task referring_segmentation: the sample has no tracks; its answer shows one object or more.")
    own = " ".join(_plain(event.text) for event in events)
    if SEG in own:
        if own.count(SEG) != objects:
            raise AnswerError(f"events: the text has {own.count(SEG)} {SEG} for {objects} tracks; give one for each.")
        return own
    return forms.write_objects(objects, own)


def _span(task: str, i: int, event: Event, ids: FrameIds) -> tuple[int, int]:
    if event.start_s is None or event.end_s is None:
        raise AnswerError(f"task {task}: events[{i}] ({event.text!r:.60}) has no time; its answer needs start and end.")
    return ids.first(event.start_s), ids.last(event.start_s, event.end_s)


def _words(task: str, i: int, event: Event) -> str:
    words = _plain(event.text).removesuffix(".")
    if not words:
        raise AnswerError(f"task {task}: events[{i}] ({event.start_s} to {event.end_s} s) has no text to write.")
    return words


def _plain(text: str) -> str:
    return " ".join(text.split())
