"""``timeexpert loombench questions``: When, Where and Combined questions from descriptions of shots."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timeexpert.loombench import QuestionsReport

HELP = "have a language model write When, Where and Combined questions about described shots; resumable"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """example:
  timeexpert loombench questions shots.jsonl -o bench endpoint.model=NAME \\
      endpoint.base_url=http://localhost:8000/v1 endpoint.key_env=API_KEY

Every event with start, end and text is a shot. Where and Combined are asked for where the sample has the track of one
object that is seen in the shot. A question that breaks a rule (a time in When or Combined, a Where without its time
range) is asked for again, max_tries times in all; what is not made stands in refused.jsonl with its reason.
questions.jsonl in the output folder holds samples: build shards of it, then timeexpert eval RUN --task loombench.
docs/loombench.md explains every setting. The same command goes on where a run was cut off."""
    parser.add_argument("samples", type=Path, metavar="SAMPLES", help="Sample lines (.jsonl), or a shard folder")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings: endpoint.model=NAME")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="folder for questions.jsonl, refused.jsonl, ..."
    )
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings from a YAML file")
    parser.add_argument("--print-config", action="store_true", help="print the merged settings and stop")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Make questions; 0 where there are any, 1 where none was made."""
    import json
    from dataclasses import asdict

    from timeexpert.config import dump, load
    from timeexpert.data.progress import shown
    from timeexpert.errors import UserError
    from timeexpert.loombench import QuestionsConfig, make_questions

    config = load(QuestionsConfig, args.config, args.overrides)
    if args.print_config:
        print(dump(config), end="")
        return 0
    if args.output is None:
        raise UserError("loombench questions needs -o DIR, the folder for questions.jsonl.")
    with shown("making questions", quiet=args.json) as progress:
        report = make_questions(args.samples, args.output, config, progress=progress)
    if args.json:
        print(json.dumps(asdict(report)))
    else:
        _print(report)
    return 0 if report.questions else 1


def _print(report: QuestionsReport) -> None:
    from timeexpert.loombench.run import QUESTIONS, REFUSED

    made = ", ".join(f"{kind} {count}" for kind, count in report.questions.items()) or "none"
    print(f"{report.shots} shots of {report.samples} samples; questions: {made}")
    for words, counts in (
        ("refused and asked again", report.refusals),
        ("given up", report.given_up),
        ("not asked", report.not_asked),
    ):
        for kind, count in sorted(counts.items(), key=lambda row: -row[1]):
            print(f"  {words}: {kind} {count}")
    usage = report.usage or {}
    cost = "" if usage.get("cost") is None else f", cost {usage['cost']:.4g}"
    if untold := usage.get("without_usage"):
        cost = f" ({untold} answers came without a count of tokens)"
    print(
        f"requests {usage.get('requests', 0)}, from the cache {usage.get('from_cache', 0)}, failed "
        f"{usage.get('failed', 0)}, tokens {usage.get('prompt_tokens', 0)} + {usage.get('completion_tokens', 0)}{cost}"
    )
    print(f"written to {report.out}: {QUESTIONS}, {REFUSED}")
