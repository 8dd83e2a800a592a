"""Throughput of ``timeexpert serve`` against one-by-one calls of Predictor, in one run; and a soak at saturation.

``python scripts/bench_serve.py [--model checkpoints/tiny] [--repeats 3] [--soak-s 60] [--json]``

*Throughput*: 32 questions about 4 generated videos. One by one: ``Predictor.ask`` of each question, which decodes and
encodes its video every time. Server: a process of its own, asked the same questions over HTTP by 8 clients, each of
which asks its next question when it has its answer; the server is new in every repeat, so its caches are empty. Engine:
the same 8 clients as threads of one process around the engine alone, without HTTP. They take turns; the row has the
medians, the ratios of the medians, and the 95th percentile of the seconds from asking the server to the answer. Every
answer must be equal to the one of the one-by-one call, confidences included, or the script stops with exit code 1.

*Soak*: 16 clients ask one server without a pause for ``--soak-s`` seconds. A question names its video by a ``file://``
address, an upload or a ``data:`` address, and is answered whole or as a stream, by chance; one in twenty is left after
the first piece of a stream. Counted: answers, answers that are not the expected one of their question (the videos and
questions have different answers), questions without an answer, streams that were left, and the growth of the memory of
the server and its decoders from the end of the first fifth of the time to the end.

A row is appended to benchmarks/serve.jsonl (``--out``).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import http.client
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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

VIDEOS, PER_VIDEO, CLIENTS, SOAK_CLIENTS, LEAVING = 4, 8, 8, 16, 20
ANSWER_TIMEOUT_S, START_TIMEOUT_S = 120.0, 300.0
EXTRA = (("What happens, and when?", "dense_captioning"), ("Which shapes are there?", "general"))
# what an answer must say again, bit for bit: JSON keeps every float
SAID = ("events", "problems", "frame_times_s", "duration_s")


@dataclass(frozen=True)
class Asked:
    """One question about one video file."""

    path: Path
    prompt: str
    task: str | None

    def body(self, url: str | None = None, *, stream: bool = False) -> dict[str, Any]:
        """The request; the video by its ``file://`` address unless ``url`` is another."""
        video = {"type": "video_url", "video_url": {"url": url or f"file://{self.path}"}}
        content = [video, {"type": "text", "text": self.prompt}]
        return {"messages": [{"role": "user", "content": content}], "task": self.task, "stream": stream}


class Server:
    """``timeexpert serve`` in a process of its own, and requests to it."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """The message with its events, from a whole answer or from the last chunk of a stream."""
        connection, response = self._post("/v1/chat/completions", json.dumps(body).encode(), "application/json")
        try:
            if not body["stream"]:
                return dict(json.loads(response.read())["choices"][0]["message"])
            return dict([chunk["choices"][0] for chunk in _chunks(response)][-1])
        finally:
            connection.close()

    def leave(self, body: dict[str, Any]) -> None:
        """Ask for a stream and go after its first piece."""
        connection, response = self._post("/v1/chat/completions", json.dumps(body).encode(), "application/json")
        next(_chunks(response))
        connection.close()

    def upload(self, path: Path) -> str:
        """The id of an upload."""
        head = f'--cut\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n\r\n'
        purpose = '\r\n--cut\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--cut--\r\n'
        body = head.encode() + path.read_bytes() + purpose.encode()
        connection, response = self._post("/v1/files", body, "multipart/form-data; boundary=cut")
        try:
            return str(json.loads(response.read())["id"])
        finally:
            connection.close()

    def steps(self) -> Counter[int]:
        """Steps so far, by the number of answers that were written side by side."""
        connection = http.client.HTTPConnection(self.address, timeout=ANSWER_TIMEOUT_S)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        found = re.findall(r'^timeexpert_engine_steps_total\{rows="(\d+)"\} (\d+)', text, re.MULTILINE)
        return Counter({int(rows): int(steps) for rows, steps in found})

    def memory_bytes(self) -> int:
        """Of the server and its decoders."""
        server = psutil.Process(self.process.pid)
        return sum(process.memory_info().rss for process in (server, *server.children(recursive=True)))

    def _post(self, path: str, body: bytes, kind: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self.address, timeout=ANSWER_TIMEOUT_S)
        connection.request("POST", path, body, {"Content-Type": kind})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {response.read()[:500]!r}")
        return connection, response


def _chunks(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in response:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


@contextmanager
def served(model: Path, folder: Path) -> Iterator[Server]:
    """A new server that may read ``folder``; its log goes to a file there."""
    command = [sys.executable, "-m", "timeexpert", "serve", str(model), "--port", "0", "--device", "cpu"]
    command += ["--allowed-local-media-path", str(folder)]
    with (
        (folder / "server.log").open("a") as log,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
        watchdog.start()
        try:
            address = next(found[1] for line in process.stdout if (found := re.search(r"http://([\d.:]+)/", line)))
        except StopIteration:
            raise RuntimeError(f"the server did not start: {(folder / 'server.log').read_text()[-2000:]}") from None
        finally:
            watchdog.cancel()
        try:
            yield Server(process, address)
        finally:
            process.terminate()


def make_questions(folder: Path) -> list[Asked]:
    """``PER_VIDEO`` different questions about each of ``VIDEOS`` videos of up to 32 s, the videos in turn."""
    config = SynthConfig(videos=VIDEOS, seed=11, max_duration_s=32.0, min_event_s=6.0, max_event_s=12.0)
    rows: list[list[Asked]] = []
    for i in range(VIDEOS):
        scene, path = make_scene(config, i), folder / f"{i}.mp4"
        encode(scene, path)
        wanted = dict.fromkeys([*((s.prompt, s.task) for s in questions(scene, config)), *EXTRA])
        texts = list(wanted)
        texts += [(f"{prompt} Look again.", task) for prompt, task in texts]
        rows.append([Asked(path, prompt, task) for prompt, task in texts[:PER_VIDEO]])
    return [row[k] for k in range(PER_VIDEO) for row in rows]


def one_by_one(predictor: Predictor, asked: list[Asked]) -> tuple[float, list[Prediction]]:
    """Seconds, and the answers."""
    began = time.perf_counter()
    answers = [predictor.ask(a.path, a.prompt, task=a.task) for a in asked]
    return time.perf_counter() - began, answers


def expected(answers: list[Prediction]) -> list[dict[str, Any]]:
    """What the server has to say, in its words."""
    told = []
    for answer in answers:
        said = answer.to_json()
        said["events"] = [
            {**event, "confidence": sure} for event, sure in zip(said["events"], answer.confidences, strict=True)
        ]
        told.append(json.loads(json.dumps({name: said[name] for name in SAID})))
    return told


def said(message: dict[str, Any]) -> dict[str, Any]:
    """The part of a message that must be as expected."""
    return {name: message[name] for name in SAID}


def side_by_side(server: Server, asked: list[Asked]) -> tuple[float, list[dict[str, Any]], list[float], Counter[int]]:
    """Seconds, what was said, seconds of each, and steps by the answers that were written side by side."""

    def timed(one: Asked) -> tuple[dict[str, Any], float]:
        began = time.perf_counter()
        message = server.ask(one.body())
        return said(message), time.perf_counter() - began

    warm_up(server, asked[0])
    before = server.steps()
    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as clients:
        told = list(clients.map(timed, asked))
    seconds = time.perf_counter() - began
    return seconds, [t[0] for t in told], [t[1] for t in told], server.steps() - before


def engine_alone(predictor: Predictor, asked: list[Asked]) -> tuple[float, list[Prediction]]:
    """Seconds and answers of a new engine whose decoder processes are started."""
    names = {one.path: hashlib.sha256(one.path.read_bytes()).hexdigest() for one in asked}
    with Engine(predictor, "bench") as engine:
        videos = [Video(asked[0].path, f"warm up {i}") for i in range(engine.limits.decode_workers)]
        for ticket in [engine.submit(Question(video, "When?", num_frames=1)) for video in videos]:
            ticket.result(ANSWER_TIMEOUT_S)
        began = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as clients:
            questions = [Question(Video(one.path, names[one.path]), one.prompt, one.task) for one in asked]
            answers = [reply.prediction for reply in clients.map(engine.answer, questions)]
        return time.perf_counter() - began, answers


def warm_up(server: Server, asked: Asked) -> None:
    """Start the decoder processes: two questions at once about one frame, with other bytes than the videos have."""
    data = asked.path.read_bytes()

    def ask(extra: bytes) -> None:
        url = "data:video/mp4;base64," + base64.b64encode(data + extra).decode()
        server.ask({**asked.body(url), "media_io_kwargs": {"video": {"num_frames": 1}}})

    # an MP4 reader skips a "free" box at the end
    with ThreadPoolExecutor(2) as clients:
        list(clients.map(ask, [b"\0\0\0\x09free" + bytes([i]) for i in range(2)]))


def throughput(predictor: Predictor, model: Path, asked: list[Asked], repeats: int) -> dict[str, Any]:
    """Medians over the repeats."""
    one_by_one(predictor, asked[:2])
    alone_s, engine_s, server_s, waits_s, rows = [], [], [], [], Counter[int]()
    equal = True
    for _ in range(repeats):
        seconds, answers = one_by_one(predictor, asked)
        alone_s.append(seconds)
        seconds, same = engine_alone(predictor, asked)
        engine_s.append(seconds)
        equal = equal and same == answers
        with served(model, asked[0].path.parent) as server:
            seconds, told, waits, steps = side_by_side(server, asked)
        rows.update(steps)
        server_s.append(seconds)
        waits_s += waits
        equal = equal and told == expected(answers)
    alone, together, engine = (statistics.median(seconds) for seconds in (alone_s, server_s, engine_s))
    return {
        "questions": len(asked), "videos": VIDEOS, "clients": CLIENTS,
        "one_by_one_s": round(alone, 3), "server_s": round(together, 3), "ratio": round(alone / together, 2),
        "engine_s": round(engine, 3), "engine_ratio": round(alone / engine, 2),
        "latency_p50_s": round(statistics.median(waits_s), 3),
        "latency_p95_s": round(statistics.quantiles(waits_s, n=20)[-1], 3),
        "one_by_one_latency_s": round(alone / len(asked), 3),
        "mean_rows": round(sum(n * k for n, k in rows.items()) / rows.total(), 2),
        "equal": equal,
    }  # fmt: skip


def soak(predictor: Predictor, model: Path, asked: list[Asked], seconds: float) -> dict[str, Any]:
    """Counts of a saturated server, and how its memory grew."""
    told = expected(one_by_one(predictor, asked)[1])
    right = dict(zip(asked, told, strict=True))
    counts: Counter[str] = Counter()
    lock = threading.Lock()
    with served(model, asked[0].path.parent) as server:
        warm_up(server, asked[0])
        paths = {one.path for one in asked}
        uploads = {path: server.upload(path) for path in paths}
        data = {path: "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode() for path in paths}
        end = time.monotonic() + seconds

        def client(number: int) -> None:
            chance = random.Random(number)
            while time.monotonic() < end:
                one = chance.choice(asked)
                url = chance.choice((None, uploads[one.path], data[one.path]))
                body = one.body(url, stream=chance.random() < 0.5)
                try:
                    if chance.randrange(LEAVING) == 0:
                        server.leave({**body, "stream": True})
                        result = "left"
                    else:
                        result = "answered" if said(server.ask(body)) == right[one] else "mixed_up"
                except Exception as error:
                    print(f"no answer: {type(error).__name__}: {error}", file=sys.stderr)
                    result = "unanswered"
                with lock:
                    counts[result] += 1

        threads = [threading.Thread(target=client, args=(n,)) for n in range(SOAK_CLIENTS)]
        for thread in threads:
            thread.start()
        time.sleep(seconds / 5)
        before = server.memory_bytes()
        for thread in threads:
            thread.join()
        after = server.memory_bytes()
    return {
        "seconds": seconds, "clients": SOAK_CLIENTS,
        **{name: counts[name] for name in ("answered", "left", "mixed_up", "unanswered")},
        "different_answers": len({json.dumps(answer) for answer in told}),
        "memory_mib": round(after / 2**20, 1), "memory_growth": round(after / before - 1, 4),
    }  # fmt: skip


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
            results["throughput"] = throughput(predictor, args.model, asked, args.repeats)
        if args.soak_s:
            results["soak"] = soak(predictor, args.model, asked, args.soak_s)
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
