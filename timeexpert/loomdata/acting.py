"""The last step that asks: marked frames of every stretch there, timed actions back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from PIL import Image

from timeexpert.data.mask_tracks import MaskTrack

from .actions import ActionQuestion, Range, Stretch
from .asking import Refused
from .marking import as_jpeg, marked, numbered, picture_size, resized
from .steps import Context, Outcome, Results, shots_of
from .store import VideoState
from .tracklets import inside, nearest, stretches, without


def annotate_actions(
    context: Context,
    states: Sequence[VideoState],
    removed: Callable[[VideoState], Sequence[int]],
) -> Results:
    """Timed actions of every stretch of shots that carry tracklets; ``removed``: shots whose masks people took away.

    A stretch without a usable answer is refused on its own: the video's result is then not whole, and a later run asks
    about that stretch again.
    """
    found = {i: _stretches(state, removed(state)) for i, state in enumerate(states)}
    places: list[tuple[int, int]] = []  # of each question: its video and its stretch
    questions: list[ActionQuestion] = []
    rows: dict[int, dict[int, dict[str, Any]]] = {i: {} for i in found}
    for i, (_, parts) in found.items():
        for k, stretch in enumerate(parts):
            count, most = stretch.num_frames(context.config.actions.fps), context.config.actions.max_frames
            if count > most:
                reason = f"{count} numbered frames; actions.max_frames is {most}."
                rows[i][k] = _row(stretch, Refused("stretch too long", reason))
            else:
                places.append((i, k))
                questions.append(_question(context, states[i], stretch, removed(states[i])))
    for i, (_, parts) in found.items():
        if len(rows[i]) == len(parts):
            yield states[i], _outcome(context, found[i], rows[i])
    for number, said in context.adapters.act(context, questions):
        i, k = places[number]
        rows[i][k] = _row(found[i][1][k], said)
        if len(rows[i]) == len(found[i][1]):
            yield states[i], _outcome(context, found[i], rows[i])


def _stretches(state: VideoState, removed: Sequence[int]) -> tuple[list[int], list[Stretch]]:
    tracklets = [i for i in state.result("fill")["tracklets"] if i not in removed]
    return tracklets, stretches(shots_of(state), tracklets)


def _row(stretch: Stretch, said: list[Range] | Refused) -> dict[str, Any]:
    row: dict[str, Any] = {"start_s": stretch.start_s, "end_s": stretch.end_s, "shots": list(stretch.shots)}
    return row | ({"refused": asdict(said)} if isinstance(said, Refused) else {"ranges": [asdict(r) for r in said]})


def _outcome(context: Context, found: tuple[list[int], list[Stretch]], rows: dict[int, dict[str, Any]]) -> Outcome:
    tracklets, parts = found
    ordered = [rows[k] for k in range(len(parts))]
    result: dict[str, Any] = {"tracklets": tracklets, "stretches": ordered}
    frames = sum(stretch.num_frames(context.config.actions.fps) for stretch in parts)
    whole = not any(row.get("refused", {}).get("kind") not in (None, "stretch too long") for row in ordered)
    return Outcome(result, frames, whole)


def _question(context: Context, state: VideoState, stretch: Stretch, removed: Sequence[int]) -> ActionQuestion:
    config = context.config.actions
    count = stretch.num_frames(config.fps)

    def pictures() -> list[bytes]:
        track = without(MaskTrack.from_json(state.result("fill")["track"]), shots_of(state), removed)
        among = inside(track.times_s, stretch)
        at = [nearest(track.times_s, among, stretch.frame_time_s(i, config.fps)) for i in range(count)]
        height, width = picture_size(*track.size, config.picture_height)
        with context.open(state) as video:
            frames, _ = video.frames_at([track.times_s[i] for i in at], (height, width))
        return [
            as_jpeg(numbered(marked(Image.fromarray(frame), resized(track.mask(i), height, width)), number))
            for number, (frame, i) in enumerate(zip(frames, at, strict=True))
        ]

    return ActionQuestion(count, pictures, config)
