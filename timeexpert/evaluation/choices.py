"""Multiple-choice and yes/no questions: accuracy, with figures per group (Video-MME, TempCompass and their like).

The strict rules read a choice from the text of an answer, the first that applies:

1. The text is one of the options, alone or behind its letter (case, spaces and a final full stop aside).
2. It begins with a letter that stands alone, is in brackets, or is followed by ``.``, ``)``, ``:`` or ``,``:
   ``B``, ``(b)``, ``B. because``, ``Option B``, ``Caption B:``. ``A man walks`` names no letter.
3. It says ``answer is B``, ``answer: B``, ``option B``, or has ``(B)`` somewhere. Letters of 2 and 3
   must agree.
4. It holds the words of exactly one option (of nested ones, the longest).

A letter beyond the options, two letters that differ, or none is an answer that did not parse: wrong, and counted.
A yes/no answer is read from its first word, else from the only one of the two words that it holds.

Conventions: ``videomme`` (lmms-eval ``videomme/utils.py``: the first of the capital letters A to D, behind phrases
such as "The answer is"), ``tempcompass`` (lmms-eval ``tempcompass/utils.py``: the whole answer, or a capital letter
alone or before ``.`` or ``)`` at the very start; yes/no by how the text begins. Answers that its rules cannot read
go to a GPT judge there and are wrong here; its caption matching has rules of its own, which are not copied).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .conventions import chosen, share
from .errors import MISSING, EvaluationError, Missing, require_same_length
from .scores import Figures, Scores, answer_counts, item_names

_FIRST_LETTER = re.compile(
    r"[\s\"'*`]*(?:(?:best\s+)?(?:option|choice|caption|sentence|answer)\s*:?\s*)?"
    r"(?:[\[(]\s*(?P<bracketed>[A-Za-z])\s*(?:[\])]|$)|(?P<marked>[A-Za-z])(?=\s*[*\"'`]*(?:[.):,;\n]|$)))",
    re.IGNORECASE,
)
_SAID_LETTER = re.compile(
    r"\b(?:answer|option|choice)\s*(?:is|would be|should be|:|-)?\s*(?:option\s*)?[\s*\"'`(\[]*(?P<said>[A-Z])(?![\w'])"
    r"|\((?P<bracketed>[A-Z])\)",
)
_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_VIDEOMME_PHRASES = ("The best answer is", "The correct answer is", "The answer is", "The answer")


@dataclass(frozen=True)
class Choice:
    """A question's options in the order of their letters, and the place of the right one."""

    options: tuple[str, ...]
    right: int

    def __post_init__(self) -> None:
        if not 2 <= len(self.options) <= 26 or not 0 <= self.right < len(self.options):
            raise EvaluationError(
                f"a choice of {len(self.options)} options with the right one at {self.right}: there must be 2 to 26, "
                "and the right one among them, counted from 0. Correct the question or leave it out."
            )


def read_choice(text: str, options: Sequence[str]) -> int | None:
    """The place of the chosen option under the strict rules; ``None`` where the text names none, or several."""
    plain = _plain(text)
    names = [_plain(option) for option in options]
    letters = [chr(ord("a") + k) for k in range(len(options))]
    whole = [k for k, name in enumerate(names) if plain in {name, *(f"{letters[k]}{mark} {name}" for mark in _MARKS)}]
    if len(whole) == 1 and plain:
        return whole[0]
    first = _FIRST_LETTER.match(text)
    if first is not None:
        letter = (first["bracketed"] or first["marked"]).upper()
        return _place(letter, len(options)) if _said_letters(text) <= {letter} else None
    said = _said_letters(text)
    if said:
        return _place(said.pop(), len(options)) if len(said) == 1 else None
    held = [k for k, name in enumerate(names) if name and f" {_words(name)} " in f" {_words(plain)} "]
    longest = max(held, key=lambda k: len(names[k]), default=None)
    if longest is None or any(f" {_words(names[k])} " not in f" {_words(names[longest])} " for k in held):
        return None
    return longest if sum(names[k] == names[longest] for k in held) == 1 else None


def _said_letters(text: str) -> set[str]:
    return {match["said"] or match["bracketed"] for match in _SAID_LETTER.finditer(text)}


def read_yes_no(text: str) -> bool | None:
    """Whether a text says yes: its first word, else the only one of the two that it holds; else ``None``."""
    first = re.match(r"\W*(yes|no)\b", text, re.IGNORECASE)
    words = {first[1].lower()} if first else {word.lower() for word in _YES_NO.findall(text)}
    return words == {"yes"} if len(words) == 1 else None


def _videomme_choice(text: str, options: Sequence[str]) -> int | None:
    for phrase in _VIDEOMME_PHRASES:
        text = text.replace(phrase, "")
    found = re.search("[ABCD]", text.strip())
    return _place(found[0], len(options)) if found else None


def _tempcompass_choice(text: str, options: Sequence[str]) -> int | None:
    for k, option in enumerate(options):
        if text == f"{chr(ord('A') + k)}. {option}":
            return k
    found = re.match(r"([A-D])(?:[.)]|\Z)", text)
    return _place(found[1], len(options)) if found else None


def _tempcompass_yes_no(text: str) -> bool | None:
    text = text.lower()
    return True if text.startswith("yes") else False if text.startswith("no") else None


CONVENTIONS: Mapping[str, Callable[[str, Sequence[str]], int | None]] = {
    "strict": read_choice,
    "videomme": _videomme_choice,
    "tempcompass": _tempcompass_choice,
}
YES_NO_CONVENTIONS: Mapping[str, Callable[[str], bool | None]] = {
    "strict": read_yes_no,
    "tempcompass": _tempcompass_yes_no,
}


def choice_accuracy(
    truth: Sequence[Choice],
    predictions: Sequence[str | Missing | None],
    *,
    items: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    convention: str = "strict",
) -> Scores:
    """Share of questions whose answer text names the right option. ``None`` and ``MISSING`` are wrong.

    ``groups``: name of a grouping to the group of each question, such as ``{"duration": ["short", ...]}``.
    Figures in percent: ``accuracy`` and ``accuracy_GROUPING_GROUP``. ``per_item``: ``right``.
    """
    read = chosen(CONVENTIONS, convention, "multiple choice")
    require_same_length(truth, predictions)
    chose = [read(p, t.options) if isinstance(p, str) else None for t, p in zip(truth, predictions, strict=True)]
    right = [c is not None and c == t.right for t, c in zip(truth, chose, strict=True)]
    return _accuracy("multiple_choice", right, chose, predictions, items, groups, convention)


def yes_no_accuracy(
    truth: Sequence[bool],
    predictions: Sequence[str | Missing | None],
    *,
    items: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    convention: str = "strict",
) -> Scores:
    """Share of yes/no questions answered right; otherwise as :func:`choice_accuracy`."""
    read = chosen(YES_NO_CONVENTIONS, convention, "yes/no")
    require_same_length(truth, predictions)
    said = [read(p) if isinstance(p, str) else None for p in predictions]
    right = [s is not None and s == bool(t) for t, s in zip(truth, said, strict=True)]
    return _accuracy("yes_no", right, said, predictions, items, groups, convention)


def _accuracy(
    family: str,
    right: Sequence[bool],
    read: Sequence[Any],
    predictions: Sequence[Any],
    items: Sequence[str] | None,
    groups: Mapping[str, Sequence[str]] | None,
    convention: str,
) -> Scores:
    members = {"accuracy": np.ones(len(right), dtype=bool)}
    for name, group_of in (groups or {}).items():
        if len(group_of) != len(right):
            raise EvaluationError(
                f"groups {name!r} names {len(group_of)} questions of {len(right)}; it must name the group of each."
            )
        told = np.array([_slug(group) for group in group_of])
        members |= {f"accuracy_{_slug(name)}_{group}": told == group for group in sorted(set(told.tolist()))}
    names = list(members)
    inside = np.array(list(members.values()), dtype=np.float64).reshape(len(names), len(right)).T
    hits = inside * np.array(right, dtype=np.float64)[:, None]

    def combine(sums: NDArray[np.float64]) -> Figures:
        values = share(sums[..., len(names) :], sums[..., : len(names)])
        return {name: values[..., k] for k, name in enumerate(names)}

    answers = [MISSING if p is MISSING else r for p, r in zip(predictions, read, strict=True)]
    return Scores(
        family=family,
        items=item_names(items, len(right)),
        statistics=np.concatenate([inside, hits], axis=1),
        combine=combine,
        counts=answer_counts(answers),
        per_item={"right": np.array(right, dtype=np.float64)},
        convention=convention,
        policies={"reading": convention, "not_parsed": "wrong", "missing": "wrong"},
    )


_MARKS = ("", ".", ")", ":")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .\"'*")


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text))


def _slug(text: str) -> str:
    return "_".join(re.findall(r"\w+", str(text).lower())) or "none"


def _place(letter: str, options: int) -> int | None:
    place = ord(letter.upper()) - ord("A")
    return place if 0 <= place < options else None
