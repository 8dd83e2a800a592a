"""Video decoding: which frame is on screen at a time, exactly, from files that nobody vouches for.

A file is demuxed once into a packet index (presentation times and key frames); frames are then decoded from
the last key frame before each asked time. Times are seconds from the first frame's presentation time.

Files are untrusted (see :mod:`timeexpert.data.video_container` for what is refused). Damaged files are used as
far as they decode, and ``VideoInfo.damage`` says what is missing.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from timeexpert.data.video_container import REENCODE, VideoError, VideoInfo, VideoLimits, open_container
from timeexpert.data.video_index import (
    DEMUX_ERRORS,
    FramesOnScreen,
    PacketIndex,
    on_screen,
    raise_if_short_of_memory,
    read_index,
)

__all__ = ["Video", "VideoError", "VideoInfo", "VideoLimits", "on_screen"]

# Without the two flags swscale's bilinear filter makes pictures 2 levels of 255 darker whenever it resizes.
EXACT_BILINEAR = int(Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)


class Video:
    """An open video. Use as a context manager: ``with Video.open(path) as video: video.frames_at([0.5, 2.0])``.

    ``frame_times_s`` (float64, sorted) holds the presentation time of each frame. One thread at a time.
    """

    def __init__(self, data: io.IOBase, name: str, limits: VideoLimits) -> None:
        self.name, self.limits = name, limits
        self._data = data
        self._reformatter = VideoReformatter()
        self._container: Any = None
        self._bad_pts: set[int] = set()  # packets that do not decode
        self._concealed_pts: set[int] = set()  # frames that the decoder patched up
        self._disordered_pts: set[int] = set()  # frames that come out of the decoder after a later one
        self._fed = 0  # place in the file of the packet that the decoder got last
        self._open_container()
        self._index = self._read_index()
        self._first = self._first_frame()
        if self._index.cut_short:
            self._drop_unreadable_end()
        self._packets_found = len(self._index.pts)
        self.frame_times_s = self._index.times_s
        self._info = self._describe()

    @classmethod
    def open(
        cls,
        source: str | Path | bytes | io.BufferedReader,
        *,
        name: str | None = None,
        limits: VideoLimits | None = None,
    ) -> Video:
        """Open a file, its bytes, or an open file, which is then closed with the video.

        ``name`` is what errors call it. Raises :class:`VideoError`.
        """
        limits = limits or VideoLimits()
        if isinstance(source, bytes):
            name, size = name or "video in memory", len(source)
        elif isinstance(source, io.BufferedReader):
            name, size = name or "open video", os.fstat(source.fileno()).st_size
        else:
            name = name or str(source)
            if not Path(source).is_file():
                raise VideoError(f"{name}: no such file. Check the path and the media folder.")
            size = Path(source).stat().st_size
        if size == 0:
            raise VideoError(f"{name}: the file is empty (0 bytes). Download or copy it again.")
        if size > limits.max_bytes:
            raise VideoError(f"{name}: {size} bytes are more than max_bytes ({limits.max_bytes}). Cut or re-encode it.")
        data: io.IOBase
        if isinstance(source, io.BufferedReader):
            data = source
        else:
            data = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")
        try:
            return cls(data, name, limits)
        except BaseException:
            data.close()
            raise

    def close(self) -> None:
        """Release the file. Calling it twice is harmless."""
        if self._container is not None:
            self._container.close()
        self._data.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    @property
    def info(self) -> VideoInfo:
        """What is known so far; ``damage`` inside the file is found only by decoding (see :meth:`check`)."""
        return replace(self._info, damage=self._damage())

    @property
    def time_base(self) -> Fraction:
        """Seconds that one unit of the file's time stamps stands for."""
        return self._index.time_base

    @property
    def cut_short(self) -> bool:
        """Whether the container announces more than is there."""
        return self._index.cut_short

    def frames_at(self, times_s: Any, size: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The frames on screen at ``times_s`` (any order, repeats allowed) and their own presentation times.

        Returns uint8 [n, H, W, 3] RGB and float64 [n]. ``size`` is (height, width) after rotation; resizing is
        swscale's bilinear filter, which averages when it shrinks. Where a frame does not decode, the last one
        before it that does is returned, with its own time; likewise where damaged time stamps put it out of
        order. Raises :class:`VideoError`.
        """
        asked = np.asarray(times_s, dtype=np.float64).reshape(-1)
        if not np.isfinite(asked).all():
            bad = asked[~np.isfinite(asked)][0]
            raise VideoError(f"{self.name}: asked for the frame at {bad} s; times must be finite numbers of seconds.")
        out, (height, width) = self._room(len(asked), size)
        times = np.zeros(len(asked))
        wanted, inverse = np.unique(on_screen(self.frame_times_s, asked), return_inverse=True)
        for j, frame in enumerate(self._show(self._index.pts[wanted])):
            rows = inverse == j
            out[rows] = self._to_rgb(frame, height, width)
            times[rows] = self._index.seconds(frame.pts)
        return out, times

    def all_frames(self, size: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Every frame that decodes, in order: uint8 [n, H, W, 3] and times float64 [n]. See :meth:`frames_at`."""
        out, (height, width) = self._room(len(self._index.pts), size)
        times = np.zeros(len(out))
        count = 0
        for frame in self._every_frame():
            out[count] = self._to_rgb(frame, height, width)
            times[count] = self._index.seconds(frame.pts)
            count += 1
        if count == len(out) and (np.diff(times) > 0).all():
            return out, times
        order = np.argsort(times[:count])
        return out[order], times[order]

    def gray_frames(self, size: tuple[int, int]) -> Iterator[tuple[np.ndarray, float]]:
        """Every frame that decodes, in order and one at a time: (uint8 [H, W] of luma, its time in seconds).

        ``size`` is (height, width) before rotation; each value is the mean of the pixels it stands for. 0 is black and
        255 white whatever the range of the file. At the end the info is that of :meth:`check`.
        """
        for frame in self._every_frame():
            small = self._reformatter.reformat(
                frame, size[1], size[0], "gray", dst_color_range="JPEG", interpolation=Interpolation.AREA, threads=1
            )
            yield small.to_ndarray(), float(self._index.seconds(frame.pts))

    def each_frame(self) -> Iterator[tuple[float, Callable[[int, int], np.ndarray]]]:
        """Every frame that decodes, one at a time: its time in seconds and ``picture(height, width)``.

        ``picture`` makes uint8 RGB [height, width, 3] of it, at any size, until the next frame is asked for. A long
        video costs no more memory than a short one. Damaged time stamps may put frames out of order.
        """
        for frame in self._every_frame():
            yield self._index.seconds(frame.pts), partial(self._to_rgb, frame)

    def check(self) -> VideoInfo:
        """Decode every frame once, keeping none; the info then counts frames and damage as decoded."""
        for _ in self._every_frame():
            pass
        return self.info

    # -- opening

    def _open_container(self) -> None:
        """(Re)open the container at its start."""
        if self._container is not None:
            self._container.close()
        self._container, self._stream = open_container(self._data, self.name, self.limits)

    def _read_index(self) -> PacketIndex:
        limits, index = self.limits, read_index(self._container, self._stream, self.limits.max_frames)
        if index is None:
            raise VideoError(f"{self.name}: its packets carry no time stamps. Remux it: ffmpeg -i IN -c copy OUT.mp4")
        if not len(index.pts):
            raise VideoError(f"{self.name}: no frame in its video stream. Download or copy it again.")
        if len(index.pts) > limits.max_frames:
            raise VideoError(f"{self.name}: more frames than max_frames ({limits.max_frames}). Cut it into parts.")
        if index.span_s > limits.max_duration_s:  # before any int64 arithmetic: time stamps may be nonsense
            raise VideoError(
                f"{self.name}: lasts {index.span_s:.1f} s, more than max_duration_s ({limits.max_duration_s}). "
                "Cut it into parts."
            )
        return index

    def _first_frame(self) -> Any:
        for frame in self._frames_from(0):
            return frame
        raise VideoError(f"{self.name}: none of its {len(self._index.pts)} frames decodes. {REENCODE}")

    def _drop_unreadable_end(self) -> None:
        """A file that was cut short ends with the last frame that decodes, looked for from its last key frames."""
        last = len(self._index.keys) - 1
        for key in dict.fromkeys([*range(last, max(last - 4, 0), -1), 0]):
            pts = [frame.pts for frame in self._frames_from(key)]
            if pts:
                self._index = self._index.only(self._index.pts[self._index.pts <= max(pts)])
                return

    def _describe(self) -> VideoInfo:
        index, frame = self._index, self._first
        rotation = round(frame.rotation / 90) % 4 * 90
        height, width = (frame.width, frame.height) if rotation % 180 else (frame.height, frame.width)
        return VideoInfo(
            name=self.name,
            duration_s=index.duration_s,
            num_frames=len(index.pts),
            width=width,
            height=height,
            rotation=rotation,
            fps=index.fps,
            variable_frame_rate=index.variable_frame_rate,
            codec=self._stream.codec_context.name,
            pix_fmt=frame.format.name,
            first_pts_s=float(index.origin * index.time_base),
            pixel_aspect=float(self._stream.sample_aspect_ratio or 1),
        )

    def _damage(self) -> str | None:
        index, parts = self._index, []
        if index.cut_short:
            of = f" of {index.announced_frames}" if index.announced_frames else ""
            announced = f" of {index.announced_s:.1f} s" if index.announced_s else ""
            parts.append(f"cut short: {len(index.pts)}{of} frames, {index.duration_s:.1f} s{announced} are readable")
        bad = [p for p in self._bad_pts if p <= index.pts[-1] or not index.cut_short]
        if bad:
            parts.append(f"{len(bad)} of {self._packets_found} frames do not decode")
        if self._concealed_pts:
            parts.append(f"{len(self._concealed_pts)} patched up by the decoder")
        if self._disordered_pts:
            parts.append(f"{len(self._disordered_pts)} out of order")
        return "; ".join(parts) or None

    # -- decoding

    def _show(self, targets: np.ndarray) -> Iterator[Any]:
        """For each pts in ``targets`` (sorted), the decoded frame that is on screen then."""
        reader = None
        for target in targets.tolist():
            key = self._index.key_before(target)
            if reader is None or self._index.keys[key].place > self._fed:  # a later key frame precedes the target
                for start in dict.fromkeys((key, max(key - 1, 0), 0)):  # an earlier one where nothing decodes after
                    reader = FramesOnScreen(self._frames_from(start))
                    if reader.show(target) is not None:
                        break
            assert reader is not None
            shown = reader.show(target)
            yield self._first if shown is None else shown

    def _every_frame(self) -> Iterator[Any]:
        """All frames from the start; afterwards, in a damaged file, the index holds those that decode."""
        left, seen = set(self._index.pts.tolist()), []
        for frame in self._frames_from(0):
            if frame.pts in left:
                left.discard(frame.pts)
                seen.append(frame.pts)
                yield frame
        if left and self._bad_pts:
            self._index = self._index.only(np.array(seen))
            self.frame_times_s = self._index.times_s
            self._info = replace(self._info, num_frames=len(seen), duration_s=self._index.duration_s)

    def _frames_from(self, key: int) -> Iterator[Any]:
        """Decode from key frame number ``key`` to the end, in presentation order unless time stamps are damaged."""
        key_pts, place = self._index.keys[key]
        packets, self._fed = self._packets_from(key_pts)
        frames = self._decode(packets)
        if not self._index.can_seek:
            for pts, frame in zip(self._index.pts.tolist(), frames, strict=False):
                frame.pts = pts
                yield frame
            return
        latest = None
        for frame in frames:
            if frame.pts is None or (place > 0 and frame.pts < key_pts):  # earlier ones lack their references
                continue
            if latest is not None and frame.pts < latest:
                self._disordered_pts.add(frame.pts)
            latest = frame.pts
            yield frame

    def _packets_from(self, key_pts: int) -> tuple[Iterator[Any], int]:
        """Packets from a key frame no later than ``key_pts`` and its place; from the start if seeking fails."""
        try:
            if self._index.can_seek:
                self._container.seek(key_pts, stream=self._stream)
                packets = self._container.demux(self._stream)
                for packet in packets:
                    if packet.is_keyframe and packet.pts is not None:
                        if packet.pts > key_pts:
                            break  # beyond the target: this container seeks by guess (MPEG transport streams)
                        return chain([packet], packets), self._index.keys[self._index.key_before(packet.pts)].place
        except DEMUX_ERRORS as error:
            raise_if_short_of_memory(error, self._container.size)
            # a damaged file may refuse to seek; reading it from the start still works
        self._open_container()
        return self._container.demux(self._stream), 0

    def _decode(self, packets: Iterator[Any]) -> Iterator[Any]:
        """Frames of ``packets``; a packet that does not decode is remembered and passed over."""
        while True:
            try:
                packet = next(packets, None)
            except DEMUX_ERRORS as error:
                raise_if_short_of_memory(error, self._container.size)
                return  # the container breaks off here, as the index knows
            if packet is None:
                return
            flush = packet.pts is None and packet.dts is None
            if packet.size == 0 and not flush:
                continue  # FFmpeg would take it for the end of the stream
            self._fed += 1
            try:
                frames = packet.decode()
            except MemoryError:  # FFmpeg's is among its own errors; it says nothing of the file
                raise
            except (av.error.FFmpegError, OSError):
                if not flush:
                    self._bad_pts.add(packet.pts if packet.pts is not None else packet.dts)
                continue
            for frame in frames:
                if frame.is_corrupt and frame.pts is not None:
                    self._concealed_pts.add(frame.pts)
                yield frame

    # -- pictures

    def _room(self, count: int, size: tuple[int, int] | None) -> tuple[np.ndarray, tuple[int, int]]:
        height, width = size if size is not None else (self._info.height, self._info.width)
        if not (1 <= height <= 16384 and 1 <= width <= 16384):
            raise VideoError(f"size ({size!r}) must be (height, width), each from 1 to 16384 pixels.")
        need = count * height * width * 3
        if need > self.limits.max_output_bytes:
            raise VideoError(
                f"{self.name}: {count} frames of {width}x{height} need {need} bytes, more than max_output_bytes "
                f"({self.limits.max_output_bytes}). Ask for fewer frames or a smaller size."
            )
        return np.empty((count, height, width, 3), dtype=np.uint8), (height, width)

    def _to_rgb(self, frame: Any, height: int, width: int) -> np.ndarray:
        """uint8 [height, width, 3], upright. 10 bit, 4:4:4 and grey become 8-bit RGB; alpha is dropped."""
        turns = self._info.rotation // 90
        if turns % 2:
            height, width = width, height
        rgb = self._reformatter.reformat(
            frame, width, height, "rgb24", interpolation=EXACT_BILINEAR, threads=1
        ).to_ndarray()
        return np.rot90(rgb, turns)
