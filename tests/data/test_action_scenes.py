"""Made-up videos of steps: what is asked is what is drawn, and nothing but the frames tells it."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from timeexpert.cli import main
from timeexpert.data.action_scenes import action_questions, label_set, make_action_scene
from timeexpert.data.action_steps import step_problems
from timeexpert.data.records import read_samples
from timeexpert.data.scenes import COLOURS, SHAPES, SynthConfig
from timeexpert.data.synthetic import render, synthesise
from timeexpert.errors import UserError

LONG = SynthConfig(
    actions=12, min_duration_s=60, max_duration_s=120, min_events=8, max_events=14, min_event_s=4, max_event_s=7
)


def test_the_label_set_has_different_labels_over_all_colours_and_shapes() -> None:
    labels = label_set(24)
    assert len({label for label, *_ in labels}) == 24
    assert len({(colour, shape) for _, colour, shape, _ in labels}) == 24
    assert {colour for _, colour, *_ in labels[:6]} == set(COLOURS)
    assert {shape for _, _, shape, _ in labels[:6]} == set(SHAPES)
    assert not [label for label in labels if label[2:] == ("circle", "rotate")]
    assert label_set(5) == labels[:5]


def test_steps_follow_one_another_inside_the_video_with_labels_of_the_set() -> None:
    labels = {label for label, *_ in label_set(12)}
    for index in range(60):
        scene = make_action_scene(LONG, index)
        assert 60 <= scene.duration_s <= 120.5 and 8 <= len(scene.events) <= 14
        assert all(4 <= round(e.end_s - e.start_s, 1) <= 7 and e.end_s <= scene.duration_s + 1e-6 for e in scene.events)
        assert all(a.end_s <= b.start_s and a.label != b.label for a, b in itertools.pairwise(scene.events))
        assert {e.label for e in scene.events} <= labels
        (sample, *moments) = action_questions(scene, LONG)
        assert not list(step_problems(sample.events.events, sample.meta["classes"]))
        assert [e.text for e in sample.events] == [e.label for e in scene.events]
        once = [label for label, n in Counter(e.label for e in scene.events).items() if n == 1]
        assert [m.events[0].text for m in moments] == once
        assert all(label in moment.prompt for label, moment in zip(once, moments, strict=True))


def test_labels_and_times_cannot_be_known_without_looking() -> None:
    scenes = [make_action_scene(LONG, index) for index in range(300)]
    first = Counter(scene.events[0].label for scene in scenes)
    assert len(first) == 12 and max(first.values()) < 300 / 12 * 2
    follows = Counter(
        b.label for s in scenes for a, b in itertools.pairwise(s.events) if a.label == scenes[0].events[0].label
    )
    assert len(follows) == 11 and max(follows.values()) < 2 * sum(follows.values()) / 11
    shares = np.array([scene.events[4].start_s / scene.duration_s for scene in scenes])
    assert shares.std() > 0.08  # where the fifth step begins


def test_a_shape_of_its_colour_is_on_screen_during_each_step_alone() -> None:
    scene = make_action_scene(replace(LONG, frame_rates=(2,), sizes=((64, 64),)), 3)
    frames = np.stack(list(render(scene))).astype(int)
    for event in scene.events:
        colour = np.array(COLOURS[event.colour])
        pixels = (np.abs(frames - colour).max(-1) < 40).sum((1, 2))
        inside = [i for i in range(len(frames)) if event.start_s <= i / 2 <= event.end_s]
        assert pixels[inside].min() > 20
        others = [
            i for i in range(len(frames)) if all(e.colour != event.colour or not e.visible(i / 2) for e in scene.events)
        ]
        assert pixels[others].max(initial=0) < 20


def test_the_same_seed_gives_the_same_scene_and_tasks_choose_the_questions() -> None:
    assert make_action_scene(LONG, 5) == make_action_scene(LONG, 5) != make_action_scene(replace(LONG, seed=1), 5)
    alone = replace(LONG, tasks=("action_segmentation",))
    assert [s.task for s in action_questions(make_action_scene(alone, 0), alone)] == ["action_segmentation"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"actions": 1}, r"actions \(1\) is the size of a label set, 2 to 24"),
        ({"actions": 25}, r"actions \(25\) is the size of a label set"),
        ({"images": True}, "actions and images are both set"),
        ({"persistent": 0.5}, "actions and persistent are both set"),
        ({"max_events": 61}, r"events \(8 to 61\) must be between 1 and 60"),
        (
            {"max_event_s": 9.0},
            r"8 steps \(min_events\) of 9 s \(max_event_s\) do not fit into the shortest video \(60 s\)",
        ),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(LONG, **changes)


def test_a_folder_made_before_there_were_actions_is_gone_on_with(tmp_path: Path) -> None:
    config = SynthConfig(videos=1, images=True, min_events=1)
    list(synthesise(config, tmp_path))
    settings = json.loads((tmp_path / "synth.json").read_text())
    del settings["actions"]
    (tmp_path / "synth.json").write_text(json.dumps(settings))
    assert list(synthesise(config, tmp_path)) == [1]


def test_the_command_makes_videos_of_steps_that_validate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    short = ["--min-duration-s", "12", "--max-duration-s", "14", "--max-event-s", "4", "--min-event-s", "3"]
    assert main(["data", "synth", "-o", str(out), "--videos", "1", "--actions", "4", *short, "--min-events", "2"]) == 0
    samples = [sample for _, sample in read_samples(out / "samples.jsonl")]
    assert samples[0].task == "action_segmentation" and len(samples[0].meta["classes"]) == 4
    assert main(["data", "validate", str(out / "samples.jsonl"), "--media", str(out / "media")]) == 0
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    first, second = rows[0]["events"][:2]
    broken = [
        {**rows[0], "id": "a", "events": [second, first]},
        {**rows[0], "id": "b", "events": [first, {**second, "start_s": first["start_s"] + 1}]},
        {**rows[0], "id": "c", "events": [{**first, "text": "place the red circl"}]},
        {**rows[0], "id": "d", "events": [{**first, "end_s": 99.0}]},
        {**rows[0], "id": "e", "events": [{**first, "start_s": None, "end_s": None}]},
        {**rows[0], "id": "f", "meta": {"classes": "many"}},
    ]
    (tmp_path / "broken.jsonl").write_text("".join(json.dumps(row) + "\n" for row in broken))
    capsys.readouterr()
    assert main(["data", "validate", str(tmp_path / "broken.jsonl"), "--json"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    for problem, words in zip(
        problems,
        [
            "broken.jsonl:1: events[1] starts at",
            "before the step ahead of it ends",
            "action 'place the red circl' is not in the label set of 4. Did you mean 'place the red circle'?",
            "events[0].end_s (99.0) is past duration_s",
            "has no start and end; a step of a video has both",
            "meta.classes ('many') must be a list of action names",
        ],
        strict=True,
    ):
        assert words in problem
