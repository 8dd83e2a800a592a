"""scripts/grpo_trl.py: a tiny random Qwen2.5-VL, TRL's trainer, and real videos."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.data.media import read_rows, write_lines, write_video
from tests.tiny import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("trl") is None, reason="needs TRL: pip install -e '.[rl]'"),
]

# A random model writes no answer, so the tokenizer has three whole ones; the others are suppressed below.
RIGHT = "<think>0.00 and 1.00</think><answer>0.00-1.00</answer>"
UNNAMED = "<think>It is soon.</think><answer>0.00-1.00</answer>"
LATE = "<think>0.50 and 1.50</think><answer>0.50-1.50</answer>"
ANSWERS = [RIGHT, UNNAMED, LATE]
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VISION = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def grpo_trl(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """The script's ``main``; its words may be of any type."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))  # as Python does for a script
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield lambda *words: int(import_module("grpo_trl").main([str(word) for word in words]))
    sys.modules.pop("grpo_trl", None)


def tokenizer() -> Any:
    """One that is trained here, with the marks of Qwen2.5-VL."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer, trained.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    letters, marks = pre_tokenizers.ByteLevel.alphabet(), [*MARKS, *VISION.values()]
    trained.train_from_iterator(
        ["When does it appear?"] * 9,
        trainers.BpeTrainer(vocab_size=280, special_tokens=marks, initial_alphabet=letters),
    )
    trained.add_tokens(ANSWERS)
    return PreTrainedTokenizerFast(
        tokenizer_object=trained, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that Qwen2.5-VL's has."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    folder, words = tmp_path_factory.mktemp("qwen"), tokenizer()
    words.save_pretrained(folder)
    preprocessor = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    sizes = {"min_pixels": 28 * 28, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor | sizes))
    text = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 1024}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    ends = {"bos_token_id": None, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    config = Qwen2_5_VLConfig(
        text_config={**text, **heads, **ends, "rope_parameters": rope},
        vision_config=vision,
        **{name: words.convert_tokens_to_ids(mark) for name, mark in VISION.items()},
    )
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def words(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Of the command line: four questions about two videos and one without length, and a training of two steps."""
    root = tmp_path_factory.mktemp("questions")
    videos = [write_video(root / "media" / f"{name}.mp4", brightness=ord(name)).name for name in "ab"]
    rows: list[Any] = [{"problem": "When?", "solution": [[0, 1.0]], "video": video} for video in videos * 2]
    void = {"problem": "When?", "solution": [[1.0, 1.0]], "video": videos[0]}
    chosen = tokenizer()
    others = sorted(set(range(len(chosen))) - set(chosen.convert_tokens_to_ids(ANSWERS)))
    options = {
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": 6,
        "num_generations": 6,
        "gradient_accumulation_steps": 2,
        "max_completion_length": 1,
        "generation_kwargs": json.dumps({"suppress_tokens": others}),
        "learning_rate": 1e-2,
        "max_steps": 2,
        "save_steps": 1,
        "disable_tqdm": True,
    }
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    questions = write_lines(root / "museg.jsonl", [*rows, void])
    return [model, questions, "--media", root / "media", "--num-frames", 3, *given]


def test_a_model_trains_on_videos_and_continues_where_it_was_stopped(
    grpo_trl: Callable[..., int], model: Path, words: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pandas

    out = tmp_path / "run"
    assert grpo_trl(*words, "--phase", 1, "-o", out) == 0
    assert f"4 questions; 1 rejected ({out / 'rejected.jsonl'})" in capsys.readouterr().out
    assert [row["kind"] for row in read_rows(out / "rejected.jsonl")] == ["zero_length"]

    answers = pandas.concat(pandas.read_parquet(path) for path in sorted((out / "completions").iterdir()))
    told = {
        message[0]["content"]: (form, matching)
        for message, form, matching in zip(
            answers["completion"], answers["format_timestamps"], answers["segment_matching"], strict=True
        )
    }
    late = pytest.approx((1.0, 0.5 + (1 + 1 / 3) / 2), abs=1e-4)
    assert told == {RIGHT: pytest.approx((1.0, 2.0)), UNNAMED: pytest.approx((0.6, 2.0)), LATE: late}
    state = json.loads((out / "checkpoint-2" / "trainer_state.json").read_text())
    first = next(row for row in state["log_history"] if row.get("step") == 1)
    assert 0.6 <= first["rewards/format_timestamps/mean"] <= 1.0 and first["reward_std"] > 0 and first["kl"] == 0.0

    start, trained = load_file(model / "model.safetensors"), load_file(out / "last" / "model.safetensors")
    assert start.keys() == trained.keys()
    assert [name for name in start if start[name].equal(trained[name])] == []  # the vision tower has seen the frames

    rmtree(out / "last")
    rmtree(out / "completions")
    (out / "checkpoint-2" / "trainer_state.json").write_text("")  # killed while the last checkpoint was written
    assert grpo_trl(*words, "--phase", 1, "-o", out) == 0
    again = load_file(out / "last" / "model.safetensors")
    torch.testing.assert_close(again, trained, atol=1e-6, rtol=0)
    assert [path.name for path in (out / "completions").iterdir()] == ["completions_00002.parquet"]


def test_the_second_phase_starts_from_the_first_and_asks_and_rewards_otherwise(
    grpo_trl: Callable[..., int], model: Path, words: list[Any], tmp_path: Path
) -> None:
    import pandas

    from timeexpert.stages.trl_data import PHASES

    assert grpo_trl(*words, "--phase", 1, "-o", tmp_path / "1", "--max_steps", 1) == 0
    given = [tmp_path / "1" / "last", *words[1:]]
    assert grpo_trl(*given, "--phase", 2, "-o", tmp_path / "2", "--max_steps", 1, "--convention", "compat") == 0
    for phase, names in ((1, ("format_timestamps", "segment_matching")), (2, ("format", "segment_matching"))):
        rows = pandas.read_parquet(tmp_path / str(phase) / "completions" / "completions_00001.parquet")
        assert set(names) == set(rows.columns) - {"step", "prompt", "completion", "advantage"}
        asked = rows["prompt"][0][0]["content"][-1]["text"]
        assert asked == PHASES[phase].prompt.replace("{question}", "When?")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["--beta", "much"], "options of TRL's GRPOConfig: argument --beta: invalid float value: 'much'"),
        (
            ["--max_step", "3"],
            "--max_step is no option of this script (--help) and none of TRL's GRPOConfig. Did you mean '--max_steps'?",
        ),
        (["--num-frames", "900"], "video_tokens (3584) must be 14400 or more"),
        (["--prompt", "When?"], "prompt ('When?') must hold {question} once"),
        (["--media", "nowhere"], "nowhere: no such folder. --media is"),
    ],
)
def test_input_that_cannot_be_is_one_line_and_exit_code_2(
    changes: list[str],
    says: str,
    grpo_trl: Callable[..., int],
    words: list[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert grpo_trl(*words, "-o", tmp_path / "run", *changes) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("error: ") and says in said
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_model_is_refused(
    grpo_trl: Callable[..., int], words: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert grpo_trl(tmp_path, *words[1:], "-o", tmp_path / "run") == 2
    assert f"MODEL ({tmp_path}): no config.json there" in capsys.readouterr().err
