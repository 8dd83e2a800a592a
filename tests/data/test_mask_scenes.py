"""Made-up videos with masks: what is drawn, what the masks say, and what is asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from timeexpert.config import ConfigError
from timeexpert.data.mask_scenes import make_mask_scene, mask_questions
from timeexpert.data.mask_wordings import default_mask_wordings, load_mask_wordings
from timeexpert.data.records import Sample, read_samples
from timeexpert.data.scenes import COLOURS, MASKED_ACTIONS, Scene, ShapeEvent, SynthConfig
from timeexpert.data.synthetic import DOT, render, shape_tracks, synthesise
from timeexpert.data.video import Video
from timeexpert.errors import UserError

SHORT = {"min_duration_s": 6.0, "max_duration_s": 8.0, "min_event_s": 1.5, "max_event_s": 2.5, "seed": 5}
CONFIG = SynthConfig(masks=True, videos=3, **SHORT)


def square(colour: str, x: float, action: str = "grow", **changes) -> ShapeEvent:
    return replace(ShapeEvent(colour, "square", action, 1.0, 2.0, x, 0.5, 0.2, 0.2, persistent=True), **changes)


def test_a_mask_is_the_pixels_of_its_colour_and_what_lies_in_front_is_cut_out():
    scene = Scene("s", 3.0, 2, 40, 60, (square("red", 0.4), square("white", 0.5), square("blue", 0.9)), 1)
    red, white, blue = shape_tracks(scene)
    for i, picture in enumerate(render(scene)):
        for track, colour in ((red, "red"), (white, "white"), (blue, "blue")):
            assert np.array_equal(track.mask(i), (picture == COLOURS[colour]).all(-1))
    assert red.times_s == (0.0, 0.5, 1.0, 1.5, 2.0, 2.5) and red.size == (40, 60)
    assert 0 < red.mask(0).sum() < white.mask(0).sum()  # white is drawn later, over red
    assert (red.object_id, white.object_id) == ("red square", "white square")


def test_a_dot_is_inside_the_mask_and_there_for_the_event_alone():
    scene = Scene("s", 3.0, 2, 40, 60, (square("red", 0.5, "dot"),), 1)
    (track,) = shape_tracks(scene)
    dots = [(picture == DOT).all(-1) for picture in render(scene)]
    assert [bool(dot.any()) for dot in dots] == [False, False, True, True, True, False]  # 1.0, 1.5 and 2.0 s
    assert all(not (dot & ~track.mask(i)).any() for i, dot in enumerate(dots))


def test_a_shape_that_comes_late_is_not_visible_before():
    scene = Scene("s", 3.0, 2, 40, 60, (square("red", 0.5, seen_s=(0.9, np.inf)),), 1)
    (track,) = shape_tracks(scene)
    assert [rle is None for rle in track.rles] == [True, True, False, False, False, False]


def test_a_scene_follows_from_its_seed_and_its_shapes_are_seen_outside_their_events():
    scenes = [make_mask_scene(CONFIG, i) for i in range(20)]
    assert scenes[7] == make_mask_scene(CONFIG, 7) and scenes[7] != scenes[8]
    assert scenes[7] != make_mask_scene(replace(CONFIG, seed=6), 7)
    for scene in scenes:
        assert len({event.name for event in scene.events}) == len(scene.events) >= 2
        for event, track in zip(scene.events, shape_tracks(scene), strict=True):
            inside = [event.start_s <= t <= event.end_s for t in track.times_s]
            assert any(rle for rle, within in zip(track.rles, inside, strict=True) if not within)
            assert all(rle for rle, within in zip(track.rles, inside, strict=True) if within)


def test_every_shape_is_asked_when_where_both_and_over_the_whole_video():
    scene = make_mask_scene(CONFIG, 0)
    tracks = shape_tracks(scene)
    samples = mask_questions(scene, CONFIG, tracks)
    assert len(samples) == 4 * len(scene.events) and len({s.id for s in samples}) == len(samples)
    for shape, track, (when, where, both, whole) in zip(
        scene.events, tracks, zip(*[iter(samples)] * 4, strict=True), strict=True
    ):
        span, does = (shape.start_s, shape.end_s), MASKED_ACTIONS[shape.action]
        assert [s.meta.get("question_kind") for s in (when, where, both, whole)] == ["when", "where", "combined", None]
        assert (when.task, when.tracks, when.events[0].times_s) == ("moment_retrieval", (), span)
        for sample in (where, both, whole):
            assert (sample.task, sample.tracks) == ("referring_segmentation", (track,))
        assert where.events[0].times_s == both.events[0].times_s == span and whole.events[0].times_s == ()
        assert str(shape.start_s) in where.prompt and str(shape.end_s) in where.prompt
        assert not any(c.isdigit() for c in when.prompt + both.prompt + whole.prompt)
        assert does[0] in both.prompt and both.events[0].text == f"{shape.name} while it {does[0]}"


@pytest.mark.parametrize("task", ["moment_retrieval", "referring_segmentation"])
def test_questions_of_one_task_can_be_asked_alone(task):
    scene = make_mask_scene(CONFIG, 0)
    both = mask_questions(scene, CONFIG, shape_tracks(scene))
    one = mask_questions(scene, replace(CONFIG, tasks=(task,)), shape_tracks(scene))
    assert [(s.prompt, s.events) for s in one] == [(s.prompt, s.events) for s in both if s.task == task] and one


def test_questions_are_asked_in_the_words_of_a_file(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("extends: data/mask_questions\ncombined: ['Mark the {name} for as long as it {verbs}.']\n")
    scene = make_mask_scene(CONFIG, 0)
    own, ours = (
        mask_questions(scene, config, shape_tracks(scene))
        for config in (replace(CONFIG, wordings=load_mask_wordings(file)), CONFIG)
    )
    verbs = MASKED_ACTIONS[scene.events[0].action][0]
    name = scene.events[0].name
    assert own[2].prompt == f"Mark the {name} for as long as it {verbs}." == own[2].meta["prompts"]["where"]
    assert own[2].meta["prompts"]["when"] == ours[2].meta["prompts"]["when"]
    assert [s.prompt for s in own[:2]] == [s.prompt for s in ours[:2]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("when: []", "when is empty; write at least one question, or leave the key"),
        ("when: ['When does it {verb}?']", r"when\[0\] .*holds \{name\} 0 times; questions of when must hold it once"),
        ("when: ['{name}?']", r"holds \{verb\} or \{verbs\} 0 times"),
        ("when: ['{name} {verb} {verbs}?']", r"holds \{verb\} or \{verbs\} 2 times"),
        ("when: ['{name} {verb} at {start}?']", r"holds \{start\}; questions of when must not say it"),
        ("where: ['{name} from {start}?']", r"where\[0\] .*holds \{end\} 0 times"),
        ("whole: ['{nam}?']", r"has the placeholder \{nam\}; there are \{name\}, .*Did you mean 'name'\?"),
        ("whole: ['{name} {']", r"has a brace that belongs to no placeholder"),
        ("whole: ['{name}', '{name}']", r"whole\[1\] \('\{name\}'\) is there twice"),
        ("hole: ['{name}']", "unknown key 'hole'. Did you mean 'whole'"),
    ],
)
def test_wordings_that_cannot_be_asked_are_refused_with_their_file(text, words, tmp_path):
    (tmp_path / "own.yaml").write_text(f"extends: data/mask_questions\n{text}\n")
    with pytest.raises(ConfigError, match=f"own.yaml, which extends .*mask_questions.yaml: .*{words}"):
        load_mask_wordings(tmp_path / "own.yaml")


def test_only_the_named_actions_are_done():
    config = replace(CONFIG, does=("dot", "rotate"), max_events=4)
    events = [event for i in range(10) for event in make_mask_scene(config, i).events]
    assert {event.action for event in events} == {"dot", "rotate"}
    assert not any(event.action == "rotate" and event.shape == "circle" for event in events)


def test_the_masks_of_a_folder_fit_its_videos(tmp_path):
    assert list(synthesise(CONFIG, tmp_path)) == [1, 2, 3]
    samples = [s for _, s in read_samples(tmp_path / "samples.jsonl") if isinstance(s, Sample) and s.tracks]
    assert {s.video for s in samples} == {f"masks-005-{i:05d}.mp4" for i in range(3)}
    for sample in samples:
        with Video.open(tmp_path / "media" / sample.video) as video:
            frames, times_s = video.all_frames()
        (track,) = sample.tracks
        assert track.size == frames.shape[1:3] and np.allclose(track.times_s, times_s, atol=1e-3)
        colour = np.array(COLOURS[track.object_id.split()[0]])
        inside = frames[0][track.mask(0)].astype(float)
        assert not len(inside) or np.abs(np.median(inside, axis=0) - colour).max() < 30  # lossy, but the same shape


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"persistent": 0.5}, "masks and persistent are both set"),
        ({"actions": 3}, "masks and actions are both set"),
        ({"does": ("dance",)}, "does: 'dance' is not one of left, right, grow"),
        ({"does": ("dot",), "masks": False}, r"does \(\['dot'\]\) is for videos with masks"),
        ({"wordings": default_mask_wordings(), "masks": False}, "wordings are of questions about videos with masks"),
        ({"max_events": 5}, r"max_events \(5\) must be at most 4 with masks"),
        ({"tasks": ("general",)}, r"tasks \(\['general'\]\): videos with masks need moment_retrieval or"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        replace(CONFIG, **changes)
