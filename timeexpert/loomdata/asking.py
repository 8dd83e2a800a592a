"""Questions to the endpoint that are asked again, with what was wrong, until the answer is in the form asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from timeexpert.data.endpoint import Endpoint, Message


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
    endpoint's cache, so that a later run asks anew about what was refused. Raises ``EndpointError``.
    """
    talks: dict[int, list[Message]] = {i: [] for i in range(len(questions))}
    for attempt in range(1, attempts + 1):
        active = list(talks)
        number = 0

        def good(text: str) -> bool:
            return not isinstance(questions[active[number]].read(text), Fault)  # noqa: B023 (called in order, below)

        answers = endpoint.ask(([*questions[i].messages(), *talks[i]] for i in active), good)
        while number < len(active):
            answer = next(answers)  # calls good() while `number` is still its own
            i, number = active[number], number + 1
            if answer.text is None:
                del talks[i]
                yield i, Refused("no answer", answer.error)
                continue
            result = questions[i].read(answer.text)
            if not isinstance(result, Fault):
                del talks[i]
                yield i, result
            elif attempt == attempts:
                del talks[i]
                times = "once" if attempts == 1 else f"{attempts} times"
                yield i, Refused("not the form asked for", f"asked {times}; the last answer: {result.reason}")
            else:
                again = f"This answer cannot be used: {result.reason} Answer again, in the form asked for."
                talks[i] += [{"role": "assistant", "content": answer.text}, {"role": "user", "content": again}]
