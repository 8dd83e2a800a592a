"""Timed actions and masks as samples: each action once as a grounding question, once as a segmentation question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timeexpert.data.instructions import Instructions
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.records import Sample
from timeexpert.tokenization import Event, EventSequence

from .actions import Stretch
from .shots import Shot
from .store import VideoState
from .tracklets import is_visible, without

SOURCE = "loomdata"


def samples_of(
    state: VideoState, shots: Sequence[Shot], fps: float, *, verified: bool, instructions: Instructions
) -> tuple[list[Sample], list[dict[str, Any]]]:
    """The samples of a video in order of time, and rows about what gave none.

    Grounding (``moment_retrieval``): when does this action happen? Segmentation (``referring_segmentation``): the
    person while the action lasts; its event says when, and its track holds the masks of the whole video: frames that
    training samples outside the action would take the mask of the nearest time otherwise. ``fps`` is that of the frame
    ids; ``instructions`` word the questions.
    """
    found, filled = state.result("actions"), state.result("fill")
    removed = set(filled["tracklets"]) - set(found["tracklets"])
    track = without(MaskTrack.from_json(filled["track"]), shots, removed)
    about = {"description": state.result("description")["text"], "verified": verified}
    duration_s = float(state.result("shots")["duration_s"])
    samples: list[Sample] = []
    left_out: list[dict[str, Any]] = []
    if not found["tracklets"]:
        reason = "people removed the masks of every shot."
        left_out.append({"step": "verify", "kind": "no tracklet left", "reason": reason})
    for row in found["stretches"]:
        stretch = Stretch(row["start_s"], row["end_s"], tuple(row["shots"]))
        where = {"start_s": round(stretch.start_s, 3), "end_s": round(stretch.end_s, 3)}
        if "refused" in row:
            left_out.append({"step": "actions", **row["refused"], **where})
        for said in row.get("ranges", []):
            start_s, end_s = stretch.seconds(said["first"], said["last"], fps)
            meta = {SOURCE: {"frame_ids": [said["first"], said["last"]], "stretch_s": list(where.values()), **about}}
            forms: list[tuple[str, MaskTrack | None]] = [("moment_retrieval", None)]
            if is_visible(track, start_s, end_s):
                forms.append(("referring_segmentation", track))
            else:
                reason = f"the person has no mask from {start_s:.2f} to {end_s:.2f} s; the grounding form is kept."
                left_out.append({"step": "samples", "kind": "no mask in a range", "reason": reason, **where})
            samples += [
                _sample(state, instructions, task, start_s, end_s, said["text"], duration_s, masks, meta)
                for task, masks in forms
            ]
    return samples, left_out


def _sample(
    state: VideoState,
    instructions: Instructions,
    task: str,
    start_s: float,
    end_s: float,
    text: str,
    duration_s: float,
    masks: MaskTrack | None,
    meta: dict[str, Any],
) -> Sample:
    form = "when" if masks is None else "mask"
    name = f"{SOURCE}/{state.folder.name}/{start_s:.3f}-{end_s:.3f}/{form}"
    return Sample(
        id=name,
        video=state.video,
        task=task,
        prompt=instructions.question(task, name, text.rstrip(".") or text),
        events=EventSequence((Event(start_s, end_s, (), text),)),
        duration_s=duration_s,
        source=SOURCE,
        meta=meta,
        tracks=() if masks is None else (masks,),
    )
