"""Label sets of action segmentation, by process: which actions there are, and what kind of step each one is.

A YAML or JSON file, a process a key (IndustryASM has 47):

    Air_Cleaner:
      Place air cleaner into table jig: positioning
      Set air flow meter into air cleaner receiving slot: assembling
    Gear_Box: [Pick up the housing, Insert the shaft]        # without categories
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from timeexpert.data.action_steps import words_of
from timeexpert.errors import UserError, did_you_mean

CATEGORIES = ("moving", "assembling", "positioning", "packaging")  # of steps: TemporalVLM, section A.1


class LabelError(UserError):
    """A file of label sets that cannot be used."""


@dataclass(frozen=True)
class Process:
    """The actions of one assembly process, and its category: that of most of its steps (``None``: not known, or a tie,
    for which the paper gives no rule)."""

    actions: tuple[str, ...]
    category: str | None = None


@dataclass(frozen=True)
class LabelSets:
    """Processes by name."""

    path: str
    processes: Mapping[str, Process]

    def of(self, process: Any) -> Process:
        """The process of that name; without a name the only one there is. Raises :class:`LabelError`."""
        if process is None and len(self.processes) == 1:
            return next(iter(self.processes.values()))
        if process is None:
            raise LabelError(
                f"the row names no process, and {self.path} has {len(self.processes)}. Name it in the row's 'process'."
            )
        if process not in self.processes:
            hint = did_you_mean(process, self.processes)
            raise LabelError(f"process ({process!r:.80}) is none of the {len(self.processes)} of {self.path}.{hint}")
        return self.processes[process]


def read_label_sets(path: Path) -> LabelSets:
    """The label sets of a file. Raises :class:`LabelError` that names the file, the process and the action."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LabelError(f"{path}: cannot be read: {error.strerror}. Give a YAML or JSON file of label sets.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: not YAML: {error}") from None
    if not isinstance(tree, dict) or not tree:
        raise LabelError(f"{path}: must be a mapping of processes to their actions, not {type(tree).__name__}.")
    return LabelSets(str(path), {str(name): _process(f"{path}: {name}", steps) for name, steps in tree.items()})


def category_of(steps: Iterable[str | None]) -> str | None:
    """The category of a process from those of its steps: the most frequent one (TemporalVLM, section A.1).

    ``None`` where a step has none, and where two are equally frequent.
    """
    counted = Counter(steps)
    if not counted or None in counted:
        return None
    (first, most), *others = counted.most_common()
    return None if others and others[0][1] == most else first


def _process(where: str, steps: Any) -> Process:
    if isinstance(steps, list):
        steps = [(step, None) for step in steps]
    elif isinstance(steps, dict):
        steps = list(steps.items())
    else:
        steps = []
    if not steps:
        raise LabelError(f"{where} must hold actions: a list of names, or a mapping of names to categories.")
    seen: dict[str, str] = {}
    for name, category in steps:
        if not isinstance(name, str) or not words_of(name):
            raise LabelError(f"{where}: {name!r:.80} is no name of an action. Write it as text.")
        other = seen.setdefault(words_of(name), name)
        if other is not name:
            raise LabelError(f"{where}: {other!r:.80} and {name!r:.80} have the same words. Rename or drop one.")
        if category is not None and category not in CATEGORIES:
            hint = did_you_mean(category, CATEGORIES)
            raise LabelError(
                f"{where}: {name!r:.80} has the category {category!r}, which is none of {', '.join(CATEGORIES)}.{hint}"
            )
    return Process(tuple(name for name, _ in steps), category_of(category for _, category in steps))
