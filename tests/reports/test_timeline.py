from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from timeexpert.reports import ReportError
from timeexpert.reports.drawing import DPI, text_width
from timeexpert.reports.picture_frames import LEFT, PLOT
from timeexpert.reports.timeline import _lanes, draw_timeline
from timeexpert.tokenization import Event, EventSequence

from .fake_run import frames

TRUE_RGB, PREDICTED_RGB = (0, 158, 115), (0, 114, 178)
LONG = "the person carefully slices a large red onion into thin rings and puts them into a hot pan " * 4


def pixels(png: bytes) -> np.ndarray:
    image = Image.open(BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def bar_seconds(image: np.ndarray, rgb: tuple[int, int, int], duration_s: float) -> tuple[float, float]:
    """Where the longest horizontal run of a colour starts and ends on the time axis."""
    best = (0, 0)
    for row in (image == rgb).all(axis=2):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            best = max(best, (end - start, start))
    length, start = best
    return tuple((x / DPI - LEFT) / PLOT * duration_s for x in (start, start + length))


def one(start_s: float, end_s: float, text: str = "", *scores: float) -> EventSequence:
    return EventSequence((Event(start_s, end_s, scores, text),))


def test_bars_stand_at_their_times_in_the_colours_of_truth_and_prediction():
    png = draw_timeline(frames(4), [0, 5, 10, 15], one(4, 8, "a"), one(10, 18, "b"), 20.0, "When?")
    assert bar_seconds(pixels(png), TRUE_RGB, 20.0) == pytest.approx((4, 8), abs=0.1)
    assert bar_seconds(pixels(png), PREDICTED_RGB, 20.0) == pytest.approx((10, 18), abs=0.1)


def test_the_picture_is_also_written_to_a_file(tmp_path):
    png = draw_timeline(frames(1), [0.0], None, one(1, 2), 10.0, "When?", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == png


def test_a_bar_past_the_end_of_the_video_is_cut_there():
    image = pixels(draw_timeline(frames(1), [0.0], None, one(5, 9999), 10.0, "When?"))
    start, end = bar_seconds(image, PREDICTED_RGB, 10.0)
    assert (start, end) == (pytest.approx(5, abs=0.1), pytest.approx(10, abs=0.2))


@pytest.mark.parametrize("count", [0, 1, 32, 100])
def test_any_number_of_frames_gives_a_picture_of_the_same_width(count):
    image = pixels(draw_timeline(frames(count), list(range(count)), None, one(1, 2), 100.0, "When?"))
    assert image.shape[1] == 1320 and image.shape[0] < 700


def test_events_whose_labels_would_overlap_stand_on_separate_lanes():
    together = EventSequence((Event(0, 10, text="one"), Event(5, 15, text="two"), Event(60, 70, text="three")))
    lanes, hidden = _lanes(together, 100.0)
    assert [[label.event.text for label in lane] for lane in lanes] == [["one", "three"], ["two"]]
    assert hidden == 0


def test_labels_stay_inside_the_plot_however_long_the_caption_is():
    lanes, _ = _lanes(EventSequence((Event(95, 99, text=LONG), Event(0, 1, text=LONG))), 100.0)
    for label in (label for lane in lanes for label in lane):
        assert label.text.endswith("\u2026")
        assert 0 <= label.left and label.left + text_width(label.text, 9) <= PLOT + 1e-6


def test_events_that_do_not_fit_are_counted_and_not_lost_silently():
    lanes, hidden = _lanes(EventSequence(tuple(Event(0, 90, text=str(i)) for i in range(15))), 100.0)
    assert (len(lanes), hidden) == (12, 3)


@pytest.mark.parametrize("prediction", [None, EventSequence(), EventSequence((Event(text="no time"),))])
def test_an_answer_without_segments_is_drawn_too(prediction):
    assert pixels(draw_timeline(frames(2), [0, 1], one(1, 2), prediction, 9.0, "When?")).any()


def test_text_is_never_read_as_a_formula():
    for text in ("$\\frac{$", "<script>", "a\x00b\u202e\n", "\U0001f600"):
        assert pixels(draw_timeline(frames(1), [0.0], one(1, 2, text), one(1, 2, text), 9.0, text)).any()


def test_highlights_are_stems_with_scores_on_one_lane():
    points = EventSequence(tuple(Event(2 * i + 1, 2 * i + 1, (float(i),)) for i in range(5)))
    image = pixels(draw_timeline(frames(1), [0.0], None, points, 10.0, "Score."))
    stems = (image == PREDICTED_RGB).all(axis=2)
    for i in (1, 4):
        x = round((LEFT + (2 * i + 1) / 10 * PLOT) * DPI)
        assert stems[:, x - 3 : x + 4].any(axis=1).sum() == pytest.approx(9 + i / 4 * 0.53 * DPI, abs=6)


def test_arrays_that_do_not_fit_together_are_refused():
    with pytest.raises(ReportError, match=r"shape \(1, 48, 64\) .* must be uint8 \[n, H, W, 3\]"):
        draw_timeline(frames(1)[..., 0], [0.0], None, None, 9.0, "When?")
    with pytest.raises(ReportError, match="there are 2 frames but 1 frame times"):
        draw_timeline(frames(2), [0.0], None, None, 9.0, "When?")
    with pytest.raises(ReportError, match=r"duration_s \(0.0\) must be a positive number"):
        draw_timeline(frames(1), [0.0], None, None, 0.0, "When?")
