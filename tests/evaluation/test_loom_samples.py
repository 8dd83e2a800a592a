"""Samples as LoomBench's questions, and tracks as their answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.records import Sample
from timeexpert.evaluation import EvaluationError
from timeexpert.evaluation.loom_samples import answer_of, joined, prompts_of, question_of
from timeexpert.evaluation.records import Answer, Told
from timeexpert.evaluation.runner import choose, score, scored_questions, scored_tasks
from timeexpert.evaluation.track_masks import shown_at
from timeexpert.tokenization import Event, EventSequence


def square(row: int, column: int, side: int = 2, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[row : row + side, column : column + side] = True
    return mask


TRACK = MaskTrack.from_masks([square(0, 0), square(0, 2), np.zeros((8, 8), bool), square(4, 4)], [2.0, 2.5, 3.0, 3.5])


def sample(kind: str, segment: tuple[float, float] | tuple[()] = (2.0, 4.0), **fields: Any) -> Sample:
    given = {"tracks": () if kind == "when" else (TRACK,), "duration_s": 6.0, "prompt": f"{kind}?", **fields}
    return Sample(
        id=kind,
        video="v.mp4",
        task="moment_retrieval" if kind == "when" else "referring_segmentation",
        events=EventSequence((Event(*segment, text="a dog"),)),
        **{"meta": {"question_kind": kind}, **given},
    )


def test_combined_is_asked_twice_and_the_others_once() -> None:
    assert prompts_of(sample("when")) == (("when?", "moment_retrieval"),)
    assert prompts_of(sample("where")) == (("where?", "referring_segmentation"),)
    assert prompts_of(sample("combined")) == (
        ("combined?", "moment_retrieval"),
        ("combined? Please segment.", "referring_segmentation"),
    )
    own = sample("combined", meta={"question_kind": "combined", "prompts": {"when": "a", "where": "b"}})
    assert prompts_of(own) == (("a", "moment_retrieval"), ("b", "referring_segmentation"))


def test_the_two_answers_are_one_with_the_segment_of_the_first_and_the_masks_of_the_second() -> None:
    when = Answer(EventSequence((Event(2, 4),)), frame_times_s=[1.0], duration_s=6.0, text="2 to 4")
    where = Answer(EventSequence((Event(text="it"),)), [{"position": 0, "reason": "odd"}], text="it", tracks=(TRACK,))
    both = joined([when, where])
    assert both.events == when.events and both.tracks == (TRACK,) and both.text == "2 to 4\nit"
    assert both.problems == where.problems and both.duration_s == 6.0
    failed = Answer(None, error="v.mp4: empty")
    assert joined([when]) is when and joined([when, failed]) is failed


def test_a_combined_question_has_the_whole_videos_frames_at_the_tracks_step() -> None:
    where, combined = question_of(sample("where")), question_of(sample("combined"))
    assert where.frame_times_s.tolist() == [2.0, 2.5, 3.0, 3.5]  # type: ignore[union-attr]
    assert combined.frame_times_s.tolist() == [i / 2 for i in range(12)]  # type: ignore[union-attr]
    masks = combined.masks()  # type: ignore[operator, misc]
    assert masks.sum(axis=(1, 2)).tolist() == [0, 0, 0, 0, 4, 4, 0, 4, 0, 0, 0, 0]
    assert (masks[7] == square(4, 4)).all()


def test_where_without_times_is_about_the_whole_track() -> None:
    assert question_of(sample("where", ())).segment_s == (2.0, 3.5)


def test_tracks_are_shown_at_other_times_and_at_another_size() -> None:
    shown = shown_at((TRACK,), np.array([1.7, 1.8, 2.2, 2.6, 3.8]), (16, 24))
    assert shown.shape == (5, 16, 24)
    assert shown.sum(axis=(1, 2)).tolist() == [
        0,
        24,
        24,
        24,
        0,
    ]  # 2x2 of 8x8 is 4x6 of 16x24; half a step outside at most
    assert (shown[2] == np.kron(square(0, 0), np.ones((2, 3), bool))).all()
    small = shown_at((TRACK, MaskTrack.from_masks([square(6, 6)], [2.0])), np.array([2.0]), (4, 4))
    assert small[0].sum() == 2 and small[0][0, 0] and small[0][3, 3]  # objects together


def test_answers_are_scored_by_kind_and_controls_beside_them() -> None:
    samples = [sample("when"), sample("where"), sample("combined")]
    told = Answer(EventSequence((Event(2, 4),)), tracks=(TRACK,))
    figures = score(samples, [told, told, told], scored_tasks(draws_masks=True))
    assert figures["loombench_when"]["r1_0.5"] == 100.0 and figures["moment_retrieval"]["miou"] == 100.0
    assert figures["loombench_where"]["jf"] == 100.0
    assert figures["loombench_combined"]["jf_bi_fore"] == 100.0
    assert figures["loombench_combined_mask_only"]["jf_g"] == 100.0
    assert figures["loombench_combined_time_only"]["jf_bi_fore"] < 20.0
    half = Answer(EventSequence((Event(2, 4),)))  # no masks were drawn
    assert score(samples, [told, half, half], ("loombench_combined",))["loombench_combined"]["parsed"] == 0


def test_an_answer_that_did_not_parse_or_whose_masks_do_not_decode_scores_zero() -> None:
    question = question_of(sample("combined"))
    assert answer_of(Told(segments_s=((2, 4),), tracks=(TRACK,), problem="no end"), question) is None
    broken = MaskTrack((8, 8), (2.0,), ("o",))
    figures = score([sample("where")], [Answer(EventSequence(), tracks=(broken,))], ("loombench_where",))
    assert figures["loombench_where"]["jf"] == 0.0 and figures["loombench_where"]["parsed"] == 0


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (sample("where", tracks=()), "'where' cannot be scored: where: a where question needs tracks, the masks"),
        (sample("combined", ()), "combined: events.0. has no start_s and end_s, and a combined question needs"),
        (
            sample("where", tracks=(MaskTrack((8, 8), (2.0,), ("o",)),)),
            r"'where' cannot be scored: where: tracks\[0\]: rles\[0\] \(at 2.0 s\): counts",
        ),
        (sample("combined", duration_s=1e6), "frames of 8x8 pixels, more than"),
        (
            sample("combined", meta={"question_kind": "combined", "prompts": {"when": "a"}}),
            "combined: meta.prompts .*must be an object of texts, when and where",
        ),
        (sample("where", (5.0, 6.0)), r"no frame lies in segment_s \(5.0, 6.0\); frames run from 2.0 to 3.5 s"),
    ],
)
def test_truth_that_cannot_be_scored_is_named(bad: Sample, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timeexpert.evaluation.loom_samples.MAX_PIXELS", 10**6)
    with pytest.raises(EvaluationError, match=words):
        scored_questions([bad], None, "shards", scored_tasks(draws_masks=True))


def test_a_model_without_masks_is_asked_no_question_about_them() -> None:
    samples = [sample("when"), sample("where"), sample("combined")]
    assert [s.id for s in choose(samples, None)] == ["when"]
    assert [s.id for s in choose(samples, 1, scored_tasks(draws_masks=True))] == ["when", "where", "combined"]
