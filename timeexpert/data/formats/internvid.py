"""InternVid (Wang et al., ICLR 2024): a JSON line per clip, ``{YoutubeID, Start_timestamp, End_timestamp, Caption}``.

Neighbouring lines of one video are taken together: a dense captioning sample of all of them, and a moment retrieval
sample per clip. A video that comes again further down would get a second, partial list of its events: it is rejected
there, and sorting the lines first (``sort``) brings its clips together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from timeexpert.data.formats.base import Drafts, Format, RowError, fields_of, list_of
from timeexpert.data.formats.captions import dense_draft, paired, query_drafts
from timeexpert.data.formats.reading import Row, json_lines

MAX_CLIPS = 10_000  # of one video
_FIELDS = ("YoutubeID", "Start_timestamp", "End_timestamp", "Caption")
_TIME = re.compile(r"(\d{1,3}):([0-5]\d):([0-5]\d(?:\.\d{1,6})?)", re.ASCII)


def _video(row: Row) -> str:
    """What neighbouring rows are joined by; rows that cannot be read stand alone."""
    video = row.value.get("YoutubeID") if isinstance(row.value, dict) and not row.problem else None
    return video if isinstance(video, str) else f"\0{row.where}"


def _rows(path: Path) -> Iterator[Row]:
    for video, group in groupby(json_lines(path), _video):
        rows = list(islice(group, MAX_CLIPS + 1))
        if video.startswith("\0"):
            yield rows[0]
            continue
        problem = f"more than {MAX_CLIPS} clips of one video" if len(rows) > MAX_CLIPS else ""
        yield Row(rows[0].where, video, [row.value for row in rows[: 1 if problem else None]], problem)


def _seconds(value: Any, name: str) -> float:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise RowError("bad_number", f"{name} ({value!r}) must be a time like '00:03:10.567'.")
    return round(int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]), 6)


def _drafts(row: Row) -> Drafts:
    clips = [fields_of(clip, *_FIELDS) for clip in list_of(row.value, "the clips of a video")]
    windows = [[_seconds(clip[name], name) for name in _FIELDS[1:3]] for clip in clips]
    pairs = paired(windows, [clip["Caption"] for clip in clips], "clips")
    video = clips[0]["YoutubeID"] if clips else None
    yield dense_draft(row.key, pairs, video=video, video_is_id=True)
    yield from query_drafts(row.key, pairs, video=video, video_is_id=True)


def _matches(first: Any) -> bool:
    return isinstance(first, dict) and set(_FIELDS) <= set(first)


FORMAT = Format(
    "internvid",
    "InternVid lines {YoutubeID, Start_timestamp, End_timestamp, Caption}: dense captions and a query per clip",
    _rows,
    _matches,
    _drafts,
)
