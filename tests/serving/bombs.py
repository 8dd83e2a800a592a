"""Images and videos that say more than they are: sizes, lengths and texts that would take all memory."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import av
import numpy as np


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(width: int, height: int, *chunks: bytes, pixels: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">II", width, height) + b"\x08\x02\0\0\0")
    data = png_chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + png_chunk(b"IEND", b"")


def huge_frames(folder: Path, *, in_header: bool) -> bytes:
    """Motion JPEG whose pictures, or also whose header, say 65500 by 65500 pixels."""
    path = folder / "huge.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert data.count(struct.pack(">HH", 48, 64)) == 3  # of the three pictures
    data = data.replace(struct.pack(">HH", 48, 64), struct.pack(">HH", 65_500, 65_500))
    if in_header:
        data = data.replace(struct.pack("<ii", 64, 48), struct.pack("<ii", 65_500, 65_500))
    return data


def with_index_of(data: bytes, seconds: int) -> bytes:
    """An MP4 whose table of sample times (stts, ISO/IEC 14496-12 8.6.1.2) stretches it to ``seconds``."""
    out = bytearray(data.replace(b"edts", b"free"))  # the edit list would cut it at the end of the real video
    at = data.index(b"stts") + 8
    (entries,) = struct.unpack_from(">I", out, at)
    assert entries == 1
    frames, _ = struct.unpack_from(">II", out, at + 4)
    (timescale,) = struct.unpack_from(">I", out, data.index(b"mdhd") + 16)
    struct.pack_into(">I", out, at + 8, seconds * timescale // frames)
    return bytes(out)
