"""An answer with masks as a video: each object in its colour, and a strip below that says when."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.video import Video
from timeexpert.evaluation.track_masks import places, scaled
from timeexpert.tokenization import EventSequence

from .drawing import INK, MUTED, PAPER, one_line
from .errors import ReportError
from .mask_sheet import marked
from .timeline import PREDICTED

MAX_SIDE, MAX_FPS, MAX_FRAMES = 960, 30.0, 3000  # of the written video: pixels, frames per second, frames
MIN_WIDTH = 320  # narrower videos are enlarged, or the strip could not be read
AT_ONCE = 32  # frames in memory
COLOURS = ("#56b4e9", "#ff9a5c", "#2fd3a2", "#ee94c6", "#e3d44f", "#a7b0f5")  # bright, as on the server's page
EDGE = 2  # pixels of a mask's outline
PAD, ROW, GAP, TICKS = 8, 14, 4, 20  # pixels of the strip
MAX_ROWS = 8  # objects with a row of their own


def write_mask_video(
    source: str | Path, tracks: Sequence[MaskTrack], events: EventSequence, duration_s: float, path: Path
) -> tuple[int, int, int]:
    """Write ``path`` (MP4, H.264, no sound) and return its (frames, width, height).

    Frames keep their times: those of the source on screen at a steady rate, at most 30 a second, 3000 in all and 960
    pixels a side. A track of another size than the video is scaled to it. The strip has a row for the events and one
    per object, and a line at the time that is shown. Raises :class:`ReportError` where ``path`` cannot be written or a
    mask does not decode, ``VideoError`` where the source cannot be read.
    """
    if not tracks:
        raise ReportError("there are no tracks to draw. Ask for masks, or draw a timeline.")
    with Video.open(source) as video:
        width, height = _size(video.info.width, video.info.height)
        fps = min(video.info.fps or MAX_FPS, MAX_FPS, MAX_FRAMES / video.info.duration_s)
        rate = Fraction(fps).limit_denominator(1000)
        count = min(MAX_FRAMES, max(1, ceil(video.info.duration_s * rate)))
        times_s = np.arange(count) / float(rate)
        strip = draw_strip(tracks, events, max(duration_s, video.info.duration_s), width)
        painted = _painted(video, tracks, times_s, (height, width))
        temporary = path.with_name(f"{path.name}.part")
        try:
            _encode(temporary, rate, _with_strip(painted, strip, times_s, max(duration_s, video.info.duration_s)))
            os.replace(temporary, path)
        except (OSError, av.FFmpegError) as error:
            reason = error.strerror or str(error)
            raise ReportError(f"{path}: cannot be written: {reason}. Choose another --mp4, or --no-mp4.") from None
        finally:
            temporary.unlink(missing_ok=True)
    return count, width, height + len(strip)


def _size(width: int, height: int) -> tuple[int, int]:
    """Even, in the video's proportions, and neither larger nor narrower than allowed."""
    scale = min(1.0, MAX_SIDE / max(width, height)) if width >= MIN_WIDTH else MIN_WIDTH / width
    scale = min(scale, MAX_SIDE / max(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def _painted(
    video: Video, tracks: Sequence[MaskTrack], times_s: NDArray[np.float64], size: tuple[int, int]
) -> Iterator[NDArray[np.uint8]]:
    """The frames at ``times_s``, uint8 [height, width, 3], with the masks of each object over them."""
    at = [places(track, times_s) for track in tracks]
    last: list[tuple[int, NDArray[np.bool_] | None]] = [(-1, None)] * len(tracks)
    for begin in range(0, len(times_s), AT_ONCE):
        frames = video.frames_at(times_s[begin : begin + AT_ONCE], size)[0]
        for t, frame in enumerate(frames, begin):
            for number, track in enumerate(tracks):
                place = int(at[number][t])
                if place != last[number][0]:
                    shown = place >= 0 and track.rles[place] is not None
                    last[number] = place, scaled(track.mask(place), size) if shown else None
                mask = last[number][1]
                if mask is not None:
                    frame = marked(frame, mask, COLOURS[number % len(COLOURS)], EDGE)
            yield frame


def draw_strip(tracks: Sequence[MaskTrack], events: EventSequence, duration_s: float, width: int) -> NDArray[np.uint8]:
    """The strip below the picture without its line: uint8 [height, width, 3], height even."""
    rows = min(len(tracks), MAX_ROWS)
    hidden = len(tracks) - rows
    height = PAD + (ROW + GAP) * (1 + rows) + TICKS + (ROW if hidden else 0)
    image = Image.new("RGB", (width, height + height % 2), PAPER)
    pen = ImageDraw.Draw(image)
    font: Any = ImageFont.load_default(11)

    def x(time_s: float) -> float:
        return PAD + (width - 2 * PAD) * min(max(time_s / duration_s, 0.0), 1.0)

    def bar(y: int, start_s: float, end_s: float, colour: Any) -> None:
        pen.rectangle((x(start_s), y, max(x(end_s), x(start_s) + 2), y + ROW - 1), fill=colour)

    timed = [e for e in events if e.start_s is not None and e.end_s is not None]
    pen.rectangle((PAD, PAD, width - PAD, PAD + ROW - 1), fill="#edf0f3")
    for event in timed:
        start_s, end_s = event.start_s or 0.0, event.end_s or 0.0
        bar(PAD, start_s, end_s, PREDICTED)
        words = one_line(event.text)
        while words and pen.textlength(words, font=font) > x(end_s) - x(start_s) - 6:
            words = words[:-1]
        pen.text((x(start_s) + 3, PAD), words, fill=PAPER, font=font)
    if not timed:
        pen.text((PAD + 3, PAD), "no event with a time", fill=MUTED, font=font)
    for number, track in enumerate(tracks[:rows]):
        y = PAD + (ROW + GAP) * (1 + number)
        pen.rectangle((PAD, y, width - PAD, y + ROW - 1), fill="#edf0f3")
        for start_s, end_s in seen_spans(track):
            bar(y, start_s, end_s, COLOURS[number % len(COLOURS)])
        pen.text((PAD + 3, y), one_line(track.object_id)[:40] or f"object {number + 1}", fill=INK, font=font)
    y = PAD + (ROW + GAP) * (1 + rows)
    for time_s in np.linspace(0, duration_s, 5 if width >= 480 else 3):
        label = f"{time_s:.1f} s"
        left = min(
            max(x(time_s) - pen.textlength(label, font=font) / 2, 2), width - 2 - pen.textlength(label, font=font)
        )
        pen.line((x(time_s), y - 2, x(time_s), y + 2), fill=MUTED)
        pen.text((left, y + 3), label, fill=MUTED, font=font)
    if hidden:
        pen.text((PAD, y + TICKS - 2), f"{hidden} more objects without a row", fill=MUTED, font=font)
    return np.asarray(image).copy()


def seen_spans(track: MaskTrack) -> list[tuple[float, float]]:
    """From when to when the object is seen, seconds: each mask lasts until the next time of the track."""
    ends = [
        *track.times_s[1:],
        track.times_s[-1] + (track.times_s[-1] - track.times_s[0]) / max(len(track.times_s) - 1, 1),
    ]
    spans: list[tuple[float, float]] = []
    for start_s, end_s, rle in zip(track.times_s, ends, track.rles, strict=True):
        if rle is None:
            continue
        if spans and spans[-1][1] == start_s:
            spans[-1] = spans[-1][0], end_s
        else:
            spans.append((start_s, end_s))
    return spans


def _with_strip(
    frames: Iterator[NDArray[np.uint8]], strip: NDArray[np.uint8], times_s: NDArray[np.float64], duration_s: float
) -> Iterator[NDArray[np.uint8]]:
    width = strip.shape[1]
    for frame, time_s in zip(frames, times_s, strict=True):
        below = strip.copy()
        x = PAD + round((width - 2 * PAD) * min(time_s / duration_s, 1.0))
        below[: -TICKS + 4, max(x - 1, 0) : x + 1] = (27, 31, 36)
        yield np.concatenate([frame, below])


def _encode(path: Path, rate: Fraction, pictures: Iterator[NDArray[np.uint8]]) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "23"})
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            if not number:
                stream.height, stream.width = picture.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
