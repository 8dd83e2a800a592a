"""Labelled MP4s made by us: coloured shapes that appear, move, grow, shrink and rotate.

Every video is a real file, encoded by a real codec at one of several frame rates and sizes; the questions
cover all task types, and the ground truth (times, captions, saliency, labels, masks) is exact. The same seed gives
the same files.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.records import Sample, write_samples
from timeexpert.errors import UserError

from .action_scenes import action_questions, make_action_scene
from .mask_scenes import make_mask_scene, mask_questions
from .scene_questions import questions
from .scenes import COLOURS, Scene, ShapeEvent, SynthConfig, make_scene

SETTINGS = "synth.json"  # what a folder of videos was made from
DOT = (10, 10, 10)


def _outline(event: ShapeEvent, time_s: float, height: int, width: int) -> list[tuple[float, float]]:
    side = min(height, width)
    radius = event.radius_at(time_s) * side
    shift = {"left": -1.0, "right": 1.0}.get(event.action, 0.0) * 0.3 * (event.phase(time_s) - 0.5)
    cx, cy = (event.x + shift) * width, event.y * height
    turn = math.pi * event.phase(time_s) * 1.5 if event.action == "rotate" else 0.0
    if event.shape == "circle":
        points = [(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 24, endpoint=False)]
    elif event.shape == "square":
        points = [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    elif event.shape == "triangle":
        points = [(0.0, -1.0), (0.95, 0.8), (-0.95, 0.8)]
    else:
        a = 0.33
        points = [
            (-a, -1),
            (a, -1),
            (a, -a),
            (1, -a),
            (1, a),
            (a, a),
            (a, 1),
            (-a, 1),
            (-a, a),
            (-1, a),
            (-1, -a),
            (-a, -a),
        ]
    cos, sin = math.cos(turn), math.sin(turn)
    return [(cx + radius * (px * cos - py * sin), cy + radius * (px * sin + py * cos)) for px, py in points]


def render(scene: Scene) -> Iterator[np.ndarray]:
    """The frames of a scene: uint8 [H, W, 3], frame i at time i / fps."""
    rng = np.random.default_rng(scene.seed + 1)
    base = rng.integers(15, 75, size=(2, 3))
    ramp = np.linspace(0, 1, scene.width)[None, :, None]
    ground = np.broadcast_to(base[0] * (1 - ramp) + base[1] * ramp, (scene.height, scene.width, 3))
    ground = np.clip(ground + rng.normal(0, 3, ground.shape), 0, 255).astype(np.uint8)
    for i in range(round(scene.duration_s * scene.fps)):
        time_s = i / scene.fps
        image = Image.fromarray(ground)
        draw = ImageDraw.Draw(image)
        for event in scene.events:
            if event.visible(time_s):
                outline = _outline(event, time_s, scene.height, scene.width)
                draw.polygon(outline, fill=COLOURS[event.colour])
                if event.action == "dot" and event.start_s <= time_s <= event.end_s:
                    draw.ellipse(_dot(outline, event.radius_at(time_s) * min(scene.height, scene.width)), fill=DOT)
        yield np.asarray(image)


def shape_tracks(scene: Scene) -> list[MaskTrack]:
    """The masks of each shape of a scene in every frame: the pixels that :func:`render` draws of it and no later shape
    covers."""
    times_s = [i / scene.fps for i in range(round(scene.duration_s * scene.fps))]
    masks: list[list[np.ndarray]] = [[] for _ in scene.events]
    for time_s in times_s:
        image = Image.new("L", (scene.width, scene.height))
        draw = ImageDraw.Draw(image)
        for number, event in enumerate(scene.events, 1):
            if event.visible(time_s):
                draw.polygon(_outline(event, time_s, scene.height, scene.width), fill=number)
        labels = np.asarray(image)
        for number, frames in enumerate(masks, 1):
            frames.append(labels == number)
    return [MaskTrack.from_masks(m, times_s, event.name) for m, event in zip(masks, scene.events, strict=True)]


def _dot(outline: list[tuple[float, float]], radius: float) -> tuple[float, float, float, float]:
    """The box of a dot in the middle of a shape, small enough to lie inside every kind of it."""
    cx, cy = (sum(point[axis] for point in outline) / len(outline) for axis in (0, 1))
    size = 0.3 * radius
    return cx - size, cy - size, cx + size, cy + size


def encode(scene: Scene, path: Path) -> None:
    """Write a scene as H.264 in MP4, through a temporary file so that a half-written clip is never left."""
    import av

    temporary = path.with_suffix(".part")
    with av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(scene.fps, 1))
        stream.width, stream.height, stream.pix_fmt = scene.width, scene.height, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "20", "threads": "1", "g": "48"}
        for image in render(scene):
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    os.replace(temporary, path)


def _make(job: tuple[SynthConfig, int, str]) -> list[Sample]:
    config, index, media = job
    make = make_action_scene if config.actions else make_mask_scene if config.masks else make_scene
    scene = make(config, index)
    path = Path(media) / f"{scene.name}.mp4"
    if not path.is_file():
        encode(scene, path)
    if config.masks:
        return mask_questions(scene, config, shape_tracks(scene))
    return action_questions(scene, config) if config.actions else questions(scene, config)


def synthesise(config: SynthConfig, out: Path, *, workers: int = 1) -> Iterator[int]:
    """Make ``out/media/*.mp4`` and ``out/samples.jsonl``; yields the number of videos done so far.

    A second call with the same config continues where a killed one stopped; with another config it raises
    :class:`UserError`.
    """
    check_synthesised(config, out)
    media = out / "media"
    media.mkdir(parents=True, exist_ok=True)
    settings, wanted = out / SETTINGS, _settings(config)
    settings.with_suffix(".part").write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    os.replace(settings.with_suffix(".part"), settings)
    jobs = [(config, i, str(media)) for i in range(config.videos)]
    samples: list[Sample] = []
    done = 0
    if workers <= 1:
        for job in jobs:
            samples += _make(job)
            done += 1
            yield done
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for made in pool.map(_make, jobs, chunksize=8):
                samples += made
                done += 1
                yield done
    temporary = out / "samples.jsonl.part"
    write_samples(temporary, samples)
    os.replace(temporary, out / "samples.jsonl")


def check_synthesised(config: SynthConfig, out: Path) -> None:
    """Raise :class:`UserError` when ``out`` holds videos of another configuration."""
    settings = out / SETTINGS
    if not settings.is_file():
        return
    made = _json(settings)
    if isinstance(made, dict):
        made = _settings(SynthConfig()) | made  # a setting that did not exist then had what is now its default
    if made != _settings(config):
        raise UserError(
            f"{settings}: this folder holds videos of another configuration. Use another folder or remove it."
        )


def _settings(config: SynthConfig) -> dict[str, object]:
    return json.loads(json.dumps(asdict(config)))


def _json(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
