"""What a frozen vision tower made of a clip's frames, kept with their exact times: one ``.features`` file per clip.

The file is safetensors. ``features`` (K, P, C): K frames of P patches, C wide, the tower's last hidden state.
``frames`` (K,) int64: which of the clip's frames they are. ``times_s`` (K,) float64: when each is shown.
``frame_times_s`` (F,) float64: when each of the clip's frames begins. The header says how long the clip lasts, what
made the features (a *kind*) and with which libraries. A kind is a JSON object::

    {"tower": what tells towers apart, "kept": {"fps": 2.0} or {"num_frames": [8, 16]}, "dtype": "bfloat16",
     "shape": [P, C]}

``fps``: the clip is those frames, as if it had no others. ``num_frames``: the clip has all of its frames, but only
those that uniform sampling of so many takes are here; others are refused and never replaced by a neighbour.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from timeexpert.errors import UserError

from .media import MAX_VIDEO_BYTES, is_features, resolve_media
from .records import SampleError, parse_json
from .sampling import Mode, sample_times
from .video_index import on_screen

HEADER = "timeexpert_features"  # the key in the file's metadata
VERSION = 1
MAX_HEADER_BYTES = 1 << 20
# safetensors' name, numpy's of the same width; numpy has no bfloat16
DTYPES = {"float16": ("F16", "<u2"), "bfloat16": ("BF16", "<u2"), "float32": ("F32", "<u4")}
AGAIN = "Make it again: timeexpert data cache SAMPLES.jsonl --features MODEL."


class FeaturesError(UserError):
    """Features that cannot be read, or that another tower or other frames would be needed for."""


class FeatureFile:
    """A features file, of which only what is asked for is read. ``name`` is what errors call it.

    Attributes as in the module's text; ``kind`` and ``duration_s``. Files are untrusted: sizes and places are checked
    against the file, and nothing but numbers is read. Raises :class:`FeaturesError`.
    """

    def __init__(self, source: str | Path | bytes, name: str | None = None) -> None:
        self.name = name or (str(source) if not isinstance(source, bytes) else "features in memory")
        try:
            self._data = source if isinstance(source, bytes) else _mapped(Path(source))
            self._read_header()
        except OSError as error:
            raise FeaturesError(f"{self.name}: cannot be read: {error.strerror or error}.") from None
        except (SampleError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FeaturesError(f"{self.name}: not a whole features file: {error}. {AGAIN}") from None

    def _read_header(self) -> None:
        size = int.from_bytes(self._data[:8], "little")
        if not 2 <= size <= min(MAX_HEADER_BYTES, len(self._data) - 8):
            raise ValueError("its header is missing or cut off")
        table = parse_json(bytes(self._data[8 : 8 + size]).decode("utf-8"))
        header = parse_json(table["__metadata__"][HEADER])
        if header["version"] != VERSION:
            raise ValueError(f"its version is {header['version']!r}, and this program reads {VERSION}")
        self._table, self._begin = table, 8 + size
        self.kind, self.duration_s = check_kind(header["kind"]), float(header["duration_s"])
        self.frames, self.times_s = self._array("frames", "I64", "<i8"), self._array("times_s", "F64", "<f8")
        self.frame_times_s = self._array("frame_times_s", "F64", "<f8")
        self._features = self._array("features", *DTYPES[self.kind["dtype"]])
        count, shown = len(self.frames), self.frame_times_s
        if not count or len(self.times_s) != count or self._features.shape != (count, *self.kind["shape"]):
            raise ValueError("its tensors do not belong together")
        if not (math.isfinite(self.duration_s) and np.isfinite(shown).all() and np.isfinite(self.times_s).all()):
            raise ValueError("a time is not a finite number")
        if not self.duration_s > shown[-1] or (np.diff(shown) <= 0).any() or (np.diff(self.times_s) < 0).any():
            raise ValueError("its times are not in order")
        if self.frames[0] < 0 or self.frames[-1] >= len(shown) or (np.diff(self.frames) <= 0).any():
            raise ValueError("its frames are not frames of the clip, in order")

    def _array(self, name: str, dtype: str, raw: str) -> np.ndarray:
        entry = self._table[name]
        shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
        if entry["dtype"] != dtype or not all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end)):
            raise ValueError(f"{name} is not a tensor of {dtype}")
        count = math.prod(shape)
        if end - begin != count * np.dtype(raw).itemsize or self._begin + end > len(self._data):
            raise ValueError(f"{name} lies outside of the file")
        return np.frombuffer(self._data, raw, count, self._begin + begin).reshape(shape)

    @property
    def summary(self) -> str:
        """What the file holds, in words: which frames' features, their shape and type."""
        patches, width = self.kind["shape"]
        return (
            f"features of {len(self.frames)} of {len(self.frame_times_s)} frames ({_kept(self.kind)}), "
            f"{patches} patches of {width} {self.kind['dtype']}"
        )

    def sample(
        self, num_frames: int, mode: Mode = "uniform", rng: np.random.Generator | None = None
    ) -> tuple[Tensor, np.ndarray]:
        """Features (n, P, C) of the frames that sampling a video gives at these settings, and their times (n,).

        As :func:`~.sampling.sample_frames`, to the last frame. Raises :class:`FeaturesError` where one is not here.
        """
        asked_s = sample_times(self.duration_s, num_frames, mode, rng)
        wanted = np.unique(on_screen(self.frame_times_s, asked_s))
        rows = np.minimum(np.searchsorted(self.frames, wanted), len(self.frames) - 1)
        missing = wanted[self.frames[rows] != wanted]
        if len(missing):
            raise FeaturesError(
                f"{self.name}: holds features of {len(self.frames)} of {len(self.frame_times_s)} frames "
                f"({_kept(self.kind)}), and not of the one at {self.frame_times_s[missing[0]]:.3f} s, which "
                f"{mode} sampling of {num_frames} takes. {_way_out(num_frames, mode)}"
            )
        # in a damaged video two times may show the same frame
        rows = rows[np.unique(self.times_s[rows], return_index=True)[1]]
        return self._rows(rows), self.times_s[rows]

    def _rows(self, rows: np.ndarray) -> Tensor:
        dtype = getattr(torch, self.kind["dtype"])
        copied = self._features.take(rows, axis=0)
        return torch.from_numpy(copied.view(copied.dtype.str.replace("u", "i"))).view(dtype)

    def info(self, *, check: bool = False) -> dict[str, Any]:
        """What a shard notes of the clip. ``check``: every value is read. Raises :class:`FeaturesError`."""
        parts = (self._rows(np.array([i])) for i in range(len(self.frames)))
        if check and not all(torch.isfinite(part).all() for part in parts):
            raise FeaturesError(f"{self.name}: a feature is not a finite number. {AGAIN}")
        return {
            "duration_s": self.duration_s,
            "num_frames": len(self.frame_times_s),
            "features": len(self.frames),
            "damage": None,
        }


def _mapped(path: Path) -> mmap.mmap | bytes:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if os.fstat(file.fileno()).st_size else b""


def write_features(
    out: Path,
    kind: dict[str, Any],
    duration_s: float,
    frame_times_s: np.ndarray,
    frames: np.ndarray,
    parts: Iterable[tuple[Tensor, np.ndarray]],
    made_with: dict[str, str],
) -> None:
    """Write a features file, whole or not at all. ``parts``: features (n, P, C) and their times (n,), of all ``frames``
    in order; they are written as they come. ``kind`` lacks the shape, which the first part gives.

    Raises :class:`FeaturesError` for values that the type cannot hold and a file that would be too large.
    """
    dtype, begin = getattr(torch, kind["dtype"]), 0
    times_s: list[np.ndarray] = []
    with _replacing(out) as file:
        for features, shown_s in parts:
            if not times_s:
                kind = {**kind, "shape": list(features.shape[1:])}
                head = _header(kind, duration_s, len(frame_times_s), len(frames), made_with)
                begin = len(head)
                file.write(head + frames.astype("<i8").tobytes())
                file.write(bytes(8 * len(frames)) + frame_times_s.astype("<f8").tobytes())
            kept = features.to(dtype)
            if not torch.isfinite(kept).all():
                raise FeaturesError(
                    f"its features are not finite numbers in {kind['dtype']}. Use --dtype float32, or bfloat16."
                )
            file.write(kept.cpu().contiguous().view(torch.uint8).numpy().data)
            times_s.append(shown_s)
        file.seek(begin + 8 * len(frames))
        file.write(np.concatenate(times_s).astype("<f8").tobytes())


@contextmanager
def _replacing(out: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``out`` when all went well, and is deleted otherwise."""
    temporary = out.with_name(f".{out.name}.part")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _header(kind: dict[str, Any], duration_s: float, clip: int, kept: int, made_with: dict[str, str]) -> bytes:
    dtype, raw = DTYPES[kind["dtype"]]
    sizes = {
        "frames": ("I64", (kept,), 8),
        "times_s": ("F64", (kept,), 8),
        "frame_times_s": ("F64", (clip,), 8),
        "features": (dtype, (kept, *kind["shape"]), np.dtype(raw).itemsize),
    }
    about = {"version": VERSION, "kind": kind, "duration_s": duration_s, "made_with": made_with}
    table: dict[str, Any] = {"__metadata__": {HEADER: json.dumps(about)}}
    end = 0
    for name, (dtype, shape, width) in sizes.items():
        begin, end = end, end + math.prod(shape) * width
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    if end > MAX_VIDEO_BYTES - MAX_HEADER_BYTES:
        raise FeaturesError(
            f"features of {kept} frames take {end / 2**30:.1f} GiB; a clip's may take {MAX_VIDEO_BYTES / 2**30:g}. "
            "Lower --fps or --num-frames, choose a smaller --dtype, or cut the clip."
        )
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def check_kind(kind: Any) -> dict[str, Any]:
    """``kind`` where it is one. Raises ``ValueError``, ``KeyError`` or ``TypeError``."""
    tower, (rule,) = dict(kind["tower"]), dict(kind["kept"])
    shape, amount = kind["shape"], kind["kept"][rule]
    if kind["dtype"] not in DTYPES or rule not in ("fps", "num_frames") or not isinstance(tower.get("weights"), str):
        raise ValueError("what made it is not told")
    if len(shape) != 2 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"its shape ({shape!r}) is not that of a frame's features")
    if rule == "num_frames" and not (isinstance(amount, list) and all(isinstance(n, int) for n in amount)):
        raise ValueError(f"its frames ({amount!r}) are not numbers of frames")
    return {name: kind[name] for name in ("tower", "kept", "dtype", "shape")}


def one_kind(media: Path, videos: Iterable[str]) -> dict[str, Any] | None:
    """The kind of features that all of ``videos`` are; None where none of them is a features file.

    Files that cannot be read are left to whoever reads them. Raises :class:`FeaturesError` for two kinds, or features
    beside videos: a shard folder holds one.
    """
    first: tuple[str, dict[str, Any] | None] | None = None
    for video in videos:
        kind = None
        if is_features(video):
            try:
                kind = FeatureFile(resolve_media(media, video), video).kind
            except UserError:
                continue
        if first is None:
            first = video, kind
        elif kind != first[1]:
            raise FeaturesError(
                f"{video} and {first[0]} are of two kinds ({_differing(first[1], kind)}); a shard folder holds frames, "
                "or features that were made alike. Build a folder of each."
            )
    return first[1] if first is not None else None


def _differing(one: dict[str, Any] | None, other: dict[str, Any] | None) -> str:
    if one is None or other is None:
        return "features and a video"
    return ", ".join(name for name in one if one[name] != other[name])


def refuse_other_tower(kind: dict[str, Any], tower: dict[str, Any], where: object) -> None:
    """Raises :class:`FeaturesError` where features of ``kind``, kept at ``where``, are not of ``tower``."""
    made_by = kind["tower"]
    names = [name for name in {**tower, **made_by} if tower.get(name) != made_by.get(name)]
    if names:
        told = "; ".join(f"{name} {_short(made_by.get(name))}, the model's {_short(tower.get(name))}" for name in names)
        raise FeaturesError(
            f"{where}: its features are of another vision tower than the model's: {told}. Give the model that made "
            "them, shards with frames, or make them again: timeexpert data cache SAMPLES.jsonl --features MODEL."
        )


def refuse_missing_frames(kind: dict[str, Any], num_frames: Sequence[int], mode: Mode, where: object) -> None:
    """Raises :class:`FeaturesError` where ``kind`` cannot have all the frames that these settings take."""
    kept = kind["kept"].get("num_frames")
    if kept is None:
        return
    lacking = [n for n in num_frames if mode != "uniform" or n not in kept]
    if lacking:
        raise FeaturesError(
            f"{where}: holds features of the frames that uniform sampling takes ({_kept(kind)}), not of those of "
            f"{mode} sampling of {', '.join(map(str, lacking))}. {_way_out(lacking[0], mode)}"
        )


def _kept(kind: dict[str, Any]) -> str:
    ((rule, amount),) = kind["kept"].items()
    with suppress(TypeError):
        amount = " ".join(map(str, amount))
    return f"--{rule.replace('_', '-')} {amount}"


def _way_out(num_frames: int, mode: Mode) -> str:
    if mode != "uniform":
        return "Set sampling: uniform, or cache features with --fps, from which any sampling may draw."
    return f"Ask for a number of frames that is kept, or cache features with --num-frames {num_frames}."


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text  # a checksum
