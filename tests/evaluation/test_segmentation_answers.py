"""Action segmentation from events and from words: label sets, nearest labels, what counts as unmatched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from timeexpert.data.records import Sample
from timeexpert.evaluation.errors import EvaluationError
from timeexpert.evaluation.records import Answer, Told
from timeexpert.evaluation.runner import choose, flat, scored_task
from timeexpert.evaluation.segmentation_answers import segmentations
from timeexpert.evaluation.tasks import score_task, task_named
from timeexpert.tokenization import Event, EventSequence
from timeexpert.tokenization.answer_lines import answer_lines

CLASSES = ["place the red circle", "turn the blue square", "push the green cross left"]
STEPS = (Event(0, 4, text="place the red circle"), Event(4, 8, text="Turn the blue square."))


def sample(steps: tuple[Event, ...] = STEPS, **meta: Any) -> Sample:
    return Sample(
        id="a",
        video="a.mp4",
        task="action_segmentation",
        prompt="?",
        events=EventSequence(steps),
        duration_s=10.0,
        meta={"classes": CLASSES} | meta,
    )


def figures(told: Told | None, asked: Sample | None = None) -> dict[str, Any]:
    scores = score_task(task_named("action_segmentation"), [asked or sample()], [told])
    return {**scores.figures(), **scores.counts, "notes": list(scores.notes)}


def test_words_are_scored_as_the_events_they_say() -> None:
    told = Told.of(Answer(EventSequence(STEPS)))
    in_words = Told(text=answer_lines("action_segmentation", STEPS), from_text=True)
    assert figures(told) == figures(in_words)
    found = figures(told)
    assert (found["accuracy"], found["edit"], found["f1_0.5"]) == (100, 100, 100)
    assert (found["texts"], found["nearest_texts"], found["unmatched_texts"]) == (2, 0, 0)


def test_a_label_that_no_video_has_is_not_mapped_to_one_that_it_has() -> None:
    # Without its label set the second step would be nearest to "turn the blue square" (3 of 5 words), and right.
    told = Told(segments_s=((0, 4), (4, 8)), texts=("place the red circle", "push the green cross left"))
    assert figures(told)["f1_0.25"] == 50
    odd = Told(segments_s=((0, 4), (4, 8)), texts=("placing the red circle", "dance"))
    found = figures(odd)
    assert (found["f1_0.25"], found["nearest_texts"], found["unmatched_texts"]) == (50, 1, 1)
    assert found["notes"] == ["1 of 2 texts (50.0 %) are no class, such as ['dance']."]


def test_samples_without_a_label_set_share_the_actions_of_their_truths() -> None:
    plain = replace(sample(), meta={})
    other = replace(plain, id="b", events=EventSequence((Event(0, 4, text="dance"),)))
    found = segmentations([plain, other, sample()], [None, None, None])
    assert list(found.classes) == [("Turn the blue square.", "dance", "place the red circle"), tuple(CLASSES)]
    assert found.truth["b"].names == ("dance", "background")


def test_truth_outside_its_label_set_is_refused() -> None:
    with pytest.raises(EvaluationError, match=r"a: action 'dance' is not in the video's label set \(meta.classes\)"):
        figures(None, sample((Event(0, 1, text="dance"),)))
    with pytest.raises(EvaluationError, match="a: truth must hold events that all have times"):
        figures(None, sample((Event(text="dance"),)))


def test_an_answer_that_is_missing_or_did_not_parse_scores_nothing() -> None:
    for told, parsed in ((None, 0), (Told(text="no idea", from_text=True), 0), (Told(), 1)):
        found = figures(told)
        assert (found["f1_0.1"], found["edit"], found["parsed"]) == (0, 0, parsed)


def test_a_run_scores_it_beside_the_other_tasks() -> None:
    samples = choose([sample()], None)
    answers = [Answer(EventSequence(STEPS))]
    assert samples and flat({"action_segmentation": scored_task("action_segmentation", samples, answers)}, answers)[
        "action_segmentation"
    ]["f1_0.25"] == pytest.approx(100)
