"""The videos of ``--samples DIR``: what the page offers to somebody who has no video at hand."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from timeexpert.data.records import SampleError, parse_json
from timeexpert.data.video import Video, VideoError
from timeexpert.errors import UserError

from .opened import Identity, open_without_links

TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".mov": "video/quicktime",
    ".avi": "video/x-msvideo",
    ".ts": "video/mp2t",
    ".mpg": "video/mpeg",
}
MAX_SAMPLES = 100
PROMPTS = "prompts.json"


@dataclass(frozen=True)
class Sample:
    """One video that the server offers, as it was found; ``prompts`` are questions to begin with."""

    id: str
    name: str
    path: Path
    sha256: str
    identity: Identity
    duration_s: float
    prompts: tuple[str, ...]

    def is_there(self) -> bool:
        """Whether the file still is what it was."""
        try:
            with open_without_links(self.path) as file:
                return Identity.of(file) == self.identity
        except OSError:
            return False

    def to_json(self) -> dict[str, object]:
        """A row of ``GET /samples``."""
        return {"id": self.id, "name": self.name, "duration_s": self.duration_s, "prompts": list(self.prompts)}


def read_samples(folder: Path | None) -> dict[str, Sample]:
    """The videos in a folder (not below it) by id, in the order of their names.

    ``prompts.json`` in the folder may hold questions: ``{"clip.mp4": ["When ...?"]}``. Raises ``UserError`` where a
    video or that file cannot be read, or where there are more than 100 videos.
    """
    if folder is None:
        return {}
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in TYPES and p.is_file())
    if len(paths) > MAX_SAMPLES:
        raise UserError(f"--samples {folder}: {len(paths)} videos; at most {MAX_SAMPLES} are offered.")
    prompts = _prompts(folder / PROMPTS, {p.name for p in paths})
    samples = {}
    for path in paths:
        try:
            found = path.resolve(strict=True)  # links are followed once, here
            with open_without_links(found) as file:
                sha256, identity = hashlib.file_digest(file, "sha256").hexdigest(), Identity.of(file)
            with Video.open(path) as video:
                duration_s = video.info.duration_s
        except (VideoError, OSError) as error:
            raise UserError(f"--samples {folder}: {error} Take it out of the folder.") from None
        key = f"sample-{sha256[:16]}"
        samples[key] = Sample(key, path.stem, found, sha256, identity, duration_s, prompts.get(path.name, ()))
    return samples


def _prompts(path: Path, names: set[str]) -> dict[str, tuple[str, ...]]:
    if not path.is_file():
        return {}
    try:
        rows = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SampleError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    good = isinstance(rows, dict) and all(
        isinstance(row, list) and all(isinstance(text, str) for text in row) for row in rows.values()
    )
    if not good:
        example = json.dumps({"clip.mp4": ["When does it start?"]})
        raise UserError(f"{path} must hold lists of questions by file name, like {example}.")
    unknown = sorted(set(rows) - names)
    if unknown:
        raise UserError(f"{path}: no video {unknown[0]!r} in that folder.")
    return {name: tuple(texts) for name, texts in rows.items()}
