"""The wordings of a VideoLoom's answers, which users can edit as ``model.answers``, and what is read back from them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

from timeexpert.config import ConfigError
from timeexpert.data.mask_tracks import SEG
from timeexpert.errors import did_you_mean

AND = " and "  # between the moments of one answer, which the paper does not show
_HOLDS = {  # what each form holds once, in this order
    "span": ("first", "last"),
    "moments": ("spans",),
    "event": ("first", "last", "text"),
    "highlights": ("frames", "scores"),
    "one_object": (),
    "objects": ("objects",),
}
_MAY_HOLD = {"highlights": ("count",), "one_object": ("text",)}
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_ID, _IDS, _SCORES = r"(-?\d+)", r"([-\d, ]+)", r"([-\d., ]+)"  # signs are read, so that a wrong id can be named


class Said(NamedTuple):
    """Frame ids that were read, and the words behind them up to the next ones."""

    first: int
    last: int
    text: str


@dataclass(frozen=True, kw_only=True)
class AnswerForms:
    """What an answer says; the defaults are the paper's words (FACTS D3).

    ``moments``: the answer of moment retrieval, ``{spans}`` being one ``span`` or several. ``event``: an event of dense
    captioning, a step of action segmentation; its ``{text}`` stands last. ``highlights``: ``{frames}`` with their
    ``{scores}``, and if wanted their ``{count}``. ``one_object``, ``objects``: of referring segmentation, with a [SEG]
    for each object, and if wanted the ``{text}`` of the one, before and behind its [SEG] too. ``{first}``, ``{last}``
    and ``{frames}`` are frame ids.

    Raises :class:`ConfigError` for a form that lacks a placeholder, has another one, or cannot be read back.
    """

    span: str = "from {first} to {last}"
    moments: str = "The given query happens {spans}."
    event: str = "From {first} to {last}, {text}."
    highlights: str = "There are {count} highlight moments in {frames}. Their saliency scores are {scores}."
    one_object: str = f"It is {SEG}."
    objects: str = "They are {objects}."

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name))
        spans, events = [(3, 7), (10, 12)], [Said(3, 7, "a dog runs"), Said(10, 12, "it sits")]
        said = self.write_moments(spans)
        self._check_reading("span", said, [(s.first, s.last) for s in self.read_spans(said, self._span)], spans)
        said = " ".join(self.write_event(*event) for event in events)
        self._check_reading("event", said, self.read_spans(said, self._event), events)
        said = self.write_highlights([3, 7], [1.5, 2.0])
        self._check_reading("highlights", said, self.read_highlights(said), ([3, 7], [1.5, 2.0]))

    def write_moments(self, spans: Sequence[tuple[int, int]]) -> str:
        """The answer with these (first, last) frame ids."""
        return self.moments.format(spans=AND.join(self.span.format(first=a, last=b) for a, b in spans))

    def write_event(self, first: int, last: int, text: str) -> str:
        """One event."""
        return self.event.format(first=first, last=last, text=text)

    def write_highlights(self, frames: Sequence[int], scores: Sequence[float]) -> str:
        """The answer with a score, to a tenth, for each frame id."""
        told = ", ".join(f"{score:.1f}" for score in scores)
        return self.highlights.format(count=len(frames), frames=", ".join(map(str, frames)), scores=told)

    def write_objects(self, count: int, text: str) -> str:
        """The answer that shows ``count`` objects, 1 or more; ``text``: what the one object is called."""
        if count == 1:
            return self.one_object.format(text=text)
        return self.objects.format(objects=", ".join([SEG] * count))

    def read(self, text: str, task: str | None) -> list[Said]:
        """The spans of an answer to ``task``, in their order; those of events, or else of moments, where it is None."""
        if task == "moment_retrieval":
            return self.read_spans(text, self._span)
        found = self.read_spans(text, self._event)
        return found or (self.read_spans(text, self._span) if task is None else [])

    def read_highlights(self, text: str) -> tuple[list[int], list[float]] | None:
        """Frame ids and scores, of which there may be other numbers; None where the text has no such form."""
        found = self._highlights.search(text)
        if found is None:
            return None
        return [_whole(n) for n in re.findall(r"-?\d+", found[1])], [
            float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", found[2])
        ]

    def read_spans(self, text: str, pattern: re.Pattern[str]) -> list[Said]:
        """Every match of ``pattern`` with the words up to the next one."""
        spans = list(pattern.finditer(text))
        ends = [*(match.start() for match in spans), len(text)][1:]  # where the words behind each of them end
        return [
            Said(_whole(match[1]), _whole(match[2]), self._caption(text[match.end() : end]))
            for match, end in zip(spans, ends, strict=True)
        ]

    @cached_property
    def _span(self) -> re.Pattern[str]:
        return _pattern(self.span, "first", _ID, "last", _ID + r"\b")

    @cached_property
    def _event(self) -> re.Pattern[str]:
        return _pattern(self.event, "first", _ID, "last", _ID + r"\b")

    @cached_property
    def _highlights(self) -> re.Pattern[str]:
        return _pattern(self.highlights, "frames", _IDS, "scores", _SCORES)

    def _caption(self, text: str) -> str:
        """An event's words without those of its form."""
        head, rest = self.event.split("{first}")
        tail, end = rest.split("{last}")[1].split("{text}")
        before = head[: len(head) - len(_last_word(head))].strip()
        said = text.strip().removesuffix(before).strip().removesuffix(AND.rstrip())
        return said.strip().removeprefix(tail.strip()).strip().removesuffix(end.strip()).strip(" ,.").strip()

    def _check_reading(self, name: str, said: str, found: object, wanted: object) -> None:
        if found != wanted:
            raise ConfigError(
                f"{name} ({getattr(self, name)!r}) cannot be read back: {said!r} is read as {found!r}. Put words or "
                "signs between its placeholders, none that an answer's numbers and texts could be part of."
            )


def _whole(digits: str) -> int:
    """An id; of so many digits that no frame can have it, any number that is none either."""
    return int(digits) if len(digits) < 19 else 10**18


def _check(name: str, form: str) -> None:
    needed, allowed = _HOLDS[name], (*_HOLDS[name], *_MAY_HOLD.get(name, ()))
    where, found = f"{name} ({form!r})", _PLACEHOLDER.findall(form)
    for placeholder in found:
        if placeholder not in allowed:
            known = ", ".join(f"{{{own}}}" for own in allowed) or "none"
            raise ConfigError(
                f"{where} has the placeholder {{{placeholder}}}; there is {known}.{did_you_mean(placeholder, allowed)}"
            )
    often = name == "one_object"  # whose words are not read back
    for placeholder in allowed:
        count = found.count(placeholder)
        if (count > 1 and not often) or (not count and placeholder in needed):
            raise ConfigError(f"{where} holds {{{placeholder}}} {count} times; it must hold it once.")
    if [placeholder for placeholder in found if placeholder in needed] != list(needed):
        order = ", then ".join(f"{{{own}}}" for own in needed)
        raise ConfigError(f"{where} must hold {order}, in this order.")
    if "{" in (rest := _PLACEHOLDER.sub("", form)) or "}" in rest:
        raise ConfigError(f"{where} has a brace that belongs to no placeholder. Remove it.")
    if form.count(SEG) != (name == "one_object"):
        raise ConfigError(
            f"{where} holds {SEG} {form.count(SEG)} times; one_object holds it once, the other forms never."
        )


def _pattern(form: str, first: str, of_first: str, second: str, of_second: str) -> re.Pattern[str]:
    """From the last word before one placeholder to another one: what stands before that word may differ."""
    head, rest = form.split(f"{{{first}}}")
    word, between = _last_word(head), rest.split(f"{{{second}}}")[0]
    edge = r"\b" if word[:1].isalnum() else ""
    return re.compile(f"{edge}{_literal(word)}{of_first}{_literal(between)}{of_second}", re.IGNORECASE | re.ASCII)


def _last_word(text: str) -> str:
    found = re.search(r"[^\s{}]*\s*$", text)
    return found[0] if found else ""


def _literal(text: str) -> str:
    return r"\s+".join(map(re.escape, re.split(r"\s+", text)))
