from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from timeexpert.cli import main

ANNOTATIONS = [
    {"image_id": f"v{i}.mp4", "caption": f"query {i}.", "timestamp": [i, i + 10], "id": i} for i in range(20)
]


@pytest.fixture
def references(tmp_path: Path) -> Path:
    path = tmp_path / "references.json"
    path.write_text(json.dumps({"annotations": ANNOTATIONS}))
    return path


def predictions(path: Path, shift_s: float, **more: Any) -> Path:
    rows = {str(a["id"]): {"timestamp": [[a["timestamp"][0] + shift_s, a["timestamp"][1]]]} for a in ANNOTATIONS[:-1]}
    path.write_text(json.dumps({**rows, **more}))
    return path


def test_figures_come_with_intervals_counts_and_a_page(
    references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = predictions(tmp_path / "p.json", 4.0, **{"77": {"timestamp": [[1, 2]]}, "3": {"timestamp": []}})
    out = tmp_path / "out"
    words = ["score", str(told), str(references), "--task", "moment_retrieval", "-o", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "questions 20, answered 19, parsed 18, missing 1" in said and "convention strict" in said
    assert "1 answers are about no reference (index 77)" in said
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    task = document["tasks"]["moment_retrieval"]
    assert task["figures"]["r1_0.5"] == 90.0 and task["figures"]["r1_0.7"] == 0.0
    low, high = task["intervals"]["r1_0.5"]
    assert 60 < low < 90 < high <= 100
    assert document == json.loads((out / "metrics.json").read_text())
    page = (out / "report.html").read_text()
    assert "Worst" in page and "Best" in page and "<svg" in page and "no answer" in page and "did not parse" in page
    assert "about no reference" in page


def test_a_convention_changes_what_is_counted(
    references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = predictions(tmp_path / "p.json", 0.0, **{"3": {"timestamp": []}})
    figures = {}
    for convention in ("strict", "trace"):
        words = ["score", str(told), str(references), "--task", "moment_retrieval", "--convention", convention]
        assert main([*words, "--json", "--no-intervals"]) == 0
        task = json.loads(capsys.readouterr().out)["tasks"]["moment_retrieval"]
        assert task["intervals"] is None and task["convention"] == convention
        figures[convention] = task["figures"]["r1_0.5"]
    assert figures == {"strict": 90.0, "trace": 100.0}


def test_two_sets_of_answers_are_compared_question_by_question(
    references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = predictions(tmp_path / "a.json", 4.0), predictions(tmp_path / "b.json", 2.0)
    words = ["score", "--compare", str(a), str(b), str(references), "--task", "moment_retrieval"]
    assert main([*words, "--json", "-o", str(tmp_path / "out")]) == 0
    document = json.loads(capsys.readouterr().out)
    row = document["tasks"]["moment_retrieval"]["miou"]
    assert (row["a"], row["b"], row["difference"]) == pytest.approx((57.0, 76.0, 19.0))
    assert row["interval"][0] > 0 and row["share_above_zero"] == 1.0
    assert document["counts"]["moment_retrieval"]["a"]["missing"] == 1
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == document
    assert main(words) == 0
    assert "second minus first" in capsys.readouterr().out


def test_what_cannot_be_scored_is_said(references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = predictions(tmp_path / "p.json", 0.0)
    for words, message in [
        ([told, references], "give --task: one or more of moment_retrieval"),
        ([told, references, "--task", "moment"], "--task ('moment') must be one of"),
        (
            [told, references, "--task", "moment_map", "--convention", "trace"],
            "none of moment_map's: strict, moment_detr",
        ),
        (
            [told, references, "--task", "moment_retrieval", "--convention", "timchat"],
            "or other tasks with --task. Did you mean 'timechat'?",
        ),
        ([told, "--task", "moment_map"], "give PREDICTIONS REFERENCES, or --oracle DIR; 1 files were given."),
        (["--compare", told, told, "--task", "moment_map"], "give --compare A B REFERENCES"),
        ([tmp_path / "none.json", references, "--task", "moment_map"], "none.json: cannot be read: No such file"),
        ([told, tmp_path / "none.json", "--task", "moment_map"], "none.json: no such file"),
        ([told, references, "--task", "moment_map", "-o", "/dev/null/x"], "/dev/null/x: cannot be written"),
        ([told, references, "--task", "dense_captioning"], "holds no dense_captioning question"),
    ]:
        assert main(["score", *map(str, words)]) == 2
        said = capsys.readouterr().err
        assert message in said and "Traceback" not in said, said
    assert main(["score", "--task", "list"]) == 0
    assert "moment_map: QVHighlights" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["metrics.json", "report.html", "comparison.json"])
def test_a_result_that_cannot_be_written_is_said(
    name: str, references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = str(predictions(tmp_path / "p.json", 0.0))
    (tmp_path / "out" / name).mkdir(parents=True)
    files = ["--compare", told, told] if name == "comparison.json" else [told]
    words = [*files, str(references), "--task", "moment_retrieval", "-o", str(tmp_path / "out")]
    assert main(["score", *words, "--no-intervals"]) == 2
    said = capsys.readouterr().err.replace("\n", "")
    assert f"out/{name}: cannot be written" in said and "Is a directory" in said
    assert "another -o." in said and "--html" not in said


def test_a_file_without_an_answer_says_what_its_rows_are(
    references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "p.jsonl"
    for text, part in (("", "holds no answer"), ('{"foo": 1}\n', "Of 1 rows none names a question")):
        told.write_text(text)
        words = [str(told), str(references), "--task", "moment_retrieval", "--format", "moment_detr"]
        assert main(["score", *words]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert part in said and "--format" in said and "[]" not in said


def test_scoring_imports_neither_torch_nor_transformers(references: Path, tmp_path: Path) -> None:
    told = predictions(tmp_path / "p.json", 0.0)
    words = ["score", str(told), str(references), "--task", "moment_retrieval", "-o", str(tmp_path / "out")]
    code = f"import sys; from timeexpert.cli import main; main({words!r}); "
    code += "print({'torch', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_rows_of_etbench_are_matched_by_their_place_in_the_benchmark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"task": "tvg", "source": "s", "idx": i, "video": f"{i}.mp4", "tgt": [2.0, 6.0]} for i in range(2)]
    (tmp_path / "truth.json").write_text(json.dumps(rows))
    answers = [{**rows[0], "a": "The event happens in 2.0 - 6.0 seconds."}, {**rows[1], "idx": 9, "a": "2 - 6"}]
    (tmp_path / "told.json").write_text(json.dumps(answers))
    words = ["score", str(tmp_path / "told.json"), str(tmp_path / "truth.json"), "--task", "etbench_tvg"]
    assert main([*words, "--json", "-o", str(tmp_path / "out")]) == 0
    document = json.loads(capsys.readouterr().out)
    task = document["tasks"]["etbench_tvg"]
    assert task["figures"]["miou"] == 50.0 and task["counts"]["missing"] == 1
    assert document["matching"]["etbench_tvg"]["extra_ids"] == ["tvg s 9"]
    assert main([*words[:-1], "etbench_dvc"]) == 2
    assert "holds no row of task 'dvc'" in capsys.readouterr().err


def test_folders_of_frame_labels_and_of_masks_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for name, labels in (("truth", "a\n" * 4 + "b\n" * 4), ("told", "a\n" * 6 + "b\n" * 2)):
        (tmp_path / name / "labels").mkdir(parents=True)
        (tmp_path / name / "labels" / "v.txt").write_text(labels)
        folder = tmp_path / name / "masks" / "car"
        folder.mkdir(parents=True)
        for frame in range(3):
            image = Image.new("P", (8, 8))
            image.putpalette([0, 0, 0, 255, 0, 0])
            image.paste(1, (0, 0, 4, 4 if name == "truth" else 2))
            image.save(folder / f"{frame}.png")
    (tmp_path / "truth" / "labels" / "w.txt").write_text("a\n")
    found = {}
    tasks = (("frame_labels", "labels"), ("masks_semi_supervised", "masks"), ("masks_bidirectional", "masks"))
    for task, folder in tasks:
        words = ["score", str(tmp_path / "told" / folder), str(tmp_path / "truth" / folder), "--task", task]
        assert main([*words, "--json"]) == 0
        found[task] = json.loads(capsys.readouterr().out)["tasks"][task]
    assert found["frame_labels"]["figures"]["accuracy"] == pytest.approx(100 * 6 / 9)
    assert found["frame_labels"]["counts"]["missing"] == 1
    assert found["masks_semi_supervised"]["figures"]["j_mean"] == pytest.approx(50.0)
    both = found["masks_bidirectional"]["figures"]
    assert both["j_p"] == both["j_g"] == pytest.approx(50.0) and both["tiou"] == 100.0


def test_loombenchs_questions_are_scored_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    from timeexpert.data.mask_rle import encode_rle

    seen = encode_rle(np.pad(np.ones((4, 4)), 8))
    shown = {"segment_s": [1, 3], "frame_times_s": [0, 1, 2, 3], "masks": [None, seen, seen, seen]}
    questions = [
        {"id": "when", "kind": "when", "segment_s": [1, 3]},
        {"id": "where", "kind": "where", **shown},
        {"id": "both", "kind": "combined", **shown},
        {"id": "broken", "kind": "combined", **shown},
    ]
    answers = [
        {"id": "when", "segment_s": [1, 2]},
        {"id": "where", "masks": shown["masks"]},
        {"id": "both", "segment_s": [2, 3], "masks": shown["masks"]},
        {"id": "broken", "masks": [{"size": [9, 9], "counts": "?"}]},
        {"id": "stranger", "segment_s": [0, 1]},
    ]
    truth, told = tmp_path / "truth.jsonl", tmp_path / "told.jsonl"
    truth.write_text("\n".join(map(json.dumps, questions)))
    told.write_text("\n".join([*map(json.dumps, answers), "not JSON"]))
    kinds = ("when", "where", "combined")
    words = ["score", str(told), str(truth), *(w for kind in kinds for w in ("--task", f"loombench_{kind}"))]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    when, where, combined = (document["tasks"][f"loombench_{kind}"] for kind in kinds)
    assert when["figures"] == {"r1_0.5": 100.0, "tiou": 50.0}
    assert where["figures"]["jf"] == 100.0
    assert combined["counts"] == {"questions": 2, "answered": 2, "parsed": 1, "missing": 0}
    assert combined["figures"]["tiou"] == pytest.approx(25.0)  # half of one, nothing of the other
    assert document["matching"]["loombench_when"]["extra_ids"] == ["stranger"]

    for change, said in (
        ({"kind": "why"}, "kind ('why') must be one of when, where, combined"),
        ({"segment_s": ["1", 2]}, "segment_s (['1', 2]) must be a list of two numbers"),
        ({"segment_s": [3, 1]}, "must be two finite numbers of seconds that rise"),
        ({"masks": [None] * 4}, "masks are null in every frame"),
        ({"masks": [seen]}, "1 masks for 4 frames"),
        ({"masks": [{"size": [10**9, 10**9], "counts": [1]}] * 4}, "of 268435456 pixels at most"),
        ({"frame_times_s": "no"}, "frame_times_s must be a list of seconds"),
    ):
        truth.write_text(json.dumps({**questions[1], **change}))
        assert main(["score", str(told), str(truth), "--task", "loombench_where"]) == 2
        assert said in capsys.readouterr().err


def test_scores_of_clips_are_ranked_against_labels_of_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"qid": q, "label": [[0], [1], [0]]} for q in ("x", "y")]
    (tmp_path / "truth.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "told.jsonl").write_text(json.dumps({"qid": "x", "pred_saliency_scores": [0.1, 0.9, 0.2]}))
    words = ["score", str(tmp_path / "told.jsonl"), str(tmp_path / "truth.jsonl"), "--task", "youtube_highlights"]
    assert main([*words, "--json"]) == 0
    task = json.loads(capsys.readouterr().out)["tasks"]["youtube_highlights"]
    assert task["counts"]["missing"] == 1 and task["figures"]["map"] == pytest.approx(50.0)
    (tmp_path / "truth.jsonl").write_text('{"qid": "x"}')
    assert main(words) == 2
    assert "truth.jsonl:1: a line must be an object with qid and label" in capsys.readouterr().err
