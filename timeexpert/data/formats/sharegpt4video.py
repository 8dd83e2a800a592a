"""ShareGPT4Video's 40k captions (Chen et al., NeurIPS 2024): JSON lines ``{video_id, video_path, captions}``.

The caption of the whole video (``idx`` -1) makes a general sample; captions between key frames are not converted:
they tell what changes from one key frame to the next, not what happens in a span.
"""

from __future__ import annotations

from typing import Any

from timeexpert.data.formats.base import Draft, Drafts, Format, RawEvent, RowError, fields_of, list_of, text_of
from timeexpert.data.formats.reading import Row, records


def _drafts(row: Row) -> Drafts:
    value = fields_of(row.value, "video_id", "video_path", "captions")
    captions = [fields_of(caption, "idx", "content") for caption in list_of(value["captions"], "captions")]
    whole = [caption["content"] for caption in captions if str(caption["idx"]) == "-1"]
    if len(whole) != 1:
        raise RowError(
            "no_label", f"{len(whole)} of {len(captions)} captions have idx -1, the whole video's; 1 is due."
        )
    yield Draft(
        key=row.key,
        video=value["video_path"],
        task="general",
        events=[RawEvent((), (), text_of(whole[0], "content"))],
        meta={"video_id": value["video_id"]},
    )


def _matches(first: Any) -> bool:
    return isinstance(first, dict) and {"video_id", "video_path", "captions"} <= set(first)


FORMAT = Format(
    "sharegpt4video",
    "ShareGPT4Video's 40k lines: {video_id, video_path, captions}; the whole video's caption",
    records,
    _matches,
    _drafts,
)
