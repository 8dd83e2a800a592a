"""Rewards as TRL calls them; tests/scripts/test_grpo_trl.py has TRL's trainer that trains on them."""

from __future__ import annotations

import pytest

from timeexpert.config import ConfigError
from timeexpert.stages.rewards import reward_function

TEXT = "<think>from 1.0 to 2.0</think><answer>1.00-2.00</answer>"


def test_completions_are_text_or_messages_and_solutions_a_column() -> None:
    message = [{"role": "assistant", "content": TEXT}]
    rewards = reward_function("segment_matching")([TEXT, message, ""], solution=[[[1, 2]], [[1, 2]], [[1, 2]]], idx=[1])
    assert rewards == pytest.approx([2.0, 2.0, 0.0])
    assert reward_function("format_timestamps").__name__ == "format_timestamps"


def test_compat_and_switches_reach_the_reward() -> None:
    empty = "<think></think><answer></answer>"
    assert reward_function("format", "compat")([empty], solution=[[[1, 2]]]) == [1.0]
    half = "<think></think><answer>0-2</answer>"
    assert reward_function("global_matching", overlap="iou")([half], solution=[[[0, 4]]]) == [0.5]


def test_a_data_set_without_solutions_is_refused() -> None:
    with pytest.raises(ConfigError, match="reward 'format' needs the column 'solution' .*There are idx"):
        reward_function("format")([TEXT], idx=[0])
    with pytest.raises(ConfigError, match="reward 'iou' is not one of format"):
        reward_function("iou")


@pytest.mark.parametrize(
    "solution", [[[2.0, 2.0]], [[5, 1]], [["a", 1]], [[1, 2, 3]], [1, 2], [], None, [[0, float("inf")]]]
)
def test_a_solution_that_no_answer_can_match_is_refused(solution: object) -> None:
    with pytest.raises(
        ConfigError, match=r"solution \(.*\) must be a list of \[start, end\] in seconds.*convert museg"
    ):
        reward_function("format")([TEXT], solution=[solution])  # type: ignore[list-item]


def test_compat_takes_segments_without_length_as_musegs_code_does() -> None:
    assert reward_function("format", "compat")([TEXT], solution=[[[2.0, 2.0]]]) == [1.0]
