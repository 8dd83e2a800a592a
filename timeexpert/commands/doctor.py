"""``timeexpert doctor``: is everything here that a run needs?"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

HELP = "check versions, devices, codecs, name clashes and disk space"

MARKS = {"ok": "  ok ", "note": " note", "bad": "  BAD"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--json``: the findings as one JSON object."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Print every finding; 1 where a required part is missing, out of range or broken, else 0."""
    from timeexpert.doctor import BAD, NOTE, Finding, examine

    findings = examine(Path.cwd())
    bad = [finding for finding in findings if finding.status == BAD]
    if args.json:
        print(json.dumps({"ok": not bad, "findings": [asdict(finding) for finding in findings]}, indent=2))
        return 1 if bad else 0

    def line(finding: Finding) -> str:
        advice = f"  -> {finding.advice}" if finding.advice else ""
        return f"{MARKS[finding.status]}  {finding.name:<24} {finding.found}{advice}"

    topic = ""
    for finding in findings:  # plain print: rich may be the part that is missing
        if finding.topic != topic:
            topic = finding.topic
            print(topic)
        print(line(finding))
    notes = sum(finding.status == NOTE for finding in findings)
    print(f"\n{len(findings)} checks: {len(bad)} failed, {notes} with a note.")
    return 1 if bad else 0
