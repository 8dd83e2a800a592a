"""Annotates a folder of videos: step after step over all of them, each result kept, each cost written down.

The output folder holds ``videos/`` (a folder per video with a file per step), ``samples.jsonl``, ``left-out.jsonl``,
``cost.jsonl``, ``annotate.json``, ``shards/`` once every video is settled, and ``cache/`` with the endpoint's answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from timeexpert.config import to_tree
from timeexpert.data.build import build
from timeexpert.data.endpoint import Endpoint, EndpointConfig
from timeexpert.data.instructions import load_instructions
from timeexpert.data.lock import LOCK, locked
from timeexpert.data.media import VIDEO_SUFFIXES
from timeexpert.data.pool import check_pool
from timeexpert.data.sample_lines import write_row
from timeexpert.data.shard_index import read_manifest, write_atomically
from timeexpert.errors import UserError

from . import actions, description
from .acting import annotate_actions
from .asking import Refused
from .config import AnnotateConfig
from .cost import StepCost, total_cost
from .models import identity
from .review import mark_left_out, read_review
from .samples import samples_of
from .shots import require_scenedetect
from .steps import (
    Adapters,
    Context,
    Outcome,
    Results,
    describe,
    fill,
    find_again,
    find_person,
    find_shots,
    shots_of,
    track_person,
)
from .store import VIDEOS, VideoState, digest, open_state

SHARDS, CACHE = "shards", "cache"
SAMPLES, LEFT_OUT, COST, REPORT = "samples.jsonl", "left-out.jsonl", "cost.jsonl", "annotate.json"
Progress = Callable[[int, int, str], None]


class AnnotateError(UserError):
    """A run that cannot start. What was found before is kept."""


@dataclass
class AnnotateReport:
    """What a run came to; also the content of ``annotate.json``.

    Counts are of videos unless named otherwise. ``left_out`` counts rows of ``left-out.jsonl`` by kind. ``cost`` sums,
    by step and over all runs so far, seconds, frames, requests, tokens and money (``cost``; ``None`` where it is not
    known).
    """

    out: str
    videos: int = 0
    waiting: int = 0  # for people to verify them
    rejected: int = 0  # by people
    annotated: int = 0
    stretches: int = 0
    samples: int = 0
    shards: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    cost: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def annotate(
    videos: str | Path,
    out: str | Path,
    config: AnnotateConfig,
    *,
    workers: int = 1,
    timeout_s: float = 600,
    adapters: Adapters | None = None,
    progress: Progress | None = None,
) -> AnnotateReport:
    """Annotate the videos of the folder ``videos`` (or the one video) into the folder ``out``.

    ``adapters`` replace what does the work of a step. ``progress`` is called with (done, total, what). The same call
    goes on with a run that was cut off, and after people have verified videos. Raises :class:`AnnotateError`, and
    ``EndpointError`` where the endpoint cannot be used at all.
    """
    media, names = find_videos(Path(videos))
    out = Path(out)
    check_pool(workers, timeout_s)
    if config.endpoint is None:
        raise AnnotateError(
            "endpoint is not set: descriptions and actions come from an OpenAI-compatible endpoint whose model sees. "
            "Give endpoint.base_url=http://localhost:8000/v1 endpoint.model=NAME (and endpoint.key_env=VARIABLE)."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AnnotateError(f"{out}: cannot be written: {error.strerror}. Choose another -o.") from None
    with locked(out, "annotation", AnnotateError):
        _refuse_foreign(out)
        with Endpoint(config.endpoint, out / CACHE / "answers.jsonl") as endpoint:
            context = Context(media, config, endpoint, workers, timeout_s, adapters or Adapters())
            return _Run(context, config.endpoint, out, progress or (lambda *_: None)).all(names)


def find_videos(videos: Path) -> tuple[Path, list[str]]:
    """The media folder and the videos in it, by name. Raises :class:`AnnotateError`."""
    if videos.is_file():
        return videos.parent, [videos.name]
    if not videos.is_dir():
        raise AnnotateError(f"{videos}: no such folder or file. Give a folder of videos, or one video.")
    found = (path for path in videos.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    names = sorted(path.relative_to(videos).as_posix() for path in found)
    if not names:
        raise AnnotateError(f"{videos}: holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}). Give another folder.")
    return videos, names


def _refuse_foreign(out: Path) -> None:
    known = {VIDEOS, SHARDS, CACHE, SAMPLES, LEFT_OUT, COST, REPORT, LOCK}
    for path in out.iterdir():
        if path.name.removesuffix(".part").removesuffix(".tmp") not in known:
            raise AnnotateError(f"{out}: holds {path.name}, which no annotation wrote. Give an empty -o.")


class _Run:
    """One call of :func:`annotate`."""

    def __init__(self, context: Context, endpoint: EndpointConfig, out: Path, progress: Progress) -> None:
        self.context, self.out, self.progress = context, out, progress
        self.config = context.config
        self.instructions = load_instructions(self.config.instructions)
        self.asked = {"base_url": endpoint.base_url, "model": endpoint.model, "temperature": endpoint.temperature}
        self.report = AnnotateReport(str(out), settings=to_tree(self.config))
        self.left_out: list[dict[str, Any]] = []

    def all(self, names: Sequence[str]) -> AnnotateReport:
        """Every step over every video, then samples and shards."""
        states = []
        for name in names:
            try:
                states.append(open_state(self.context.media, name, self.out / VIDEOS))
            except UserError as error:
                self._leave_out(name, {"step": "shots", "kind": "unreadable video", "reason": str(error)})
        self.report.videos = len(names)
        alive = self._masks(states)
        going_on = {id(state) for state in alive}
        for state in states:
            mark_left_out(state.folder, id(state) not in going_on)
        alive = [state for state in alive if self._passed(state)]
        alive = [state for state in self._actions(alive) if self._passed(state) and self._unchanged(state)]
        self._write(alive)
        return self.report

    def _masks(self, states: list[VideoState]) -> list[VideoState]:
        """From shots to the masks that people verify; each step with what its results depend on."""
        config, person = self.config, self.config.person
        dino, sam, visible = identity(person.model), identity(config.track.model), config.track.min_visible
        kts_model = identity(config.shots.kts_model) if config.shots.kts_model else None
        looked = [to_tree(config.shots), kts_model, require_scenedetect()]
        described = [to_tree(config.description), self.asked, description.PROMPT]
        states = self._step("shots", find_shots, states, _built_on(looked))
        first = [dino, person.text, person.min_score, config.track.fps]
        states = self._step("person", find_person, states, _built_on(first, "shots"))
        states = self._step("description", describe, states, _built_on(described, "person"))
        states = self._step("track", track_person, states, _built_on([sam], "person"))
        again = [dino, person.fill_min_score, visible]
        states = self._step("find", find_again, states, _built_on(again, "track", "description"))
        return self._step("fill", fill, states, _built_on([sam, visible], "find"))

    def _step(
        self,
        name: str,
        step: Callable[[Context, Sequence[VideoState]], Results],
        states: list[VideoState],
        made_from: Callable[[VideoState], Any],
    ) -> list[VideoState]:
        """Run a step for the videos that lack its result; those that go on afterwards."""
        inputs = {id(s): digest(name, s.identity, self.context.adapters.name, made_from(s)) for s in states}
        pending = [state for state in states if not state.load(name, inputs[id(state)])]
        refused: set[int] = set()
        if pending:
            self._work(name, step(self.context, pending), len(pending), inputs, refused)
        for state in states:
            if state.dropped is not None:
                self._leave_out(state.video, state.dropped)
        return [state for state in states if state.dropped is None and id(state) not in refused]

    def _work(self, name: str, results: Results, total: int, inputs: dict[int, str], refused: set[int]) -> None:
        cost, last = StepCost(self.out / COST, name, self.context.endpoint), time.perf_counter()
        self.progress(0, total, name)
        try:
            for done, (state, outcome) in enumerate(results, 1):
                now = time.perf_counter()
                if isinstance(outcome, Refused):
                    refused.add(id(state))
                    self._leave_out(state.video, {"step": name, **asdict(outcome)})
                    cost.add(refused=True)
                else:
                    self._save(state, name, inputs[id(state)], outcome, now - last)
                    cost.add(frames=outcome.frames)
                last = now
                self.progress(done, total, name)
        finally:
            cost.write()

    def _save(self, state: VideoState, name: str, inputs: str, outcome: Outcome, seconds: float) -> None:
        state.save(name, inputs, outcome.result, seconds=seconds, frames=outcome.frames, whole=outcome.whole)

    def _passed(self, state: VideoState) -> bool:
        """Whether people let the video through; without ``verify`` what they have not looked at goes through, too."""
        review = read_review(state.folder)
        stands = review.state_after(2) if review is not None else "waiting"
        if stands == "rejected":
            self.report.rejected += 1
            self._leave_out(state.video, {"step": "verify", "kind": "rejected", "reason": "rejected by people."})
        elif stands == "waiting" and self.config.verify:
            self.report.waiting += 1
        return stands == "passed" or (stands == "waiting" and not self.config.verify)

    def _unchanged(self, state: VideoState) -> bool:
        """Whether the actions were asked for with the masks that people left: they may decide meanwhile."""
        left = set(state.result("fill")["tracklets"]) - set(_removed(state))
        if left == set(state.result("actions")["tracklets"]):
            return True
        self.report.waiting += 1
        reason = "people removed masks, or took that back, while the run was under way. Run the same command again."
        self._leave_out(state.video, {"step": "verify", "kind": "decided meanwhile", "reason": reason})
        return False

    def _actions(self, states: list[VideoState]) -> list[VideoState]:
        settings = [to_tree(self.config.actions), self.asked, actions.PROMPT]
        return self._step(
            "actions",
            lambda context, pending: annotate_actions(context, pending, _removed),
            states,
            lambda state: [settings, state.inputs["fill"], list(_removed(state))],
        )

    def _leave_out(self, video: str, row: dict[str, Any]) -> None:
        self.left_out.append({"video": video, **row})

    def _write(self, states: Sequence[VideoState]) -> None:
        """The samples, what was left out, the shards where every video is settled, and the report."""
        report, rows = self.report, self.left_out
        with open(self.out / f"{SAMPLES}.part", "w", encoding="utf-8", newline="\n") as file:
            for state in states:
                review = read_review(state.folder)
                verified = review is not None and review.state_after(2) == "passed"
                samples, missing = samples_of(
                    state,
                    shots_of(state),
                    self.config.actions.fps,
                    verified=verified,
                    instructions=self.instructions,
                )
                for sample in samples:
                    write_row(file, sample.to_json())
                rows += [{"video": state.video, **row} for row in missing]
                report.annotated += bool(samples)
                report.stretches += len(state.result("actions")["stretches"])
                report.samples += len(samples)
        _remove_shards_of_others(self.out / SHARDS, self.out / f"{SAMPLES}.part")
        os.replace(self.out / f"{SAMPLES}.part", self.out / SAMPLES)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomically(self.out / LEFT_OUT, text.encode("utf-8", "backslashreplace"))
        report.left_out = dict(Counter(row["kind"] for row in rows))
        if report.samples and not report.waiting:
            report.shards = self._build_shards()
        report.cost = total_cost(self.out / COST)
        write_atomically(self.out / REPORT, (json.dumps(asdict(report), indent=1) + "\n").encode())

    def _build_shards(self) -> int:
        """Shards of the samples; how many there are."""
        context = self.context
        built = build(
            self.out / SAMPLES,
            context.media,
            self.out / SHARDS,
            workers=context.workers,
            timeout_s=context.timeout_s,
            decode=False,
        )
        for kind, count in built.reasons.items():
            self.report.left_out[f"shards: {kind}"] = count
        return built.shards


def _remove_shards_of_others(shards: Path, samples: Path) -> None:
    """Remove shards that an earlier run made of other samples: they may hold videos that people rejected since."""
    if not shards.is_dir():
        return
    with open(samples, "rb") as file:
        wanted = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        same = read_manifest(shards)["build"].get("samples") == wanted
    except UserError:
        same = False  # unfinished or damaged: it is made from the samples alone
    if not same:
        shutil.rmtree(shards)


def _built_on(settings: Any, *after: str) -> Callable[[VideoState], Any]:
    """What a step's result for a video is made from: its settings, and what the results before it were made from."""
    return lambda state: [settings, [state.inputs[name] for name in after]]


def _removed(state: VideoState) -> Sequence[int]:
    review = read_review(state.folder)
    return review.removed if review is not None else ()
