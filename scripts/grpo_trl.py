"""Train Qwen2.5-VL, or another vision-language model of transformers, on MUSEG's rewards with TRL's GRPOTrainer.

``python scripts/grpo_trl.py Qwen2.5-VL-3B-Instruct stage_1.jsonl --media videos --phase 1 -o runs/1``
``torchrun --nproc-per-node 8 scripts/grpo_trl.py runs/1/last stage_2.jsonl --media videos --phase 2 -o runs/2``

MODEL is a folder in the form of transformers. QUESTIONS are MUSEG's lines or our samples; those that cannot be trained
on are written to OUT/rejected.jsonl with the reason. A video goes to the model as frames with their times in words.
--phase chooses the rewards, which are added up, and the prompt: the first rewards the form, the times that the thinking
names, and the segments; the second the form and the segments.

All other options are those of TRL's GRPOConfig, with MUSEG's values as defaults, for example --max_steps 400,
--save_steps 50, --beta 0.04, --num_generations 8, --reward_weights 1 1, --use_vllm True, --deepspeed FILE. Metrics are
in the trainer_state.json of each checkpoint, answers and their rewards in OUT/completions. The same command continues
from the last whole checkpoint in OUT. The trained model is OUT/last. Needs TRL: pip install -e '.[rl]'.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from timeexpert.errors import UserError, did_you_mean
from timeexpert.evaluation.segment_rewards import CONVENTIONS, REWARDS

MUSEG: dict[str, Any] = {
    "loss_type": "grpo",
    "num_generations": 8,
    "temperature": 0.9,
    "beta": 0.04,
    "learning_rate": 1.5e-6,
    "lr_scheduler_type": "linear",
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,  # answers: those to one question
    "gradient_accumulation_steps": 2,
    "max_completion_length": 512,  # of the evaluation; its 4096 of training hold the video too
    "logging_steps": 1,
    "save_steps": 50,
    "log_completions": True,
    "num_completions_to_print": 0,
}


def main(words: Sequence[str] | None = None) -> int:
    """Train, or continue; 2 for input that cannot be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of the model and its processor")
    parser.add_argument("questions", metavar="QUESTIONS", type=Path, help="MUSEG's lines or Sample lines, .jsonl")
    parser.add_argument("--media", type=Path, required=True, help="the folder that video paths start from")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--phase", type=int, choices=(1, 2), default=1, help="MUSEG's: rewards and prompt; default 1")
    parser.add_argument("--rewards", nargs="+", choices=REWARDS, metavar="NAME", help=f"others: {', '.join(REWARDS)}")
    parser.add_argument("--convention", choices=CONVENTIONS, default="strict", help="of rewards; default strict")
    parser.add_argument("--prompt", help="another prompt, with {question} in it")
    parser.add_argument("--num-frames", type=int, default=64, help="frames of a video, at most; default 64")
    parser.add_argument("--video-tokens", type=int, default=3584, help="tokens of a video, at most; default 3584")
    args, others = parser.parse_known_args(words)
    try:
        train(args, others)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def train(args: argparse.Namespace, others: Sequence[str]) -> None:
    """Make the data set, then let TRL train on it from the last checkpoint, or from the start."""
    if find_spec("trl") is None:
        raise UserError(
            "TRL is not installed. Run pip install -e '.[rl]' in a checkout, or pip install 'trl>=1.16,<2'."
        )
    if not (args.model / "config.json").is_file():
        raise UserError(f"MODEL ({args.model}): no config.json there. Give the folder of a model of transformers.")
    from timeexpert.stages.rewards import reward_function
    from timeexpert.stages.trl_data import PHASES, ClipFrames, grpo_dataset, read_questions

    phase, settings = PHASES[args.phase], grpo_config(args.out, others)
    out = Path(settings.output_dir)
    frames = ClipFrames(num_frames=args.num_frames, video_tokens=args.video_tokens)
    questions, rejected = read_questions(args.questions, args.media)
    dataset = grpo_dataset(questions, args.media, args.prompt or phase.prompt, frames)
    if os.environ.get("RANK", "0") == "0":
        out.mkdir(parents=True, exist_ok=True)
        rows = "".join(json.dumps(row.to_json()) + "\n" for row in rejected)
        (out / "rejected.jsonl").write_text(rows, encoding="utf-8")
        print(f"{len(questions)} questions; {len(rejected)} rejected ({out / 'rejected.jsonl'})")
    trainer = trainer_class()(
        model=str(args.model),
        processing_class=processor_of(args.model),
        reward_funcs=[reward_function(name, args.convention) for name in args.rewards or phase.rewards],
        train_dataset=dataset,
        args=settings,
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(out))
    trainer.save_model(str(out / "last"))


def grpo_config(out: Path, options: Sequence[str]) -> Any:
    """TRL's settings: MUSEG's values, changed by ``options``. Raises ``UserError`` for one that is none of them."""
    from transformers import HfArgumentParser
    from trl import GRPOConfig

    parser = HfArgumentParser(GRPOConfig, exit_on_error=False, allow_abbrev=False)
    parser.set_defaults(output_dir=str(out), **MUSEG)
    try:
        settings, unknown = parser.parse_args_into_dataclasses(list(options), return_remaining_strings=True)
    except (argparse.ArgumentError, ValueError) as error:
        raise UserError(f"options of TRL's GRPOConfig: {error}") from None
    if unknown:
        known = [f"--{field.name}" for field in fields(GRPOConfig)]
        hint = did_you_mean(unknown[0], known)
        raise UserError(f"{unknown[0]} is no option of this script (--help) and none of TRL's GRPOConfig.{hint}")
    return settings


def last_checkpoint(out: Path) -> str | None:
    """The last checkpoint in ``out`` that was written to its end: its trainer_state.json comes last."""
    whole = {}
    for state in out.glob("checkpoint-*/trainer_state.json"):
        try:
            whole[json.loads(state.read_text(encoding="utf-8"))["global_step"]] = str(state.parent)
        except (json.JSONDecodeError, KeyError):
            continue
    return whole[max(whole)] if whole else None


def trainer_class() -> Any:
    """TRL's trainer, which continues from a checkpoint of Qwen2.5-VL too.

    transformers 5.23 writes a checkpoint under the names of the published weights, and its Trainer looks for the names
    of the modules: all but the last layer would stay as they are in MODEL (issue 43701 of transformers).
    """
    from trl import GRPOTrainer

    class Trainer(GRPOTrainer):
        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            if model is not None:  # FSDP's shards, which have the modules' names
                super()._load_from_checkpoint(resume_from_checkpoint, model)
                return
            trained = type(self.model).from_pretrained(resume_from_checkpoint)
            self.model.load_state_dict(trained.state_dict())

    return Trainer


def processor_of(model: Path) -> Any:
    """The processor of the folder ``model``. Raises ``UserError``.

    Qwen2.5-VL's wants torchvision, for videos alone. Without torchvision its part for videos is left out.
    """
    from transformers import AutoConfig, AutoProcessor
    from transformers.utils import is_torchvision_available

    try:
        lighter = {"qwen2_5_vl": _without_videos}.get(AutoConfig.from_pretrained(model).model_type)
        if lighter is not None and not is_torchvision_available():
            return lighter().from_pretrained(model)
        return AutoProcessor.from_pretrained(model)
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"MODEL ({model}): its processor cannot be loaded: {error}") from None


def _without_videos() -> Any:
    from transformers import Qwen2_5_VLProcessor as Whole

    class Qwen2_5_VLProcessor(Whole):  # of this name: it is what is written beside the trained model
        def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
            super().__init__(image_processor, tokenizer, None, chat_template)

    return Qwen2_5_VLProcessor


if __name__ == "__main__":
    sys.exit(main())
