"""Made-up videos: what their annotations say is what is on the screen, once encoded and decoded again."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.media import write_video
from timeexpert.data.clips import mix_in_clips
from timeexpert.data.records import Sample
from timeexpert.data.scene_questions import clip_scores, questions
from timeexpert.data.scenes import (
    COLOURS,
    MAX_RADIUS,
    MIN_RADIUS,
    ORDINALS,
    SIZES,
    Scene,
    ShapeEvent,
    SynthConfig,
    make_scene,
)
from timeexpert.data.synthetic import encode, synthesise
from timeexpert.data.video import Video
from timeexpert.errors import UserError

SHORT = SynthConfig(
    videos=2, seed=5, min_duration_s=6, max_duration_s=8, min_event_s=2, max_event_s=4, frame_rates=(5,)
)


def decoded(scene: Scene, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frames (float) and their times, of the encoded file."""
    encode(scene, folder / "scene.mp4")
    with Video.open(folder / "scene.mp4") as video:
        frames, times_s = video.all_frames(None)
    return frames.astype(float), times_s


def pixels_of(event: ShapeEvent, frames: np.ndarray) -> np.ndarray:
    """How many pixels of each frame have the event's colour (up to what the codec does to it)."""
    return (np.abs(frames - np.array(COLOURS[event.colour])).max(-1) < 45).sum((1, 2))


@pytest.mark.parametrize("index", range(4))
def test_a_shape_is_on_screen_during_its_event_and_at_no_other_time(index: int, tmp_path: Path) -> None:
    scene = make_scene(replace(SHORT, min_events=1, max_events=1), index)
    (event,) = scene.events
    frames, times_s = decoded(scene, tmp_path)
    assert len(frames) == round(scene.duration_s * scene.fps)
    assert times_s == pytest.approx(np.arange(len(frames)) / scene.fps)
    shown = (times_s >= event.start_s) & (times_s <= event.end_s)
    least = 0.25 * (MIN_RADIUS * min(scene.height, scene.width)) ** 2
    assert (pixels_of(event, frames)[shown] > least).all()
    assert (pixels_of(event, frames)[~shown] == 0).all()
    assert 0 < shown.sum() < len(shown)


@pytest.mark.parametrize(("action", "sign"), [("grow", 1), ("shrink", -1)])
def test_growing_shapes_grow_and_shrinking_ones_shrink_and_saliency_says_how_large(
    action: str, sign: int, tmp_path: Path
) -> None:
    radii = (MIN_RADIUS, MAX_RADIUS)[::sign]
    event = ShapeEvent("red", "circle", action, 1.0, 5.0, 0.5, 0.5, *radii)
    frames, times_s = decoded(Scene("s", 6.0, 5, 64, 64, (event,), 0), tmp_path)
    sizes = {t: int(n) for t, n in zip(times_s.round(2), pixels_of(event, frames), strict=True)}
    small, large = (math.pi * (r * 64) ** 2 for r in (MIN_RADIUS, MAX_RADIUS))
    ends = [sizes[1.0], sizes[5.0]][::sign]
    assert ends[0] == pytest.approx(small, rel=0.35) and ends[1] == pytest.approx(large, rel=0.25)
    assert [event.saliency_at(t) for t in (1.0, 3.0, 5.0)][::sign] == [1.0, 3.0, 5.0]
    # 2-s clips have their centres at 1, 3 and 5 s; all lie inside the event
    assert clip_scores(event, 6.0) == [(1.0, 3.0 - 2 * sign), (3.0, 3.0), (5.0, 3.0 + 2 * sign)]


@pytest.mark.parametrize(("action", "sign"), [("left", -1), ("right", 1)])
def test_shapes_move_where_their_caption_says(action: str, sign: int, tmp_path: Path) -> None:
    event = ShapeEvent("green", "square", action, 1.0, 5.0, 0.5, 0.5, 0.15, 0.15)
    frames, times_s = decoded(Scene("s", 6.0, 5, 64, 64, (event,), 0), tmp_path)
    near = np.abs(frames - np.array(COLOURS["green"])).max(-1) < 45
    x = [float(np.nonzero(near[i])[1].mean()) for i in np.flatnonzero((times_s >= 1) & (times_s <= 5))]
    assert sign * (x[-1] - x[0]) == pytest.approx(0.3 * 64, abs=2)
    assert (sign * np.diff(x) > -0.5).all()


def test_persistent_shapes_are_always_there_and_act_during_their_event_only(tmp_path: Path) -> None:
    event = ShapeEvent("red", "circle", "grow", 2.0, 4.0, 0.5, 0.5, MIN_RADIUS, MAX_RADIUS, persistent=True)
    frames, times_s = decoded(Scene("s", 6.0, 5, 64, 64, (event,), 0), tmp_path)
    sizes = pixels_of(event, frames)
    before, after = sizes[times_s < 2], sizes[times_s > 4]
    assert before.min() > 0.6 * before.max() > 0 and after.min() > 0.9 * after.max()
    assert after.min() > 2 * before.max()


def test_questions_are_about_what_happens_and_inside_the_video() -> None:
    for index in range(20):
        scene = make_scene(SHORT, index)
        samples = questions(scene, SHORT)
        assert len({s.id for s in samples}) == len(samples)
        moments = [s for s in samples if s.task == "moment_retrieval"]
        assert [s.events.segments_s[0] for s in moments] == [(e.start_s, e.end_s) for e in scene.events]
        (dense,) = (s for s in samples if s.task == "dense_captioning")
        assert [e.text for e in dense.events] == [e.caption for e in scene.events]
        assert list(dense.events.segments_s) == sorted(dense.events.segments_s)
        for s in samples:
            assert s.duration_s == scene.duration_s
            # ends are written in tenths, so one may be rounded up past a last frame between two tenths
            assert all(0 <= e.start_s < e.end_s <= scene.duration_s + 0.05 for e in s.events if len(e.times_s) == 2)
            assert all(1 <= e.scores[0] <= 5 for e in s.events if e.scores)


def test_images_are_clips_of_one_frame_with_questions_that_need_no_time() -> None:
    config = replace(SHORT, images=True)
    scene = make_scene(config, 0)
    assert round(scene.duration_s * scene.fps) == 1
    samples = questions(scene, config)
    assert {s.task for s in samples} == {"general"}
    assert all(event.start_s is None for s in samples for event in s.events)


SLIDES = replace(SHORT, slides=True, min_duration_s=4.0, max_duration_s=8.0, min_events=3, max_events=6)


def test_each_shape_of_a_slide_show_is_on_the_one_picture_that_the_answers_name() -> None:
    for index in range(20):
        scene = make_scene(SLIDES, index)
        assert scene.fps == 1
        assert 4 <= scene.duration_s <= 8
        pictures = range(int(scene.duration_s))
        shown = [[e.name for e in scene.events if e.visible(float(p))] for p in pictures]
        assert sorted(name for names in shown for name in names) == sorted(e.name for e in scene.events)
        asked = {s.prompt: s.events.events[0].text for s in questions(scene, SLIDES) if s.task == "general"}
        for p, names in enumerate(shown):
            for name in names:
                assert asked[f"Which picture shows the {name}?"] == ORDINALS[p]
            assert asked.get(f"What is on the {ORDINALS[p]} picture?", "") == ", ".join(names)


@pytest.mark.parametrize("kind", [{"images": True, "max_events": 3}, {"slides": True, "max_duration_s": 10.0}])
def test_pictures_of_every_size_ask_for_it(kind: dict[str, object]) -> None:
    config = replace(SHORT, min_duration_s=4.0, every_size=True, **kind)
    said: dict[str, list[float]] = {}
    for index in range(60):
        scene = make_scene(config, index)
        asked = {s.prompt: s.events.events[0].text for s in questions(scene, config)}
        for event in scene.events:
            said.setdefault(asked[f"How large is the {event.name}?"], []).append(event.radius_at(0.0))
            # a fifth of the range of radii is a step of 0.8 of a highlight's scores from 1 to 5
            assert abs(1 + 0.8 * (SIZES.index(event.size) + 0.5) - saliency_of(event.radius)) <= 0.65
    assert sorted(said, key=lambda word: max(said[word])) == list(SIZES)
    ranges = [(min(said[word]), max(said[word])) for word in SIZES]
    assert all(low[1] <= high[0] for low, high in itertools.pairwise(ranges))


def saliency_of(radius: float) -> float:
    """The score of a growing shape's moment of this radius."""
    event = ShapeEvent("red", "circle", "grow", 0.0, 1.0, 0.5, 0.5, MIN_RADIUS, MAX_RADIUS)
    return event.saliency_at((radius - MIN_RADIUS) / (MAX_RADIUS - MIN_RADIUS))


def test_the_highlight_of_a_slide_show_is_one_picture_scored_by_size() -> None:
    config = replace(SLIDES, every_size=True, highlight_from=1.0)
    scores = set()
    for index in range(40):
        scene = make_scene(config, index)
        asked = [s for s in questions(scene, config) if s.task == "highlight_detection"]
        assert len(asked) == len(scene.events)
        for sample, event in zip(asked, scene.events, strict=True):
            (point,) = sample.events.events
            assert event.name in sample.prompt and sample.meta["clip_s"] == 1.0
            assert point.start_s == point.end_s == event.start_s and event.visible(point.start_s)
            assert point.scores == (saliency_of(event.radius),)
            scores.add(point.scores[0])
    assert scores == {1 + n / 2 for n in range(9)}


def test_shapes_of_every_size_in_videos_grow_by_any_amount() -> None:
    config = replace(SHORT, every_size=True, highlight_from=1.0)
    first_scores: dict[str, set[float]] = {}
    for index in range(80):
        for event in make_scene(config, index).events:
            first_scores.setdefault(event.action, set()).add(event.saliency_at(event.start_s))
            assert (
                MIN_RADIUS <= min(event.radius, event.end_radius) <= max(event.radius, event.end_radius) <= MAX_RADIUS
            )
            growth = event.end_radius - event.radius
            if event.action in ("grow", "shrink"):
                assert (growth if event.action == "grow" else -growth) >= 0.05
            else:
                assert growth == 0
    assert all(len(scores) >= 4 for scores in first_scores.values())  # what it does no longer tells the score


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": True}, "images and slides are both set"),
        ({"max_duration_s": 10.5}, r"max_duration_s \(10.5\) is more than 10 s"),
    ],
)
def test_slide_shows_that_cannot_be(change: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(SLIDES, **change)


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth")
    assert list(synthesise(SHORT, out)) == [1, 2]
    return out


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(made: Path, tmp_path: Path) -> None:
    assert list(synthesise(SHORT, tmp_path / "two", workers=2)) == [1, 2]
    assert folder_bytes(tmp_path / "two") == folder_bytes(made)
    assert make_scene(replace(SHORT, seed=6), 0) != make_scene(SHORT, 0)


def test_what_was_cut_off_half_way_is_finished_by_the_same_call(made: Path, tmp_path: Path) -> None:
    steps = synthesise(SHORT, tmp_path)
    assert next(steps) == 1
    steps.close()  # killed after the first video
    first = next((tmp_path / "media").glob("*.mp4"))
    before = first.stat().st_mtime_ns
    (tmp_path / "media" / "video-005-00001.part").write_bytes(b"half a video")
    assert not (tmp_path / "samples.jsonl").exists()
    assert list(synthesise(SHORT, tmp_path)) == [1, 2]
    assert folder_bytes(tmp_path) == folder_bytes(made)
    assert first.stat().st_mtime_ns == before  # not made again


@pytest.mark.parametrize("settings", ['{"videos": 3}', '{"videos": 2, "se', ""])
def test_a_folder_of_another_configuration_is_refused(settings: str, tmp_path: Path) -> None:
    (tmp_path / "synth.json").write_text(settings)
    with pytest.raises(UserError, match=r"synth.json: this folder holds videos of another configuration. Use another"):
        next(synthesise(SHORT, tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": -1}, r"seed \(-1\) must be 0 or more"),
        ({"videos": 0}, r"videos \(0\) must be 1 or more"),
        ({"min_events": 3, "max_events": 2}, r"events \(3 to 2\) must be between 1 and 6, smallest first"),
        ({"max_events": 7}, r"events \(2 to 7\) must be between 1 and 6"),
        (
            {"min_duration_s": 9.0, "max_duration_s": 8.0},
            r"durations \(9.0 to 8.0 s\) must be positive, smallest first",
        ),
        ({"max_duration_s": float("inf")}, r"durations \(6 to inf s\) must be .* at most 3600 s"),
        ({"max_duration_s": float("nan")}, r"durations \(6 to nan s\) must be"),
        ({"min_event_s": 0.1}, r"event lengths \(0.1 to 4 s\) must be 0.2 s or more"),
        ({"max_event_s": 7.0}, r"event lengths \(2 to 7.0 s\) .* no longer than the shortest video \(6 s\)"),
        ({"min_event_s": 4.6, "max_event_s": 5.0}, r"min_event_s \(4.6\) must be at most 0.75 of the"),
        ({"highlight_from": 0.0}, r"highlight_from \(0.0\) is a score, between 1 and 5"),
        ({"persistent": 1.5}, r"persistent \(1.5\) is a share of the events, between 0 and 1"),
        ({"frame_rates": ()}, r"frame_rates \(\[\]\) must list rates between 1 and 120"),
        ({"sizes": ((64, 63),)}, r"sizes .* must list heights and widths that are even, 16 to 2048"),
        ({"tasks": ("moments",)}, r"tasks: 'moments' is not one of general, dense_captioning"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(SHORT, **changes)


def test_the_shortest_event_still_has_a_length() -> None:
    config = SynthConfig(
        seed=1, min_duration_s=0.3, max_duration_s=0.9, min_event_s=0.2, max_event_s=0.2, frame_rates=(8,)
    )
    assert all(e.start_s < e.end_s for i in range(300) for e in make_scene(config, i).events)


def clips_folder(folder: Path, *rows: dict[str, Any]) -> Path:
    write_video(folder / "clips" / "a.mp4", 10, 5)
    row = {"video": "a.mp4", "duration": 2.0, "events": [{"start": 0, "end": 1, "caption": "noise"}]}
    lines = [json.dumps(r) + "\n" for r in (row, *rows)]
    (folder / "clips" / "annotations.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder / "clips"


def test_clips_of_a_folder_are_mixed_in_once(tmp_path: Path) -> None:
    out, clips = tmp_path / "out", clips_folder(tmp_path)
    list(synthesise(SHORT, out))
    before = (out / "samples.jsonl").read_text().splitlines()
    assert mix_in_clips(clips, out) == (2, [])
    assert mix_in_clips(clips, out) == (0, [])
    lines = (out / "samples.jsonl").read_text().splitlines()
    assert lines[: len(before)] == before
    added = [Sample.from_json(json.loads(line)) for line in lines[len(before) :]]
    assert [(s.task, s.video, s.duration_s) for s in added] == [
        ("dense_captioning", "clips/a.mp4", 2.0),
        ("moment_retrieval", "clips/a.mp4", 2.0),
    ]
    assert (out / "media" / "clips" / "a.mp4").read_bytes() == (clips / "a.mp4").read_bytes()


def test_clips_that_are_missing_broken_or_outside_are_left_out_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    event = {"start": 0, "end": 1, "caption": "x"}
    clips = clips_folder(
        tmp_path,
        {"video": "b.mp4", "duration": 2.0, "events": [event]},
        {"video": "../secret.mp4", "duration": 2.0, "events": [event]},
        {"video": "link.mp4", "duration": 2.0, "events": [event]},
        {"video": "a.mp4", "duration": 2.0, "events": [{"start": 1, "end": 0, "caption": "x"}]},
    )
    (clips / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    out = tmp_path / "out"
    list(synthesise(SHORT, out))
    taken, left_out = mix_in_clips(clips, out)
    assert taken == 2
    for name in ("b.mp4 is not a file inside", "'../secret.mp4'", "link.mp4 is not a file inside"):
        assert any(name in reason for reason in left_out), left_out
    assert len(left_out) >= 4
    assert b"secret" not in folder_bytes(out / "media").values()
    with pytest.raises(UserError, match="annotations.jsonl: no such file. --clips needs a folder with clips and an"):
        mix_in_clips(tmp_path, out)


def test_real_clips_are_mixed_in(shared: Path, tmp_path: Path) -> None:
    if not (shared / "videos" / "annotations.jsonl").is_file():
        pytest.skip(f"{shared / 'videos'} holds no annotations.jsonl")
    list(synthesise(replace(SHORT, videos=1), tmp_path))
    taken, left_out = mix_in_clips(shared / "videos", tmp_path)
    clips = [json.loads(line) for line in (shared / "videos" / "annotations.jsonl").read_text().splitlines()]
    assert left_out == []
    assert taken >= len(clips)
    assert {p.name for p in (tmp_path / "media" / "clips").iterdir()} == {c["video"] for c in clips}
