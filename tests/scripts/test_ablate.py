"""Two configs with two seeds, really trained, and the table about them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import pytest

from tests.tiny import KINDS, ROOT, write_config


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
    assert (out / "ablation.md").read_text() in capsys.readouterr().out

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
    assert f"error: {other}: synth, data and eval must be those of {configs[0]}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
