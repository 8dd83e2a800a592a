"""The worker pool: results in order, and neither a crash nor a hang of one task stops the others."""

import os
import signal
import sys
import time

import pytest

from timeexpert.data.pool import Failed, WorkerPool, workers_or_default
from timeexpert.errors import UserError


def work(what: str, value: int) -> int | bytes:
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "exit":
        os._exit(3)
    if what == "hang":
        time.sleep(600)
    if what == "refuse":
        raise UserError(f"clip{value}.mp4: empty")
    if what == "bloat":
        return bytes(value << 20)
    if what == "bug":
        raise KeyError("codec")
    time.sleep(value / 100)
    return value


def test_results_come_in_the_order_of_the_tasks():
    with WorkerPool(work, workers=3, timeout_s=60) as pool:
        assert list(pool.map(("sleep", n) for n in (9, 1, 5, 0, 3, 2, 7))) == [9, 1, 5, 0, 3, 2, 7]


def test_a_crash_a_hang_and_an_error_each_give_a_reason_and_the_rest_go_on():
    tasks = [("ok", 1), ("crash", 0), ("refuse", 7), ("exit", 0), ("bug", 0), ("ok", 2)]
    with WorkerPool(work, workers=1, timeout_s=60) as pool:
        assert list(pool.map(tasks)) == [
            1,
            Failed("crashed the worker (SIGSEGV)"),
            Failed("clip7.mp4: empty"),
            Failed("crashed the worker (exit 3)"),
            Failed("unexpected KeyError: 'codec'"),
            2,
        ]


def test_a_task_that_takes_too_long_is_stopped():
    with WorkerPool(work, workers=1, timeout_s=4) as pool:
        assert list(pool.map([("hang", 0), ("ok", 4)])) == [Failed("took longer than 4 s"), 4]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is RLIMIT_AS of Linux")
def test_a_task_that_takes_too_much_memory_fails_and_the_next_one_does_not():
    # 60 MiB fit; their copy, on its way back, does not
    tasks = [("bloat", 1), ("bloat", 500), ("bloat", 1), ("bloat", 60), ("ok", 2)]
    with WorkerPool(work, workers=1, timeout_s=60, max_memory_bytes=100 << 20) as pool:
        small, too_much, after, copied, last = pool.map(tasks)
    assert small == after == bytes(1 << 20) and last == 2
    assert too_much == copied == Failed("needs more than 100 MiB of memory")
    assert too_much.kind == copied.kind == "memory"


def test_as_finished_a_task_that_hangs_holds_up_none_but_itself():
    with WorkerPool(work, workers=2, timeout_s=60) as pool:
        results = pool.as_finished([("hang", 0), *(("ok", n) for n in range(1, 12))])
        assert [next(results) for _ in range(11)] == [(n, n) for n in range(1, 12)]


def test_as_finished_gives_every_task_once_with_its_failures():
    tasks = [("ok", 9), ("crash", 0), ("refuse", 7), ("ok", 2)]
    with WorkerPool(work, workers=2, timeout_s=60) as pool:
        found = dict(pool.as_finished(tasks))
    assert found == {0: 9, 1: Failed("crashed the worker (SIGSEGV)"), 2: Failed("clip7.mp4: empty"), 3: 2}
    assert (found[1].kind, found[2].kind) == ("crash", "refused")


def test_tasks_are_read_only_a_little_ahead():
    asked = []

    def tasks():
        for n in range(1000):
            asked.append(n)
            yield "ok", n

    with WorkerPool(work, workers=1, timeout_s=60) as pool:
        next(pool.map(tasks()))
    assert len(asked) <= 5


def test_leaving_the_pool_ends_its_processes():
    with WorkerPool(work, workers=2, timeout_s=60) as pool:
        assert next(pool.map([("ok", 1), ("hang", 0)])) == 1
        processes = [w.process for w in pool._workers if w.process is not None]
    assert len(processes) == 2 and not any(p.is_alive() for p in processes)


@pytest.mark.parametrize(
    ("options", "words"),
    [((0, 1), r"workers \(0\)"), ((1, 0), r"timeout_s \(0\)"), ((1, 1, 0), r"max_memory_bytes \(0\)")],
)
def test_a_pool_without_workers_or_time_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        WorkerPool(work, *options)


def test_without_a_number_there_is_a_worker_per_core_that_may_be_used_up_to_eight(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert workers_or_default(None) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert workers_or_default(None) == 8
    assert workers_or_default(20) == 20
    assert workers_or_default(0) == 0  # WorkerPool refuses it, with its name
