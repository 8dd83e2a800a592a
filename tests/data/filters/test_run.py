"""A run as a whole: nothing is lost, clips are decoded once, a killed run goes on, bad input is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.chat_server import serving
from tests.data.filters.test_consistency import judge_like_a_model
from tests.data.media import question, read_rows, write_lines, write_video
from timeexpert.config import load
from timeexpert.data.filters import FilterConfig, run_filters
from timeexpert.data.filters.curves import Labels, calibrate, match_cuts, read_labels
from timeexpert.data.filters.run import FilterError
from timeexpert.errors import UserError

ROOT = Path(__file__).resolve().parents[3]

# Stops for good once three clips are measured.
STOPS_AFTER_THREE = """
import sys, time
from timeexpert.data.filters import run_filters
def progress(done, total, name):
    if done == 3:
        print("three", flush=True)
        time.sleep(600)
if __name__ == "__main__":
    run_filters(*sys.argv[1:4], progress=progress)
"""


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """v0.mp4 ... v4.mp4, 2.0 to 2.8 seconds; and a file that is no video."""
    folder = tmp_path_factory.mktemp("media")
    for i in range(5):
        write_video(folder / f"v{i}.mp4", num_frames=10 + i)
    (folder / "text.mp4").write_text("not a video")
    return folder


def rows():
    made = [question(f"q{i}", f"v{i}.mp4", prompt="When does a red square appear?") for i in range(5)]
    made.append(question("late", "v0.mp4", 1.0, 9.0, prompt="When does a red square appear?"))
    made.append(question("vague", "v1.mp4", prompt="When does something happen?"))
    made[-1]["events"][0]["text"] = "something happens"
    return made


def everything(out: Path) -> dict[str, str]:
    """File contents without what says when and where they were made."""
    skip = {"filter.json", "filter.html", ".lock"}
    return {p.name: p.read_text() for p in sorted(out.iterdir()) if p.is_file() and p.name not in skip}


def config(*overrides):
    return load(FilterConfig, None, list(overrides))


def test_every_line_ends_up_kept_or_dropped_with_its_reason(media, tmp_path):
    bad = [question("broken", "text.mp4"), question("gone", "gone.mp4"), question("q0", "v2.mp4"), "{not json"]
    samples = write_lines(tmp_path / "s.jsonl", [*rows(), *bad])
    report = run_filters(samples, media, tmp_path / "out")
    out = tmp_path / "out"
    kept = [row["id"] for row in read_rows(out / "kept.jsonl")]
    dropped = {row["id"]: row for path in out.glob("dropped-[!i]*.jsonl") for row in read_rows(path)}
    bad_input = read_rows(out / "dropped-input.jsonl")
    assert kept == ["q0", "q1", "q2", "q3", "q4"]
    found = {name: (row["filter"], row["fault"], row["line"]) for name, row in dropped.items()}
    assert found == {
        "late": ("timestamps", "past the end", 6),
        "vague": ("captions", "no content", 7),
        "broken": ("timestamps", "unreadable clip", 8),
        "gone": ("timestamps", "unreadable clip", 9),
    }
    assert [(row["line"], row["fault"]) for row in bad_input] == [(10, "duplicate id"), (11, "bad line")]
    assert report.samples == 11 == len(kept) + len(dropped) + len(bad_input)
    stages = {name: (s.judged, sum(s.faults.values())) for name, s in report.stages.items()}
    assert stages["timestamps"] == (9, 3) and stages["captions"] == (6, 1) and stages["cuts"] == (5, 0)
    written = json.loads((out / "filter.json").read_text())
    assert written["stages"]["timestamps"]["faults"] == {"past the end": 1, "unreadable clip": 2}
    assert written["settings"]["cuts"]["threshold"] == FilterConfig().cuts.threshold


def test_what_is_kept_is_the_sample_as_it_was(media, tmp_path):
    samples = write_lines(tmp_path / "s.jsonl", [question("q", "v0.mp4", meta={"qid": 7}, source="x", duration_s=2.0)])
    run_filters(samples, media, tmp_path / "out")
    assert read_rows(tmp_path / "out" / "kept.jsonl") == [
        {**read_rows(samples)[0], "duration_s": 2.0, "source": "x", "meta": {"qid": 7}}
    ]


def test_flagged_samples_are_kept_and_listed(media, tmp_path):
    samples = write_lines(tmp_path / "s.jsonl", rows())
    report = run_filters(samples, media, tmp_path / "out", config("timestamps.action=flag"))
    assert [row["id"] for row in read_rows(tmp_path / "out" / "flagged-timestamps.jsonl")] == ["late"]
    assert "late" in [row["id"] for row in read_rows(tmp_path / "out" / "kept.jsonl")]
    assert report.kept == 6


def test_filters_run_in_the_order_given_and_each_judges_what_is_left(tmp_path):
    samples = write_lines(tmp_path / "s.jsonl", rows())
    report = run_filters(samples, None, tmp_path / "out", config("filters=[consistency,captions]"))
    assert [(name, stage.judged) for name, stage in report.stages.items()] == [("consistency", 7), ("captions", 7)]


def test_a_second_run_decodes_only_what_changed(media, tmp_path):
    own = tmp_path / "media"
    own.mkdir()
    for i in range(2):
        (own / f"v{i}.mp4").write_bytes((media / f"v{i}.mp4").read_bytes())
    samples = write_lines(tmp_path / "s.jsonl", [question("a", "v0.mp4"), question("b", "v1.mp4")])
    assert run_filters(samples, own, tmp_path / "out").decoded_now == 2
    assert run_filters(samples, own, tmp_path / "out", config("cuts.threshold=5")).decoded_now == 0
    write_video(own / "v1.mp4", num_frames=20)
    assert run_filters(samples, own, tmp_path / "out").decoded_now == 1
    assert run_filters(samples, own, tmp_path / "out", config("cuts.analysis_fps=5")).decoded_now == 2


def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(media, tmp_path):
    samples = write_lines(tmp_path / "s.jsonl", rows())
    script = tmp_path / "script.py"
    script.write_text(STOPS_AFTER_THREE)
    command = [sys.executable, str(script), str(samples), str(media), str(tmp_path / "out")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout.readline() == b"three\n"
        with pytest.raises(FilterError, match="another run is writing here. Wait for it"):
            run_filters(samples, media, tmp_path / "out")
        process.kill()
    assert not (tmp_path / "out" / "kept.jsonl").exists()
    report = run_filters(samples, media, tmp_path / "out")
    assert 1 <= report.decoded_now <= 2
    run_filters(samples, media, tmp_path / "unbroken")
    assert everything(tmp_path / "out") == everything(tmp_path / "unbroken")


def test_the_number_of_workers_changes_nothing(media, tmp_path):
    samples = write_lines(tmp_path / "s.jsonl", [*rows(), question("broken", "text.mp4")])
    for workers in (1, 3):
        run_filters(samples, media, tmp_path / f"w{workers}", workers=workers)
    assert everything(tmp_path / "w1") == everything(tmp_path / "w3")


def test_the_endpoint_is_asked_once_and_its_cost_is_written_down(tmp_path):
    made = rows()[:5]
    made[3]["events"][0]["text"] = "a wrong square"
    samples = write_lines(tmp_path / "s.jsonl", made)
    with serving(judge_like_a_model) as chat:
        settings = config(
            "filters=[consistency]",
            f"consistency.endpoint.base_url={chat.base_url}",
            "consistency.endpoint.model=tiny",
            "consistency.endpoint.price_per_million_prompt_tokens=1",
            "consistency.endpoint.price_per_million_completion_tokens=1",
        )
        first = run_filters(samples, None, tmp_path / "out", settings)
        asked = len(chat.requests)
        again = run_filters(samples, None, tmp_path / "out", settings)
        assert len(chat.requests) == asked
    assert [row["id"] for row in read_rows(tmp_path / "out" / "dropped-consistency.jsonl")] == ["q3"]
    assert first.costs["usage"]["cost"] == pytest.approx(asked * 110 / 1e6)
    assert again.costs["usage"]["requests"] == 0 and again.costs["usage"]["from_cache"] == asked


def test_a_damaged_measurement_is_named(media, tmp_path):
    samples = write_lines(tmp_path / "s.jsonl", [question("a", "v0.mp4")])
    run_filters(samples, media, tmp_path / "out")
    (kept,) = (tmp_path / "out" / "cache").rglob("*.motion.npz")
    kept.write_bytes(b"PK damaged")
    with pytest.raises(UserError, match="motion.npz: a kept measurement is not readable.*Delete the file"):
        run_filters(samples, media, tmp_path / "out")


def test_a_link_out_of_the_media_folder_is_not_followed(media, tmp_path):
    own = tmp_path / "media"
    own.mkdir()
    (own / "link.mp4").symlink_to(media / "v0.mp4")
    samples = write_lines(tmp_path / "s.jsonl", [question("a", "link.mp4")])
    run_filters(samples, own, tmp_path / "out")
    (row,) = read_rows(tmp_path / "out" / "dropped-timestamps.jsonl")
    assert "leads outside the media folder" in row["reason"]


def test_bad_inputs_are_named(media, tmp_path):
    samples = write_lines(tmp_path / "s.jsonl", rows())
    with pytest.raises(FilterError, match=r"no.jsonl: no such file"):
        run_filters(tmp_path / "no.jsonl", media, tmp_path / "out")
    with pytest.raises(FilterError, match=r"look into clips: give --media DIR, or choose filters="):
        run_filters(samples, None, tmp_path / "out")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").touch()
    with pytest.raises(FilterError, match="holds thesis.tex, which no run of filters wrote"):
        run_filters(samples, media, tmp_path / "foreign")
    with pytest.raises(UserError, match=r"filters\[0\] \('cut'\) must be one of.*Did you mean 'cuts'"):
        config("filters=[cut]")
    with pytest.raises(UserError, match=r"filters \(\['cuts', 'cuts'\]\) must name at least one filter, and each once"):
        config("filters=[cuts,cuts]")


# --- curves and labels -----------------------------------------------------------------------------------------


def test_a_calibration_says_what_each_threshold_finds():
    found = calibrate("steps", [5.0, 3.0, 0.0], [0.0] * 8 + [2.5, 4.0], 2.0, drops_below=False)
    assert found.at == {
        "threshold": 2.0,
        "precision": 0.5,
        "recall": pytest.approx(2 / 3),
        "false_alarms": 0.2,
        "found": 2,
        "wrong": 2,
    }
    assert found.best["false_alarms"] <= 0.05 and found.best["found"] == 1


def test_a_labelled_cut_takes_the_strongest_candidate_near_it():
    hits, others = match_cuts([(1.0, 5.0), (1.1, 2.0), (4.0, 3.0)], [1.05, 9.0], steps=6)
    assert (hits, others) == ([5.0, 0.0], [3.0, 2.0, 0.0, 0.0])


def test_labels_are_read_and_bad_ones_named(tmp_path):
    good = write_lines(tmp_path / "l.jsonl", [{"video": "a.mp4", "cuts_s": [3, 1.5]}, {"id": "q", "aligned": False}])
    assert read_labels(good) == Labels({"a.mp4": [1.5, 3.0]}, {"q": False})
    with pytest.raises(UserError, match=r"l.jsonl:1: a label must be"):
        read_labels(write_lines(tmp_path / "l.jsonl", [{"video": "a.mp4", "cuts_s": ["x"]}]))


def test_labels_for_a_filter_that_does_not_run_are_refused(media, tmp_path):
    samples = write_lines(tmp_path / "s.jsonl", rows())
    with pytest.raises(FilterError, match="the labels are for cuts, which is not among filters"):
        run_filters(samples, media, tmp_path / "out", config("filters=[timestamps]"), labels=Labels({"v0.mp4": []}))
