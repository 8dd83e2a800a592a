"""LoomData (VideoLoom, section 3.1): what one person does and when, and where that person is.

No file of it is published; this form is ours: ``{video, duration, actions: [{start, end, caption}], masks: {size,
times, rles}}``.

``masks`` are those of the main character over the whole video: ``size`` [height, width], ``times`` in seconds, and
COCO's compressed counts or null per time. Each action becomes both of the paper's forms: temporal grounding (when), and
a referring segmentation of its segment (where).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timeexpert.data.formats.base import Draft, Drafts, Fault, Format, RawEvent, RowError, fields_of, list_of, text_of
from timeexpert.data.formats.masks import MaskSource
from timeexpert.data.formats.reading import Row, records
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.records import Sample


def _drafts(row: Row) -> Drafts:
    value = fields_of(row.value, "video", "actions", "masks")
    masks = fields_of(value["masks"], "size", "times", "rles")

    def tracks(frame_rate: float) -> Sequence[MaskTrack]:
        return [MaskTrack(masks["size"], masks["times"], masks["rles"], "1")]

    for i, action in enumerate(list_of(value["actions"], "actions")):
        at = f".actions[{i}]"
        try:
            action = fields_of(action, "start", "end", "caption")
            query = text_of(action["caption"], "caption")
            shared: dict[str, Any] = {
                "video": value["video"],
                "duration_s": value.get("duration"),
                "query": query.rstrip("."),
                "events": [RawEvent([action["start"], action["end"]], (), query)],
                "at": at,
            }
            yield Draft(key=f"{row.key}:{i}:when", task="moment_retrieval", **shared)
            yield Draft(key=f"{row.key}:{i}:where", task="referring_segmentation", masks=MaskSource(tracks), **shared)
        except RowError as error:
            yield Fault(at, error)


def write_row(sample: Sample) -> dict[str, Any]:
    """The row of a segmentation of one timed action. Raises :class:`RowError` for any other sample."""
    if sample.task != "referring_segmentation":
        raise RowError("unsupported", f"a sample of the task {sample.task} has no masks; its segmentation is written.")
    if len(sample.tracks) != 1 or len(sample.events) != 1 or sample.events[0].start_s is None:
        raise RowError(
            "unsupported",
            f"the sample has {len(sample.tracks)} tracks and {len(sample.events)} events; a row of LoomData is one "
            "object in one segment.",
        )
    (event,), (track,) = sample.events, sample.tracks
    row: dict[str, Any] = {"video": sample.video}
    if sample.duration_s is not None:
        row["duration"] = sample.duration_s
    return row | {
        "actions": [{"start": event.start_s, "end": event.end_s, "caption": event.text}],
        "masks": {"size": list(track.size), "times": list(track.times_s), "rles": list(track.rles)},
    }


def _matches(first: Any) -> bool:
    return isinstance(first, dict) and {"video", "actions", "masks"} <= set(first)


FORMAT = Format(
    "loomdata",
    "LoomData in our form: {video, actions: [{start, end, caption}], masks}; when and where of each action",
    records,
    _matches,
    _drafts,
    write=write_row,
)
