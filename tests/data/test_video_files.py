"""Real odd files: what is read of them, and which are refused with name and reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from timeexpert.data.video import Video, VideoError
from timeexpert.data.video_index import on_screen


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv", "vfr_off.mkv"])
def test_real_variable_frame_rate_files_are_exact(shared, name):
    truth = np.array(json.loads((shared / "videos/odd/vfr_truth.json").read_text())["times_s"])
    asked = np.append((truth[1:] + truth[:-1]) / 2, [0.0, 4.5, 12.86])
    with Video.open(shared / "videos/odd" / name) as video:
        assert np.abs(video.frame_times_s - truth).max() < 0.001  # Matroska rounds to milliseconds
        assert video.info.first_pts_s == (1.7 if name == "vfr_off.mkv" else 0.0)
        frames, times_s = video.frames_at(asked)
        assert video.info.damage is None
    luma = frames.mean((1, 2, 3)) * 219 / 255 + 16
    assert np.rint((luma - 16) / 2).astype(int).tolist() == on_screen(truth, asked).tolist()
    assert np.abs(times_s - truth[on_screen(truth, asked)]).max() < 0.001


@pytest.mark.parametrize(
    "name, reason",
    [
        ("zero.mp4", "empty"),
        ("text.mp4", "text"),
        ("random.mp4", "damaged or of no container"),
        ("trunc60.mp4", "moov"),
        ("audio_only.m4a", "no video in it, only audio"),
        ("huge_16k.mp4", r"16384x8192 have more than max_pixels \(35389440\)"),
        ("anim.gif", "image"),
        ("png_as.mp4", "image"),
        ("concat_rel.mp4", "playlist"),
        ("concat_http.mp4", "playlist"),
        ("hls_file.mp4", "playlist"),
    ],
)
def test_real_unusable_files_are_refused_with_name_and_reason(shared, name, reason):
    path = shared / "videos/odd" / name
    for source in (path, path.read_bytes()):
        with pytest.raises(VideoError, match=f"{name}: .*{reason}"):
            Video.open(source, name=name)


@pytest.mark.parametrize(
    "name, num_frames, size, pix_fmt",
    [
        ("h264_10bit.mp4", 50, (240, 320), "yuv420p10le"),
        ("h264_444.mp4", 50, (240, 320), "yuv444p"),
        ("gray16.mkv", 50, (240, 320), "gray16le"),
        ("alpha.webm", 50, (240, 320), "yuv420p"),
        ("odd_dims.mp4", 50, (241, 321), "yuv444p"),
        ("sar2.mp4", 50, (240, 320), "yuv420p"),
        ("one_frame.mp4", 1, (240, 320), "yuv444p"),
        ("rot90.mp4", 75, (320, 240), "yuv420p"),
    ],
)
def test_real_unusual_files_are_read(shared, name, num_frames, size, pix_fmt):
    with Video.open(shared / "videos/odd" / name) as video:
        info = video.check()
        frames, _ = video.frames_at([info.duration_s / 2])
    assert (info.num_frames, (info.height, info.width), info.pix_fmt) == (num_frames, size, pix_fmt)
    assert info.damage is None and frames.shape == (1, *size, 3)
    assert frames.std() > 60  # a test card, not a flat picture
    assert info.pixel_aspect == (2.0 if name == "sar2.mp4" else 1.0)


@pytest.mark.parametrize(
    "name, num_frames, duration_s, damage",
    [
        ("trunc.webm", 323, 13.458, "cut short: 323 frames, 13.5 s of 30.0 s are readable"),
        ("trunc_faststart.mp4", 630, 63.0, "cut short: 630 of 1394 frames, 63.0 s of 139.4 s are readable"),
        (
            "bitflip.mp4",
            1184,
            39.8547,
            "5 of 1189 frames do not decode; 183 patched up by the decoder; 1 out of order",
        ),
    ],
)
def test_real_damaged_files_are_used_as_far_as_they_decode(shared, name, num_frames, duration_s, damage):
    with Video.open(shared / "videos/odd" / name) as video:
        info = video.check()
    assert (info.num_frames, info.duration_s, info.damage) == (num_frames, pytest.approx(duration_s, abs=1e-3), damage)


def test_a_huge_picture_is_refused_in_small_memory(shared):
    """A fresh process: opening the 16384x8192 file may add 100 MiB; one of its frames alone would take 192."""
    script = (
        "import resource, sys\n"
        "from timeexpert.data.video import Video, VideoError\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "try: Video.open(sys.argv[1])\n"
        "except VideoError: print((peak() - before) // 1024)\n"
    )
    command = [sys.executable, "-c", script, str(shared / "videos/odd/huge_16k.mp4")]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert int(done.stdout) < 100
