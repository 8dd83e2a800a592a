"""Families of video LLMs, by the name that ``model.family`` and ``model_type`` in config.json give: one folder each.

docs/families.md says what a folder holds. Settings are read without a model's libraries; the rest is imported when a
model is needed.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from timeexpert.errors import UserError

from .base import Family, ModelSettings

FAMILIES = ("timeexpert", "temporal_vlm", "video_loom")


class FamilyError(UserError):
    """A family that is not there, or a folder that holds a model of none."""


def settings_of(name: str) -> type[ModelSettings]:
    """The class of ``model:`` in a run's config."""
    cls: type[ModelSettings] = import_module(f"{__name__}.{_known(name)}.settings").ModelConfig
    return cls


def family(name: str) -> Family:
    """A family by its name. Raises :class:`FamilyError`."""
    found: Family = import_module(f"{__name__}.{_known(name)}.family").FAMILY
    return found


def family_of(model: Any) -> Family:
    """The family of a model, or of its transformers config."""
    return family(getattr(model, "config", model).model_type)


def family_in(folder: Path) -> Family:
    """The family of the model in a folder, by its config.json. Raises :class:`FamilyError`."""
    path = folder / "config.json"
    try:
        model_type = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise FamilyError(f"{path}: cannot be read: {error}. Give the folder of a model.") from None
    if model_type not in FAMILIES:
        raise FamilyError(
            f"{path}: model_type ({model_type!r}) is none of {', '.join(FAMILIES)}. Give the folder of a model that "
            "was trained or converted here."
        )
    return family(model_type)


def check_family(folder: Path, name: str, what: str) -> None:
    """Raises :class:`FamilyError` where the model in ``folder`` is of another family than ``what`` is for."""
    found = family_in(folder)
    if found is not family(name):
        raise FamilyError(
            f"{folder}: {what} is for models of the family {name}; this one is of {found.config_class.model_type}."
        )


def all_kinds() -> dict[str, tuple[str, ...]]:
    """What each kind of stage trains: of a kind that two families have, the parts of both.

    A part that both of them have is then trained by both or by neither.
    """
    kinds: dict[str, tuple[str, ...]] = {}
    for name in FAMILIES:
        for kind, parts in settings_of(name).KINDS.items():
            kinds[kind] = tuple(dict.fromkeys((*kinds.get(kind, ()), *parts)))
    return kinds


def _known(name: str) -> str:
    if name not in FAMILIES:
        raise FamilyError(f"family ({name!r}) must be one of {', '.join(FAMILIES)}.")
    return name


__all__ = [
    "FAMILIES",
    "Family",
    "FamilyError",
    "ModelSettings",
    "all_kinds",
    "check_family",
    "family",
    "family_in",
    "family_of",
    "settings_of",
]
