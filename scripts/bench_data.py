"""Overhead of reading shards against webdataset, time and memory of opening them, and speed of decoding, in one run.

``python scripts/bench_data.py [--clips DIR] [--samples 20000] [--shards 1000] [--rows 10000000] [--json]``

*Overhead*: seconds of CPU per sample of 10 KB between asking for it and holding its bytes, nothing decoded. Ours: the
draw from a mixture, the batch plan with its resume state, the row of the index, the bytes of both members, and with
``checked`` their sums (SHA-256). webdataset: its plain pipeline with a shuffle buffer, on the same files. They take
turns. *Opening*: from nothing to the first sample's bytes, of a folder of many shards. *Memory*: what a process holds
for a made-up index. *Decoding*: 32 frames from each clip of ``--clips``, ours against reading the clip from its
beginning with PyAV up to the last of these frames, and torchcodec's exact mode where that is installed; the median over
the clips of the ratio of medians. A row is appended to benchmarks/data.jsonl (``--out``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import webdataset
from machine import ROOT, append_row, commit, cpu_name
from rich.console import Console
from rich.table import Table

from timeexpert.data.index_table import IndexTable, row_type
from timeexpert.data.mixture import BatchPlanner, Mixture
from timeexpert.data.shard_writer import ShardFolderWriter
from timeexpert.data.shards import ShardDataset
from timeexpert.data.video import Video
from timeexpert.errors import UserError

SAMPLE_BYTES = 10_000
FRAMES = 32
BATCH = 32
FEW_SHARDS = 20  # of the folder from which all samples are read


def write_shards(folder: Path, samples: int, shards: int) -> Path:
    """A shard folder of videos that are random bytes; nothing here decodes them."""
    (folder / ".build").mkdir(parents=True)
    writer = ShardFolderWriter(folder, max_bytes=(SAMPLE_BYTES + 600) * (samples // shards))
    random = np.random.default_rng(0)
    for i in range(samples):
        media, name = random.bytes(SAMPLE_BYTES), f"v{i}.mp4"
        sample = {
            "id": f"q{i}", "video": name, "duration_s": 10.0, "task": "moment_retrieval", "prompt": "When?",
            "events": [{"start_s": 1.0, "end_s": 2.0, "scores": [], "text": ""}], "source": "made up", "meta": {},
        }  # fmt: skip
        meta = {"video": name, "sha256": hashlib.sha256(media).hexdigest(), "duration_s": 10.0, "info": {}}
        writer.add(i, f"v{i}", "mp4", media, {**meta, "samples": [sample]})
    writer.finish(samples, {})
    return folder


def ours(folder: Path, samples: int, checked: bool) -> None:
    """Draw, plan and read ``samples`` videos in the order of an epoch."""
    dataset = ShardDataset(folder, check=checked)
    size = len(dataset.entries)
    planner = BatchPlanner(Mixture([size], [1.0], 0), lambda ref: 100, max_samples=BATCH)
    left = samples
    while left > 0:
        batch = planner.next()
        for ref in batch.refs:
            dataset.stored(ref.index, "media")
            dataset.stored(ref.index, "json")
        left -= len(batch.refs)
    dataset.close()


def theirs(folder: Path, samples: int) -> None:
    """webdataset's plain pipeline on the same shards, with a shuffle buffer of 1000."""
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    for _ in islice(webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(1000), samples):
        pass


def overhead(folder: Path, samples: int, repeats: int) -> dict[str, Any]:
    """Microseconds of CPU per sample, and how many times fewer ours are."""
    ways: dict[str, Callable[[], None]] = {
        "ours": lambda: ours(folder, samples, False),
        "ours, checked": lambda: ours(folder, samples, True),
        "webdataset": lambda: theirs(folder, samples),
    }
    us = {name: 1e6 * value / samples for name, value in take_turns(ways, repeats, time.process_time).items()}
    return {
        "samples": samples,
        "us_per_sample": rounded(us),
        "webdataset / ours": round(us["webdataset"] / us["ours"], 2),
        "webdataset / ours, checked": round(us["webdataset"] / us["ours, checked"], 2),
    }


def take_turns(
    ways: dict[str, Callable[[], None]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each, one after another in every repeat; each has run once before."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, run in ways.items():
            began = clock()
            run()
            if repeat:
                times[name].append(clock() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def opening(folder: Path) -> dict[str, Any]:
    """Seconds to the first sample of an opened folder."""

    def first() -> None:
        dataset = ShardDataset(folder)
        planner = BatchPlanner(Mixture([len(dataset.entries)], [1.0], 0), lambda ref: 100, max_samples=1)
        dataset.stored(planner.next().refs[0].index, "media")
        dataset.close()

    shards = len(list(folder.glob("*.tar")))
    return {"shards": shards, "first_sample_s": round(take_turns({"": first}, 3)[""], 3)}


def memory(folder: Path, rows: int) -> dict[str, Any]:
    """Bytes per video of an index of ``rows`` made-up videos: mapped from the file, and of the process alone."""
    folder.mkdir()
    table = np.lib.format.open_memmap(folder / "index.npy", "w+", row_type(16), (rows,))
    table["tasks"]["moment_retrieval"] = 1
    table.flush()
    row_bytes = table.dtype.itemsize
    del table
    me = psutil.Process()
    before = me.memory_info()
    entries = IndexTable(np.load(folder / "index.npy", mmap_mode="r"), ["shard-000000.tar"])
    mixture = Mixture([len(entries)], [1.0], 0)
    held = (np.concatenate([[0], entries.questions.cumsum()]), entries.with_tasks(["moment_retrieval"]), mixture.next())
    after = me.memory_info()
    own = (after.rss - after.shared) - (before.rss - before.shared)
    assert len(held[1]) == rows
    return {"rows": rows, "mapped_bytes_per_video": row_bytes, "own_bytes_per_video": round(own / rows, 1)}


def decoding(clips: Path, repeats: int) -> dict[str, Any]:
    """Milliseconds per clip of 30 to 140 s, and the medians over the clips of the ratios."""
    found = [path for path in sorted(clips.iterdir()) if path.is_file() and 30 <= seconds_of(path) <= 140]
    if not found:
        return {"clips": {}, "skipped": f"no clip of 30 to 140 s in {clips}"}
    rows: dict[str, dict[str, float]] = {}
    for path in found:
        with Video.open(path) as video:
            times_s = (np.arange(FRAMES) + 0.5) * video.info.duration_s / FRAMES

        def indexed(path: Path = path, times_s: np.ndarray = times_s) -> None:
            with Video.open(path) as video:
                assert len(video.frames_at(times_s)[0]) == FRAMES

        def sequential(path: Path = path, times_s: np.ndarray = times_s) -> None:
            read_in_order(path, times_s)

        ways: dict[str, Callable[[], None]] = {"ours": indexed, "sequential PyAV": sequential}
        exact = torchcodec_exact(path, times_s)
        if exact is not None:
            ways["torchcodec, exact"] = exact
        rows[path.name] = rounded({k: 1e3 * v for k, v in take_turns(ways, repeats).items()})
    others = [name for name in ("sequential PyAV", "torchcodec, exact") if all(name in row for row in rows.values())]
    ratios = {
        f"{name} / ours": round(statistics.median(row[name] / row["ours"] for row in rows.values()), 2)
        for name in others
    }
    skipped = {} if "torchcodec, exact" in others else {"skipped": "torchcodec cannot be imported here"}
    return {"frames": FRAMES, "clips_ms": rows, **ratios, **skipped}


def seconds_of(path: Path) -> float:
    """Duration of a clip, 0 of what is none."""
    try:
        with Video.open(path) as video:
            return video.info.duration_s
    except UserError:
        return 0.0


def read_in_order(path: Path, times_s: np.ndarray) -> None:
    """The frame on screen at each time, decoding from the beginning as plain PyAV code does."""
    frames: list[np.ndarray] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        before, first_s = None, None
        for frame in container.decode(stream):
            first_s = frame.time if first_s is None else first_s
            while len(frames) < len(times_s) and before is not None and frame.time - first_s > times_s[len(frames)]:
                frames.append(before.to_ndarray(format="rgb24"))
            before = frame
            if len(frames) == len(times_s):
                break
    assert len(frames) == len(times_s) or before is not None


def torchcodec_exact(path: Path, times_s: np.ndarray) -> Callable[[], None] | None:
    """The same frames by torchcodec, where it can be imported."""
    try:
        from torchcodec.decoders import VideoDecoder
    except Exception:  # a build for CUDA fails in many ways beside a torch for CPUs
        return None
    return lambda: VideoDecoder(str(path), seek_mode="exact").get_frames_played_at(list(times_s)) and None


def rounded(values: dict[str, float]) -> dict[str, float]:
    """To two decimals."""
    return {name: round(value, 2) for name, value in values.items()}


def main() -> int:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000, help="of 10 KB each, for the overhead; default 20000")
    parser.add_argument("--shards", type=int, default=1_000, help="of the folder that is opened; default 1000")
    parser.add_argument("--rows", type=int, default=10_000_000, help="videos of the made-up index; default 10 million")
    parser.add_argument("--clips", type=Path, help="a folder of clips of 30 to 140 s, for decoding")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scratch", type=Path, help="where files are made; default the system's folder for them")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "data.jsonl", help="where the row goes")
    parser.add_argument("--json", action="store_true", help="print the row instead of tables")
    args = parser.parse_args()
    for name in ("samples", "shards", "rows", "repeats"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} ({getattr(args, name)}) must be 1 or more")
    if args.samples < FEW_SHARDS:
        parser.error(f"--samples ({args.samples}) must be at least {FEW_SHARDS}")
    console = Console(stderr=True)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch, console.status("") as status:
        status.update("writing shards")
        folder = write_shards(Path(scratch) / "few", args.samples, FEW_SHARDS)
        status.update("overhead")
        results["overhead"] = overhead(folder, args.samples, args.repeats)
        status.update("writing many shards")
        folder = write_shards(Path(scratch) / "many", 10 * args.shards, args.shards)
        status.update("opening")
        results["opening"] = opening(folder)
        status.update("memory")
        results["memory"] = memory(Path(scratch) / "table", args.rows)
        if args.clips is not None:
            status.update("decoding")
            results["decoding"] = decoding(args.clips, args.repeats)
    row = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": cpu_name(), "cores": os.cpu_count(), "load": [round(n, 1) for n in os.getloadavg()],
        "python": platform.python_version(), "av": av.__version__, "webdataset": webdataset.__version__,
        "commit": commit("timeexpert/data", "scripts/bench_data.py"), "repeats": args.repeats, **results,
    }  # fmt: skip
    append_row(args.out, row)
    if args.json:
        print(json.dumps(row))
        return 0
    for name, figures in results.items():
        table = Table(title=name, title_justify="left", show_header=False)
        for key, value in figures.items():
            nested = value.items() if isinstance(value, dict) else [("", value)]
            for inner, figure in nested:
                table.add_row(f"{key} {inner}".strip(), str(figure))
        Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
