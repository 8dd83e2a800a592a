"""What families around a language model of transformers refuse, each in the same words."""

from __future__ import annotations

from typing import Any

import pytest

from timeexpert.config import ConfigError, from_tree
from timeexpert.families import settings_of

FAMILIES = ("temporal_vlm", "video_loom")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"llm": {"num_attention_heads": 0}}, r"llm: num_attention_heads \(0\) must be 1 or more"),
        ({"llm": {"hidden_size": 100, "num_attention_heads": 8}}, r"hidden_size \(100\) is not divisible by num_att"),
        ({"llm": {"num_attention_heads": 4, "num_key_value_heads": 3}}, r"llm: num_attention_heads \(4\) is not divis"),
        (
            {"llm": {"hidden_size": 12, "num_attention_heads": 4, "num_key_value_heads": 4}},
            r"llm: hidden_size / num_attention_heads \(3\) must be even: rotary embeddings turn pairs",
        ),
        ({"lora": {"rank": -1}}, r"lora: rank \(-1\) must be 0 or more"),
        ({"lora": {"dropout": 1.0}}, r"lora: dropout \(1.0\) must be 0 or more and less than 1"),
        ({"lora": {"targets": ["q_proj", "head"]}}, r"lora: targets: 'head' is not one of q_proj, k_proj, "),
        ({"initializer_range": 0.0}, r"initializer_range \(0.0\) must be positive"),
    ],
)
def test_sizes_and_updates_that_cannot_be_are_refused(family: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_tree(settings_of(family), {"family": family, **changes})


@pytest.mark.parametrize(
    ("family", "kind", "rank"), [("temporal_vlm", "instruction_tuning", 32), ("video_loom", "joint_tuning", 256)]
)
def test_a_stage_cannot_train_updates_that_are_not_there(family: str, kind: str, rank: int) -> None:
    settings = from_tree(settings_of(family), {"family": family, "lora": {"rank": 0}})
    with pytest.raises(ConfigError, match=rf"s.trains names lora, and model.lora.rank is 0. Set .* to {rank}\."):
        settings.check_stage("s", kind, ("lora",), (4,))
    settings.check_stage("s", kind, None, (4,))
