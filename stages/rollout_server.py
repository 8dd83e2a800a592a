"""Answers from a vLLM server: the questions and their frames go to it, drawn tokens come back.

The protocol is vLLM's own (its OpenAI-compatible server): chat completions with ``n`` answers, frames as
``data:video/jpeg``, ``return_token_ids`` for the tokens themselves, because text that is tokenized again may give other
ones. Weights go through a folder: they are written where the server loaded its own, and ``/collective_rpc`` with
``reload_weights`` makes it read them again, then ``/reset_prefix_cache`` forgets what the old ones left.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from timeexpert.data.batch import Frames, pixels_of
from timeexpert.data.endpoint import BadReply, EndpointError, RequestFailed, key_from, send
from timeexpert.errors import UserError
from timeexpert.model.decoding import Writing
from timeexpert.predict import Predictor, Request

from .rl_config import RlConfig, RolloutServerConfig

MOST_BYTES = 2**28  # of one reply: tokens of a group of long answers with their log-probabilities
JPEG_QUALITY = 95
# Nothing but the temperature shapes what is drawn. vLLM takes what a request leaves out from generation_config.json.
PLAIN_SAMPLING = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


class RolloutServerError(UserError):
    """A server that cannot draw answers."""


class RolloutServer:
    """One vLLM server. Raises :class:`RolloutServerError` where it is no use, ``EndpointError`` without its key."""

    def __init__(self, config: RolloutServerConfig) -> None:
        self.config, self.endpoint = config, config.endpoint
        self._key = key_from(config.key_env)
        self._path = urlsplit(config.url).path.rstrip("/")

    def renew_weights(self, save: Callable[[Path], Any]) -> None:
        """Have ``save`` write a model folder, and the server read it."""
        folder = Path(self.config.weights)
        fresh = folder / ".next"
        try:
            fresh.mkdir(parents=True, exist_ok=True)
            save(fresh)
            for file in sorted(fresh.iterdir()):
                os.replace(file, folder / file.name)
            fresh.rmdir()
        except OSError as error:
            raise RolloutServerError(
                f"rollouts.weights ({self.config.weights}): the server's weights cannot be written there: "
                f"{error.strerror or error}. Make it a folder with room for the model that this process may write, "
                "then run the same command again: it continues from the last checkpoint."
            ) from None
        self._post("/collective_rpc", {"method": "reload_weights"}, lambda data: None)
        self._post("/reset_prefix_cache", {}, lambda data: None)

    def draw(
        self, predictor: Predictor, requests: Sequence[Request], settings: RlConfig, seeds: Sequence[int]
    ) -> list[list[Writing]]:
        """``group_size`` answers to each request, as :func:`timeexpert.stages.rollouts.draw_answers` gives them.

        ``seeds``: one per request, which the server draws with.
        """

        def group(place: int) -> list[Writing]:
            return self._group(predictor, requests[place], settings, seeds[place])

        with ThreadPoolExecutor(self.config.concurrency) as pool:
            return list(pool.map(group, range(len(requests))))

    def _group(self, predictor: Predictor, request: Request, settings: RlConfig, seed: int) -> list[Writing]:
        budget = predictor.budget(request)
        video = {"type": "video_url", "video_url": {"url": _as_jpegs(request.clip.frames)}}
        body = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": [video, {"type": "text", "text": request.prompt}]}],
            "n": settings.group_size,
            "temperature": settings.temperature,
            **PLAIN_SAMPLING,
            "max_tokens": budget.max_tokens,
            "seed": seed,
            "logprobs": True,
            "return_token_ids": True,
        }
        answers = self._post(f"{self._path}/chat/completions", body, lambda data: _answers(data, settings.group_size))
        grammar, prompt_ids = predictor.answering.grammar(request, budget), predictor.prompt_ids(request)[0]
        plain, writings = predictor.answering.plain, []
        for tokens, logprobs in answers:
            strange = [t for t in tokens if not (t == grammar.eos_id or (0 <= t < len(plain) and bool(plain[t])))]
            if strange or not tokens or len(tokens) > budget.max_tokens:
                what = f"token {strange[0]}" if strange else f"{len(tokens)} tokens"
                raise RolloutServerError(
                    f"{self.config.url}: an answer of {self.config.model!r} has {what}, which this model does not "
                    f"write (1 to {budget.max_tokens} of {len(plain)} pieces). Start the server from the folder "
                    f"rollouts.weights ({self.config.weights}), with its tokenizer."
                )
            writings.append(Writing(grammar, prompt_ids, None, tokens, logprobs))  # type: ignore[arg-type]
        return writings

    def _post(self, path: str, body: dict[str, Any], read: Callable[[bytes], Any]) -> Any:
        if path.startswith("/collective") or path.startswith("/reset"):
            path = self._path.removesuffix("/v1") + path
        try:
            return send(self.endpoint, self._key, path, json.dumps(body).encode(), read, MOST_BYTES)[0]
        except (RequestFailed, EndpointError) as error:
            reason = str(error).removeprefix(f"{self.config.url}: ").replace("base_url", "url").rstrip(".")
            raise RolloutServerError(
                f"{self.config.url}: {path} failed: {reason}. Look at the server, then run the same command again: it "
                "continues from the last checkpoint. It needs vLLM 0.10.2 or newer and VLLM_SERVER_DEV_MODE=1 "
                "(docs/rl.md)."
            ) from None


def _as_jpegs(frames: Frames) -> str:
    """Frames, uint8 [n, H, W, 3] or (n, 3, H, W), as vLLM takes a video that is sampled already."""
    from PIL import Image

    pictures = []
    for frame in pixels_of(frames):
        jpeg = BytesIO()
        Image.fromarray(frame).save(jpeg, "JPEG", quality=JPEG_QUALITY)
        pictures.append(base64.b64encode(jpeg.getvalue()).decode())
    return "data:video/jpeg;base64," + ",".join(pictures)


def _answers(data: bytes, count: int) -> list[tuple[list[int], list[float]]]:
    """(tokens, their log-probabilities) of each choice."""
    try:
        choices = json.loads(data)["choices"]
        found = [(c["token_ids"], [float(row["logprob"]) for row in c["logprobs"]["content"]]) for c in choices]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise BadReply(f"not a chat completion with token_ids and logprobs: {type(error).__name__}: {error}") from None
    for tokens, logprobs in found:
        numbers = isinstance(tokens, list) and all(type(t) is int for t in tokens)
        if not numbers or len(tokens) != len(logprobs) or not all(isfinite(p) for p in logprobs):
            raise BadReply("token_ids and logprobs of an answer do not go together")
    if len(found) != count:
        raise BadReply(f"{len(found)} answers in place of {count}")
    return found
