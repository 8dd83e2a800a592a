"""RefCOCO, RefCOCO+ (Yu et al., ECCV 2016) and RefCOCOg (Mao et al., CVPR 2016): references, with ``instances.json``.

Their references are published as a pickle (``refs(unc).p``), which is not read; the error says how to turn it into
JSON, a list of ``{ref_id, ann_id, image_id, file_name, split, sentences: [{sent_id, sent}]}``. ``instances.json``,
beside it, has the outlines. A sample per sentence, about a one-frame video of the picture (docs/mixes.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timeexpert.data.formats.base import Draft, Drafts, Fault, Format, RawEvent, RowError, fields_of, list_of, text_of
from timeexpert.data.formats.masks import MaskSource
from timeexpert.data.formats.reading import FormatError, Row, check_file, load_json, records
from timeexpert.data.mask_rle import MaskError, mask_size
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.polygons import polygons_mask

INSTANCES = "instances.json"
_REFERENCE = re.compile(r"(COCO_\w+_\d{12})_\d+(\.\w+)")  # the picture's name with the annotation's number behind it


@dataclass
class Instances:
    """Outlines and sizes of COCO's ``instances.json``, read when first asked for."""

    path: Path
    _sizes: dict[Any, Any] = field(default_factory=dict)  # by the picture's id, and by its file name
    _outlines: dict[Any, Any] = field(default_factory=dict)

    def size(self, image: Any) -> tuple[int, int]:
        """(height, width) of a picture, by its id or its file name. Raises :class:`MaskError`."""
        self._read()
        if image not in self._sizes:
            raise MaskError(f"{self.path} has no image {image!r}. Is it the file of these references?")
        return self._sizes[image]

    def track(self, annotation: Any, image: Any) -> MaskTrack:
        """The object of an annotation as a track at 0 s. Raises :class:`MaskError`."""
        size = self.size(image)
        if annotation not in self._outlines:
            raise MaskError(f"{self.path} has no annotation {annotation!r}. Is it the file of these references?")
        return outline_track(self._outlines[annotation], size, str(annotation))

    def _read(self) -> None:
        if self._sizes:
            return
        tree = load_json(self.path)
        try:
            for image in tree["images"]:
                size = mask_size({"size": [image["height"], image["width"]]})
                self._sizes[image["id"]] = self._sizes[image["file_name"]] = size
            self._outlines = {one["id"]: one["segmentation"] for one in tree.get("annotations", [])}
        except (KeyError, TypeError, AttributeError) as error:
            raise MaskError(f"{self.path}: not COCO's instances: {error!r}.") from None


def outline_track(outline: Any, size: tuple[int, int], name: str) -> MaskTrack:
    """A track at 0 s of COCO's ``segmentation``: polygons, or a run-length mask. Raises :class:`MaskError`."""
    if not isinstance(outline, dict):
        return MaskTrack.from_masks([polygons_mask(outline, size)], [0.0], name)
    if mask_size(outline) != size:
        raise MaskError(f"size {list(mask_size(outline))} is not {list(size)}, that of the picture.")
    return MaskTrack.from_rles([[outline]], [0.0], name)


def with_instances(path: Path, rows: Iterator[Row]) -> Iterator[Row]:
    """``rows`` of ``path`` with what reads the ``instances.json`` beside it."""
    beside = Instances(path.parent / INSTANCES)
    for row in rows:
        yield Row(row.where, row.key, row.value, row.problem, beside)


def _rows(path: Path) -> Iterator[Row]:
    check_file(path)
    if not (path.parent / INSTANCES).is_file():
        raise FormatError(f"{path}: its outlines are not in {path.parent / INSTANCES}. Put the set's file there.")
    yield from with_instances(path, records(path))


def _drafts(row: Row) -> Drafts:
    value = fields_of(row.value, "ref_id", "ann_id", "image_id", "file_name", "split", "sentences")
    for name in ("ref_id", "ann_id", "image_id"):
        if type(value[name]) is not int:
            raise RowError("malformed", f"{name} ({value[name]!r:.60}) must be a whole number.")
    picture = _REFERENCE.sub(r"\1\2", text_of(value["file_name"], "file_name"))
    for i, sentence in enumerate(list_of(value["sentences"], "sentences")):
        at = f".sentences[{i}]"
        try:
            query = text_of(fields_of(sentence, "sent")["sent"], "sent")
            yield Draft(
                key=f"{value['ref_id']}:{sentence.get('sent_id', i)}",
                video=picture + ".mp4",
                task="referring_segmentation",
                query=query,
                events=[RawEvent((), (), query)],
                at=at,
                meta={"ref_id": value["ref_id"], "ann_id": value["ann_id"], "split": value["split"]},
                masks=MaskSource(lambda rate: [row.beside.track(value["ann_id"], value["image_id"])]),
            )
        except RowError as error:
            yield Fault(at, error)


def _matches(first: Any) -> bool:
    return isinstance(first, dict) and {"ref_id", "ann_id", "sentences"} <= set(first)


FORMAT = Format(
    "refcoco",
    "RefCOCO, RefCOCO+, RefCOCOg: the references as JSON with instances.json; a mask per sentence",
    _rows,
    _matches,
    _drafts,
)
