"""The endpoint client against a real local server: cached, retried, bounded, and the key goes nowhere else."""

import contextlib
import json
import socket
import threading
import time
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from tests.data.chat_server import completion, serving
from timeexpert.data.endpoint import Answer, Endpoint, EndpointConfig, EndpointError
from timeexpert.errors import UserError


def ask(config, cache, *questions, good=lambda text: True):
    with Endpoint(config, cache) as endpoint:
        answers = list(endpoint.ask(([{"role": "user", "content": q}] for q in questions), good))
    return answers, endpoint.usage


def echo(number, request):
    return completion("re: " + request["messages"][0]["content"])


def config_for(chat, **fields):
    return EndpointConfig(**{"base_url": chat.base_url, "model": "tiny", "backoff_s": 0, "retries": 2} | fields)


def test_the_docs_have_every_setting_with_its_default():
    page = Path(__file__).resolve().parents[3] / "docs" / "filters.md"
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    for field in fields(EndpointConfig):
        (row,) = (row for row in rows if f"`{field.name}`" in row.split("|")[1])
        default = "needed" if field.default is MISSING else "none" if field.default is None else f"{field.default:g}"
        assert row.split("|")[2].strip() == default, field.name


def test_answers_come_in_order_with_tokens_and_cost(tmp_path):
    with serving(echo) as chat:
        prices = {"price_per_million_prompt_tokens": 2.0, "price_per_million_completion_tokens": 10.0}
        answers, usage = ask(config_for(chat, concurrency=3, **prices), tmp_path / "c.jsonl", *"abcdefgh")
    assert [a.text for a in answers] == [f"re: {q}" for q in "abcdefgh"]
    assert chat.paths == ["/v1/chat/completions"] * 8
    assert (usage.requests, usage.prompt_tokens, usage.completion_tokens) == (8, 800, 80)
    assert usage.cost == pytest.approx((800 * 2 + 80 * 10) / 1e6)


def test_a_second_run_asks_nothing_again_also_after_a_kill_in_the_middle_of_a_line(tmp_path):
    cache = tmp_path / "c.jsonl"
    with serving(echo) as chat:
        ask(config_for(chat), cache, "a", "b")
        cache.write_bytes(cache.read_bytes() + b'{"key": "half')
        answers, usage = ask(config_for(chat), cache, "a", "b", "c")
        assert [r["messages"][0]["content"] for r in chat.requests][-1:] + ["b", "a"][:0] == ["c"]
    assert (usage.from_cache, usage.requests) == (2, 1)
    assert [a.text for a in answers] == ["re: a", "re: b", "re: c"]
    assert len([json.loads(line) for line in cache.read_text().splitlines()]) == 3


def test_a_model_has_its_own_answers(tmp_path):
    with serving(echo) as chat:
        ask(config_for(chat), tmp_path / "c.jsonl", "a")
        _, usage = ask(config_for(chat, model="other"), tmp_path / "c.jsonl", "a")
    assert usage.from_cache == 0


def test_errors_malformed_answers_and_answers_without_text_are_tried_again(tmp_path):
    bad = [(429, {"Retry-After": "0"}, b"slow down"), (200, {}, b"{not json"), (503, {}, b"")]
    empty = (200, {}, json.dumps({"choices": [{"message": {"content": None}}]}).encode())
    with serving(lambda n, r: [*bad, empty, echo(n, r)][min(n, 4)]) as chat:
        answers, usage = ask(config_for(chat, retries=4), tmp_path / "c.jsonl", "a")
    assert (answers, usage.retries, len(chat.requests)) == ([Answer("re: a")], 4, 5)


def test_retries_are_bounded_and_one_failure_leaves_the_others(tmp_path):
    def reply(number, request):
        return (500, {}, b"broken") if request["messages"][0]["content"] == "bad" else echo(number, request)

    with serving(reply) as chat:
        answers, usage = ask(config_for(chat, concurrency=1), tmp_path / "c.jsonl", "a", "bad", "b")
    assert [a.text for a in answers] == ["re: a", None, "re: b"]
    assert answers[1].error == "HTTP 500: broken (tried 3 times)"
    assert (usage.failed, len(chat.requests)) == (1, 5)


def test_a_refused_request_is_not_repeated(tmp_path):
    with serving(lambda n, r: (400, {}, b"too long")) as chat:
        answers, usage = ask(config_for(chat), tmp_path / "c.jsonl", "a")
    assert (answers[0].error, len(chat.requests)) == ("HTTP 400: too long", 1)
    assert (usage.failed, usage.retries) == (1, 0)


def test_refused_requests_end_no_run_whose_other_requests_are_answered(tmp_path):
    def reply(number, request):
        return echo(number, request) if request["messages"][0]["content"] in "az" else (400, {}, b"not about this")

    with serving(reply) as chat:
        config = config_for(chat, max_consecutive_failures=3)
        with pytest.raises(EndpointError, match="3 requests in a row.*HTTP 400: not about this.*raise max_consecutive"):
            ask(config, tmp_path / "none.jsonl", *"bcdef")  # of a model that it does not know, say
        for _ in range(2):  # the second time "a" comes from the cache
            answers, usage = ask(config, tmp_path / "c.jsonl", *"abcdefz")
            assert ([a.text for a in answers if a.text], usage.failed) == (["re: a", "re: z"], 5)


def test_a_slow_trickle_ends_at_the_time_limit(tmp_path):
    def reply(number, request):
        status, headers, data = echo(number, request)
        return status, {**headers, "X-Trickle-S": "0.1"}, data

    with serving(reply) as chat:
        answers, _ = ask(config_for(chat, timeout_s=0.4, retries=0), tmp_path / "c.jsonl", "a")
    assert "took longer than 0.4 s" in answers[0].error


@pytest.mark.parametrize(
    "first", [b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;"]
)
def test_a_line_that_does_not_end_ends_at_the_time_limit(tmp_path, first):
    ended = threading.Event()

    def trickle(server):
        with server.accept()[0] as peer:
            peer.sendall(first)
            with contextlib.suppress(OSError):
                while not ended.wait(0.05):
                    peer.sendall(b"a")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=trickle, args=(server,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        config = EndpointConfig(base_url=url, model="m", timeout_s=0.4, retries=0)
        with Endpoint(config, tmp_path / "c.jsonl") as endpoint:
            (answer,) = endpoint.ask([[{"role": "user", "content": "a"}]])
        ended.set()
        thread.join()
    assert "took longer than 0.4 s" in answer.error


def test_a_silent_server_ends_at_the_time_limit(tmp_path):
    with serving(lambda n, r: time.sleep(1.0) or echo(n, r)) as chat:
        answers, _ = ask(config_for(chat, timeout_s=0.3, retries=0), tmp_path / "c.jsonl", "a")
    assert answers[0].text is None and "took longer than 0.3 s" in answers[0].error


def test_an_endless_answer_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr("timeexpert.data.endpoint.MAX_RESPONSE_BYTES", 1000)
    with serving(lambda n, r: completion("x" * 2000)) as chat:
        answers, _ = ask(config_for(chat, retries=0), tmp_path / "c.jsonl", "a")
    assert "more than 1000 bytes" in answers[0].error


def test_a_wrong_key_stops_the_run_and_says_which_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "secret-1")
    with serving(lambda n, r: (401, {}, b"bad key")) as chat:
        with pytest.raises(EndpointError, match="HTTP 401: bad key. Check the key in TEST_KEY"):
            ask(config_for(chat, key_env="TEST_KEY"), tmp_path / "c.jsonl", "a")
    assert chat.headers[0]["Authorization"] == "Bearer secret-1"


def test_the_key_is_written_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "secret-2")
    with serving(echo) as chat:
        ask(config_for(chat, key_env="TEST_KEY"), tmp_path / "c.jsonl", "a")
    assert b"secret-2" not in (tmp_path / "c.jsonl").read_bytes()


def test_a_redirect_is_not_followed(tmp_path):
    with serving(echo) as other, serving(lambda n, r: (307, {"Location": other.base_url}, b"")) as chat:
        with pytest.raises(EndpointError, match="HTTP 307.*Redirects are not followed"):
            ask(config_for(chat), tmp_path / "c.jsonl", "a")
        assert other.requests == []


def test_an_endpoint_that_is_gone_stops_the_run_and_keeps_what_it_has(tmp_path):
    cache = tmp_path / "c.jsonl"
    with serving(echo) as chat:
        config = config_for(chat, retries=0, max_consecutive_failures=3, timeout_s=5)
        ask(config, cache, "a")
    with pytest.raises(EndpointError, match="3 requests in a row without an answer.*run the same command again"):
        ask(config, cache, *"abcdefgh")
    assert len(cache.read_text().splitlines()) == 1


@pytest.mark.parametrize("ends", ["in the endpoint", "in what reads the answers"])
def test_answers_that_come_while_a_run_ends_are_kept(ends, tmp_path):
    asked, late = threading.Barrier(3), threading.Event()

    def reply(number, request):
        question = request["messages"][0]["content"]
        if question == "first":
            return echo(number, request)
        asked.wait(10)  # all three are under way when the run ends
        if question == "refused" and ends == "in the endpoint":
            return 401, {}, b"no"
        late.wait(0.3)
        return (503, {}, b"later") if question == "busy" else echo(number, request)

    with serving(reply) as chat:
        config = config_for(chat, concurrency=3, retries=20, backoff_s=60)
        began = time.monotonic()
        with pytest.raises((EndpointError, KeyError)), Endpoint(config, tmp_path / "c.jsonl") as endpoint:
            messages = ([{"role": "user", "content": q}] for q in ("first", "refused", "slow", "busy"))
            for _ in endpoint.ask(messages):
                if ends == "in what reads the answers":
                    raise KeyError("no column of that name")
    kept = [json.loads(line)["text"] for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    both = ends == "in what reads the answers"
    assert kept == ["re: first", *(["re: refused"] if both else []), "re: slow"]
    assert time.monotonic() - began < 20 and endpoint.usage.requests == len(kept)


def test_a_kept_answer_that_is_no_good_is_asked_for_again_by_the_next_run(tmp_path):
    with serving(echo) as chat:
        ask(config_for(chat), tmp_path / "c.jsonl", "a", "b")  # an earlier version found it good
        for from_cache in (2, 1):
            _, usage = ask(config_for(chat), tmp_path / "c.jsonl", "a", "b", good=lambda text: text != "re: a")
            assert usage.from_cache == from_cache
    assert [r["messages"][0]["content"] for r in chat.requests].count("a") == 2 and len(chat.requests) == 3


def test_an_answer_that_is_no_good_is_not_kept(tmp_path):
    with serving(echo) as chat:
        for _ in range(2):
            answers, usage = ask(config_for(chat), tmp_path / "c.jsonl", "a", good=lambda text: False)
    assert (answers[0].text, usage.from_cache, len(chat.requests)) == ("re: a", 0, 2)


def test_answers_without_usage_leave_the_cost_open(tmp_path):
    reply = json.dumps({"choices": [{"message": {"content": "hi"}}]}).encode()
    prices = {"price_per_million_prompt_tokens": 2.0, "price_per_million_completion_tokens": 10.0}
    with serving(lambda n, r: (200, {}, reply)) as chat:
        _, usage = ask(config_for(chat, **prices), tmp_path / "c.jsonl", "a")
    assert (usage.without_usage, usage.cost) == (1, None)


@pytest.mark.parametrize(
    ("url", "fields", "words"),
    [
        ("ftp://host/v1", {}, "must be http:// or https://"),
        ("http://me:pass@host/v1", {}, "without name, password"),
        ("http://[host/v1", {}, "base_url"),
        ("http://host/v1", {"timeout_s": 0}, r"timeout_s \(0\)"),
        ("http://host/v1", {"concurrency": 0}, r"concurrency \(0\) must be between 1 and 256"),
        ("http://host/v1", {"model": " "}, "model is empty"),
    ],
)
def test_bad_settings_are_refused(url, fields, words):
    with pytest.raises(UserError, match=words):
        EndpointConfig(**{"base_url": url, "model": "m"} | fields)


def test_a_missing_key_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(EndpointError, match="'NO_SUCH_KEY'.*is not set"):
        Endpoint(EndpointConfig(base_url="http://host/v1", model="m", key_env="NO_SUCH_KEY"), tmp_path / "c.jsonl")
