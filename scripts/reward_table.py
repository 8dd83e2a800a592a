"""What each way to cheat a segment reward earns: the tables of docs/rl.md, computed by the rewards themselves.

python scripts/reward_table.py              # of three made-up videos
python scripts/reward_table.py A.jsonl ...  # how many of these questions pay for the whole video as one segment
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from timeexpert.data.records import Sample, SampleError, read_samples
from timeexpert.evaluation.segment_rewards import REWARDS, answer_of_events, answer_of_text, merged, reward_convention
from timeexpert.evaluation.tiou import Segment

DURATION_S = 60.0
TIE = 1e-9
PHASE_1 = ("format_timestamps", "segment_matching")  # MUSEG's; at most 3
COARSE = ("format", "global_matching")  # the first phase of configs/rl_tiny.yaml; at most 2
FINE = (*COARSE, "local_matching")  # its second, and the default; at most 3
COLUMNS = {  # rewards, and how segments are compared
    "strict": (PHASE_1, reward_convention("strict")),
    "compat": (PHASE_1, reward_convention("compat")),
    "strict, iou": (PHASE_1, reward_convention("strict", overlap="iou")),
    "strict, optimal": (PHASE_1, reward_convention("strict", local="optimal")),
    "strict, format and global matching": (COARSE, reward_convention("strict")),
}
RIGHT, GUESS = "the right answer", "honest wrong guess: each segment late by half its length"
PARTS = ("a right segment once", "the right segments, last first")  # no cheats: of the truth, and nothing else
EVERY_TENTH = " ".join(str(tenth / 10) for tenth in range(int(DURATION_S * 10) + 1))
SLIVERS = [(tenth / 100, (tenth + 1) / 100) for tenth in range(int(DURATION_S * 100))]


@dataclass(frozen=True)
class Video:
    """The true segments of a video of 60 s, and how late they have to be told to overlap none of them."""

    truth: tuple[Segment, ...]
    far_s: float


VIDEOS = {
    "two segments of 8 s": Video(((10.0, 18.0), (34.0, 42.0)), 10.0),
    "two segments of 15 s": Video(((0.0, 15.0), (30.0, 45.0)), 15.0),
    "one segment of 30 s": Video(((0.0, 30.0),), 30.0),
}


def told(segments: Sequence[Segment], thinking: str | None = None) -> str:
    """A completion that names its times in the thinking, unless another ``thinking`` is given."""
    named = " ".join(f"{time_s}" for segment in segments for time_s in segment)
    answer = " ".join(f"{start_s:.2f}-{end_s:.2f}" for start_s, end_s in segments)
    return f"<think>{named if thinking is None else thinking}</think><answer>{answer}</answer>"


def half_late(truth: Sequence[Segment]) -> list[Segment]:
    """The honest wrong guess: each true segment late by half its length."""
    return [((start_s + end_s) / 2, end_s + (end_s - start_s) / 2) for start_s, end_s in truth]


def cases(video: Video) -> dict[str, str]:
    """Completions by what they do."""
    truth, honest = video.truth, half_late(video.truth)
    far = [(start_s + video.far_s, end_s + video.far_s) for start_s, end_s in truth]
    return {
        RIGHT: told(truth),
        GUESS: told(honest),
        f"honest wrong guess that overlaps nothing ({video.far_s:.0f} s late)": told(far),
        "nothing written": "",
        "empty answer in the right form": told([]),
        "one segment: the whole video": told([(0.0, DURATION_S)]),
        "6,000 slivers of 0.01 s that cover the video": told(SLIVERS, "0.0"),
        "a wrong segment ten times": told([honest[0]] * 10),
        "a right segment ten times": told([truth[0]] * 10),
        "a right segment once": told(truth[:1]),
        "the right segments, last first": told(truth[::-1]),
        "reversed segments": told([(end_s, start_s) for start_s, end_s in truth]),
        "the honest guess, every tenth of a second listed": told(honest, EVERY_TENTH),
        "the whole video, every tenth of a second listed": told([(0.0, DURATION_S)], EVERY_TENTH),
    }


@cache
def earned(video: Video) -> dict[str, dict[str, float]]:
    """By case and column: the sum of the column's rewards."""
    rows: dict[str, dict[str, float]] = {}
    for name, completion in cases(video).items():
        rows[name] = {}
        for column, (rewards, rules) in COLUMNS.items():
            answer = answer_of_text(completion, rules)
            rows[name][column] = sum(REWARDS[reward](answer, video.truth, rules) for reward in rewards)
    return rows


def paid_cheats(video: Video, column: str) -> set[str]:
    """The cases that earn as much as the honest guess, or more."""
    rows = earned(video)
    others = [name for name in rows if name not in (RIGHT, GUESS, *PARTS)]
    return {name for name in others if rows[name][column] > rows[GUESS][column] - TIE}


def table(video: Video, names: Iterable[str]) -> str:
    """Markdown, of these cases."""
    lines = [f"| answer | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    lines += [f"| {name} | {' | '.join(f'{value:.2f}' for value in earned(video)[name].values())} |" for name in names]
    return "\n".join(lines)


def tables() -> dict[str, str]:
    """By video: the first with every case, the others with the cheats that pay in some column."""
    (first, video), *others = VIDEOS.items()
    shown = {first: table(video, cases(video))}
    for name, video in others:
        paid = {RIGHT, GUESS}.union(*(paid_cheats(video, column) for column in COLUMNS))
        shown[name] = table(video, [case for case in cases(video) if case in paid])
    return shown


def whole_video_pays(sample: Sample, names: Sequence[str]) -> bool:
    """Whether one segment as long as the video earns as much as the honest guess, or more, under ``strict``."""
    rules, truth = reward_convention("strict"), sample.events.segments_s

    def value_of(segments: Sequence[Segment]) -> float:
        answer = answer_of_events(segments, True, rules)
        return sum(REWARDS[name](answer, truth, rules) for name in names)

    assert sample.duration_s is not None
    return value_of([(0.0, sample.duration_s)]) > value_of(half_late(truth)) - TIE


def covered(sample: Sample) -> float:
    """The share of the video that the true segments cover."""
    assert sample.duration_s is not None
    true = merged(np.array(sample.events.segments_s))
    return float((true[:, 1] - true[:, 0]).sum()) / sample.duration_s


def questions_table(files: Sequence[Path]) -> str:
    """Markdown: of how many questions the whole video pays. Those without segments or duration are left out.

    Raises :class:`SampleError` for a line that is no sample.
    """
    lines = ["| samples | questions | truth covers | format and global matching | local matching too |"]
    lines.append("|---" * 5 + "|")
    for file in files:
        samples = []
        for _, sample in read_samples(file):
            if isinstance(sample, SampleError):
                raise sample
            if sample.duration_s is not None and sample.events.segments_s:
                samples.append(sample)
        paid = [sum(whole_video_pays(sample, names) for sample in samples) for names in (COARSE, FINE)]
        count = max(1, len(samples))
        shares = " | ".join(f"{n} ({n / count:.0%})" for n in paid)
        lines.append(f"| {file} | {len(samples)} | {sum(map(covered, samples)) / count:.0%} | {shares} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; 2 for a file that cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="*", type=Path, help="samples, as timeexpert data convert writes them")
    files = parser.parse_args(argv).samples
    try:
        print(questions_table(files) if files else "\n\n".join(f"{n}:\n\n{shown}" for n, shown in tables().items()))
    except (OSError, SampleError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
