"""``timeexpert eval --task loombench``: one runner, two prompts, controls; a family without masks says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import VIDEOS, rows
from timeexpert.cli import main
from timeexpert.data.build import build
from timeexpert.data.records import Sample
from timeexpert.data.scenes import SynthConfig
from timeexpert.data.synthetic import synthesise

NAMES = ["loombench_when", "loombench_where", "loombench_combined"]
CONTROLS = ["loombench_combined_time_only", "loombench_combined_mask_only"]


@pytest.fixture(scope="module")
def loom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of two made-up videos of 4 to 6 s, with questions of the three kinds."""
    root = tmp_path_factory.mktemp("loom")
    config = SynthConfig(
        masks=True, videos=2, seed=5, min_duration_s=4.0, max_duration_s=6.0, min_event_s=1.0, max_event_s=2.0,
        frame_rates=(4,), sizes=VIDEOS.sizes,
    )  # fmt: skip
    assert list(synthesise(config, root))[-1] == 2
    build(root / "samples.jsonl", root / "media", root / "shards")
    return root / "shards"


def evaluate(run: Path, loom: Path, out: Path, *words: str) -> dict[str, Any]:
    done = main(["eval", str(run), "--data", str(loom), "-o", str(out), "--device", "cpu", "--no-intervals", *words])
    assert done == 0
    return dict(json.loads((out / "metrics.json").read_text()))


@pytest.mark.usefixtures("drawing")
def test_the_three_kinds_are_asked_and_scored_with_their_controls(
    tiny_run: Path, loom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    from timeexpert.predict import Predictor

    asked: list[tuple[str, str | None]] = []
    answer = Predictor.answer

    def counted(self: Predictor, requests: Any, **words: Any) -> Any:
        asked.extend((request.prompt, request.task) for request in requests)
        return answer(self, requests, **words)

    monkeypatch.setattr(Predictor, "answer", counted)
    document = evaluate(tiny_run, loom, tmp_path / "out", "--task", "loombench")
    assert list(document["tasks"]) == [*NAMES, *CONTROLS]
    said = capsys.readouterr().out
    assert all(name in said for name in ("r1_0.5", "jf_bi_fore_question_mean", *CONTROLS))
    kept = rows(tmp_path / "out" / "predictions.jsonl")
    kinds = [row["meta"]["question_kind"] for row in kept]
    number = kinds.count("combined")
    assert kinds.count("when") == kinds.count("where") == number > 0
    assert all(row["tracks"][0]["object_id"] == "bright" for row in kept)
    combined = next(row for row in kept if row["meta"]["question_kind"] == "combined")
    first, second = combined["meta"]["prompts"]["when"], combined["meta"]["prompts"]["where"]
    assert len(asked) == 4 * number
    assert (first, "moment_retrieval") in asked and (second, "referring_segmentation") in asked
    assert combined["text"].count("\n") == 1 and combined["prediction"][0]["start_s"] is not None
    for name in (*NAMES[1:], *CONTROLS):
        assert document["tasks"][name]["counts"]["questions"] == number
    assert document["tasks"]["loombench_combined"]["policies"]["masks"] == "inside the predicted segment"
    assert "metrics.json, report.html, per_question.jsonl" in said
    single = rows(tmp_path / "out" / "per_question.jsonl")
    assert [row["task"] for row in single] == [name for name in (*NAMES, *CONTROLS) for _ in range(number)]
    assert {row["id"] for row in single if row["kind"] == "combined"} == {
        row["id"] for row in kept if row["meta"]["question_kind"] == "combined"
    }
    assert {tuple(row) for row in single if row["kind"] == "where"} == {
        ("task", "id", "kind", "answered", "parsed", "jf", "j", "f")
    }

    words = ["eval", str(tiny_run), "--data", str(loom), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--task", "loombench_where"]) == 2  # other questions: the answers stay as they are
    assert "was begun with another questions (['loombench_combined', 'loombench_when'" in capsys.readouterr().err
    assert rows(tmp_path / "out" / "predictions.jsonl") == kept

    asked.clear()  # without a model, from the file: the same figures
    told, whole = str(tmp_path / "out" / "predictions.jsonl"), document["tasks"]
    out = tmp_path / "again"
    words = ["score", told, str(loom), "--no-intervals", "--json", "-o", str(out)]
    assert main([*words, "--task", "loombench"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert asked == [] and list(again["tasks"]) == list(whole)
    for name, task in again["tasks"].items():
        assert task["figures"] == whole[name]["figures"], name
    assert rows(out / "per_question.jsonl") == single
    assert main([*words, "--task", "moment_retrieval"]) == 0
    assert not (out / "per_question.jsonl").exists()  # it was of other figures


@pytest.mark.usefixtures("drawing")
def test_noise_frames_change_the_masks_and_no_task_means_all_that_the_model_can_answer(
    tiny_run: Path, loom: Path, tmp_path: Path
) -> None:
    plain = evaluate(tiny_run, loom, tmp_path / "plain", "--max-questions", "2")
    noise = evaluate(tiny_run, loom, tmp_path / "noise", "--max-questions", "2", "--noise-frames")
    assert list(plain["tasks"]) == ["moment_retrieval", *NAMES, *CONTROLS]
    assert plain["tasks"]["loombench_where"]["counts"]["questions"] == 2
    assert plain["tasks"]["loombench_where"]["figures"] != noise["tasks"]["loombench_where"]["figures"]


def test_a_family_without_masks_says_so_and_answers_when(
    tiny_run: Path, loom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", str(tiny_run), "--data", str(loom), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--task", "loombench"]) == 2
    said = capsys.readouterr().err
    assert "loombench_where, loombench_combined" in said and "models of the family timeexpert draw none" in said
    assert "Give --task loombench_when, or a model" in said
    document = evaluate(tiny_run, loom, tmp_path / "out")
    assert list(document["tasks"]) == ["moment_retrieval", "loombench_when"]
    assert document["figures"]["questions"] == document["tasks"]["loombench_when"]["counts"]["questions"]


def test_references_without_a_kind_and_truth_without_masks_are_named(
    loom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from timeexpert.data.shards import ShardDataset

    dataset = ShardDataset(loom)
    samples = [dataset.sample(i) for i in range(len(dataset))]
    where = next(s for s in samples if s.meta.get("question_kind") == "where")
    (tmp_path / "p.jsonl").write_text(json.dumps({"id": where.id, "prediction": [], "problems": []}))

    def refused(sample: dict[str, Any], task: str, words: str) -> None:
        (tmp_path / "truth.jsonl").write_text(json.dumps(sample))
        assert main(["score", str(tmp_path / "p.jsonl"), str(tmp_path / "truth.jsonl"), "--task", task]) == 2
        assert words in capsys.readouterr().err

    row = Sample.to_json(where)
    refused(row, "loombench_combined", "truth.jsonl: holds no loombench_combined question. Give other references")
    refused({**row, "tracks": []}, "loombench_where", "a where question needs tracks, the masks of what it asks for.")


def test_the_family_with_a_mask_head_answers_all_kinds_with_masks_of_its_own(loom: Path, tmp_path: Path) -> None:
    from tests.families.loom import always_says, make
    from timeexpert.checkpoint import write_folder
    from timeexpert.data.shards import ShardDataset
    from timeexpert.families.video_loom.answer_forms import AnswerForms
    from timeexpert.predict import INFERENCE
    from timeexpert.tokenization.text import SentencePieceText

    dataset = ShardDataset(loom)
    prompts = [dataset.sample(i).prompt for i in range(len(dataset))]
    text = SentencePieceText.train([*prompts, "It is [SEG].", "0-3"], 320, tmp_path / "text")
    model = make(text, answers=AnswerForms(span="{first}-{last}"))
    always_says(model, text, [*text.encode("0-3"), text.vocab_size])  # untrained: all four frames, and one object

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        text.save(folder)
        (folder / INFERENCE).write_text(json.dumps({"num_frames": 4, "max_new_tokens": 8, "max_events": 2}))

    write_folder(tmp_path / "model", fill)
    document = evaluate(tmp_path / "model", loom, tmp_path / "out", "--task", "loombench", "--max-questions", "1")
    assert list(document["tasks"]) == [*NAMES, *CONTROLS]
    for task in document["tasks"].values():
        assert task["counts"]["questions"] == task["counts"]["answered"] == task["counts"]["parsed"] == 1
    figures = {name: task["figures"] for name, task in document["tasks"].items()}
    assert figures["loombench_where"]["jf"] > 0 and figures["loombench_combined"]["jf_bi_fore"] > 0
    assert figures["loombench_combined"]["tiou"] == figures["loombench_when"]["tiou"] > 0
    kept = {row["meta"]["question_kind"]: row for row in rows(tmp_path / "out" / "predictions.jsonl")}
    for kind in ("where", "combined"):
        (track,) = kept[kind]["tracks"]
        assert "0-3 [SEG]" in kept[kind]["text"] and len(track["rles"]) == 4 and any(track["rles"])
