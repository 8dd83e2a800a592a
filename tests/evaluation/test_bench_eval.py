"""The bench's two sides give the same figures on small inputs; no speed is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from timeexpert.evaluation.meteor import Meteor, MeteorError

ROOT = Path(__file__).resolve().parents[2]


QUICK = ("action_segmentation", "video_objects", "qvhighlights", "charades_text", "activitynet_captions")
NEED_METEOR = ("soda_c", "youcook2_meteor")


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "bench_eval.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | variables)


@pytest.mark.parametrize("families", [QUICK, pytest.param(NEED_METEOR, marks=pytest.mark.slow)], ids=["numpy", "java"])
def test_a_row_is_appended_with_the_same_figures_on_both_sides(tmp_path: Path, families: tuple[str, ...]):
    if families is NEED_METEOR:
        try:
            Meteor()
        except MeteorError as reason:
            pytest.skip(f"METEOR cannot run here: {reason}")
    out = tmp_path / "eval.jsonl"
    done = run(*families, "--scale", "0.01", "--repeats", "1", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(out.read_text())
    assert row == json.loads(done.stdout)
    assert set(row["results"]) == set(families)
    for result in row["results"].values():
        assert min(result["cpu_s"].values()) >= 0 and all(0 < v <= 1000 for v in result["figures"].values())


def test_families_that_need_meteor_are_skipped_with_the_way_to_get_it(tmp_path: Path):
    done = run(*NEED_METEOR, "--out", str(tmp_path / "eval.jsonl"), "--json", PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert set(results) == set(NEED_METEOR)
    assert all("apt-get install default-jre-headless" in result["skipped"] for result in results.values())


def test_an_unknown_family_is_refused(tmp_path: Path):
    done = run("faces", "--out", str(tmp_path / "eval.jsonl"))
    assert done.returncode == 2 and "faces is none of action_segmentation, video_objects" in done.stderr


def test_a_reference_that_can_be_imported_is_run_itself(tmp_path: Path):
    package = tmp_path / "clones" / "davis2017-evaluation" / "davis2017"
    package.mkdir(parents=True)
    (package / "metrics.py").write_text(
        "from timeexpert.evaluation.masks import frame_scores\n"
        "def db_eval_iou(a, b): return frame_scores(a, b)[0]\n"
        "def db_eval_boundary(a, b): return frame_scores(a, b)[1]\n"
    )
    out = tmp_path / "eval.jsonl"
    options = ("--scale", "0.002", "--repeats", "1", "--out", str(out), "--reference-root", str(tmp_path / "clones"))
    done = run("video_objects", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["results"]["video_objects"]["reference"] == "davis2017-evaluation"
