"""The steps from a video to timed actions. Each takes the videos that lack its result and yields one result per video.

A step loads its model once, for all videos, and holds one model at a time. ``Outcome.result`` is JSON; a result with
``dropped`` ends the video's way there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from timeexpert.data.endpoint import Endpoint
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.media import MediaError, resolve_media
from timeexpert.data.pool import Failed, WorkerPool
from timeexpert.data.video import Video, VideoError
from timeexpert.errors import UserError

from .actions import ActionQuestion, Range
from .asking import Refused, ask_all
from .config import AnnotateConfig, ShotsConfig
from .description import DescriptionQuestion
from .features import VisionFeatures
from .kts import segment
from .persons import GroundingDino, PersonDetector
from .review import write_review
from .shots import Looked, Shot, join, look, shots_between
from .store import VideoState
from .tracking import Sam2Tracker, Tracker
from .tracklets import filled, grid_times_s, inside, nearest, visible_share, without


@dataclass(frozen=True)
class Outcome:
    """What a step found out about one video, and how many frames it looked at."""

    result: dict[str, Any]
    frames: int
    whole: bool = True


Results = Iterator[tuple[VideoState, Outcome | Refused]]


@dataclass(frozen=True)
class Adapters:
    """What does the work of each step.

    ``look`` decodes a video, in a worker process. ``detector`` and ``tracker`` load a model where there is work for it.
    ``describe`` and ``act`` answer questions, which hold their pictures: (number of the question, what was found or why
    nothing was), as each is settled. ``name`` tells these adapters' results from others': give another one for another
    model.
    """

    look: Callable[[Path, str, ShotsConfig], Looked] = look
    detector: Callable[[AnnotateConfig], PersonDetector] = lambda c: GroundingDino(c.person.model, c.device)
    tracker: Callable[[AnnotateConfig], Tracker] = lambda c: Sam2Tracker(c.track.model, c.device)
    describe: Callable[[Context, Sequence[DescriptionQuestion]], Iterator[tuple[int, str | Refused]]] = (
        lambda context, questions: ask_all(context.endpoint, questions, context.config.description.attempts)
    )
    act: Callable[[Context, Sequence[ActionQuestion]], Iterator[tuple[int, list[Range] | Refused]]] = (
        lambda context, questions: ask_all(context.endpoint, questions, context.config.actions.attempts)
    )
    name: str = ""


@dataclass(frozen=True)
class Context:
    """What every step may use."""

    media: Path
    config: AnnotateConfig
    endpoint: Endpoint
    workers: int
    timeout_s: float
    adapters: Adapters = field(default_factory=Adapters)

    def open(self, state: VideoState) -> Video:
        """The video, opened."""
        return Video.open(resolve_media(self.media, state.video), name=state.video)


def find_shots(context: Context, states: Sequence[VideoState]) -> Results:
    """Shots: every video is decoded once, in worker processes, where a file that crashes a decoder does no harm."""
    config = context.config.shots
    model = VisionFeatures(config.kts_model, context.config.device) if config.kts_model else None
    with WorkerPool(context.adapters.look, context.workers, context.timeout_s) as pool:
        looked = pool.map((context.media, state.video, config) for state in states)
        for state, seen in zip(states, looked, strict=True):
            if isinstance(seen, Failed):
                kind = "unreadable video" if seen.kind == "refused" else f"decoding failed: {seen.kind}"
                yield state, Refused(kind, seen.about(state.video))
                continue
            try:
                features = seen.features
                if model is not None:
                    features = model.of(context.media, state.video, seen.feature_times_s)
                found = segment(features, max_change_points=config.kts_max_change_points, penalty=config.kts_penalty)
            except UserError as error:
                yield state, Refused("no features", str(error))
                continue
            change_points_s = [float(seen.feature_times_s[i]) for i in found.change_points]
            cuts = join(seen.scene_cuts_s, change_points_s, seen.duration_s)
            shots = shots_between(cuts, seen.duration_s, config.min_shot_s)
            result: dict[str, Any] = {
                "duration_s": seen.duration_s,
                "size": list(seen.size),
                "cuts": [asdict(cut) for cut in cuts],
                "shots": [[shot.start_s, shot.end_s] for shot in shots],
            }
            if len(shots) > config.max_shots:
                reason = f"{len(shots)} shots; shots.max_shots is {config.max_shots}."
                result["dropped"] = {"kind": "too many shots", "reason": reason}
            yield state, Outcome(result, seen.num_frames)


def find_person(context: Context, states: Sequence[VideoState]) -> Results:
    """The main person: the detector's best box on the centre frame of the longest shot."""
    config, detector = context.config.person, context.adapters.detector(context.config)

    def one(state: VideoState, video: Video) -> Outcome:
        shots = shots_of(state)
        longest = max(range(len(shots)), key=lambda i: shots[i].length_s)
        times_s = grid_times_s(video.frame_times_s, video.info.duration_s, context.config.track.fps)
        at = nearest(times_s, inside(times_s, shots[longest]), shots[longest].centre_s)
        found = detector.best(video.frames_at([times_s[at]])[0][0], config.text)
        result: dict[str, Any] = {"shot": longest, "time_s": times_s[at], "times_s": times_s}
        if found is None or found.score < config.min_score:
            score = "no box" if found is None else f"the best box has a score of {found.score:.2f}"
            reason = f"{score} for {config.text!r} at {times_s[at]:.2f} s; person.min_score is {config.min_score}."
            return Outcome({**result, "dropped": {"kind": "no person", "reason": reason}}, 1)
        return Outcome(result | asdict(found), 1)

    return _each(context, states, one)


def describe(context: Context, states: Sequence[VideoState]) -> Results:
    """The person in words."""
    config = context.config.description

    def question(state: VideoState) -> DescriptionQuestion:
        person = state.result("person")

        def frame() -> Any:
            with context.open(state) as video:
                return video.frames_at([person["time_s"]])[0][0]

        return DescriptionQuestion(frame, tuple(person["box"]), config)

    for i, said in context.adapters.describe(context, [question(state) for state in states]):
        yield states[i], said if isinstance(said, Refused) else Outcome({"text": said}, 1)


def track_person(context: Context, states: Sequence[VideoState]) -> Results:
    """Masks of the person through the whole video, from the box on the longest shot."""
    tracker = context.adapters.tracker(context.config)

    def one(state: VideoState, video: Video) -> Outcome:
        person = state.result("person")
        times_s = person["times_s"]
        track = tracker.track(video, times_s, times_s.index(person["time_s"]), tuple(person["box"]))
        return Outcome({"track": track.to_json()}, len(times_s))

    return _each(context, states, one)


def find_again(context: Context, states: Sequence[VideoState]) -> Results:
    """Boxes for shots without a tracklet: the description, looked for on their centre frames."""
    config = context.config
    detector: PersonDetector | None = None

    def one(state: VideoState, video: Video) -> Outcome:
        nonlocal detector
        track, shots = MaskTrack.from_json(state.result("track")["track"]), shots_of(state)
        text = state.result("description")["text"]
        missing = [i for i, shot in enumerate(shots) if visible_share(track, shot) < config.track.min_visible]
        boxes: dict[str, Any] = {}
        for i in missing:
            detector = detector or context.adapters.detector(config)
            at = nearest(track.times_s, inside(track.times_s, shots[i]), shots[i].centre_s)
            found = detector.best(video.frames_at([track.times_s[at]])[0][0], text)
            if found is not None and found.score >= config.person.fill_min_score:
                boxes[str(i)] = {"at": at, **asdict(found)}
        return Outcome({"missing": missing, "boxes": boxes}, len(missing))

    return _each(context, states, one)


def fill(context: Context, states: Sequence[VideoState]) -> Results:
    """Masks for the shots where the person was found again; the whole track, and what people verify it by."""
    config = context.config
    tracker: Tracker | None = None

    def one(state: VideoState, video: Video) -> Outcome:
        nonlocal tracker
        again, shots = state.result("find"), shots_of(state)
        track = without(MaskTrack.from_json(state.result("track")["track"]), shots, again["missing"])
        frames = 0
        for number, row in again["boxes"].items():
            tracker = tracker or context.adapters.tracker(config)
            inner = inside(track.times_s, shots[int(number)])
            times_s = [track.times_s[i] for i in inner]
            track = filled(track, tracker.track(video, times_s, inner.index(row["at"]), tuple(row["box"])))
            frames += len(inner)
        shown = [i for i, shot in enumerate(shots) if visible_share(track, shot) >= max(config.track.min_visible, 1e-9)]
        track = without(track, shots, set(range(len(shots))) - set(shown))
        result: dict[str, Any] = {"track": track.to_json(), "tracklets": shown}
        if not shown:
            reason = f"no shot shows the person in {config.track.min_visible:.0%} of its frames (track.min_visible)."
            return Outcome({**result, "dropped": {"kind": "no tracklet", "reason": reason}}, frames)
        frames += write_review(state, video, track, shots, shown, state.result("person"), state.result("description"))
        return Outcome(result, frames)

    return _each(context, states, one)


def shots_of(state: VideoState) -> list[Shot]:
    """The shots that the first step found."""
    return [Shot(start_s, end_s) for start_s, end_s in state.result("shots")["shots"]]


def _each(context: Context, states: Sequence[VideoState], one: Callable[[VideoState, Video], Outcome]) -> Results:
    """Video by video; one that cannot be read is refused, and the others go on."""
    for state in states:
        with ExitStack() as stack:
            try:
                outcome: Outcome | Refused = one(state, stack.enter_context(context.open(state)))
            except (VideoError, MediaError) as error:
                outcome = Refused("unreadable video", str(error))
        yield state, outcome
