"""What each way to cheat a segment reward earns: the table of docs/rl.md, computed by the rewards themselves.

python scripts/reward_table.py
"""

from __future__ import annotations

from timeexpert.evaluation.segment_rewards import REWARDS, answer_of_text, reward_convention

DURATION_S = 60.0
TRUTH = [(10.0, 18.0), (34.0, 42.0)]
PHASE_1 = ("format_timestamps", "segment_matching")  # MUSEG's; at most 3
COARSE = ("format", "global_matching")  # the first phase of configs/rl_tiny.yaml; at most 2
COLUMNS = {  # rewards, and how segments are compared
    "strict": (PHASE_1, reward_convention("strict")),
    "compat": (PHASE_1, reward_convention("compat")),
    "strict, iou": (PHASE_1, reward_convention("strict", overlap="iou")),
    "strict, optimal": (PHASE_1, reward_convention("strict", local="optimal")),
    "strict, format and global matching": (COARSE, reward_convention("strict")),
}


def told(segments: list[tuple[float, float]], thinking: str | None = None) -> str:
    """A completion that names its times in the thinking, unless another ``thinking`` is given."""
    named = " ".join(f"{time_s}" for segment in segments for time_s in segment)
    answer = " ".join(f"{start_s:.2f}-{end_s:.2f}" for start_s, end_s in segments)
    return f"<think>{named if thinking is None else thinking}</think><answer>{answer}</answer>"


def shifted(by_s: float) -> list[tuple[float, float]]:
    """The true segments, each late by ``by_s``."""
    return [(start_s + by_s, end_s + by_s) for start_s, end_s in TRUTH]


HONEST, FAR = shifted(4.0), shifted(10.0)
EVERY_TENTH = " ".join(str(tenth / 10) for tenth in range(int(DURATION_S * 10) + 1))
SLIVERS = [(tenth / 100, (tenth + 1) / 100) for tenth in range(int(DURATION_S * 100))]
CASES: dict[str, str] = {
    "the right answer": told(TRUTH),
    "honest wrong guess: each segment late by half its length": told(HONEST),
    "honest wrong guess that overlaps nothing (10 s late)": told(FAR),
    "nothing written": "",
    "empty answer in the right form": told([]),
    "one segment: the whole video": told([(0.0, DURATION_S)]),
    "6,000 slivers of 0.01 s that cover the video": told(SLIVERS, "0.0"),
    "a wrong segment ten times": told([HONEST[0]] * 10),
    "a right segment ten times": told([TRUTH[0]] * 10),
    "a right segment once": told(TRUTH[:1]),
    "the right segments, last first": told(TRUTH[::-1]),
    "reversed segments": told([(end_s, start_s) for start_s, end_s in TRUTH]),
    "the honest guess, every tenth of a second listed": told(HONEST, EVERY_TENTH),
    "the whole video, every tenth of a second listed": told([(0.0, DURATION_S)], EVERY_TENTH),
}


def total(completion: str, column: str = "strict") -> float:
    """The sum of a column's rewards for one completion."""
    names, rules = COLUMNS[column]
    answer = answer_of_text(completion, rules)
    return sum(REWARDS[name](answer, TRUTH, rules) for name in names)


def table() -> str:
    """Markdown."""
    lines = [f"| answer | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    lines += [f"| {name} | {' | '.join(f'{total(t, c):.2f}' for c in COLUMNS)} |" for name, t in CASES.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
