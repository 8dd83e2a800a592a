"""What each way to cheat a segment reward earns: the table of docs/rl.md, computed by the rewards themselves.

python scripts/reward_table.py
"""

from __future__ import annotations

from timeexpert.evaluation.segment_rewards import CONVENTIONS, REWARDS, answer_of_text

DURATION_S = 60.0
TRUTH = [(10.0, 18.0), (34.0, 42.0)]
TOTAL = ("format_timestamps", "segment_matching")  # MUSEG's phase 1; at most 3


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
    "reversed segments": told([(end_s, start_s) for start_s, end_s in TRUTH]),
    "the honest guess, every tenth of a second listed": told(HONEST, EVERY_TENTH),
    "the whole video, every tenth of a second listed": told([(0.0, DURATION_S)], EVERY_TENTH),
}


def total(completion: str, convention: str) -> float:
    """The sum of MUSEG's phase 1 for one completion."""
    rules = CONVENTIONS[convention]
    answer = answer_of_text(completion, rules)
    return sum(REWARDS[name](answer, TRUTH, rules) for name in TOTAL)


def table() -> str:
    """Markdown."""
    lines = ["| answer | strict | compat |", "|---|---|---|"]
    lines += [f"| {name} | {total(text, 'strict'):.2f} | {total(text, 'compat'):.2f} |" for name, text in CASES.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
