"""Our metrics beside the references' on inputs of the references' own size, in one run.

``python scripts/bench_eval.py [FAMILY ...] [--scale 1] [--repeats 5] [--reference-root DIR] [--out FILE] [--json]``

Both sides get the same input in one run, take turns, and must give the same figures, else the script stops with 1. Time
is that of the processor, with that of other programs that a side starts. The reference side is a straightforward
implementation of the reference's algorithm (scripts/bench_eval_references.py), or the reference itself where
``--reference-root`` holds a clone that can be imported (``davis2017-evaluation``). METEOR is the same Java program on
both sides, started and asked as pycocoevalcap does it and as this package does; without Java or the jar its families
are skipped with a reason. Inputs are made up, with the sizes that the references were published for. A row is appended
to benchmarks/eval.jsonl.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bench_eval_references as references
import numpy as np
from bench_eval_captions import Event, captioned_events, told_again
from machine import ROOT, append_row, commit, cpu_name
from rich.console import Console
from rich.table import Table

from timeexpert.evaluation.answer_text import read_segments
from timeexpert.evaluation.caption_events import TimedCaptions
from timeexpert.evaluation.captioning import dense_captioning
from timeexpert.evaluation.frame_labels import read_frame_labels
from timeexpert.evaluation.grounding import moment_retrieval
from timeexpert.evaluation.highlights import HighlightTruth, clip_points, highlight_detection
from timeexpert.evaluation.meteor import Meteor, MeteorError
from timeexpert.evaluation.moment_map import moment_map
from timeexpert.evaluation.segmentation import action_segmentation
from timeexpert.evaluation.soda import soda
from timeexpert.evaluation.video_objects import object_scores

Figures = Mapping[str, float | None]


class Skipped(Exception):
    """What a family needs is not there."""


@dataclass(frozen=True)
class Case:
    """One input and two ways to score it. ``agree`` is the largest difference allowed in any figure of ``theirs``."""

    size: str
    ours: Callable[[], Figures]
    theirs: Callable[[], Figures]
    reference: str
    agree: float = 1e-6


def action_segmentation_case(scale: float, scratch: Path, root: Path | None) -> Case:
    """415 videos, 1.94 million frames with a label each, from files; eight actions a video."""
    rng = np.random.default_rng(0)
    truth, results, frames = {}, {}, 0
    for video in range(max(1, round(415 * scale))):
        y, p = [], []
        for action in range(8):
            lengths = [int(n) for n in rng.integers(60, 330, 3)]
            name = f"action_{rng.integers(48)}"
            y += ["background"] * lengths[0] + [name] * (lengths[1] + lengths[2])
            told = name if rng.random() < 0.7 else f"action_{action}"
            p += ["background"] * (lengths[0] + lengths[1] // 4) + [told] * (lengths[1] - lengths[1] // 4 + lengths[2])
        frames += len(y)
        truth[str(video)], results[str(video)] = scratch / f"{video}.txt", scratch / f"{video}"
        truth[str(video)].write_text("".join(f"{name}\n" for name in y))
        results[str(video)].write_text("### Frame level recognition: ###\n" + " ".join(p))

    def ours() -> Figures:
        sides = ({name: read_frame_labels(path) for name, path in side.items()} for side in (truth, results))
        return action_segmentation(*sides, convention="ms_tcn").figures()

    return Case(
        f"{len(truth)} videos, {frames} frames, from files",
        ours,
        lambda: references.ms_tcn(list(truth.values()), list(results.values())),
        "plain",
    )


def video_objects_case(scale: float, scratch: Path, root: Path | None) -> Case:
    """30 sequences of 480 x 854 label maps with two objects that move, 1939 frames, in memory."""
    rng = np.random.default_rng(0)
    sequences = []
    rows, columns = np.ogrid[:480, :854]
    for _ in range(max(1, round(30 * scale))):
        first = np.zeros((480, 854), dtype=np.uint8)
        for k in (1, 2):
            y, x = rng.integers(120, 360), rng.integers(150, 700)
            angle = np.arctan2(rows - y, columns - x)
            reach = rng.integers(40, 90) * (1 + 0.25 * np.sin(angle * rng.integers(3, 12)))
            first[np.hypot(rows - y, columns - x) < reach] = k
        length = max(2, round(1939 / 30 * min(1.0, 30 * scale)))
        truth = np.stack([np.roll(first, (t // 2, t), (0, 1)) for t in range(length)])
        told = np.stack([np.roll(frame, rng.integers(-4, 12, 2), (0, 1)) for frame in truth])
        sequences.append((truth, told))
    frames = sum(len(truth) for truth, _ in sequences)

    def ours() -> Figures:
        found = [object_scores(truth, told) for truth, told in sequences]
        j, f = (np.concatenate([getattr(s, name).mean(axis=1) for s in found]).mean() for name in ("j", "f"))
        return {"j_mean": 100 * float(j), "f_mean": 100 * float(f)}

    theirs = davis_itself(root)
    if theirs is not None:
        return Case(
            f"{frames} frames, {2 * frames} object-frames", ours, lambda: theirs(sequences), "davis2017-evaluation"
        )
    name, dilate = references.dilation()
    return Case(
        f"{frames} frames, {2 * frames} object-frames",
        ours,
        lambda: references.davis(sequences, dilate),
        f"plain, dilation by {name}",
    )


def davis_itself(root: Path | None) -> Callable[[list[Any]], Figures] | None:
    """The reference's functions on whole sequences, where they can be imported from below ``root``."""
    if root is None:
        return None
    sys.path.insert(0, str(root / "davis2017-evaluation"))
    try:
        metrics = importlib.import_module("davis2017.metrics")
    except ImportError:
        return None

    def score(sequences: list[Any]) -> Figures:
        means = [
            [np.mean(metrics.db_eval_iou(a, b)), np.mean(metrics.db_eval_boundary(a, b))]
            for truth, told in sequences
            for a, b in ((truth == k, told == k) for k in (1, 2))
        ]
        j, f = np.mean(means, axis=0)
        return {"j_mean": 100 * float(j), "f_mean": 100 * float(f)}

    return score


def qvhighlights_case(scale: float, scratch: Path, root: Path | None) -> Case:
    """1549 queries of 150 s with ten windows and 75 clip scores each: windows in four length ranges, clips at three."""
    rng = np.random.default_rng(0)
    truth, submission = [], []
    for qid in range(max(3, round(1549 * scale))):
        starts = 2.0 * np.sort(rng.choice(8, rng.integers(1, 4), replace=False)) * 8
        windows = [[float(s), float(s) + 2.0 * int(rng.choice([2, 4, 6, 7]))] for s in starts]
        windows[0][1] = min(windows[0][0] + float(rng.choice([6, 20, 40])), 150.0)
        clips = sorted({int(c) for s, e in windows for c in range(int(s // 2), int(e // 2)) if c < 75})
        truth.append({"qid": qid, "duration": 150, "relevant_windows": windows, "relevant_clip_ids": clips,
                      "saliency_scores": rng.integers(0, 5, (len(clips), 3)).tolist()})  # fmt: skip
        told = [[float(v) for v in (w[0] + rng.normal(0, 3), w[1] + rng.normal(0, 3))] for w in windows]
        while len(told) < 10:
            start = float(rng.uniform(0, 130))
            told.append([start, start + float(rng.uniform(2, 20))])
        scores = rng.random(75)
        scores[clips] += rng.random()
        submission.append({"qid": qid, "pred_relevant_windows": [[*w, float(rng.random())] for w in told],
                           "pred_saliency_scores": scores.tolist()})  # fmt: skip

    def ours() -> Figures:
        told = {row["qid"]: row for row in submission}
        windows = [told[row["qid"]]["pred_relevant_windows"] for row in truth]
        points = [clip_points(told[row["qid"]]["pred_saliency_scores"]) for row in truth]
        clips = [
            HighlightTruth.from_annotations(row["relevant_clip_ids"], row["saliency_scores"], row["duration"])
            for row in truth
        ]
        moments = moment_map([row["relevant_windows"] for row in truth], windows, convention="moment_detr").figures()
        highlights = highlight_detection(clips, points, convention="moment_detr").figures()
        return {**highlights, **moments}

    return Case(
        f"{len(truth)} queries, 10 windows, 75 clips",
        ours,
        lambda: references.moment_detr(submission, truth),
        "plain",
        agree=0.0101,  # both round to two decimals
    )


def charades_case(scale: float, scratch: Path, root: Path | None) -> Case:
    """3720 answers in words, one in twenty without a time: read them, then R@1 and mean IoU."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(max(1, round(3720 * scale))):
        start, length = rng.uniform(0, 20), rng.uniform(1, 12)
        told = np.sort(np.abs(rng.normal(0, 2, 2) + (start, start + length)))
        text = f"The event happens in {told[0]:.1f} - {told[1]:.1f} seconds."
        rows.append((text if rng.random() < 0.95 else "no idea", (round(start, 1), round(start + length, 1))))

    def ours() -> Figures:
        told = [read_segments(text) for text, _ in rows]
        return moment_retrieval([[true] for _, true in rows], told).figures()

    return Case(f"{len(rows)} answers", ours, lambda: references.lmms_eval(rows), "plain")


def activitynet_case(scale: float, scratch: Path, root: Path | None) -> Case:
    """500 videos with seven events of fifteen words: F1, CIDEr, ROUGE-L (ours has BLEU too), no METEOR."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(2000)])
    often = 1 / np.arange(1, 2001)
    truth, told = {}, {}
    for video in range(max(2, round(500 * scale))):
        starts = np.sort(rng.uniform(0, 150, 7))
        captions = [rng.choice(words, 15, p=often / often.sum()) for _ in starts]
        truth[str(video)] = [(s, s + 25.0, " ".join(c)) for s, c in zip(starts, captions, strict=True)]
        moved = [np.sort(rng.normal(0, 5, 2) + (s, s + 25.0)) for s in starts]
        kept = [" ".join(c[rng.random(15) < 0.8]) for c in captions]
        told[str(video)] = [(float(m[0]), float(m[1]), c) for m, c in zip(moved, kept, strict=True)]

    def ours() -> Figures:
        sides = [
            [TimedCaptions.of([e[:2] for e in events], [e[2] for e in events]) for events in side.values()]
            for side in (truth, told)
        ]
        return dense_captioning([[true] for true in sides[0]], sides[1], convention="anet").figures()

    return Case(f"{len(truth)} videos, 7 events", ours, lambda: references.dense_captions(truth, told), "plain")


def timed_captions(events: Sequence[Event]) -> TimedCaptions:
    """Events as the package takes them."""
    return TimedCaptions.of([event[:2] for event in events], [event[2] for event in events])


def meteor_jar() -> Path:
    """The jar of METEOR. Raises :class:`Skipped` where it or Java is missing."""
    try:
        return Meteor().jar
    except MeteorError as error:
        raise Skipped(str(error)) from error


def soda_c_case(scale: float, scratch: Path, root: Path | None) -> Case:
    """500 videos with four events a reference, two references: SODA_c with METEOR."""
    jar, rng = meteor_jar(), np.random.default_rng(0)
    truth = [[captioned_events(rng, 4) for _ in range(2)] for _ in range(max(1, round(500 * scale)))]
    told = [told_again(rng, annotators[0]) for annotators in truth]

    def ours() -> Figures:
        sides = [[timed_captions(events) for events in annotators] for annotators in truth]
        with Meteor(jar) as meteor:
            return soda(sides, [timed_captions(events) for events in told], convention="soda", meteor=meteor).figures()

    def theirs() -> Figures:
        with closing(references.PlainMeteor(jar)) as meteor:
            return {"soda_c": references.soda_c(meteor, truth, told)}

    return Case(f"{len(truth)} videos, 4 events, 2 references", ours, theirs, "plain, METEOR pair by pair")


def youcook2_meteor_case(scale: float, scratch: Path, root: Path | None) -> Case:
    """415 videos with eight events: all dense captioning figures of ours, METEOR and SODA_c of the reference's."""
    jar, rng = meteor_jar(), np.random.default_rng(0)
    truth = [captioned_events(rng, 8) for _ in range(max(1, round(415 * scale)))]
    told = [told_again(rng, events) for events in truth]

    def ours() -> Figures:
        sides = [[timed_captions(events) for events in side] for side in (truth, told)]
        with Meteor(jar) as meteor:
            return dense_captioning(sides[0], sides[1], convention="timechat", meteor=meteor).figures()

    def theirs() -> Figures:
        with closing(references.PlainMeteor(jar)) as meteor:
            return references.dense_meteor(meteor, truth, told)

    return Case(f"{len(truth)} videos, 8 events", ours, theirs, "plain, METEOR pair by pair")


FAMILIES: dict[str, Callable[[float, Path, Path | None], Case]] = {
    "action_segmentation": action_segmentation_case,
    "video_objects": video_objects_case,
    "qvhighlights": qvhighlights_case,
    "charades_text": charades_case,
    "activitynet_captions": activitynet_case,
    "soda_c": soda_c_case,
    "youcook2_meteor": youcook2_meteor_case,
}


def measured(case: Case, repeats: int) -> dict[str, Any]:
    """Median seconds of CPU of both sides and their ratio. Raises ``SystemExit`` where their figures differ."""
    ours, theirs = case.ours(), case.theirs()
    for name, value in theirs.items():
        mine = ours[name]
        if mine is None or value is None or not abs(mine - value) <= case.agree:
            raise SystemExit(f"{name}: ours is {mine}, the reference's {value}")
    seconds: dict[str, list[float]] = {"ours": [], "reference": []}
    for _ in range(repeats):
        for name, run in (("ours", case.ours), ("reference", case.theirs)):
            began = cpu_s()
            run()
            seconds[name].append(cpu_s() - began)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "size": case.size,
        "reference": case.reference,
        "cpu_s": {name: round(value, 4) for name, value in median.items()},
        "reference / ours": round(median["reference"] / median["ours"], 1),
        "figures": {name: ours[name] for name in theirs},
    }


def cpu_s() -> float:
    """Seconds of the processor so far, with those of programs that were started and have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main() -> int:
    """Measure, append a row, print."""
    parser = argparse.ArgumentParser(description="our metrics against the references' algorithms")
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)}; default all")
    parser.add_argument("--scale", type=float, default=1.0, help="of the full size; default 1")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--reference-root", type=Path, metavar="DIR", help="a folder of clones of the references")
    parser.add_argument("--scratch", type=Path, help="where files are made; default the system's folder for them")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "eval.jsonl", help="where the row goes")
    parser.add_argument("--json", action="store_true", help="print the row instead of a table")
    args = parser.parse_args()
    unknown = [name for name in args.families if name not in FAMILIES]
    if unknown:
        parser.error(f"{unknown[0]} is none of {', '.join(FAMILIES)}")
    if args.repeats < 1 or not 0 < args.scale <= 100:
        parser.error(f"--repeats ({args.repeats}) must be 1 or more, --scale ({args.scale}) above 0 and 100 at most")
    results = {}
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch, Console(stderr=True).status("") as status:
        for name in args.families or FAMILIES:
            status.update(name)
            try:
                results[name] = measured(FAMILIES[name](args.scale, Path(scratch), args.reference_root), args.repeats)
            except Skipped as reason:
                results[name] = {"skipped": str(reason)}
    row = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": cpu_name(), "cores": os.cpu_count(), "load": [round(n, 1) for n in os.getloadavg()],
        "python": platform.python_version(), "numpy": np.__version__,
        "commit": commit("timeexpert/evaluation", "scripts/bench_eval.py", "scripts/bench_eval_references.py"),
        "repeats": args.repeats, "scale": args.scale, "results": results,
    }  # fmt: skip
    append_row(args.out, row)
    if args.json:
        print(json.dumps(row))
        return 0
    table = Table("family", "size", "reference", "ours, CPU s", "reference, CPU s", "times faster")
    for name, result in results.items():
        if "skipped" in result:
            table.add_row(name, f"skipped: {result['skipped']}")
            continue
        cpu = result["cpu_s"]
        table.add_row(name, result["size"], result["reference"], str(cpu["ours"]), str(cpu["reference"]),
                      str(result["reference / ours"]))  # fmt: skip
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
