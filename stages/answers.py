"""Answers of a model to the questions of a shard folder, for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

from timeexpert.config import load
from timeexpert.data.records import Sample
from timeexpert.data.shards import ShardDataset
from timeexpert.errors import UserError
from timeexpert.evaluation.records import Answer
from timeexpert.predict import Clip, Prediction, Predictor, Request

from .config import RunConfig

NOISE_SEED = 1234


def answerer(
    predictor: Predictor, dataset: ShardDataset, noise_seed: int | None = None
) -> Callable[[Sequence[Sample]], list[Answer]]:
    """``evaluate``'s question function: reads the clips of a shard folder, as it holds them, and asks ``predictor``.

    Raises ``FeaturesError`` for features that the model's own tower would not make of these frames.
    """
    if (kind := dataset.features) is not None:
        predictor.check_features(kind, predictor.config.num_frames, dataset.path)
    where = {dataset.sample(i).id: i for i in range(len(dataset))}

    def ask(samples: Sequence[Sample]) -> list[Answer]:
        begin = perf_counter()
        answers: list[Answer | None] = []
        requests: list[Request] = []
        for sample in samples:
            i = where[sample.id]
            try:
                read = predictor.reader.read(
                    dataset.video_key(i), partial(dataset.media, i), predictor.config.num_frames
                )
                request = Request(Clip(*read), sample.prompt, sample.task)
                predictor.prompt_ids(request)  # a frame time or a prompt that cannot be written
            except UserError as error:
                answers.append(Answer(None, error=str(error)))
                continue
            requests.append(request)
            answers.append(None)
        decoded = perf_counter()
        told = iter(predictor.answer(requests, noise_seed=noise_seed))
        decode_s, generate_s = decoded - begin, perf_counter() - decoded
        whole = [a if a is not None else _as_answer(next(told)) for a in answers]
        return [replace(a, batch=len(samples), decode_s=decode_s, generate_s=generate_s) for a in whole]

    return ask


def _as_answer(prediction: Prediction) -> Answer:
    row = prediction.to_json()
    return Answer(prediction.events, row["problems"], row["frame_times_s"], row["duration_s"], text=prediction.text)


def run_eval_data(run: Path) -> Path:
    """The held-out shard folder that a run's config names."""
    saved = run / "config.yaml"
    if not saved.is_file():
        raise UserError(f"{run}: no config.yaml, so it names no held-out data. Give a shard folder with --data.")
    config = load(RunConfig, saved)
    if config.data.eval is None:
        raise UserError(f"{saved}: data.eval is not set. Give a shard folder with --data.")
    inside = run / "data" / config.data.eval
    return inside if inside.is_dir() else Path(config.data.root) / config.data.eval
