"""Questions by task, from a file that users can edit: ``configs/data/instructions.yaml``."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from hashlib import sha256
from pathlib import Path

from timeexpert.config import ConfigError, load
from timeexpert.paths import config_path

DEFAULT = "data/instructions"
QUERY = "{query}"
ASK_ABOUT = ("moment_retrieval", "highlight_detection", "referring_segmentation")  # tasks whose questions hold a query
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """The wordings of each task's question; one of them is chosen per sample. ``grounded_captioning`` is no task of its
    own: a referring segmentation whose answer is a caption with masks."""

    general: tuple[str, ...]
    dense_captioning: tuple[str, ...]
    moment_retrieval: tuple[str, ...]
    highlight_detection: tuple[str, ...]
    action_segmentation: tuple[str, ...]
    referring_segmentation: tuple[str, ...]
    grounded_captioning: tuple[str, ...]

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name))

    def question(self, task: str, key: str, query: str | None = None) -> str:
        """The question of ``task`` for the sample ``key``: the same key gives the same question on every machine.

        ``query`` is what the questions of :data:`ASK_ABOUT` are about; it is required there and refused elsewhere.
        Raises ``ValueError`` on an unknown task or a missing or needless query.
        """
        tasks = [field.name for field in fields(self)]
        if task not in tasks:
            raise ValueError(f"task ({task!r}) must be one of {', '.join(tasks)}.")
        if task in ASK_ABOUT and not (query and query.strip()):
            raise ValueError(f"task {task} asks about something: query ({query!r}) must be text.")
        if task not in ASK_ABOUT and query is not None:
            raise ValueError(f"task {task} asks about the whole video: query ({query!r}) must be None.")
        wordings: tuple[str, ...] = getattr(self, task)
        digest = sha256(f"{task}\0{key}".encode("utf-8", "surrogatepass")).digest()
        wording = wordings[int.from_bytes(digest[:8], "big") % len(wordings)]
        return wording.replace(QUERY, query.strip()) if query else wording


def load_instructions(name: str | Path) -> Instructions:
    """The instructions that ``name`` means: a file, or one that comes with the package (``data/instructions``).

    Raises :class:`~timeexpert.config.ConfigError` that names the file, the task, the wording and the rule.
    """
    return load(Instructions, config_path(name))


@cache
def default_instructions() -> Instructions:
    """Those that come with the package."""
    return load_instructions(DEFAULT)


def _check(task: str, wordings: tuple[str, ...]) -> None:
    if not wordings:
        raise ConfigError(f"{task} is empty; write at least one question, or leave the key to the file you extend.")
    for i, wording in enumerate(wordings):
        where = f"{task}[{i}] ({wording!r:.80})"
        if not wording.strip():
            raise ConfigError(f"{where} is empty; write a question or remove it.")
        for name in _PLACEHOLDER.findall(wording):
            if name != "query":
                near = " Did you mean {query}?" if get_close_matches(name, ["query"], n=1) else ""
                raise ConfigError(f"{where} has the placeholder {{{name}}}; there is {{query}} alone.{near}")
        count, wanted = wording.count(QUERY), int(task in ASK_ABOUT)
        if count != wanted:
            rule = "asks about something, and must hold {query} once" if wanted else "asks about the whole video"
            out = "" if wanted else ": remove {query}"
            raise ConfigError(f"{where} holds {{query}} {count} times; {task} {rule}{out}.")
        if wording in wordings[:i]:
            raise ConfigError(f"{where} is there twice; remove one.")
