"""Converters of published annotation formats into samples: one module each, all found here by name.

``convert("charades_sta", path, ConvertOptions(...))`` yields a :class:`Sample` or a :class:`Rejected` for everything
in the file: it does not stop at a bad row and loses none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from timeexpert.data.formats import (
    activitynet_captions,
    caption_coco,
    charades_sta,
    choice_csv,
    etbench,
    grand_f,
    industry_asm,
    internvid,
    lighthouse,
    llava,
    llava_image,
    loomdata,
    mevis,
    moment10m,
    museg,
    qvhighlights,
    ref_youtube_vos,
    refcoco,
    refdavis17,
    revos,
    samples,
    sharegpt4video,
    star,
    textvr,
    timed_clips,
    timeit,
    trace,
    videochatgpt,
    youcook2,
)
from timeexpert.data.formats.base import Converted, ConvertOptions, Format, Rejected
from timeexpert.data.formats.durations import read_durations
from timeexpert.data.formats.reading import FormatError, peek
from timeexpert.errors import did_you_mean

__all__ = [
    "FORMATS",
    "ConvertOptions",
    "Converted",
    "Format",
    "FormatError",
    "Rejected",
    "convert",
    "detect",
    "get",
    "read_durations",
]

# in the order in which detect() asks them: the more particular one first
_MODULES = (
    charades_sta, choice_csv, samples, qvhighlights, lighthouse, etbench, museg, industry_asm, timeit, trace,
    llava_image, llava, timed_clips, youcook2, grand_f, caption_coco, activitynet_captions, videochatgpt, textvr,
    sharegpt4video, internvid, star, moment10m, refcoco, revos, mevis, ref_youtube_vos, refdavis17, loomdata,
)  # fmt: skip
FORMATS: dict[str, Format] = {module.FORMAT.name: module.FORMAT for module in _MODULES}


def convert(name: str, path: str | Path, options: ConvertOptions | None = None) -> Iterator[Converted]:
    """Samples and rejections of ``path`` in the format ``name``. Raises :class:`FormatError`."""
    return get(name).convert(path, options)


def get(name: str) -> Format:
    """The format ``name``. Raises :class:`FormatError` with the names there are."""
    if name not in FORMATS:
        hint = did_you_mean(name, FORMATS)
        raise FormatError(f"format ({name!r}) must be auto or one of {', '.join(FORMATS)}.{hint}")
    return FORMATS[name]


def detect(path: str | Path) -> str:
    """The name of the format of ``path``, guessed from its first record. Raises :class:`FormatError`."""
    first = peek(Path(path))
    for name, candidate in FORMATS.items():
        if candidate.matches(first):
            return name
    keys = f" Its first record has {', '.join(map(repr, list(first)[:8]))}." if isinstance(first, dict) else ""
    raise FormatError(f"{path}: no known format.{keys} Name the format yourself; there are {', '.join(FORMATS)}.")
