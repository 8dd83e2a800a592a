"""GranD-f (Rasheed et al., GLaMM, CVPR 2024): captions whose phrases have masks, in the three forms of its files.

- by people, and OpenPSG: ``{file_name, caption, groundings: {phrase: {token_positives: [start, end], rle_masks}}}``;
- RefCOCOg: ``{img_file_name, caption, refs: [{sentence, segmentation}]}``, outlines whose pictures' sizes are in the
  ``instances.json`` of COCO 2014, beside the file; a phrase is where the caption first has its words;
- Flickr30k: COCO's ``images`` with ``caption``, and ``annotations`` with ``tokens_positive`` and ``sam_mask``.

The answer is the caption with ``<p> phrase </p> [SEG]`` for each phrase in its order, so the i-th track is the i-th
phrase's. It is a referring segmentation about a one-frame video of the picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from timeexpert.data.formats.base import Draft, Drafts, Format, RawEvent, RowError, fields_of, list_of, text_of
from timeexpert.data.formats.masks import MaskSource
from timeexpert.data.formats.reading import FormatError, Row, load_json, peek, records
from timeexpert.data.formats.refcoco import INSTANCES, outline_track, with_instances
from timeexpert.data.mask_rle import MaskError
from timeexpert.data.mask_tracks import MaskTrack

ASK = "grounded_captioning"  # of the instructions
Phrase = tuple[int, int, Any]  # where it begins and ends in the caption, and what its masks are made from


def _rows(path: Path) -> Iterator[Row]:
    if isinstance(first := peek(path), dict) and "annotations" in first:
        yield from _flickr_rows(path)
    else:
        yield from with_instances(path, records(path))


def _flickr_rows(path: Path) -> Iterator[Row]:
    """A row per picture, with its annotations."""
    tree = load_json(path)
    by_image: dict[Any, list[Any]] = {}
    try:
        for one in tree["annotations"]:
            by_image.setdefault(one["image_id"], []).append(one)
        images = [(image["id"], dict(image)) for image in tree["images"]]
    except (KeyError, TypeError) as error:
        raise FormatError(f"{path}: must have COCO's images and annotations: {error!r}.") from None
    for number, (name, image) in enumerate(images):
        yield Row(f"{path.name}['images'][{number}]", str(name), image | {"annotations": by_image.get(name, [])})


def _drafts(row: Row) -> Drafts:
    value = fields_of(row.value, "caption")
    caption = text_of(value["caption"], "caption").strip('"').strip()
    if "groundings" in value:
        phrases, picture, tracks = _grounded(value), value.get("file_name"), _united
    elif "refs" in value:
        phrases, picture, tracks = _referred(value, caption), value.get("img_file_name"), _outlined(row, value)
    else:
        fields_of(value, "annotations", "file_name")
        phrases, picture, tracks = _annotated(value), value["file_name"], _united
    placed, meta = _placed(phrases, caption)
    if not placed:
        raise RowError("no_label", "no phrase of the caption has a mask.")
    yield Draft(
        key=row.key,
        video=text_of(picture, "file_name") + ".mp4",
        task="referring_segmentation",
        ask=ASK,
        events=[RawEvent((), (), _answer(caption, placed))],
        meta=meta,
        masks=MaskSource(lambda rate: [tracks(what, caption[start:end]) for start, end, what in placed]),
    )


def _answer(caption: str, phrases: Sequence[Phrase]) -> str:
    parts, before = [], 0
    for start, end, _ in phrases:
        parts.append(f"{caption[before:start]}<p> {caption[start:end]} </p> [SEG]")
        before = end
    return "".join(parts) + caption[before:]


def _placed(phrases: Sequence[Phrase], caption: str) -> tuple[list[Phrase], dict[str, Any]]:
    """The phrases in the caption's order; ``meta`` counts those that overlap an earlier one or are not in it."""
    kept: list[Phrase] = []
    lost = {"overlapping_phrases": 0, "unplaced_phrases": 0}
    for phrase in sorted(phrases, key=lambda phrase: phrase[:2]):
        start, end, _ = phrase
        if not 0 <= start < end <= len(caption):
            lost["unplaced_phrases"] += 1
        elif kept and start < kept[-1][1]:
            lost["overlapping_phrases"] += 1
        else:
            kept.append(phrase)
    return kept, {name: count for name, count in lost.items() if count}


def _span(value: Any, name: str) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(type(place) is int for place in value):
        raise RowError("malformed", f"{name} ({value!r:.60}) must be [start, end], places in the caption.")
    return value[0], value[1]


def _grounded(value: dict[str, Any]) -> list[Phrase]:
    out = []
    for phrase, one in fields_of(value["groundings"]).items():
        one = fields_of(one, "token_positives", "rle_masks")
        span = _span(one["token_positives"], f"groundings[{phrase!r:.40}].token_positives")
        out.append((*span, list_of(one["rle_masks"], "rle_masks")))
    return out


def _annotated(value: dict[str, Any]) -> list[Phrase]:
    out = []
    for i, one in enumerate(list_of(value["annotations"], "annotations")):
        one = fields_of(one, "tokens_positive", "sam_mask")
        spans = list_of(one["tokens_positive"], f"annotations[{i}].tokens_positive")
        out.append((*_span(spans[0] if spans else None, f"annotations[{i}].tokens_positive[0]"), [one["sam_mask"]]))
    return out


def _referred(value: dict[str, Any], caption: str) -> list[Phrase]:
    out = []
    for i, one in enumerate(list_of(value["refs"], "refs")):
        one = fields_of(one, "sentence", "segmentation")
        phrase = text_of(one["sentence"], f"refs[{i}].sentence")
        start = caption.lower().find(phrase.lower())
        out.append((start, start + len(phrase), one["segmentation"]))
    return out


def _united(rles: Any, phrase: str) -> MaskTrack:
    return MaskTrack.from_rles([rles], [0.0], phrase)


def _outlined(row: Row, value: dict[str, Any]) -> Any:
    def track(outline: Any, phrase: str) -> MaskTrack:
        if row.beside is None or not row.beside.path.is_file():
            raise MaskError(
                f"RefCOCOg's file has no sizes of pictures. Put COCO 2014's {INSTANCES}, or a link to it, beside it."
            )
        return outline_track(outline, row.beside.size(value["img_file_name"]), phrase)

    return track


def _matches(first: Any) -> bool:
    if not isinstance(first, dict):
        return False
    images = first.get("images")
    flickr = isinstance(images, list) and images and isinstance(images[0], dict) and "caption" in images[0]
    return {"caption", "groundings"} <= set(first) or {"caption", "refs"} <= set(first) or bool(flickr)


FORMAT = Format(
    "grand_f",
    "GranD-f (GLaMM): captions of pictures whose phrases have masks; an answer holds a [SEG] for each",
    _rows,
    _matches,
    _drafts,
)
