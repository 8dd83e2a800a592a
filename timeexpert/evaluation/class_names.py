"""From what a model wrote to the name of a class, with a count of how, and of what found no class.

A text is compared with the class names in four steps, and the first that gives one class decides:

1. exact: the same characters;
2. normalised: the same words after Unicode NFKC and case folding, with everything that is neither letter nor digit
   read as a blank (``cut_tomato`` is ``Cut tomato.``);
3. synonym: the same words as an entry of the synonyms;
4. nearest: the class (or synonym) that shares the largest part of its words with the text, which is the number of
   shared words over the number of different words in both (Jaccard), at least ``threshold``. Two classes equally
   near: none.

A text that reaches no class keeps its place in time under the name :data:`UNMATCHED`, which is no class: it is wrong.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timeexpert.data.action_steps import words_of
from timeexpert.data.formats.reading import FormatError, load_json

from .errors import EvaluationError
from .frame_labels import BACKGROUND, FrameLabels

UNMATCHED = "(unmatched)"
STEPS = ("exact", "normalised", "synonym", "nearest", "unmatched")


class ClassNames:
    """The classes of a data set, and a record of every text that was looked up.

    ``synonyms`` maps other wordings to class names. Raises :class:`EvaluationError` where a class stands twice,
    two classes have the same words, or a synonym points to no class or is another class's name.
    """

    def __init__(
        self, names: Sequence[str], *, synonyms: Mapping[str, str] | None = None, threshold: float = 0.5
    ) -> None:
        if not names:
            raise EvaluationError("names is empty; give one class name or more.")
        if not 0 < threshold <= 1:
            raise EvaluationError(f"threshold ({threshold!r}) must lie above 0 and be 1 at most, such as 0.5.")
        self.names = tuple(names)
        self.threshold = threshold
        self._exact = set(names)
        self._words: dict[str, str] = {}
        for name in names:
            other = self._words.setdefault(words_of(name), name)
            if other is not name:
                raise EvaluationError(f"classes {other!r} and {name!r} have the same words. Rename or drop one.")
        self._synonyms: dict[str, str] = {}
        for text, name in (synonyms or {}).items():
            words = words_of(text)
            if name not in self._exact:
                raise EvaluationError(f"synonym {text!r} points to {name!r}, which is no class. Use one of the names.")
            if {self._words.get(words, name), self._synonyms.setdefault(words, name)} != {name}:
                raise EvaluationError(f"synonym {text!r} of {name!r} stands for another class too. Drop one of them.")
        self._wordings = [(name, set(words.split())) for words, name in {**self._words, **self._synonyms}.items()]
        self._by_word: dict[str, list[int]] = {}
        for i, (_, own) in enumerate(self._wordings):
            for word in own:
                self._by_word.setdefault(word, []).append(i)
        self._found: dict[str, tuple[str, str]] = {}
        self._asked: Counter[str] = Counter()

    def name_of(self, text: str) -> str | None:
        """The class that ``text`` is, by its characters, its words or a synonym; ``None`` where it is none."""
        if text in self._exact:
            return text
        words = words_of(text)
        return self._words.get(words) or self._synonyms.get(words)

    def match(self, text: str) -> str:
        """The class of ``text``, or :data:`UNMATCHED`; noted for :meth:`report`."""
        self._asked[text] += 1
        if text not in self._found:
            self._found[text] = self._look_up(text)
        return self._found[text][0]

    def relabel(self, labels: FrameLabels) -> FrameLabels:
        """``labels`` with the class of each run in place of its text. Runs of ``background`` are frames where nothing
        was written: they stay, and are no text that was looked up."""
        lengths = (end - begin for begin, end in zip((0, *labels.ends), labels.ends, strict=False))
        names = (name if name == BACKGROUND else self.match(name) for name in labels.names)
        return FrameLabels.from_runs(zip(names, lengths, strict=True))

    def report(self) -> dict[str, Any]:
        """How the texts so far were read: ``texts``, a count per step, ``unmatched_rate`` (percent; ``None`` without
        a text), ``unmatched_texts`` and ``nearest_texts`` (text, class, how often), the most frequent first."""
        steps = dict.fromkeys(STEPS, 0)
        for text, count in self._asked.items():
            steps[self._found[text][1]] += count
        asked = self._asked.total()
        listed = [(text, *self._found[text], count) for text, count in self._asked.most_common()]
        return {
            "texts": asked,
            **steps,
            "unmatched_rate": 100 * steps["unmatched"] / asked if asked else None,
            "threshold": self.threshold,
            "unmatched_texts": [[text, count] for text, _, step, count in listed if step == "unmatched"],
            "nearest_texts": [[text, name, count] for text, name, step, count in listed if step == "nearest"],
        }

    def _look_up(self, text: str) -> tuple[str, str]:
        if text in self._exact:
            return text, "exact"
        words = words_of(text)
        if words in self._words:
            return self._words[words], "normalised"
        if words in self._synonyms:
            return self._synonyms[words], "synonym"
        told = set(words.split())
        shared = Counter(i for word in told for i in self._by_word.get(word, ()))
        best: dict[str, float] = {}
        for i, count in shared.items():
            name, own = self._wordings[i]
            best[name] = max(best.get(name, 0.0), count / (len(told) + len(own) - count))
        nearest = max(best.values(), default=-math.inf)
        names = [name for name, value in best.items() if value == nearest]
        return (names[0], "nearest") if nearest >= self.threshold and len(names) == 1 else (UNMATCHED, "unmatched")


def read_class_names(path: Path) -> list[str]:
    """Class names from a text file, one a line; ``0 cut_tomato`` (MS-TCN's ``mapping.txt``) is read as its name."""
    lines = [line.strip() for line in _read(path).splitlines() if line.strip()]
    if all(len(line.split()) == 2 and line.split()[0].isdecimal() for line in lines):
        lines = [line.split()[1] for line in lines]
    return lines


def read_synonyms(path: Path) -> dict[str, str]:
    """Synonyms from a JSON object {class: [other wordings]}."""
    try:
        document = load_json(path)
    except FormatError as error:
        raise EvaluationError(str(error)) from None
    if not isinstance(document, dict) or not all(_is_texts(texts) for texts in document.values()):
        raise EvaluationError(f'{path}: must hold an object of lists of texts, such as {{"cut": ["slice", "chop"]}}.')
    pairs = [(text, name) for name, texts in document.items() for text in texts]
    twice = [text for text, count in Counter(text for text, _ in pairs).items() if count > 1]
    if twice:
        raise EvaluationError(f"{path}: {twice[0]!r} stands twice. Keep it under one class.")
    return dict(pairs)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: cannot be read: {error}.") from None
