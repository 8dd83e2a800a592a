"""Synthetic videos in which one thing happens several times, and the questions about them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from timeexpert.data.scene_questions import questions
from timeexpert.data.scenes import PAUSE_S, SynthConfig, make_scene
from timeexpert.errors import UserError

SEVERAL = SynthConfig(videos=40, seed=3, min_events=1, max_events=2, repeats=3, min_event_s=3.0)


def test_a_moment_that_happens_again_is_one_question_with_all_its_segments() -> None:
    counts = set()
    for index in range(SEVERAL.videos):
        scene = make_scene(SEVERAL, index)
        asked = [s for s in questions(scene, SEVERAL) if s.task == "moment_retrieval"]
        assert len(asked) == len({event.name for event in scene.events})
        for sample in asked:
            segments = sample.events.segments_s
            counts.add(len(segments))
            assert all(end_s + PAUSE_S - 0.11 <= start_s for (_, end_s), (start_s, _) in pairwise(segments))
            assert all(0 <= a < b <= scene.duration_s for a, b in segments)
            assert len({event.text for event in sample.events}) == 1
    assert counts == {1, 2, 3}


def test_general_questions_name_a_shape_once_however_often_it_acts() -> None:
    for index in range(10):
        scene = make_scene(SEVERAL, index)
        (seen,) = [s for s in questions(scene, SEVERAL) if s.prompt == "What is in the video?"]
        assert sorted(seen.events[0].text.split(", ")) == sorted({event.name for event in scene.events})


def test_without_repeats_scenes_are_what_they_were() -> None:
    once = replace(SEVERAL, repeats=1)
    assert all(len({e.name for e in s.events}) == len(s.events) for s in (make_scene(once, i) for i in range(10)))


def test_repeats_that_do_not_fit_into_a_video_are_refused() -> None:
    with pytest.raises(UserError, match=r"repeats \(4\) events of min_event_s \(5.0 s\).*min_duration_s \(20.0 s\)"):
        SynthConfig(repeats=4)
    with pytest.raises(UserError, match=r"repeats \(2\) must be 1 or more, and 1 for images"):
        SynthConfig(images=True, repeats=2)
    with pytest.raises(UserError, match=r"repeats \(2\) must be .* 1 for images, actions and masks"):
        SynthConfig(masks=True, repeats=2)
