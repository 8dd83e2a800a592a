"""Two configs with two seeds, really trained, and the table about them."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import KINDS, ROOT, write_config
from timeexpert.config import ConfigError, load
from timeexpert.data.build import build
from timeexpert.data.records import Sample
from timeexpert.data.shards import ShardDataset
from timeexpert.data.synthetic import synthesise
from timeexpert.evaluation.errors import EvaluationError
from timeexpert.evaluation.records import Answer
from timeexpert.evaluation.runner import score, write_predictions
from timeexpert.evaluation.scores import Scores, mean_intervals
from timeexpert.paths import config_path
from timeexpert.stages.config import RunConfig
from timeexpert.stages.tables import flat_figures
from timeexpert.tokenization import Event, EventSequence


@pytest.fixture
def ablate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The script's ``main``; its words may be of any type. Returns its exit code."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))  # as Python does for a script
    return lambda *words: int(import_module("ablate").main([str(word) for word in words]))


@pytest.fixture
def configs(tmp_path: Path) -> list[Path]:
    synth = {name: json.loads(json.dumps(asdict(config))) for name, config in KINDS.items()}
    topany = write_config(tmp_path, tmp_path / "topany.yaml", synth=synth)
    topk = tmp_path / "topk.yaml"
    topk.write_text("extends: topany.yaml\nname: topk\nmodel: {moe: {router: topk}}\n", encoding="utf-8")
    return [topany, topk]


@pytest.mark.slow
def test_two_configs_with_two_seeds_are_compared(
    ablate: Callable[..., int],
    configs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    words = ("topany.yaml", "topk.yaml", "--seeds", 3, 4, "-o", out, "--device", "cpu", "train.log_every=2")
    assert ablate(*words) == 0
    comparison = json.loads((out / "ablation.json").read_text())
    assert list(comparison) == ["topany.yaml", "topk.yaml"]
    runs = {
        name: [json.loads((out / f"{name}-{seed}" / "summary.json").read_text()) for seed in (3, 4)]
        for name in comparison
    }
    for name, row in comparison.items():
        values = [run["stages"][-1]["miou"] for run in runs[name]]
        assert row["seeds"] == [3, 4] and row["miou"]["values"] == values
        assert row["miou"]["mean"] == pytest.approx(statistics.fmean(values), abs=0.01)
    differences = [b - a for a, b in zip(*(comparison[name]["miou"]["values"] for name in comparison), strict=True)]
    found = comparison["topk.yaml"]["miou"]["difference"]
    assert found["mean"] == pytest.approx(statistics.fmean(differences), abs=0.01)
    # two values: the interval is 12.7 standard errors, and the standard error half their distance
    assert found["half_width"] == pytest.approx(12.706 * abs(differences[0] - differences[1]) / 2, abs=0.01)
    low, high = found["questions"]
    assert low <= found["mean"] <= high  # of the few questions there are, drawn again and again
    noise = [run["controls"]["noise_frames"]["miou"] for run in runs["topk.yaml"]]
    assert comparison["topk.yaml"]["miou"]["noise_frames"] == pytest.approx(statistics.fmean(noise), abs=0.01)
    table = (out / "ablation.md").read_text()
    assert table in capsys.readouterr().out
    assert table.count("| topk.yaml |") == 2 and "The same models looking at noise:" in table

    logs = {path: path.read_bytes() for path in out.glob("*/metrics.jsonl")}
    assert len(logs) == 4
    assert ablate(*words) == 0
    assert logs == {path: path.read_bytes() for path in logs}  # nothing is trained twice


def test_configs_with_other_data_are_refused(
    ablate: Callable[..., int], configs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("extends: topany.yaml\nname: other\nsynth: {videos: {seed: 9}}\n", encoding="utf-8")
    assert ablate(configs[0], other, "-o", tmp_path / "out") == 2
    assert (
        f"error: {other}: synth, data and eval (but for eval.num_frames) must be those of {configs[0]}"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


LIST = """
name: two
base: topany.yaml
published: "mIoU:"
rows:
  - {name: "top any, as it is", set: [], published: "1"}
  - {name: top 2, set: [model.moe.router=topk], published: "2"}
"""


def test_a_list_is_its_base_with_the_changes_of_each_row(
    ablate: Callable[..., int], configs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.yaml").write_text(LIST)
    script = import_module("ablate")
    rows = [*script.rows_of("two.yaml"), *script.rows_of("topk.yaml")]
    routers = {name: load(RunConfig, config_path(base), row.set).model.moe.router for name, base, row in rows}
    assert routers == {"top any, as it is": "topany", "top 2": "topk", "topk.yaml": "topk"}
    assert [row.published for _, _, row in rows] == ["mIoU: 1", "mIoU: 2", ""]
    assert [script.folder_name(name) for name in routers] == ["top-any-as-it-is", "top-2", "topk.yaml"]
    numbers = {"seeds": [0], "published": "mIoU: 2", "miou": {"mean": 1.0, "half_width": None, "questions": [0.5, 2]}}
    assert "| top 2 | 0 | 1.0 [0.5, 2.0] |  | mIoU: 2 |" in script.markdown({"top 2": numbers})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LIST.replace("top 2", '"top any, as it is"'), "the name 'top any, as it is' occurs twice"),
        (LIST.replace("router=", "rooter="), "row 'top 2': .*rooter.*Did you mean"),
        (LIST.replace("set: []", "sett: []"), "unknown key 'rows\\[0\\].sett'"),
        ("name: none\nbase: topany.yaml\nrows: []\n", "rows is empty"),
    ],
)
def test_a_list_that_cannot_be_is_refused(
    ablate: Callable[..., int],
    configs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.yaml").write_text(text)
    assert ablate("two.yaml", "-o", "out") == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_the_lists_of_the_repository_compare_what_their_rows_say() -> None:
    module, counts = import_module("ablate"), {}
    for path in sorted(config_path("ablations/trace").parent.glob("*.yaml")):
        if "rows:" not in path.read_text(encoding="utf-8"):
            continue
        rows = module.rows_of(f"ablations/{path.stem}")
        counts[path.stem] = len({str(config) for config in module.configs_of(rows, []).values()})
        assert counts[path.stem] == len(rows), path
    tables = {
        "temporal_vlm_table4": 4,
        "temporal_vlm_table5": 6,
        "temporal_vlm_table8": 2,
        "temporal_vlm_table13": 3,
        "temporal_vlm_llm": 2,
        "temporal_vlm_baselines": 3,
    }
    assert tables.items() <= counts.items()


def test_intervals_over_questions_are_of_the_mean_over_the_seeds() -> None:
    def scores(*values: float) -> Scores:
        table = np.array([[value, 1.0] for value in values])
        return Scores("x", ["a", "b"], table, lambda sums: {"mean": sums[..., 0] / sums[..., 1]}, {})

    first, second = mean_intervals([[scores(0, 2), scores(2, 4)], [scores(1, 3), scores(3, 5)]])
    assert first["mean"]["mean"] == 2 and first["mean"]["interval"] == (1, 3)  # a question drawn twice: 1 or 3
    assert second["mean"]["difference"] == 1 and second["mean"]["difference_interval"] == (1, 1)
    with pytest.raises(EvaluationError, match="compare on the same questions only"):
        mean_intervals([[scores(0, 2)], [replace(scores(0, 2), items=["a", "c"])]])


def test_questions_of_several_segments_are_compared_apart_after_each_configs_own_last_stage(
    ablate: Callable[..., int], tmp_path: Path
) -> None:
    """Two questions, one of two segments: ``sft`` tells its first, ``rl`` both."""
    one, two = ((0.0, 4.0),), ((0.0, 4.0), (6.0, 10.0))
    truths = [_events(one), _events(two)]
    told = {"sft": [_events(one), _events(one)], "rl": [_events(one), _events(two)]}
    for name, answers in told.items():
        stage = {"name": name, **flat_figures(score(*_asked(truths, answers)))}
        write_predictions(tmp_path / name / "predictions" / f"{name}.jsonl", *_asked(truths, answers))
        summary = json.dumps({"stages": [stage], "controls": {}})
        (tmp_path / name / "summary.json").write_text(summary, encoding="utf-8")
    found = import_module("ablate").compare({name: [tmp_path / name] for name in told}, [0], {})
    assert found["sft"]["multi_f1"]["mean"] == 66.67 and found["rl"]["multi_f1"]["mean"] == 100.0
    assert found["rl"]["multi_f1"]["difference"]["mean"] == 33.33
    assert found["rl"]["single_r1_0.5"]["difference"] == {"mean": 0.0, "half_width": None, "questions": None}
    assert "| multi-segment F1 | difference | single-segment R@1 IoU 0.5 |" in import_module("ablate").markdown(found)


def test_masks_are_compared_over_questions_with_the_truth_of_the_held_out_shards(
    ablate: Callable[..., int], tmp_path: Path
) -> None:
    """``right`` gives the true masks to each question, ``half`` to every other one, in the true segments."""
    masked = replace(KINDS["held_out"], masks=True, min_events=2, max_events=2)
    assert list(synthesise(masked, tmp_path / "raw"))[-1] == 2
    build(tmp_path / "raw" / "samples.jsonl", tmp_path / "raw" / "media", tmp_path / "held_out")
    dataset = ShardDataset(tmp_path / "held_out")
    samples = [
        s for s in map(dataset.sample, range(len(dataset))) if s.meta.get("question_kind") in ("where", "combined")
    ]
    right = [Answer(sample.events, tracks=sample.tracks) for sample in samples]
    half = [answer if i // 2 % 2 else replace(answer, tracks=()) for i, answer in enumerate(right)]
    for name, answers in (("right", right), ("half", half)):
        write_predictions(tmp_path / name / "predictions" / "joint.jsonl", samples, answers)
        figures = flat_figures(score(samples, answers, ("loombench_where", "loombench_combined")))
        summary = {"stages": [{"name": "joint", **figures}], "controls": {}}
        (tmp_path / name / "summary.json").write_text(json.dumps(summary))
        write_config(tmp_path, tmp_path / name / "config.yaml")
    script = import_module("ablate")
    runs = {name: [tmp_path / name] for name in ("right", "half")}
    found = script.compare(runs, [0], {})
    for figure in ("where_jf", "combined_jf"):
        assert (found["right"][figure]["mean"], found["right"][figure]["questions"]) == (100.0, (100.0, 100.0))
        cell = found["half"][figure]
        low, high = cell["questions"]
        assert 0 <= low < cell["mean"] == 50.0 < high <= 100
        assert cell["difference"]["questions"] == pytest.approx((low - 100, high - 100))
    assert f"50.0 [{low:.1f}, {high:.1f}]" in script.markdown(found)

    (tmp_path / "few.jsonl").write_text((tmp_path / "raw" / "samples.jsonl").read_text().splitlines()[-1])
    shutil.rmtree(tmp_path / "held_out")
    build(tmp_path / "few.jsonl", tmp_path / "raw" / "media", tmp_path / "held_out")
    with pytest.raises(ConfigError, match=f"has no question '{samples[0].id}', which .* was asked"):
        script.compare(runs, [0], {})


def _events(segments: Sequence[tuple[float, float]]) -> EventSequence:
    return EventSequence(tuple(Event(a, b, text="x") for a, b in segments))


def _asked(truths: Sequence[EventSequence], told: Sequence[EventSequence]) -> tuple[list[Sample], list[Answer]]:
    samples = [
        Sample(id=str(i), video="a.mp4", duration_s=10.0, task="moment_retrieval", prompt="When?", events=truth)
        for i, truth in enumerate(truths)
    ]
    return samples, [Answer(events) for events in told]
