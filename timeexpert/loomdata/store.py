"""What is known of each video, in a folder of its own: one file per step, valid for the inputs that it names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timeexpert.data.media import resolve_media, video_member_key
from timeexpert.data.records import SampleError, parse_json
from timeexpert.data.shard_index import write_atomically
from timeexpert.errors import UserError

VIDEOS = "videos"  # folder of the states, in the output folder
PARTIAL = " in part"
VERSION = 1  # of the steps' results: raise it when a step changes what it makes, so that kept ones are made anew


def digest(*parts: Any) -> str:
    """A hash of JSON values: what a result was made from."""
    return hashlib.sha256(json.dumps([VERSION, *parts], sort_keys=True).encode()).hexdigest()


@dataclass
class VideoState:
    """One video on its way through the steps.

    ``inputs``: for each finished step the digest of what its result was made from. ``dropped``: the step that ended the
    video's way, with kind and reason.
    """

    video: str
    folder: Path
    identity: str  # of the file's bytes
    inputs: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] | None = None

    def result(self, step: str) -> dict[str, Any]:
        """What ``step`` found, read from its file: masks of many videos would not fit into memory."""
        row = _read(self.folder / f"{step}.json")
        if row is None or row.get("inputs", "").removesuffix(PARTIAL) != self.inputs[step]:
            raise UserError(f"{self.folder / step}.json: changed while it was in use. Run the same command again.")
        return dict(row["result"])

    def load(self, step: str, inputs: str) -> bool:
        """Whether a whole result of ``step`` made from ``inputs`` is kept; it is then the one of :meth:`result`."""
        row = _read(self.folder / f"{step}.json")
        if row is None or row.get("inputs") != inputs or not isinstance(row.get("result"), dict):
            return False
        self._take(step, inputs, row["result"])
        return True

    def save(
        self, step: str, inputs: str, result: dict[str, Any], *, seconds: float, frames: int, whole: bool = True
    ) -> None:
        """Keep a result with what it cost: seconds of work and frames that were looked at.

        One that is not ``whole`` holds for this run; the next one makes it again.
        """
        name = inputs if whole else inputs + PARTIAL
        row = {"step": step, "inputs": name, "seconds": round(seconds, 3), "frames": frames, "result": result}
        write_atomically(self.folder / f"{step}.json", json.dumps(row).encode())
        self._take(step, inputs, result)

    def _take(self, step: str, inputs: str, result: dict[str, Any]) -> None:
        self.inputs[step] = inputs
        if result.get("dropped"):
            self.dropped = {"step": step, **result["dropped"]}


def open_state(media: Path, video: str, videos: Path) -> VideoState:
    """The state of ``video`` of the folder ``media``, kept below ``videos``. Raises ``UserError``.

    The file's hash is taken again only where its size or time of change is another one.
    """
    path = resolve_media(media, video)
    folder = videos / video_member_key(video)[0]
    folder.mkdir(parents=True, exist_ok=True)
    stat = path.stat()
    seen = {"video": video, "size": stat.st_size, "mtime_ns": str(stat.st_mtime_ns)}
    known = _read(folder / "video.json")
    if known is None or {name: known.get(name) for name in seen} != seen or "sha256" not in known:
        with open(path, "rb") as file:
            known = {**seen, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        write_atomically(folder / "video.json", json.dumps(known).encode())
    return VideoState(video, folder, known["sha256"])


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object; ``None`` where there is none, or a damaged one, which is then made anew."""
    try:
        row = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SampleError):
        return None
    return row if isinstance(row, dict) else None
