"""What people verify, and what they decided, in the folder of each video (VideoLoom, appendix C.1).

Round 1 shows the shots without a tracklet: ``accept`` where the person is not there, ``reject`` drops the video, in
which the person is there without a mask. Round 2 shows the shots with a tracklet of the videos that passed: ``accept``
where the mask is right, ``remove`` takes the mask of a shot in which the person is not there, ``reject`` drops the
video, in which the person is there and the mask lies on somebody else.

``review.json`` and the pictures are written with the masks; decisions hold for these masks alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw

from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.records import SampleError, parse_json
from timeexpert.data.shard_index import write_atomically
from timeexpert.data.video import Video
from timeexpert.errors import UserError

from .marking import as_jpeg, marked, picture_size, resized
from .persons import Box
from .shots import Shot
from .store import VideoState, digest
from .tracklets import inside, nearest

REVIEW, DECISIONS, PICTURES = "review.json", "decisions.json", "pictures"
LEFT_OUT = "left-out"  # an empty file: the last run took this video no further than its masks
HEIGHT = 540  # pixels of a picture
DECISIONS_OF = {1: ("accept", "reject"), 2: ("accept", "remove", "reject")}


class ReviewError(UserError):
    """A decision that cannot be kept."""


@dataclass(frozen=True)
class Item:
    """One thing to decide: a shot of a video in one round, and what was decided."""

    round: int
    shot: int
    start_s: float
    end_s: float
    decision: str | None


@dataclass
class Review:
    """A video for verification. ``tracks`` tells its masks from others; ``decisions`` by round and shot."""

    key: str
    video: str
    tracks: str
    description: str
    reference_shot: int
    shots: list[Shot]
    tracklets: list[int]
    decisions: dict[int, dict[int, str]] = field(default_factory=lambda: {1: {}, 2: {}})

    def items(self, round: int) -> list[Item]:
        """What this round asks about this video, in order of time; of round 2 nothing before round 1 is passed."""
        if round == 2 and self.state_after(1) != "passed":
            return []
        asked = [i for i in range(len(self.shots)) if (i in self.tracklets) == (round == 2)]
        return [Item(round, i, self.shots[i].start_s, self.shots[i].end_s, self.decisions[round].get(i)) for i in asked]

    def state_after(self, round: int) -> Literal["rejected", "waiting", "passed"]:
        """Where the video stands after the rounds up to this one."""
        for number in range(1, round + 1):
            decided = [item.decision for item in self.items(number)]
            if "reject" in decided:
                return "rejected"
            if None in decided:
                return "waiting"
        return "passed"

    @property
    def removed(self) -> list[int]:
        """Shots whose masks people took away."""
        return sorted(i for i, decision in self.decisions[2].items() if decision == "remove")


def write_review(
    state: VideoState,
    video: Video,
    track: MaskTrack,
    shots: Sequence[Shot],
    tracklets: Sequence[int],
    person: dict[str, Any],
    description: dict[str, Any],
) -> int:
    """The pictures and ``review.json`` of a video; returns how many frames were looked at."""
    folder = state.folder / PICTURES
    folder.mkdir(exist_ok=True)
    at = [nearest(track.times_s, inside(track.times_s, shot), shot.centre_s) for shot in shots]
    at.append(track.times_s.index(person["time_s"]))
    height, width = picture_size(*track.size, HEIGHT)
    names = [*(f"shot-{i}.jpg" for i in range(len(shots))), "reference.jpg"]
    for name, i in zip(names, at, strict=True):
        frame = video.frames_at([track.times_s[i]], (height, width))[0][0]
        box = tuple(person["box"]) if name == "reference.jpg" else None
        write_atomically(folder / name, picture_of(frame, track, i, box))
    row = {
        "video": state.video,
        "tracks": state_tracks(track),
        "description": description["text"],
        "reference_shot": person["shot"],
        "shots": [[shot.start_s, shot.end_s] for shot in shots],
        "tracklets": list(tracklets),
    }
    write_atomically(state.folder / REVIEW, json.dumps(row).encode())
    return len(names)


def state_tracks(track: MaskTrack) -> str:
    """What tells these masks from others."""
    return digest(track.to_json())[:16]


def picture_of(frame: np.ndarray, track: MaskTrack, i: int, box: Box | None) -> bytes:
    """A frame with the mask of the ``i``-th tracked time, tinted and marked, and with the detector's box."""
    height, width = frame.shape[:2]
    mask = resized(track.mask(i), height, width)
    tinted = frame.copy()
    tinted[mask] = (0.6 * frame[mask] + 0.4 * np.array([255, 235, 0])).astype(np.uint8)
    picture = marked(Image.fromarray(tinted), mask)
    if box is not None:
        scale = height / track.size[0]
        ImageDraw.Draw(picture).rectangle([v * scale for v in box], outline=(0, 200, 255), width=3)
    return as_jpeg(picture)


def read_review(folder: Path) -> Review | None:
    """The review of a video's folder with the decisions about its masks; ``None`` where it is not ready for one.

    Raises :class:`ReviewError` where a file is damaged.
    """
    if not (folder / REVIEW).is_file():
        return None
    row = _object(folder / REVIEW)
    try:
        shots = [Shot(float(start_s), float(end_s)) for start_s, end_s in row["shots"]]
        review = Review(
            folder.name,
            str(row["video"]),
            str(row["tracks"]),
            str(row["description"]),
            int(row["reference_shot"]),
            shots,
            [int(i) for i in row["tracklets"]],
        )
        if (folder / DECISIONS).is_file():
            kept = _object(folder / DECISIONS)
            if kept["tracks"] == review.tracks:
                review.decisions = {
                    number: {int(i): str(said) for i, said in kept["rounds"][str(number)].items()} for number in (1, 2)
                }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReviewError(
            f"{folder}: {REVIEW} or {DECISIONS} is not what verification writes ({type(error).__name__}: {error}). "
            f"Restore the file, or delete {DECISIONS} to decide anew."
        ) from None
    return review


def mark_left_out(folder: Path, left_out: bool) -> None:
    """Whether :func:`reviews` passes a video's folder over; its results and decisions stay as they are."""
    if left_out:
        (folder / LEFT_OUT).touch()
    else:
        (folder / LEFT_OUT).unlink(missing_ok=True)


def reviews(videos: Path, names: Collection[str] | None = None) -> Iterator[Review]:
    """Every video that can be verified, by the names of their folders; with ``names`` the videos of these names alone.

    A folder of results stays when its video leaves the input, and when other settings leave the video out: neither is
    asked about.
    """
    for folder in sorted(path for path in videos.iterdir() if path.is_dir()) if videos.is_dir() else []:
        review = None if (folder / LEFT_OUT).exists() else read_review(folder)
        if review is not None and (names is None or review.video in names):
            yield review


def decide(videos: Path, key: str, tracks: str, round: int, shot: int, decision: str | None) -> Review:
    """Keep a decision, or take one back with ``None``; the video's review afterwards. Raises :class:`ReviewError`.

    The file is replaced as a whole, so that after a crash it holds the decision or the ones before it. Decisions about
    masks that are no more are kept beside it.
    """
    folder = videos / key
    review = read_review(folder) if folder.parent == videos and folder.name == key else None
    if review is None:
        raise ReviewError(f"video ({key!r:.80}): no such video waits for verification. Load the page again.")
    if tracks != review.tracks:
        raise ReviewError("the masks of this video are others by now. Load the page again.")
    if shot not in [item.shot for item in review.items(round)]:
        raise ReviewError(f"round {round} does not ask about shot {shot} of this video. Load the page again.")
    if decision is not None and decision not in DECISIONS_OF[round]:
        raise ReviewError(
            f"decision ({decision!r:.40}) must be one of {', '.join(DECISIONS_OF[round])} in round {round}."
        )
    if decision is None:
        review.decisions[round].pop(shot, None)
    else:
        review.decisions[round][shot] = decision
    path = folder / DECISIONS
    if path.is_file() and (earlier := str(_object(path).get("tracks"))) != tracks:
        os.replace(path, folder / f"decisions-{earlier}.json")
    rounds = {str(number): {str(i): said for i, said in by.items()} for number, by in review.decisions.items()}
    write_atomically(path, json.dumps({"tracks": tracks, "rounds": rounds}).encode())
    return review


def _object(path: Path) -> dict[str, Any]:
    try:
        row = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SampleError) as error:
        raise ReviewError(f"{path}: cannot be read: {error} Restore the file, or delete it.") from None
    if not isinstance(row, dict):
        raise ReviewError(f"{path}: must be a JSON object, not {type(row).__name__}. Restore the file, or delete it.")
    return row
