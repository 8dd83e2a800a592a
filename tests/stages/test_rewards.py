"""Rewards as TRL calls them, and TRL's trainer that trains on them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

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


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trl") is None, reason="needs TRL: pip install -e '.[rl]'")
def test_trls_trainer_trains_a_random_qwen2_5_vl_on_our_rewards(tmp_path: Path) -> None:
    from datasets import Dataset
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from trl import GRPOConfig, GRPOTrainer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="<end>", pad_token="<pad>")
    text = {"vocab_size": 272, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    config = Qwen2_5_VLConfig(text_config={**text, **heads, "rope_parameters": rope}, vision_config=vision)
    model = Qwen2_5_VLForConditionalGeneration(config)
    before = {name: value.clone() for name, value in model.named_parameters()}
    told: list[list[str]] = []
    ours = [reward_function("format_timestamps"), reward_function("segment_matching")]

    def varied(completions: list[str], **_: object) -> list[float]:
        told.append(completions)
        return [float(i) for i in range(len(completions))]  # random letters all earn 0 of ours: no gradient

    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[*ours, varied],
        train_dataset=Dataset.from_list([{"prompt": "When?", "solution": [[1.0, 2.0]]}] * 4),
        args=GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2,
            num_generations=2,
            max_completion_length=6,
            max_steps=1,
            learning_rate=1e-2,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        ),
    )
    trainer.train()
    assert len(told[0]) == 2
    logged = next(row for row in trainer.state.log_history if "rewards/segment_matching/mean" in row)
    assert logged["rewards/segment_matching/mean"] == 0.0 and logged["rewards/format_timestamps/mean"] == 0.0
    assert any(not before[name].equal(value) for name, value in model.named_parameters())
