"""Questions about made-up videos with masks, from a file that users can edit: ``configs/data/mask_questions.yaml``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from timeexpert.config import ConfigError, load
from timeexpert.errors import did_you_mean
from timeexpert.paths import config_path

DEFAULT = "data/mask_questions"
KNOWN = ("name", "verb", "verbs", "start", "end")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_DOES = ("{verb} or {verbs}",)
# of each kind the placeholders that its questions hold once; the other ones they do not hold
_HOLDS = {
    "when": ("{name}", *_DOES),
    "where": ("{name}", "{start}", "{end}"),
    "combined": ("{name}", *_DOES),
    "whole": ("{name}",),
}


@dataclass(frozen=True, kw_only=True)
class MaskWordings:
    """The wordings of each kind of question (:mod:`.mask_scenes`); one of them is drawn per question."""

    when: tuple[str, ...]
    where: tuple[str, ...]
    combined: tuple[str, ...]
    whole: tuple[str, ...]

    def __post_init__(self) -> None:
        for kind in _HOLDS:
            _check(kind, getattr(self, kind))


def load_mask_wordings(name: str | Path) -> MaskWordings:
    """The wordings that ``name`` means: a file, or one that comes with the package (``data/mask_questions``).

    Raises :class:`~timeexpert.config.ConfigError` that names the file, the kind, the wording and the rule.
    """
    return load(MaskWordings, config_path(name))


@cache
def default_mask_wordings() -> MaskWordings:
    """Those that come with the package."""
    return load_mask_wordings(DEFAULT)


def _check(kind: str, wordings: tuple[str, ...]) -> None:
    if not wordings:
        raise ConfigError(f"{kind} is empty; write at least one question, or leave the key to the file you extend.")
    needed = _HOLDS[kind]
    allowed = [name for group in needed for name in _PLACEHOLDER.findall(group)]
    for i, wording in enumerate(wordings):
        where = f"{kind}[{i}] ({wording!r:.80})"
        if wording in wordings[:i]:
            raise ConfigError(f"{where} is there twice; remove one.")
        found = _PLACEHOLDER.findall(wording)
        for name in found:
            if name not in KNOWN:
                known = ", ".join(f"{{{own}}}" for own in KNOWN)
                raise ConfigError(
                    f"{where} has the placeholder {{{name}}}; there are {known}.{did_you_mean(name, KNOWN)}"
                )
            if name not in allowed:
                raise ConfigError(f"{where} holds {{{name}}}; questions of {kind} must not say it. Remove it.")
        for group in needed:
            count = sum(found.count(name) for name in _PLACEHOLDER.findall(group))
            if count != 1:
                raise ConfigError(f"{where} holds {group} {count} times; questions of {kind} must hold it once.")
        if "{" in (rest := _PLACEHOLDER.sub("", wording)) or "}" in rest:
            raise ConfigError(f"{where} has a brace that belongs to no placeholder. Remove it.")
