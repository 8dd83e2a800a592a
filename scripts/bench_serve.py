"""Throughput of the serving engine against one-by-one calls of Predictor, in one run; and a soak at saturation.

``python scripts/bench_serve.py [--model checkpoints/tiny] [--repeats 3] [--soak-s 60] [--json]``

*Throughput*: 32 questions about 4 generated videos. One by one: ``Predictor.ask`` of each question, which decodes and
encodes its video every time. Engine: the same questions from 8 clients, each of which asks its next question when it
has its answer; caches are empty at the start of every repeat. They take turns; the row has the medians, the ratio of
the medians, and the 95th percentile of the seconds from asking to the answer. Every answer must be equal to the one of
the one-by-one call, confidences included, or the script stops with exit code 1.

*Soak*: 16 clients ask without a pause for ``--soak-s`` seconds. Counted: answers, answers that differ from the expected
one of their question (the videos and questions have different answers), questions without an answer, and the growth
of the memory of the process and its decoders from the end of the first fifth of the time to the end.

A row is appended to benchmarks/serve.jsonl (``--out``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch
from machine import ROOT, append_row, commit, cpu_name

from timeexpert.data.scene_questions import questions
from timeexpert.data.scenes import SynthConfig, make_scene
from timeexpert.data.synthetic import encode
from timeexpert.predict import Prediction, Predictor
from timeexpert.serving.engine import Engine, Question, Video

VIDEOS, PER_VIDEO, CLIENTS, SOAK_CLIENTS = 4, 8, 8, 16
ANSWER_TIMEOUT_S = 120.0
EXTRA = (("What happens, and when?", "dense_captioning"), ("Which shapes are there?", "general"))


@dataclass(frozen=True)
class Asked:
    """One question about one video file."""

    path: Path
    sha256: str
    prompt: str
    task: str | None

    @property
    def question(self) -> Question:
        """As the engine takes it."""
        return Question(Video(self.path, self.sha256), self.prompt, self.task)


def make_questions(folder: Path) -> list[Asked]:
    """``PER_VIDEO`` different questions about each of ``VIDEOS`` videos of up to 32 s, the videos in turn."""
    config = SynthConfig(videos=VIDEOS, seed=11, max_duration_s=32.0, min_event_s=6.0, max_event_s=12.0)
    rows: list[list[Asked]] = []
    for i in range(VIDEOS):
        scene, path = make_scene(config, i), folder / f"{i}.mp4"
        encode(scene, path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        wanted = dict.fromkeys([*((s.prompt, s.task) for s in questions(scene, config)), *EXTRA])
        texts = list(wanted)
        texts += [(f"{prompt} Look again.", task) for prompt, task in texts]
        rows.append([Asked(path, sha256, prompt, task) for prompt, task in texts[:PER_VIDEO]])
    return [row[k] for k in range(PER_VIDEO) for row in rows]


def one_by_one(predictor: Predictor, asked: list[Asked]) -> tuple[float, list[Prediction]]:
    """Seconds, and the answers."""
    began = time.perf_counter()
    answers = [predictor.ask(a.path, a.prompt, task=a.task) for a in asked]
    return time.perf_counter() - began, answers


def side_by_side(predictor: Predictor, asked: list[Asked]) -> tuple[float, list[Prediction], list[float], Counter[int]]:
    """Seconds, the answers, seconds of each, and steps by their rows; the engine is new, its processes are started."""
    with Engine(predictor, "bench") as engine:
        warm_up(engine, asked[0])
        before = Counter(engine.stats()["batch_sizes"])
        began = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as clients:
            told = list(clients.map(lambda a: timed(engine, a), asked))
        seconds = time.perf_counter() - began
        rows = Counter(engine.stats()["batch_sizes"]) - before
        return seconds, [t[0] for t in told], [t[1] for t in told], rows


def warm_up(engine: Engine, asked: Asked) -> None:
    """Start the decoder processes, with a video that no question is about: one frame of the first."""
    tickets = [
        engine.submit(Question(Video(asked.path, f"warm up {i}"), "When?", num_frames=1))
        for i in range(engine.limits.decode_workers)
    ]
    for ticket in tickets:
        ticket.result(ANSWER_TIMEOUT_S)


def timed(engine: Engine, asked: Asked) -> tuple[Prediction, float]:
    """An answer, and seconds from asking to having it."""
    began = time.perf_counter()
    reply = engine.submit(asked.question).result(ANSWER_TIMEOUT_S)
    return reply.prediction, time.perf_counter() - began


def throughput(predictor: Predictor, asked: list[Asked], repeats: int) -> dict[str, Any]:
    """Medians over the repeats."""
    one_by_one(predictor, asked[:2])
    alone_s, engine_s, waits_s, rows = [], [], [], Counter[int]()
    equal = True
    for _ in range(repeats):
        seconds, expected = one_by_one(predictor, asked)
        alone_s.append(seconds)
        seconds, answers, waits, steps = side_by_side(predictor, asked)
        engine_s.append(seconds)
        waits_s += waits
        rows.update(steps)
        equal = equal and answers == expected
    alone, engine = statistics.median(alone_s), statistics.median(engine_s)
    return {
        "questions": len(asked), "videos": VIDEOS, "clients": CLIENTS,
        "one_by_one_s": round(alone, 3), "engine_s": round(engine, 3), "ratio": round(alone / engine, 2),
        "latency_p50_s": round(statistics.median(waits_s), 3),
        "latency_p95_s": round(statistics.quantiles(waits_s, n=20)[-1], 3),
        "one_by_one_latency_s": round(alone / len(asked), 3),
        "mean_rows": round(sum(n * k for n, k in rows.items()) / rows.total(), 2),
        "equal": equal,
    }  # fmt: skip


def soak(predictor: Predictor, asked: list[Asked], seconds: float) -> dict[str, Any]:
    """Counts of a saturated engine, and how its memory grew."""
    expected = dict(zip(asked, one_by_one(predictor, asked)[1], strict=True))
    counts: Counter[str] = Counter()
    lock = threading.Lock()
    with Engine(predictor, "bench") as engine:
        warm_up(engine, asked[0])
        end = time.monotonic() + seconds

        def client(number: int) -> None:
            pick = random.Random(number)
            while time.monotonic() < end:
                one = pick.choice(asked)
                try:
                    answer = timed(engine, one)[0]
                    result = "answered" if answer == expected[one] else "mixed_up"
                except Exception:
                    result = "unanswered"
                with lock:
                    counts[result] += 1

        threads = [threading.Thread(target=client, args=(n,)) for n in range(SOAK_CLIENTS)]
        for thread in threads:
            thread.start()
        time.sleep(seconds / 5)
        before = memory_bytes()
        for thread in threads:
            thread.join()
        after = memory_bytes()
    return {
        "seconds": seconds, "clients": SOAK_CLIENTS,
        "answered": counts["answered"], "mixed_up": counts["mixed_up"], "unanswered": counts["unanswered"],
        "different_answers": len({json.dumps(p.to_json()) for p in expected.values()}),
        "memory_mib": round(after / 2**20, 1), "memory_growth": round(after / before - 1, 4),
    }  # fmt: skip


def memory_bytes() -> int:
    """Of this process and its children."""
    me = psutil.Process()
    return sum(process.memory_info().rss for process in (me, *me.children(recursive=True)))


def main() -> int:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "checkpoints" / "tiny", help="default checkpoints/tiny")
    parser.add_argument("--repeats", type=int, default=3, help="of the throughput; 0 leaves it out; default 3")
    parser.add_argument("--soak-s", type=float, default=0.0, help="seconds of the soak; default 0: none")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "serve.jsonl", help="where the row goes")
    parser.add_argument("--json", action="store_true", help="print the row instead of lines")
    args = parser.parse_args()
    if args.repeats < 0 or args.soak_s < 0 or not (args.repeats or args.soak_s):
        parser.error(f"--repeats ({args.repeats}) and --soak-s ({args.soak_s}) must be 0 or more, and not both 0")
    predictor = Predictor.from_pretrained(args.model, device="cpu")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        asked = make_questions(Path(folder))
        if args.repeats:
            results["throughput"] = throughput(predictor, asked, args.repeats)
        if args.soak_s:
            results["soak"] = soak(predictor, asked, args.soak_s)
    row = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "load": [round(n, 1) for n in os.getloadavg()], "python": platform.python_version(), "torch": torch.__version__,
        "commit": commit("timeexpert", "moe", "tokenization", "scripts/bench_serve.py"), "repeats": args.repeats,
        "model": args.model.name, **results,
    }  # fmt: skip
    append_row(args.out, row)
    if args.json:
        print(json.dumps(row))
    else:
        for name, figures in results.items():
            print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))
    kept = results.get("throughput", {}).get("equal", True)
    soaked = results.get("soak", {"mixed_up": 0, "unanswered": 0})
    return 0 if kept and not soaked["mixed_up"] and not soaked["unanswered"] else 1


if __name__ == "__main__":
    sys.exit(main())
