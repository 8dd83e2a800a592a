"""Questions to the endpoint that are asked again, with what was wrong, until the answer is in the form asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from timeexpert.data.endpoint import Endpoint, Message
from timeexpert.data.media import MediaError
from timeexpert.data.video import VideoError


@dataclass(frozen=True)
class Fault:
    """What is wrong with an answer, in words that its author can mend it by."""

    reason: str


@dataclass(frozen=True)
class Refused:
    """No usable answer: ``kind`` for counting, ``reason`` for people."""

    kind: str
    reason: str


class Question(Protocol):
    """One question and the reading of its answer."""

    def messages(self) -> list[Message]:
        """The conversation so far, which ends with the question."""
        ...

    def read(self, text: str) -> Any | Fault:
        """What an answer says, or what is wrong with it."""
        ...


def ask_all(endpoint: Endpoint, questions: Sequence[Question], attempts: int) -> Iterator[tuple[int, Any | Refused]]:
    """(number of the question, what its answer says) as each is settled.

    A faulty answer goes back with its fault, up to ``attempts`` questions in all. Only good answers are kept in the
    endpoint's cache, so that a later run asks anew about what was refused. A question whose video cannot be read is
    refused, and the others are asked. Raises ``EndpointError``.
    """
    talks: dict[int, list[Message]] = {i: [] for i in range(len(questions))}
    for attempt in range(1, attempts + 1):
        for i, said in _asked_once(endpoint, questions, talks):
            if isinstance(said, Refused):
                del talks[i]
                yield i, said
                continue
            result = _read(questions[i], said)
            if not isinstance(result, Fault):
                del talks[i]
                yield i, result
            elif attempt == attempts:
                del talks[i]
                times = "once" if attempts == 1 else f"{attempts} times"
                yield i, Refused("not the form asked for", f"asked {times}; the last answer: {result.reason}")
            else:
                again = f"This answer cannot be used: {result.reason} Answer again, in the form asked for."
                sent_back = said.encode("utf-8", "replace").decode()
                talks[i] += [{"role": "assistant", "content": sent_back}, {"role": "user", "content": again}]


def _asked_once(
    endpoint: Endpoint, questions: Sequence[Question], talks: Mapping[int, list[Message]]
) -> Iterator[tuple[int, str | Refused]]:
    """Each question of ``talks`` with what was said so far: (its number, the answer or why there is none)."""
    asked: deque[int] = deque()  # whose answers are to come, in this order
    unreadable: list[tuple[int, Refused]] = []

    def conversations() -> Iterator[list[Message]]:
        for i in list(talks):
            try:
                messages = questions[i].messages()
            except (VideoError, MediaError) as error:
                unreadable.append((i, Refused("unreadable video", str(error))))
                continue
            asked.append(i)
            yield [*messages, *talks[i]]

    def good(text: str) -> bool:
        return not isinstance(_read(questions[asked[0]], text), Fault)

    for answer in endpoint.ask(conversations(), good):
        i = asked.popleft()
        yield i, Refused("no answer", answer.error) if answer.text is None else answer.text
    yield from unreadable


def _read(question: Question, text: str) -> Any | Fault:
    """What an answer says; half a surrogate pair, which JSON can hold and UTF-8 cannot, is a fault of any answer."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return Fault(f"character {error.start + 1} is half of a surrogate pair, which is no text.")
    return question.read(text)
