"""Timestamps, cuts and alignment on MP4s made here, whose events and cuts are known exactly."""

from pathlib import Path

import pytest

from scripts.check_filters import join
from tests.data.media import write_video
from timeexpert.data.filters.clips import ClipStore
from timeexpert.data.filters.config import AlignmentConfig, CutsConfig, TimestampsConfig
from timeexpert.data.filters.timing import (
    AlignmentFilter,
    BoundaryScorer,
    CutsFilter,
    TimestampsFilter,
    cut_candidates,
)
from timeexpert.data.records import Sample
from timeexpert.data.scenes import Scene, ShapeEvent
from timeexpert.data.synthetic import encode
from timeexpert.tokenization import Event, EventSequence


def scene(*spans: tuple[float, float], duration_s=12.0, seed=3) -> Scene:
    """Shapes on screen during ``spans``, at 10 frames per second."""
    kinds = (("red", "square"), ("green", "circle"), ("white", "cross"))
    events = tuple(
        ShapeEvent(*kinds[i], "appear", start_s, end_s, 0.3 + 0.2 * i, 0.5, 0.2, 0.2)
        for i, (start_s, end_s) in enumerate(spans)
    )
    return Scene("s", duration_s, 10, 64, 80, events, seed)


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    encode(scene((2.0, 5.0), (7.0, 10.0)), folder / "two.mp4")
    join(scene((2.0, 9.0)), scene((1.0, 8.0), seed=8), 60, folder / "cut.mp4")
    encode(scene(), folder / "empty.mp4")
    write_video(folder / "noise.mp4", num_frames=50, fps=5)
    return folder


@pytest.fixture(scope="module")
def store(media, tmp_path_factory) -> ClipStore:
    made = ClipStore(tmp_path_factory.mktemp("cache"), media, 15.0)
    assert made.fill(["two.mp4", "cut.mp4", "empty.mp4", "noise.mp4", "gone.mp4"], workers=1, timeout_s=60) == 4
    return made


def moment(video, *spans, duration_s=None, task="moment_retrieval") -> Sample:
    events = EventSequence(tuple(Event(a, b, text="a red square") for a, b in spans))
    return Sample(id="q", video=video, task=task, prompt="When?", events=events, duration_s=duration_s)


# --- timestamps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "fault"),
    [
        (moment("two.mp4", (2, 12.4)), None),  # 0.4 s past the last frame: rounding
        (moment("two.mp4", (2, 12.6)), "past the end"),
        (moment("two.mp4", (12, 12.4)), "past the end"),  # begins where nothing is left
        (moment("two.mp4", (2, 5), duration_s=13.5), None),
        (moment("two.mp4", (2, 5), duration_s=14.5), "duration differs"),
        (moment("gone.mp4", (2, 5)), "unreadable clip"),
    ],
)
def test_times_are_held_against_the_last_readable_frame(store, sample, fault):
    verdict = TimestampsFilter(TimestampsConfig(), store).judge([sample])[0]
    assert verdict.fault == fault


def test_the_reason_names_the_segment_and_the_real_end(store):
    verdict = TimestampsFilter(TimestampsConfig(), store).judge([moment("two.mp4", (1, 2), (11, 15))])[0]
    assert verdict.reason == "segment 1 (11 to 15 s) lies past the last readable frame, at 12.00 s."
    assert (verdict.value, verdict.threshold, verdict.detail["event"]) == (3.0, 0.5, 1)


# --- cuts ------------------------------------------------------------------------------------------------------


def cuts(store, sample, **config):
    return CutsFilter(CutsConfig(**config), store).judge([sample])[0]


def test_a_joined_clip_has_its_cut_where_it_was_joined_and_shapes_that_appear_are_none(store):
    clip = store.clip("cut.mp4")
    strong = [row for row in cut_candidates(clip) if row[1] >= CutsConfig().threshold]
    assert [time_s for time_s, _ in strong] == pytest.approx([6.0], abs=0.06)
    assert not [r for r in cut_candidates(store.clip("two.mp4")) if r[1] >= CutsConfig().threshold]


def test_noise_in_which_every_frame_is_new_has_no_cut_that_stands_out(store):
    assert not [r for r in cut_candidates(store.clip("noise.mp4")) if r[1] >= CutsConfig().threshold]


def test_a_sample_is_dropped_for_a_cut_inside_an_event_and_not_for_one_at_its_end(store):
    verdict = cuts(store, moment("cut.mp4", (0, 3), (4, 9)))
    assert verdict.fault == "abrupt cut" and verdict.detail["event"] == 1
    assert verdict.detail["cut_s"] == pytest.approx(6.0, abs=0.06)
    assert cuts(store, moment("cut.mp4", (2, 6.1), (6.1, 9))).fault is None


def test_scope_clip_looks_at_the_whole_clip_and_tasks_limit_what_is_judged(store):
    assert cuts(store, moment("cut.mp4", (0, 3)), scope="clip").fault == "abrupt cut"
    assert cuts(store, moment("cut.mp4", (4, 9)), threshold=1e6).fault is None
    highlight = moment("cut.mp4", (4, 9), task="highlight_detection")
    assert (cuts(store, highlight).fault, cuts(store, highlight).measured) == (None, False)


# --- alignment -------------------------------------------------------------------------------------------------


def align(store, sample, **config):
    settings = AlignmentConfig(**config)
    return AlignmentFilter(settings, store, BoundaryScorer(settings)).judge([sample])[0]


def test_events_where_something_appears_and_vanishes_pass(store):
    for spans in ([(2, 5)], [(7, 10)], [(2, 5), (7, 10)]):
        verdict = align(store, moment("two.mp4", *spans))
        assert (verdict.fault, verdict.measured) == (None, True)


@pytest.mark.parametrize(("spans", "back_s"), [([(3.5, 6.5)], -1.5), ([(1, 4), (6, 9)], 1.0)])
def test_shifted_events_are_dropped_and_the_shift_that_fits_is_named(store, spans, back_s):
    verdict = align(store, moment("two.mp4", *spans))
    assert verdict.fault == "misaligned"
    assert verdict.value < verdict.threshold == BoundaryScorer.threshold
    assert verdict.detail["best_shift_s"] == pytest.approx(back_s, abs=0.25)


def test_where_nothing_changes_nothing_is_told(store):
    for sample in (moment("empty.mp4", (2, 5)), moment("two.mp4", (0, 12)), moment("noise.mp4", (2, 5))):
        verdict = align(store, sample)
        assert (verdict.fault, verdict.measured) == (None, False)


def test_the_threshold_can_be_set(store):
    assert align(store, moment("two.mp4", (3.5, 6.5)), threshold=0.0).fault is None


def test_real_clips_have_the_cuts_that_a_person_noted(shared, tmp_path):
    noted_s = [2.567, 4.667, 8.3, 9.867, 11.8, 13.5, 15.7]
    store = ClipStore(tmp_path, shared / "videos", 15.0)
    store.fill(["asl_mix_a.mp4", "football_juggle.mp4"], workers=1, timeout_s=120)
    found = {
        name: [t for t, strength in cut_candidates(store.clip(name)) if strength >= CutsConfig().threshold]
        for name in ("asl_mix_a.mp4", "football_juggle.mp4")
    }
    assert found["asl_mix_a.mp4"] == pytest.approx(noted_s, abs=0.1)
    assert found["football_juggle.mp4"] == []
