"""One registry: what each family must have, and that nobody else asks which family it is."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from timeexpert.config import ConfigError, from_tree
from timeexpert.families import FAMILIES, FamilyError, all_kinds, family, family_in, settings_of
from timeexpert.stages.config import RunConfig

from ..tiny import config_tree

ROOT = Path(__file__).resolve().parents[2]


class Pieces:
    """What a config asks of a vocabulary."""

    vocab_size, pad_id, eos_id = 64, 0, 1


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_settings_classes_and_parts_for_every_parameter(name: str) -> None:
    settings, own = settings_of(name)(), family(name)
    assert settings.family == name == own.config_class.model_type
    assert own.model_class.config_class is own.config_class
    assert all(set(parts) <= set(settings.PARTS) for parts in settings.KINDS.values())
    if hasattr(settings, "lora"):  # which needs PEFT
        settings = replace(settings, lora=replace(settings.lora, rank=0))
    with torch.device("meta"):
        model = own.model_class(own.config(settings, Pieces(), "sdpa"))  # type: ignore[arg-type]
    parts = {own.part_of(parameter) for parameter, _ in model.named_parameters()}
    assert parts <= set(settings.PARTS) and len(parts) > 3
    for offered in ("training_step", "label_counts", "sharding_units", "read", "logits", "statistics"):
        assert callable(getattr(model, offered)), offered


def test_a_part_that_two_families_have_is_trained_by_both_or_neither_in_kinds_of_one_name() -> None:
    kinds = all_kinds()
    for name in FAMILIES:
        own = settings_of(name)
        for kind, parts in own.KINDS.items():
            assert {part for part in kinds[kind] if part in own.PARTS} == set(parts)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            {"family": "temporal_vml"},
            r"model.family \('temporal_vml'\) must be one of timeexpert, temporal_vlm, video_loom. Did you mean "
            r"'temporal_vlm'\?",
        ),
        ({"family": "temporal_vlm", "moe": {}}, "unknown key 'model.moe'"),
        ({"family": "timeexpert", "clips": 6}, "unknown key 'model.clips'"),
        (
            {"family": "temporal_vlm"},
            r"stages\[0\].kind \('backbone'\) must be one of instruction_tuning, ",
        ),
    ],
)
def test_settings_are_those_of_the_family_that_is_named(model: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        from_tree(RunConfig, config_tree(tmp_path, model=model))


def test_a_folder_says_which_family_its_model_is_of(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "temporal_vlm"}))
    assert family_in(tmp_path) is family("temporal_vlm")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(FamilyError, match=r"config.json: model_type \('llama'\) is none of timeexpert, temporal_vlm, "):
        family_in(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FamilyError, match="config.json: cannot be read: "):
        family_in(tmp_path)


def test_nobody_but_the_registry_asks_which_family_it_is() -> None:
    asks = re.compile(
        r"""(?<!sock\.)\bfamily\s*[!=]=|==\s*["'](?:timeexpert|temporal_vlm|video_loom)["']|model_type\s*[!=]="""
    )
    folders = (ROOT / "timeexpert", ROOT / "stages", ROOT / "scripts")
    files = [p for folder in folders for p in folder.rglob("*.py") if "families" not in p.parts]
    found = [
        f"{p.name}: {line.strip()}" for p in files for line in p.read_text("utf-8").splitlines() if asks.search(line)
    ]
    assert len(files) > 100 and found == []
