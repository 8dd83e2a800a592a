"""SIGTERM at a server in a process of its own, with questions in hand."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ..data.media import write_video
from .conftest import data_url, question
from .process import Process, process
from .test_http import head, until
from .test_refusals import refused

pytestmark = pytest.mark.slow  # each starts a server and its decoders


def hold_decoders(server: Process, data: bytes) -> list[int]:
    """Stop the decoder processes, so that questions about new videos stay in hand until they go on."""
    assert server.ask(question(data_url(data))).status == 200
    pids = [worker.pid for worker in server.workers()]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return pids


def in_hand(server: Process, count: int) -> bool:
    text = server.fetch("GET", "/metrics")[1].decode()
    return f"timeexpert_engine_queue_length {count:.1f}\n" in text


def videos(folder: Path, count: int) -> list[str]:
    return [data_url(write_video(folder / f"{i}.mp4", num_frames=5 + i).read_bytes()) for i in range(count)]


def test_questions_in_hand_are_answered_and_new_ones_are_told_to_come_again(
    model_folder: Path, video: Path, tmp_path: Path
) -> None:
    with process(tmp_path, model_folder, limits={"decode_workers": 1}) as server:
        pids = hold_decoders(server, video.read_bytes())
        with ThreadPoolExecutor(6) as clients:
            whole = [clients.submit(server.ask, question(url)) for url in videos(tmp_path, 3)]
            streamed = [clients.submit(server.chunks, question(url)) for url in videos(tmp_path, 6)[3:]]
            until(lambda: in_hand(server, 6))
            assert server.send("GET", "/readyz").status == 200
            server.terminate()
            until(lambda: server.send("GET", "/readyz").status == 503)
            for reply in (
                server.send("GET", "/readyz"),
                server.ask(question(data_url(video.read_bytes()))),
                server.upload(b"x"),
                server.send("GET", "/v1/models"),
            ):
                refused(reply, 503, "the server is stopping; ask again in 5 s.", "overloaded_error")
                assert reply.headers["Retry-After"] == "5"
            assert server.send("GET", "/healthz").status == 200
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            for i, asked in enumerate(whole):
                reply = asked.result(60)
                assert reply.status == 200
                assert reply.body["choices"][0]["message"]["duration_s"] == pytest.approx(
                    (5 + i) / 5
                )  # its own video's answer
            for i, chunks in enumerate(streamed):
                *_, last, done = chunks.result(60)
                assert done == "[DONE]" and last["choices"][0]["duration_s"] == pytest.approx((8 + i) / 5)
        assert server.wait() == 0
    assert not list(tmp_path.glob("timeexpert-serve-*")) and "Traceback" not in server.log


def test_an_idle_server_ends_at_the_first_signal(model_folder: Path, tmp_path: Path) -> None:
    with process(tmp_path, model_folder, limits={"stop_timeout_s": 600.0}) as server:
        assert server.send("GET", "/readyz").status == 200
        with socket.create_connection(server.address):  # a connection that asks nothing holds nobody up
            server.terminate()
            assert server.wait() == 0
    assert not list(tmp_path.glob("timeexpert-serve-*"))


def test_what_is_not_answered_in_time_is_refused_and_the_exit_is_clean(
    model_folder: Path, video: Path, tmp_path: Path
) -> None:
    with process(tmp_path, model_folder, limits={"stop_timeout_s": 1.0, "decode_workers": 1}) as server:
        hold_decoders(server, video.read_bytes())
        body = question(videos(tmp_path, 1)[0])
        with socket.create_connection(server.address, timeout=60) as slow, ThreadPoolExecutor(2) as clients:
            slow.sendall(head("Content-Type: application/json", "Content-Length: 1000") + b"{")  # never goes on
            asked, streamed = clients.submit(server.ask, body), clients.submit(server.ask, {**body, "stream": True})
            until(lambda: in_hand(server, 2))
            server.terminate()
            for reply in (asked.result(60), streamed.result(60)):
                refused(reply, 503, "the server is stopping; ask again in 5 s.", "overloaded_error")
                assert reply.headers["Retry-After"] == "5"
        assert server.wait() == 0
    assert not list(tmp_path.glob("timeexpert-serve-*"))


def test_a_second_signal_ends_at_once(model_folder: Path, video: Path, tmp_path: Path) -> None:
    with process(tmp_path, model_folder, limits={"stop_timeout_s": 600.0}) as server:
        hold_decoders(server, video.read_bytes())
        workers = server.workers()
        body = json.dumps(question(videos(tmp_path, 1)[0])).encode()
        lost: list[Any] = []

        def ask() -> None:
            try:
                lost.append(server.fetch("POST", "/v1/chat/completions", body))
            except OSError as error:
                lost.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: in_hand(server, 1))
        server.terminate()
        until(lambda: server.send("GET", "/readyz").status == 503)
        assert server.running.poll() is None  # one signal waits
        server.terminate()
        assert server.wait() == 128 + signal.SIGTERM
        asking.join(60)
        assert isinstance(lost[0], OSError)
        until(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers))
    assert not list(tmp_path.glob("timeexpert-serve-*"))  # no video stays behind
