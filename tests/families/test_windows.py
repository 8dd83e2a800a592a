"""Clips and windows, by hand."""

from __future__ import annotations

import pytest

from timeexpert.families.temporal_vlm.windows import clip_of_frames, tokens_of, window_starts


def test_clips_are_equal_parts_of_the_frames() -> None:
    assert clip_of_frames(6, 3) == [0, 0, 1, 1, 2, 2]
    assert clip_of_frames(7, 3) == [0, 0, 0, 1, 1, 2, 2]  # they differ by one frame at most
    assert clip_of_frames(2, 6) == [0, 1]  # fewer frames than clips: the last clips have none
    counts = [clip_of_frames(576, 6).count(clip) for clip in range(6)]
    assert counts == [96] * 6


@pytest.mark.parametrize(
    ("frames", "overlap", "partial", "starts"),
    [
        (96, 16, "last", [0, 16, 32, 48, 64]),  # the paper's clip: 5 windows
        (96, 0, "last", [0, 32, 64]),  # TimeChat's video
        (96, 16, "timechat", [0, 16, 32, 48, 64, 80]),
        (33, 16, "last", [0, 16]),  # the second one ends at the last frame
        (32, 16, "last", [0]),
        (5, 16, "last", [0]),  # shorter than a window, and than an overlap
    ],
)
def test_windows_reach_the_last_frame_and_no_further(
    frames: int, overlap: int, partial: str, starts: list[int]
) -> None:
    assert window_starts(frames, 32, overlap, partial) == starts  # type: ignore[arg-type]


@pytest.mark.parametrize(("how", "tokens"), [("pool", 96), ("all", 160), ("non_overlapping", 96), ("overlap_add", 96)])
def test_a_clip_of_the_paper_has_96_tokens_unless_all_are_kept(how: str, tokens: int) -> None:
    assert tokens_of([0, 16, 32, 48, 64], 32, 32, how, 96) == tokens  # type: ignore[arg-type]
