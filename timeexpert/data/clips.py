"""Real clips beside the synthetic ones: a folder of videos with an ``annotations.jsonl``."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from timeexpert.data.records import Sample, write_samples
from timeexpert.errors import UserError


def check_clips(folder: Path) -> Path:
    """The annotations of a folder of clips. Raises :class:`UserError` where there are none."""
    annotations = folder / "annotations.jsonl"
    if not annotations.is_file():
        raise UserError(f"{annotations}: no such file. --clips needs a folder with clips and an annotations.jsonl.")
    return annotations


def mix_in_clips(folder: Path, out: Path) -> tuple[int, list[str]]:
    """Add the clips of ``folder`` (its ``annotations.jsonl``: video, duration, events) to a synthesised data set.

    Clips are copied into ``out/media/clips`` and their questions appended to ``out/samples.jsonl``, once.
    Returns the number of questions and what was left out, with reasons.
    """
    import shutil

    from timeexpert.data.formats import ConvertOptions, Rejected, convert

    annotations = check_clips(folder)
    target = out / "samples.jsonl"
    samples = [Sample.from_json(json.loads(line)) for line in target.read_text(encoding="utf-8").splitlines()]
    known = {sample.id for sample in samples}
    left_out, added = [], []
    for row in convert("timed_clips", annotations, ConvertOptions()):
        if isinstance(row, Rejected):
            left_out.append(f"{row.where}: {row.reason}")
            continue
        source = (folder / row.video).resolve()
        if not source.is_relative_to(folder.resolve()) or not source.is_file():
            left_out.append(f"{row.id}: {folder / row.video} is not a file inside {folder}")
            continue
        copy = out / "media" / "clips" / row.video
        if not copy.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy.with_name(copy.name + ".part"))
            os.replace(copy.with_name(copy.name + ".part"), copy)
        if row.id not in known:
            added.append(replace(row, video=f"clips/{row.video}"))
    temporary = target.with_suffix(".part")
    write_samples(temporary, [*samples, *added])
    os.replace(temporary, target)
    return len(added), left_out
