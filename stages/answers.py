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
from timeexpert.evaluation.loom_samples import joined, prompts_of
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
        asked: list[list[Request] | Answer] = []
        for sample in samples:
            i = where[sample.id]
            try:
                read = predictor.reader.read(
                    dataset.video_key(i), partial(dataset.media, i), predictor.config.num_frames
                )
                clip = Clip(*read)
                requests = [Request(clip, *prompt) for prompt in prompts_of(sample)]
                for request in requests:
                    predictor.prompt_ids(request)  # a frame time or a prompt that cannot be written
                asked.append(requests)
            except UserError as error:
                asked.append(Answer(None, error=str(error)))
        decoded = perf_counter()
        every = [request for one in asked if isinstance(one, list) for request in one]
        told = iter(predictor.answer(every, noise_seed=noise_seed))
        decode_s, generate_s = decoded - begin, perf_counter() - decoded
        whole = [one if isinstance(one, Answer) else joined([_as_answer(next(told)) for _ in one]) for one in asked]
        return [replace(a, batch=len(samples), decode_s=decode_s, generate_s=generate_s) for a in whole]

    return ask


def _as_answer(prediction: Prediction) -> Answer:
    row = prediction.to_json()
    return Answer(
        prediction.events,
        row["problems"],
        row["frame_times_s"],
        row["duration_s"],
        text=prediction.text,
        tracks=prediction.tracks,
    )


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
