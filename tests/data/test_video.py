"""Video decoding, on small files written here. Frame i of a made video is grey level 20 + 3 i."""

from __future__ import annotations

import errno
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.data.video import Video, VideoError, VideoLimits
from timeexpert.data.video_index import on_screen

TENTHS = [i / 10 for i in range(60)]
UNEVEN = [0.0, 0.1, 0.2, 1.7, 1.75, 1.8, 5.0, 5.5]


def write_video(path: Path, times_s=TENTHS, codec="libx264", size=(48, 64), pix_fmt="yuv420p", frames=None, **options):
    """Frame i of ``times_s`` is flat grey 20 + 3 i, or ``frames[i]``; a key frame every 12, two B-frames."""
    height, width = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.gop_size, stream.bit_rate = 12, 4_000_000
        if codec == "libx264":
            stream.max_b_frames = 2
        stream.codec_context.time_base = Fraction(1, 1000) if times_s is not TENTHS else Fraction(1, 10)
        stream.options = options
        for i, time_s in enumerate(times_s):
            rgb = frames[i] if frames is not None else np.full((height, width, 3), 20 + 3 * i, np.uint8)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = round(time_s / stream.codec_context.time_base), stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def frame_numbers(frames: np.ndarray) -> list[int]:
    return np.rint((frames.mean((1, 2, 3)) - 20) / 3).astype(int).tolist()


@pytest.fixture(scope="module")
def tenths(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "tenths.mp4")


def test_a_video_describes_itself(tenths):
    with Video.open(tenths) as video:
        info = video.info
        assert video.frame_times_s.dtype == np.float64 and video.frame_times_s.tolist() == TENTHS
    assert (info.duration_s, info.num_frames, info.fps, info.variable_frame_rate) == (6.0, 60, 10.0, False)
    assert (info.height, info.width, info.rotation, info.pixel_aspect) == (48, 64, 0, 1.0)
    assert (info.codec, info.pix_fmt, info.first_pts_s, info.damage) == ("h264", "yuv420p", 0.0, None)
    assert info.name == str(tenths)


def test_the_frame_on_screen_is_the_last_that_has_begun(tenths):
    with Video.open(tenths) as video:
        frames, times_s = video.frames_at([0.0, 0.05, 0.0999, 0.1, 3.14, 5.99])
    assert frame_numbers(frames) == [0, 0, 0, 1, 31, 59]
    assert times_s.tolist() == [0.0, 0.0, 0.0, 0.1, 3.1, 5.9]
    assert frames.shape == (6, 48, 64, 3) and frames.dtype == np.uint8


def test_before_the_first_frame_is_the_first_and_after_the_last_the_last(tenths):
    with Video.open(tenths) as video:
        frames, times_s = video.frames_at([-1.0, 100.0])
    assert frame_numbers(frames) == [0, 59] and times_s.tolist() == [0.0, 5.9]


def test_times_may_come_in_any_order_and_repeat(tenths):
    with Video.open(tenths) as video:
        frames, times_s = video.frames_at([5.0, 0.0, 5.0, 2.5])
        assert video.frames_at([])[0].shape == (0, 48, 64, 3)
    assert frame_numbers(frames) == [50, 0, 50, 25] and times_s.tolist() == [5.0, 0.0, 5.0, 2.5]


def test_a_rounding_error_before_a_frame_still_means_that_frame():
    assert on_screen(np.array([0.0, 0.3]), [0.3 - 1e-12, 0.3 - 1e-3]).tolist() == [1, 0]


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv444p10le"])
def test_gray_frames_are_luma_of_the_full_range_with_exact_times(tmp_path, pix_fmt):
    with Video.open(write_video(tmp_path / "v.mp4", UNEVEN, pix_fmt=pix_fmt)) as video:
        grays, times_s = zip(*video.gray_frames((6, 8)), strict=True)
        assert video.info.num_frames == len(UNEVEN)
    assert times_s == pytest.approx(UNEVEN, abs=1e-9) and {gray.shape for gray in grays} == {(6, 8)}
    assert [gray.mean() for gray in grays] == pytest.approx([20 + 3 * i for i in range(len(UNEVEN))], abs=2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_time_that_is_no_number_is_refused(tenths, bad):
    with Video.open(tenths) as video, pytest.raises(VideoError, match=f"at {bad} s; times must be finite"):
        video.frames_at([0.0, bad])


@pytest.mark.parametrize("name, codec", [("v.mp4", "libx264"), ("v.mkv", "libx264"), ("v.webm", "libvpx")])
def test_variable_frame_rate_is_exact(tmp_path, name, codec):
    with Video.open(write_video(tmp_path / name, UNEVEN, codec)) as video:
        assert video.frame_times_s == pytest.approx(UNEVEN, abs=1e-9)
        assert video.info.variable_frame_rate
        assert frame_numbers(video.frames_at([1.69, 1.7, 1.79, 4.9, 5.2])[0]) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "name, codec",
    [("v.mp4", "libx264"), ("v.mkv", "libx264"), ("v.ts", "libx264"), ("v.avi", "libx264"), ("v.avi", "mpeg4")]
    + [("v.ts", "mpeg2video"), ("v.webm", "libvpx"), ("v.mov", "mjpeg"), ("open_gop.mkv", "libx264")],
)
def test_seeking_gives_the_same_pictures_as_decoding_everything(tmp_path, name, codec):
    options = {"x264-params": "open-gop=1"} if name == "open_gop.mkv" else {}
    path = write_video(tmp_path / name, codec=codec, pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p", **options)
    with Video.open(path) as video:
        everything, times_s = video.all_frames()
        assert times_s == pytest.approx(TENTHS, abs=2e-5)  # MPEG transport streams count in 1/90000 s
        assert np.abs(everything.mean((1, 2, 3)) - [20 + 3 * i for i in range(60)]).max() < 6
        for asked_s in (5.95, 0.31, 3.77, 4.1, 1.25):
            frames, shown_s = video.frames_at([asked_s])
            i = int(on_screen(times_s, asked_s))
            assert (frames[0] == everything[i]).all() and shown_s[0] == times_s[i]


def test_only_the_needed_group_of_pictures_is_decoded(tenths):
    with Video.open(tenths) as video:
        video.frames_at([4.8])  # frame 48 is a key frame
        assert video._fed - 48 <= 4  # the decoder got it and what it needs to put it out, not the 48 before


def test_a_video_is_read_from_bytes_as_from_a_file(tenths):
    with Video.open(tenths.read_bytes(), name="shard-0.tar/7.mp4") as video, Video.open(tenths) as file:
        assert video.info.name == "shard-0.tar/7.mp4"
        assert (video.frames_at(TENTHS)[0] == file.frames_at(TENTHS)[0]).all()


def test_resizing_averages_when_it_shrinks(tmp_path):
    board = np.zeros((48, 64, 3), np.uint8)
    board[::2, ::2] = board[1::2, 1::2] = 255  # one-pixel checkerboard: picking pixels would give 0 or 255
    path = write_video(tmp_path / "board.mkv", [0.0], "ffv1", pix_fmt="bgr0", frames=[board])
    with Video.open(path) as video:
        frames, _ = video.frames_at([0.0], size=(6, 8))
        assert (video.frames_at([0.0])[0][0] == board).all()  # lossless
    assert frames.shape == (1, 6, 8, 3) and np.abs(frames[0].astype(int) - 127).max() <= 8


@pytest.mark.parametrize("size", [(48, 64), (24, 32), (8, 8), (100, 90)])
def test_colours_do_not_depend_on_the_size(tmp_path, size):
    path = write_video(tmp_path / "grey.mp4", [0.0], frames=[np.full((48, 64, 3), 128, np.uint8)])
    with Video.open(path) as video:
        assert (video.frames_at([0.0], size)[0] == video.frames_at([0.0])[0][0, 0, 0]).all()


def test_rotation_is_applied_counter_clockwise(tmp_path):
    red_above_blue = np.zeros((48, 64, 3), np.uint8)
    red_above_blue[:24, :, 0] = red_above_blue[24:, :, 2] = 255
    path = tmp_path / "rotated.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(red_above_blue, format="rgb24")))
        container.mux(stream.encode())
    with Video.open(path) as video:
        assert (video.info.rotation, video.info.height, video.info.width) == (90, 64, 48)
        frame = video.frames_at([0.0])[0][0]
        small = video.frames_at([0.0], size=(16, 12))[0][0]
    for picture in (frame, small):
        assert picture[5, 2].argmax() == 0 and picture[5, -3].argmax() == 2  # what was above is now left


@pytest.mark.parametrize("size", [(0, 64), (48, -1), (48, 99999)])
def test_an_impossible_size_is_refused(tenths, size):
    with Video.open(tenths) as video, pytest.raises(VideoError, match="must be .height, width., each from 1 to 16384"):
        video.frames_at([0.0], size=size)


@pytest.mark.parametrize(
    "limits, rule",
    [
        ({"max_pixels": 3071}, r"64x48 have more than max_pixels \(3071\)"),
        ({"max_frames": 59}, r"more frames than max_frames \(59\)"),
        ({"max_duration_s": 5.0}, r"lasts 5.9 s, more than max_duration_s \(5.0\)"),
        ({"max_bytes": 100}, r"more than max_bytes \(100\)"),
    ],
)
def test_a_video_over_a_limit_is_refused(tenths, limits, rule):
    with pytest.raises(VideoError, match=f"tenths.mp4: .*{rule}"):
        Video.open(tenths, limits=VideoLimits(**limits))


def test_more_frames_than_fit_in_memory_are_refused(tenths):
    with Video.open(tenths, limits=VideoLimits(max_output_bytes=50_000)) as video:
        with pytest.raises(VideoError, match=r"60 frames of 64x48 need 552960 bytes.*max_output_bytes \(50000\)"):
            video.all_frames()
        assert len(video.all_frames(size=(8, 8))[0]) == 60


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"no video here\n", "it is text"),
        (b"ffconcat version 1.0\nfile tenths.mp4\n", "it is a playlist that points to other files"),
        (b"#EXTM3U\n#EXTINF:9,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", "it is a playlist"),
        (b"GIF89a" + bytes(60), "it is an image"),
        (bytes(range(256)) * 20, "it is damaged or of no container that is opened here"),
    ],
)
def test_what_is_no_video_is_refused_with_name_and_reason(tmp_path, content, reason):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=f"clip.mp4: .*{reason}"):
        Video.open(path)
    with pytest.raises(VideoError, match=f"upload 7: .*{reason}"):
        Video.open(content, name="upload 7")


def test_a_playlist_reads_no_other_file(tenths, tmp_path):
    """The target is a pipe: a reader that opened it would wait for a writer, and the test would hang."""
    os.mkfifo(tmp_path / "target.mp4")
    path = tmp_path / "list.mp4"
    path.write_text("ffconcat version 1.0\nfile target.mp4\n")
    with pytest.raises(VideoError, match="playlist"):
        Video.open(path)


def test_a_name_is_never_an_address(tmp_path):
    for source in ("http://127.0.0.1:9/v.mp4", "pipe:0", "concat:a.mp4|b.mp4", tmp_path, tmp_path / "absent.mp4"):
        with pytest.raises(VideoError, match="no such file"):
            Video.open(source)


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="sound.mp4: no video in it, only audio"):
        Video.open(path)


def test_an_mp4_cut_before_its_index_is_refused(tenths):
    with pytest.raises(VideoError, match=r"its index \(moov\) is missing or damaged"):
        Video.open(tenths.read_bytes()[:1500])


def test_a_cut_file_is_used_as_far_as_it_reads_and_says_what_is_missing(tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in TENTHS]  # so that bytes are spread evenly
    whole = write_video(tmp_path / "whole.mp4", frames=noise, movflags="faststart")
    fast = tmp_path / "fast.mp4"
    with av.open(str(whole)) as source, av.open(str(fast), "w", options={"movflags": "faststart"}) as target:
        out = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = out
                target.mux(packet)
    data = fast.read_bytes()
    with Video.open(data[: len(data) // 2]) as video:
        info = video.check()
        assert 20 <= info.num_frames <= 40
        assert info.duration_s == pytest.approx(info.num_frames / 10)  # the last readable frame's end
        assert (
            info.damage == f"cut short: {info.num_frames} of 60 frames, {info.duration_s:.1f} s of 6.0 s are readable"
        )
        assert video.frames_at([99.0])[1][0] == video.frame_times_s[-1]


def test_a_damaged_frame_is_passed_over_counted_and_never_invented(tmp_path):
    path = write_video(tmp_path / "v.mkv", codec="mpeg4")
    with av.open(str(path)) as container:
        third = [p for p in container.demux(video=0) if p.size][3]
        offset, size = third.pos, third.size
    data = bytearray(path.read_bytes())
    start = data.index(b"\x00\x00\x01\xb6", offset)  # the picture's start code
    data[start : start + size - 8] = b"\xff" * (size - 8)
    with Video.open(bytes(data)) as video:
        assert video.info.damage is None  # the packets look whole
        frames, times_s = video.frames_at([0.3])
        assert times_s[0] == 0.2 and frame_numbers(frames) == [2]  # the last one that does decode
        assert video.info.damage == "1 of 60 frames do not decode"
        info = video.check()
        assert (info.num_frames, info.duration_s) == (59, 6.0) and 0.3 not in video.frame_times_s


def test_one_wrong_time_stamp_costs_no_other_frame(tmp_path):
    whole, wrong = write_video(tmp_path / "whole.mkv", codec="mjpeg", pix_fmt="yuvj420p"), tmp_path / "wrong.mkv"
    with av.open(str(whole)) as source, av.open(str(wrong), "w") as target:
        out = target.add_stream_from_template(source.streams.video[0])
        for i, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.stream = out
            if i == 5:
                packet.pts += 20_000  # 0.5 s becomes 20.5 s
            target.mux(packet)
    with Video.open(wrong) as video:
        frames, times_s = video.all_frames()
        assert frame_numbers(frames) == [*range(5), *range(6, 60), 5]
        assert times_s.tolist() == [t for t in TENTHS if t != 0.5] + [20.5]
        assert video.info.damage == "1 out of order"
        assert frame_numbers(video.frames_at([0.45, 5.95])[0]) == [4, 59]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_flipped_bytes_give_a_video_or_a_video_error_and_nothing_else(tenths, data):
    content = bytearray(tenths.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=20)):
        content[place] ^= data.draw(st.integers(1, 255))
    try:
        with Video.open(bytes(content)) as video:
            info = video.check()
            _, times_s = video.frames_at([0.0, 1.0, info.duration_s], size=(8, 8))
            assert info.duration_s > 0 and np.isfinite(times_s).all()
    except VideoError:
        pass


def test_a_packet_larger_than_its_file_is_damage_and_no_lack_of_memory(tenths, monkeypatch):
    content = bytearray(tenths.read_bytes())
    content[content.index(b"stsz") + 16 + 4 * 43] = 0x20  # half a gigabyte, says the 44th of 60 frames
    with Video.open(bytes(content)) as video:
        assert video.frame_times_s.tolist() == TENTHS[: len(video.frame_times_s)] and video.cut_short
        assert 40 <= len(video.frame_times_s) <= 43  # of the last ones, some refer to frames behind it

    def none_left(*args):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("timeexpert.data.video_index.mmap.mmap", none_left)
    with pytest.raises(MemoryError):
        Video.open(bytes(content))


def test_no_file_descriptor_is_left_open(tenths, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(tenths.read_bytes()[:1500])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with Video.open(tenths) as video:
            video.frames_at([5.0, 0.0])
        with pytest.raises(VideoError):
            Video.open(tmp_path / "bad.mp4")
        with pytest.raises(VideoError):
            Video.open(tenths, limits=VideoLimits(max_pixels=10))
    assert len(os.listdir("/proc/self/fd")) == before
