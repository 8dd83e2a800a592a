"""Reinforcement learning of a family that answers in words, and answers that a server draws."""

from __future__ import annotations

import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from tests.data.chat_server import ChatServer, Reply, serving
from tests.families.conftest import TINY, make, settings, words
from tests.tiny import STAGE, config_tree, rows, run_config, train
from timeexpert.config import ConfigError
from timeexpert.data.endpoint import BadReply, EndpointError
from timeexpert.parallel import OneProcess
from timeexpert.predict import load_model
from timeexpert.stages.rl import GrpoObjective, dropouts_of
from timeexpert.stages.rl_config import RolloutServerConfig
from timeexpert.stages.rollout_server import RolloutServer, RolloutServerError, _answers
from timeexpert.stages.run_folder import RunError, RunFolder
from timeexpert.tokenization.text import SentencePieceText, load_text

__all__ = ["words"]  # a fixture

MODEL = {k: v for k, v in asdict(settings(initializer_range=0.05)).items() if k not in ("pretrained", "attention")}
MODEL["qformer"] = {**MODEL["qformer"], "dropout": 0.5}
TASKS = ["moment_retrieval"]
TUNING = {
    **STAGE,
    "name": "tuning",
    "kind": "from_scratch",
    "steps": 2,
    "tasks": TASKS,
    "num_frames": [4],
    "evaluate": False,
}
RL: dict[str, Any] = {
    "answers": "thinking",
    "rewards": {"format_timestamps": 1, "segment_matching": 1},
    "prompt": "{question} Think within <think> and </think>, then list times within <answer> and </answer>.",
    "group_size": 4,
    "max_new_tokens": 64,
}
# all of it: a language model without LoRA is frozen otherwise
PHASE = {**TUNING, "name": "phase1", "kind": "rl", "steps": 2, "trains": ["projection", "llm"], "sampling": "uniform"}


def changes(data: Path, *stages: dict[str, Any]) -> dict[str, Any]:
    tree = config_tree(data)
    held_out = {"num_frames": 4, "batch_size": 8, "max_new_tokens": 24}
    return {"model": MODEL, "text": {"vocab_size": 420}, "stages": [TUNING, *stages], "eval": held_out} | {
        "train": {**tree["train"], "checkpoint_every": 1}
    }


@pytest.mark.parametrize("answers", ["events", "thinking"])
def test_words_are_drawn_rewarded_and_optimised_without_dropout(tiny_data: Path, tmp_path: Path, answers: str) -> None:
    rewards = {"format": 1, "segment_matching": 1}
    phase = {**PHASE, "rl": {**RL, "answers": answers, "rewards": rewards, "max_new_tokens": 12}}
    train(run_config(tiny_data, **changes(tiny_data, phase)), tmp_path)
    steps = [row for row in rows(tmp_path / "metrics.jsonl", "train") if row["stage"] == "phase1"]
    assert len(steps) == 2 and all(row["logprob_gap"] < 1e-4 for row in steps)
    told = [answer for row in rows(tmp_path / "rollouts.jsonl") for answer in row["answers"]]
    assert len(told) == 2 * 2 * 4 and all(("text" in answer) == (answers == "thinking") for answer in told)
    assert all(
        row["prompt"].startswith("W") and "<think>" in row["prompt"] for row in rows(tmp_path / "rollouts.jsonl")
    )
    speed = [row for row in rows(tmp_path / "speed.jsonl", "speed") if row["stage"] == "phase1"]
    assert all(0 < row["seconds"]["writing"] < row["seconds"]["data"] for row in speed)


def test_dropout_is_off_in_a_phase_and_on_again_behind_it(words: SentencePieceText) -> None:
    model = make(words, qformer=replace(TINY["qformer"], dropout=0.5))
    shares = [share for _, _, share in dropouts_of(model)]
    assert 0.5 in shares
    stage = run_config(Path(), **changes(Path(), {**PHASE, "rl": RL})).stages[1]
    device = torch.device("cpu")
    aim = GrpoObjective(stage, model, words, [], 0, OneProcess(), device, nullcontext, lambda row: None)
    assert {share for _, _, share in dropouts_of(model)} == {0.0}
    aim.close()
    assert [share for _, _, share in dropouts_of(model)] == shares


def test_shares_that_attention_and_recurrent_layers_keep_as_numbers_are_dropouts_too() -> None:
    vision = SiglipVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=4,
        patch_size=4,
        attention_dropout=0.25,
        vision_use_head=False,
    )
    layers = [SiglipVisionModel(vision), nn.LSTM(2, 2, 2, dropout=0.5), nn.MultiheadAttention(2, 1, dropout=0.75)]
    found = {share for _, _, share in dropouts_of(nn.ModuleList(layers))}
    assert {0.25, 0.5, 0.75} <= found


def letters(text: Any, words: str) -> list[int]:
    return [*text.encode(words), text.eos_id]


@contextmanager
def vllm(folder: Path, weights: list[Any], pictures: list[int], *answers: str) -> Iterator[ChatServer]:
    """A server that speaks vLLM's protocol: it reads its folder when told to, and writes ``answers`` in turn."""

    def reply(number: int, request: dict[str, Any]) -> Reply:
        path, headers = server.paths[number], {"Content-Type": "application/json"}
        if path == "/collective_rpc":
            assert request == {"method": "reload_weights"}
            weights.append(load_file(folder / "model.safetensors"))
            load_model(folder)
            return 200, headers, b'{"results": [null]}'
        if path == "/reset_prefix_cache":
            return 200, headers, b""
        assert path == "/v1/chat/completions" and request["return_token_ids"] and request["logprobs"]
        video, question = request["messages"][0]["content"]
        kind, *jpegs = video["video_url"]["url"].split(",")
        assert kind == "data:video/jpeg;base64" and question["type"] == "text"
        pictures.append(len([read_picture(jpeg) for jpeg in jpegs]))
        text, choices = load_text(folder), []
        for i in range(request["n"]):
            tokens = letters(text, answers[i % len(answers)])
            content = [{"token": str(token), "logprob": -1.0} for token in tokens]
            choices.append({"index": i, "token_ids": tokens, "logprobs": {"content": content}, "finish_reason": "stop"})
        return 200, headers, json.dumps({"choices": choices}).encode()

    with serving(reply) as server:
        yield server


def read_picture(jpeg: str) -> tuple[int, int]:
    from PIL import Image

    return Image.open(BytesIO(b64decode(jpeg))).size


GOOD = "<think>from 1.0 to 2.0</think><answer>1.00-2.00</answer>"
BAD = "<think></think><answer></answer>"


def test_a_server_draws_the_answers_with_the_weights_of_now(tiny_data: Path, tmp_path: Path) -> None:
    folder, weights, pictures = tmp_path / "weights", [], []
    with vllm(folder, weights, pictures, GOOD, BAD) as server:
        where = {"url": server.base_url, "model": "tiny", "weights": str(folder)}
        phase = {**PHASE, "rl": {**RL, "rollouts": where}}
        train(run_config(tiny_data, **changes(tiny_data, phase)), tmp_path / "run")
    assert len(weights) == 2 and pictures == [4] * 4  # two steps of two questions of four frames
    first = load_file(tmp_path / "run" / "models" / "tuning" / "model.safetensors")
    assert all(weights[0][name].equal(first[name]) for name in first)
    assert any(not weights[1][name].equal(first[name]) for name in first)
    asked = [request for request in server.requests if "messages" in request]
    assert all((r["n"], r["temperature"], r["max_tokens"]) == (4, 0.9, 64) for r in asked)
    # what a server takes from the model's generation_config.json where a request does not say it
    unchanged = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert all(unchanged.items() <= request.items() for request in asked)
    assert len({request["seed"] for request in asked}) == 4
    for row in rows(tmp_path / "run" / "rollouts.jsonl"):
        good, bad, *_ = row["answers"]
        assert good["text"] == GOOD and good["rewards"]["format_timestamps"] == 1.0
        assert bad["text"] == BAD and bad["rewards"] == {"format_timestamps": 0.2, "segment_matching": 0.0}
        assert good["advantage"] > 0 > bad["advantage"]
    steps = [row for row in rows(tmp_path / "run" / "metrics.jsonl", "train") if row["stage"] == "phase1"]
    assert steps[0]["logprob_gap"] > 0 and steps[0]["grad_norm"] > 0


def test_a_server_that_is_no_use_is_named(tiny_data: Path, tmp_path: Path) -> None:
    def with_server(url: str) -> Any:
        where = {"url": url, "model": "tiny", "weights": str(tmp_path / "weights")}
        return run_config(tiny_data, **changes(tiny_data, {**PHASE, "steps": 1, "rl": {**RL, "rollouts": where}}))

    with vllm(tmp_path / "weights", [], [], "x" * 200) as server:
        with pytest.raises(RolloutServerError, match=r"an answer of 'tiny' has \d+ tokens, which .* rollouts.weights"):
            train(with_server(server.base_url), tmp_path / "strange")
    not_found = (404, {}, b"no such path")
    with serving(lambda number, request: not_found) as server:
        with pytest.raises(
            RolloutServerError, match="/collective_rpc failed: HTTP 404: no such path.*VLLM_SERVER_DEV_"
        ):
            train(with_server(server.base_url), tmp_path / "run")
    (tmp_path / "weights").rename(tmp_path / "other")
    (tmp_path / "weights").write_text("", encoding="utf-8")
    with pytest.raises(RolloutServerError, match=r"rollouts.weights \(.*\): the server's weights cannot be written"):
        train(with_server("http://localhost:9/v1"), tmp_path / "again")


def test_a_run_goes_on_with_a_server_elsewhere_but_not_with_another_model_or_none(tmp_path: Path) -> None:
    where = {"url": "http://localhost:9/v1", "model": "tiny", "weights": "w"}

    def settle(rollouts: dict[str, Any] | None) -> None:
        phase = {**PHASE, "rl": {**RL, "rollouts": rollouts}}
        RunFolder(tmp_path).settle(run_config(tmp_path, **changes(tmp_path, phase)))

    settle(where)
    elsewhere = {"url": "http://other:8/v1", "weights": "x", "key_env": "KEY", "timeout_s": 9.0, "concurrency": 2}
    settle({**where, **elsewhere})
    with pytest.raises(RunError, match=r"stages.phase1.rl.rollouts.model was 'tiny', is 'large'\. Give"):
        settle({**where, "model": "large"})
    with pytest.raises(RunError, match=r"stages.phase1.rl.rollouts.model was 'tiny', is None\. Give"):
        settle(None)


def test_a_key_that_is_not_there_is_missed_before_anything_is_trained(tiny_data: Path, tmp_path: Path) -> None:
    where = {"url": "http://localhost:9/v1", "model": "tiny", "weights": "w", "key_env": "NO_SUCH_KEY_OF_A_SERVER"}
    config = run_config(tiny_data, **changes(tiny_data, {**PHASE, "rl": {**RL, "rollouts": where}}))
    with pytest.raises(EndpointError, match=r"key_env \('NO_SUCH_KEY_OF_A_SERVER'\): this environment variable is not"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "models").exists()


ONE = {"token_ids": [5], "logprobs": {"content": [{"logprob": -1.0}]}}


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"choices": null}',
        b'{"choices": {"a": 1}}',
        json.dumps({"choices": []}).encode(),
        json.dumps({"choices": [ONE, ONE]}).encode(),
        *(
            json.dumps({"choices": [{**ONE, **other}]}).encode()
            for other in (
                {"token_ids": None},
                {"token_ids": "5"},
                {"token_ids": [True]},
                {"token_ids": [5.0]},
                {"token_ids": [5, 6]},
                {"logprobs": None},
                {"logprobs": {"content": [{"logprob": None}]}},
                {"logprobs": {"content": [{"logprob": "x"}]}},
                {"logprobs": {"content": [{"logprob": float("-inf")}]}},
                {"logprobs": {"content": [{"logprob": -(10**400)}]}},
            )
        ),
    ],
)
def test_a_reply_that_makes_no_sense_is_a_bad_reply(reply: bytes) -> None:
    assert _answers(json.dumps({"choices": [ONE]}).encode(), 1) == [([5], [-1.0])]
    with pytest.raises(BadReply):
        _answers(reply, 1)


def test_a_server_that_keeps_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timeexpert.data.endpoint.time.sleep", lambda seconds: None)
    silence = threading.Event()

    def wait(number: int, request: dict[str, Any]) -> Reply:
        silence.wait(60)
        return 200, {}, b""

    with serving(wait) as server:
        config = RolloutServerConfig(url=server.base_url, model="m", weights=str(tmp_path), timeout_s=0.05)
        try:
            with pytest.raises(
                RolloutServerError, match=r"/collective_rpc failed: BadReply: took longer than 0.05 s \(tried 5 times\)"
            ):
                RolloutServer(config).renew_weights(lambda folder: None)
        finally:
            silence.set()


@pytest.mark.parametrize(
    ("model", "rl", "words"),
    [
        (
            {},
            {**RL, "rollouts": {"url": "http://x:1", "model": "m", "weights": "w"}},
            r"url \('http://x:1'\) must end in",
        ),
        (
            {},
            {**RL, "rollouts": {"url": "ftp://x/v1", "model": "m", "weights": "w"}},
            r"stages\[1\].rl.rollouts: url \('ftp://x/v1'\) must be http",
        ),
        (
            {},
            {**RL, "rollouts": {"url": "http://x/v1", "model": "m", "weights": "w", "concurrency": 0}},
            r"concurrency \(0\) must be between 1 and",
        ),
        (
            {},
            {**RL, "rollouts": {"url": "http://x/v1", "model": "m", "weights": "w", "timeout_s": 0}},
            r"timeout_s \(0.0\) must be above 0",
        ),
        (
            {"pretrained": "some/folder"},
            {**RL, "rollouts": {"url": "http://x/v1", "model": "m", "weights": "some/../some/folder/"}},
            r"stages.phase1.rl.rollouts.weights \(some/../some/folder/\) is model.pretrained, and would be",
        ),
        ({}, {**RL, "answers": "events"}, "'format_timestamps' reads an answer's thinking, and answers is 'events'"),
        (
            None,
            {"answers": "thinking"},
            r"stages.phase1.rl.answers \('thinking'\) is for families that answer in words",
        ),
        (
            None,
            {"rollouts": {"url": "http://x/v1", "model": "m", "weights": "w"}},
            "stages.phase1.rl.rollouts is for fam",
        ),
    ],
)
def test_what_a_family_or_a_server_cannot_do_is_refused(
    tmp_path: Path, model: dict[str, Any] | None, rl: dict[str, Any], words: str
) -> None:
    own = {"max_new_tokens": 40, **rl}
    tree = changes(tmp_path, {**PHASE, "rl": own})
    tree["model"] = {**MODEL, **(model or {})}
    if model is None:
        stage = {**PHASE, "trains": None, "rl": own}
        tree = {"stages": [stage]}
    with pytest.raises(ConfigError, match=words):
        run_config(tmp_path, **tree)
