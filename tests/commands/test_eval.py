from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import rows
from timeexpert.cli import main


@pytest.fixture(autouse=True)
def without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training run scores without METEOR's Java; so does what is compared with it."""
    monkeypatch.delenv("TIMEEXPERT_METEOR_JAR", raising=False)


def evaluate(run: Path, out: Path, *words: object) -> dict[str, Any]:
    """Evaluate into ``out``; what --json prints is in its metrics.json too."""
    assert main(["eval", str(run), "-o", str(out), "--json", "--device", "cpu", *map(str, words)]) == 0
    return json.loads((out / "metrics.json").read_text())  # type: ignore[no-any-return]


def told(folder: Path) -> list[dict[str, Any]]:
    """Kept answers without their timings."""
    return [{k: v for k, v in row.items() if k != "batch"} for row in rows(folder / "predictions.jsonl")]


def test_an_evaluation_repeats_what_the_run_recorded_and_keeps_every_answer(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = evaluate(tiny_run, tmp_path / "out", "--batch-size", 8)
    (recorded,) = (r for r in rows(tiny_run / "metrics.jsonl", "eval") if r["control"] is None)
    figures = json.loads(capsys.readouterr().out)
    assert {k: recorded[k] for k in figures} == figures == document["figures"]
    assert figures["parse_rate"] == 100.0 and figures["unreadable"] == 0
    assert told(tmp_path / "out") == rows(tiny_run / "predictions" / "sft.jsonl")
    (first, *_) = rows(tmp_path / "out" / "predictions.jsonl")
    assert first["text"].startswith("<sync>") and first["batch"]["questions"] == 8
    assert first["batch"]["decode_s"] > 0 and first["batch"]["generate_s"] > 0
    task = document["tasks"]["moment_retrieval"]
    assert task["counts"]["questions"] == task["counts"]["answered"] == figures["moment_retrieval"]["count"]
    assert task["intervals"]["r1_0.5"] is not None and task["convention"] == "strict"
    assert "torch" in document["versions"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<svg" in page and "Worst" in page and "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_do_not_depend_on_the_batch_size(tiny_run: Path, tmp_path: Path, batch_size: int) -> None:
    for noise in ([], ["--noise-frames"]):
        out = tmp_path / f"out{len(noise)}"
        evaluate(tiny_run, out, "--batch-size", batch_size, "--no-intervals", *noise)
        name = "sft.noise_frames" if noise else "sft"
        assert told(out) == rows(tiny_run / "predictions" / f"{name}.jsonl")  # asked in batches of 8


def test_noise_frames_are_the_recorded_control(tiny_run: Path, tmp_path: Path) -> None:
    figures = evaluate(tiny_run, tmp_path, "--noise-frames")["figures"]
    (recorded,) = (r for r in rows(tiny_run / "metrics.jsonl", "eval") if r["control"] == "noise_frames")
    assert {k: recorded[k] for k in figures} == figures


def test_a_stopped_evaluation_asks_only_what_has_no_answer(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timeexpert.predict import Predictor

    whole = evaluate(tiny_run, tmp_path, "--no-intervals")
    kept = told(tmp_path)
    file = tmp_path / "predictions.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:-20])  # killed in the middle of its fourth line
    asked: list[str] = []
    answer = Predictor.answer

    def counted(self: Predictor, requests: Any, **words: Any) -> Any:
        asked.extend(request.prompt for request in requests)
        return answer(self, requests, **words)

    monkeypatch.setattr(Predictor, "answer", counted)
    assert evaluate(tiny_run, tmp_path, "--no-intervals", "--batch-size", 2) == whole
    assert sorted(asked) == sorted(row["prompt"] for row in kept[3:])
    assert told(tmp_path) == kept
    asked.clear()
    assert evaluate(tiny_run, tmp_path, "--no-intervals") == whole
    assert asked == []


def test_a_folder_of_another_evaluation_is_refused_by_the_name_of_what_differs(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(tiny_run, tmp_path, "--max-questions", 1, "--no-intervals")
    before = (tmp_path / "predictions.jsonl").read_bytes()
    for words, message in [
        (["--max-questions", "2"], "was begun with another max_questions (1), now 2. Give another -o, or delete"),
        (["--max-questions", "1", "--num-frames", "2"], "was begun with another num_frames ("),
        (["--max-questions", "1", "--noise-frames"], "was begun with another noise_frames (False), now True."),
    ]:
        assert main(["eval", str(tiny_run), "-o", str(tmp_path), "--device", "cpu", *words]) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "predictions.jsonl").read_bytes() == before
    # another convention is another way to count the same answers
    document = evaluate(
        tiny_run, tmp_path, "--max-questions", 1, "--task", "moment_retrieval", "--task", "dense_captioning",
        "--task", "highlight_detection", "--convention", "timechat", "--no-intervals",
    )  # fmt: skip
    assert document["tasks"]["moment_retrieval"]["convention"] == "timechat"


def test_the_table_shows_every_figure(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    model, data = tiny_run / "models" / "backbone", tiny_data / "held_out"
    words = ["eval", str(model), "--data", str(data), "--max-questions", "1", "--num-frames", "2", "--device", "cpu"]
    monkeypatch.chdir(tmp_path)
    assert main(words) == 0
    said = capsys.readouterr().out
    for name in ("moment_retrieval", "r1_0.5", "dense_captioning", "f1", "highlight_detection", "hit1", "parse_rate"):
        assert name in said
    assert "questions 3, " in said  # one of each task
    assert (tmp_path / "eval" / "backbone-held_out" / "metrics.json").is_file()  # a model folder is left alone


def test_a_run_keeps_its_evaluations_in_a_folder_named_after_the_data(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    assert main(["eval", str(run), "--device", "cpu", "--task", "moment_map", "--max-questions", "2"]) == 0
    assert "map_0.75" in capsys.readouterr().out
    document = json.loads((run / "eval" / "held_out" / "metrics.json").read_text())
    assert list(document["tasks"]) == ["moment_map"]


def test_what_cannot_be_evaluated_is_said(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_run / "models" / "sft", tmp_path / "model")
    (tmp_path / "file").write_text("mine")
    for words, message in [
        ([tiny_run, "--batch-size", "0"], "--batch-size (0) must be 1 or more."),
        ([tiny_run, "--max-questions", "-1"], "--max-questions (-1) must be 1 or more."),
        ([tmp_path / "nowhere"], "nowhere: neither a model folder"),
        ([tmp_path / "model"], "no config.yaml, so it names no held-out data. Give a shard folder with --data."),
        ([tiny_run, "--data", tmp_path], "no dataset.json, so not a shard folder"),
        (
            [tiny_run, "--data", tiny_data / "images"],
            "holds no moment retrieval, dense captioning, highlight detection or action segmentation question",
        ),
        ([tiny_run, "-o", tmp_path / "file"], "file: cannot be written: File exists. Choose another -o."),
        ([tiny_run, "--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        ([tiny_run, "--task", "moments"], "--task ('moments') must be one of"),
        (
            [tiny_run, "--convention", "moment_detr"],
            "--convention ('moment_detr') is none of moment_retrieval's: strict",
        ),
    ]:
        assert main(["eval", *map(str, words)]) == 2
        said = capsys.readouterr().err
        assert message in said and "Traceback" not in said, said


def test_two_ranks_keep_and_compute_what_one_does(tiny_run: Path, tmp_path: Path) -> None:
    from tests.stages.test_parallel_training import torchrun

    done = torchrun("eval", tiny_run, "-o", tmp_path / "two", "--device", "cpu", "--batch-size", 3, "--no-intervals")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kept in") == 1
    assert told(tmp_path / "two") == rows(tiny_run / "predictions" / "sft.jsonl")
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == [
        *(".lock", "metrics.json", "predictions.jsonl", "report.html", "settings.json"),
    ]
    one = evaluate(tiny_run, tmp_path / "two", "--no-intervals")  # nothing is asked again: scored once more
    assert one["figures"] == evaluate(tiny_run, tmp_path / "one", "--no-intervals")["figures"]
