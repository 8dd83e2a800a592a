"""Plants faults in made-up data and counts which the filters find: ``python scripts/check_filters.py -o DIR``.

Synthetic videos (``timeexpert data synth``) get 5% each of three faults, on different samples: events shifted in time
inside their clip, captions replaced by generic ones, and clips that go over into another one in the middle of an event.
The filters run over all of it with their default settings; each filter's found faults and false alarms (samples without
any fault that it drops) are printed and written to ``check.json``, with the curves of both calibrated filters.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np

from timeexpert.data.filters import FilterConfig, run_filters
from timeexpert.data.filters.captions import content_words
from timeexpert.data.filters.curves import Calibration, Labels, read_labels
from timeexpert.data.progress import shown
from timeexpert.data.records import SEGMENT_TASKS, Sample, read_samples, write_samples
from timeexpert.data.scene_questions import questions
from timeexpert.data.scenes import Scene, SynthConfig, make_scene
from timeexpert.data.synthetic import encode, render
from timeexpert.data.video import Video
from timeexpert.tokenization import Event, EventSequence

LEAST_SHIFT_S, MOST_SHIFT_S = 2.0, 10.0
# What bad captioners and templates write. The rules were written with these wordings known.
GENERIC = (
    "something happens in the video",
    "a person is doing something",
    "this is a scene",
    "the video continues",
    "the camera shows the scene",
    "people are seen in the frame",
    "an event takes place",
    "there is an activity going on",
    "some action is performed here",
    "the clip shows an object",
    "a view of the scene",
    "things are happening",
    "a man does something",
    "the next part of the video",
    "various activities",
    "it starts and then it ends",
    "a short video clip",
    "somebody is there",
    "somebody does some stuff",
    "it is an interesting moment",
    "the person keeps going",
    "we can see what is happening",
    "a random clip",
    "nothing special happens",
    "the footage goes on",
    "more of the same",
    "people doing things",
    "a lot of things happen",
    "the video shows what happens next",
    "he does it again",
    "they are busy with something",
    "an unidentified person is present",
    "this part shows an action",
    "the scene changes",
    "the main character is shown",
    "a typical scene",
    "an unclear event",
    "some movement",
)
# Written after the rules were final, and not used to change them.
HELD_OUT = (
    "a couple of people are present",
    "someone interacts with an object",
    "we watch the person do it",
    "the final part",
    "it shows how it is done",
    "stuff happening on the screen",
    "the man is working on something",
    "several people can be observed",
    "a demonstration of the process",
    "the action is repeated",
    "the host talks about it",
    "things get started",
    "this clip contains a scene with people",
    "the next step is carried out",
    "a person moves around",
    "an interesting thing can be seen here",
    "they do their thing",
    "the task is completed",
    "a group of people",
    "something else occurs",
)
FILTER_OF = {"shifted times": "alignment", "generic captions": "captions", "hard cuts": "cuts"}


@dataclass
class Planted:
    """A data set with known faults: sample ids by fault, and cut times by video for a calibration."""

    samples: Path
    media: Path
    faults: dict[str, set[str]]
    labels: Labels = field(default_factory=Labels)


def join(first: Scene, second: Scene, cut_frame: int, path: Path) -> None:
    """An MP4 of ``first`` up to frame ``cut_frame``, then of ``second``, at the rate and size of ``first``."""
    second = replace(second, fps=first.fps, height=first.height, width=first.width, duration_s=first.duration_s)
    rest = round(first.duration_s * first.fps) - cut_frame
    frames = [*islice(render(first), cut_frame), *islice(render(second), rest)]
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(first.fps, 1))
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "20", "threads": "1", "g": "48"}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def plant(out: Path, config: SynthConfig, share: float = 0.05) -> Planted:
    """Make the data set in ``out``; ``share`` of the samples with segments get each fault."""
    rng = np.random.default_rng(config.seed)
    media = out / "media"
    media.mkdir(parents=True, exist_ok=True)
    scenes = [make_scene(config, i) for i in range(config.videos)]
    samples = {scene.name: questions(scene, config) for scene in scenes}
    wanted = round(share * sum(s.task in SEGMENT_TASKS for rows in samples.values() for s in rows))
    faults: dict[str, set[str]] = {name: set() for name in FILTER_OF}
    labels = Labels()
    for number, scene in enumerate(scenes):
        path = media / f"{scene.name}.mp4"
        labels.cuts_s[path.name] = []
        if len(faults["hard cuts"]) < wanted:
            event = scene.events[int(rng.integers(len(scene.events)))]
            cut_frame = round(rng.uniform(event.start_s + 1.0, event.end_s - 1.0) * scene.fps)
            cut_s = cut_frame / scene.fps
            join(scene, make_scene(replace(config, seed=config.seed + 10_000), number), cut_frame, path)
            labels.cuts_s[path.name] = [cut_s]
            # What is asked about the second clip's part is not there any more: no sample at all, rather than a fault.
            rows = [s for s in samples[scene.name] if _spans(s, cut_s) or _ends_before(s, cut_s)]
            samples[scene.name] = rows
            faults["hard cuts"] |= {s.id for s in rows if s.task in SEGMENT_TASKS and _spans(s, cut_s)}
        else:
            encode(scene, path)
    everything = [s for rows in samples.values() for s in rows]
    clean = [s for s in everything if s.task in SEGMENT_TASKS and not labels.cuts_s[s.video]]
    changed: dict[str, Sample] = {}
    for sample in (clean[i] for i in rng.permutation(len(clean))):
        if len(faults["shifted times"]) < wanted:
            moved = shift(sample, rng)
            if moved is not None:
                changed[sample.id] = moved
                faults["shifted times"].add(sample.id)
        elif len(faults["generic captions"]) < wanted:
            changed[sample.id] = blur(sample, rng)
            faults["generic captions"].add(sample.id)
    path = out / "samples.jsonl"
    write_samples(path, [changed.get(s.id, s) for s in everything])
    bad = set().union(*faults.values())
    labels.aligned = {
        s.id: s.id not in faults["shifted times"] for s in clean if s.id not in bad - faults["shifted times"]
    }
    return Planted(path, media, faults, labels)


def join_clips(clips: list[Path], out: Path, joined: int, pieces: int = 10, seed: int = 0) -> dict[str, list[float]]:
    """MP4s of ``pieces`` random pieces of 1.5 to 4 s, neighbours from different ``clips``; returns their cuts by name.

    The clips must be single shots: a cut inside one would count as a false alarm.
    """
    rng = np.random.default_rng(seed)
    out.mkdir(parents=True, exist_ok=True)
    fps, height, width = 15, 180, 320
    cuts_s: dict[str, list[float]] = {}
    for number in range(joined):
        path, frames, last = out / f"joined-{number:03d}.mp4", 0, -1
        cuts_s[path.name] = []
        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for _ in range(pieces):
                last = int(rng.choice([i for i in range(len(clips)) if i != last]))
                with Video.open(clips[last]) as video:
                    length_s = min(float(rng.uniform(1.5, 4.0)), video.info.duration_s)
                    start_s = float(rng.uniform(0, video.info.duration_s - length_s))
                    images, _ = video.frames_at(start_s + np.arange(int(length_s * fps)) / fps, (height, width))
                if frames:
                    cuts_s[path.name].append(frames / fps)
                frames += len(images)
                for image in images:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    return cuts_s


def check_joined(clips: list[Path], out: Path, joined: int) -> Calibration:
    """The cut filter's curve over clips joined from ``clips``."""
    cuts_s = join_clips(clips, out / "media", joined)
    samples = out / "samples.jsonl"
    whole = EventSequence((Event(text="joined"),))
    write_samples(samples, [Sample(id=v, video=v, task="general", prompt="What?", events=whole) for v in cuts_s])
    config = FilterConfig(filters=("cuts",))
    report = run_filters(samples, out / "media", out / "filtered", config, labels=Labels(cuts_s=cuts_s))
    return report.calibration["cuts"]


def _spans(sample: Sample, cut_s: float) -> bool:
    return any(start_s < cut_s < end_s for start_s, end_s in sample.events.segments_s)


def _ends_before(sample: Sample, cut_s: float) -> bool:
    return all(end_s <= cut_s for _, end_s in sample.events.segments_s)


def shift(sample: Sample, rng: np.random.Generator) -> Sample | None:
    """All events moved by the same 2 to 10 s, inside the clip; ``None`` where there is no room."""
    assert sample.duration_s is not None
    segments = sample.events.segments_s
    low, high = -min(s for s, _ in segments), sample.duration_s - max(e for _, e in segments)
    ranges = [(max(low, -MOST_SHIFT_S), -LEAST_SHIFT_S), (LEAST_SHIFT_S, min(high, MOST_SHIFT_S))]
    ranges = [r for r in ranges if r[0] < r[1]]
    if not ranges:
        return None
    by_s = round(float(rng.uniform(*ranges[int(rng.integers(len(ranges)))])), 1)
    events = [
        replace(e, start_s=max(0.0, round(e.start_s + by_s, 1)), end_s=round(e.end_s + by_s, 1)) for e in sample.events
    ]
    return replace(sample, events=EventSequence(tuple(events)))


def blur(sample: Sample, rng: np.random.Generator) -> Sample:
    """One caption replaced by a generic one; a moment's question asks for it, too."""
    generic = str(rng.choice(GENERIC))
    events = list(sample.events)
    number = int(rng.integers(len(events)))
    events[number] = Event(events[number].start_s, events[number].end_s, text=generic)
    prompt = f"When does this happen: {generic}?" if sample.task == "moment_retrieval" else sample.prompt
    return replace(sample, prompt=prompt, events=EventSequence(tuple(events)))


@dataclass(frozen=True)
class Score:
    """One fault: how many were planted and found by the filter for it, and false alarms of that filter."""

    fault: str
    filter: str
    planted: int
    found: int
    by_another: int
    good: int
    false_alarms: int


def score(planted: Planted, out: Path) -> list[Score]:
    """Planted faults against the files of a run. ``by_another``: dropped, but by a filter for another fault."""
    dropped: dict[str, str] = {}
    for path in out.glob("dropped-*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            dropped[row["id"]] = row["filter"]
    bad = set().union(*planted.faults.values())
    ids = [s.id for _, s in read_samples(planted.samples) if isinstance(s, Sample) and s.task in SEGMENT_TASKS]
    good = [i for i in ids if i not in bad]
    alarms = Counter(dropped[i] for i in good if i in dropped)
    out_rows = []
    for fault, ids_of_fault in planted.faults.items():
        name = FILTER_OF[fault]
        by = Counter(dropped.get(i, "") for i in ids_of_fault)
        other = sum(by.values()) - by[name] - by[""]
        out_rows.append(Score(fault, name, len(ids_of_fault), by[name], other, len(good), alarms[name]))
    return out_rows


def main() -> int:
    """Plant, filter, score; 1 where a filter finds fewer than 90% or has more than 5% false alarms."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="empty folder")
    parser.add_argument("--videos", type=int, default=400, help="synthetic videos (default 400)")
    parser.add_argument("--seed", type=int, default=0, help="of the videos and of what is planted (default 0)")
    parser.add_argument("--workers", type=int, default=1, help="processes that decode (default 1)")
    parser.add_argument("--clips", type=Path, nargs="*", default=[], help="real single-shot clips to join, two or more")
    parser.add_argument("--joined", type=int, default=20, help="clips of ten pieces to join (default 20)")
    args = parser.parse_args()
    if args.clips:
        found = check_joined(args.clips, args.output / "joined", args.joined)
        print(f"joined clips, {found.faults} cuts among {found.labelled} {found.what}:")
        print("  at  ", json.dumps(found.at))
        print("  best", json.dumps(found.best))
    planted = plant(args.output / "data", SynthConfig(videos=args.videos, seed=args.seed))
    with open(args.output / "labels.jsonl", "w", encoding="utf-8") as out:
        for video, cuts_s in planted.labels.cuts_s.items():
            out.write(json.dumps({"video": video, "cuts_s": cuts_s}) + "\n")
        for name, aligned in planted.labels.aligned.items():
            out.write(json.dumps({"id": name, "aligned": aligned}) + "\n")
    with shown("filtering") as progress:
        report = run_filters(
            planted.samples,
            planted.media,
            args.output / "filtered",
            FilterConfig(),
            workers=args.workers,
            labels=read_labels(args.output / "labels.jsonl"),
            progress=progress,
        )
    rows = score(planted, args.output / "filtered")
    for row in rows:
        print(
            f"{row.fault}: {row.found} of {row.planted} found by {row.filter} ({row.found / row.planted:.1%}), "
            f"{row.by_another} by another filter; false alarms {row.false_alarms} of {row.good} "
            f"({row.false_alarms / row.good:.2%})"
        )
    false = sum(row.false_alarms for row in rows)
    print(f"all filters: {report.samples - report.kept} of {report.samples} dropped, false alarms {false}")
    missed = [text for text in HELD_OUT if content_words(text)]
    print(f"held-out generic wordings: {len(HELD_OUT) - len(missed)} of {len(HELD_OUT)} found; missed: {missed}")
    for name, found in report.calibration.items():
        print(name, "at", json.dumps(found.at), "best", json.dumps(found.best))
    result = {"videos": args.videos, "seed": args.seed, "scores": [asdict(row) for row in rows]}
    (args.output / "check.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    good_enough = all(r.found >= 0.9 * r.planted and r.false_alarms <= 0.05 * r.good for r in rows)
    return 0 if good_enough else 1


if __name__ == "__main__":
    sys.exit(main())
