"""docs/predictor.ipynb runs from its first cell to its last, and says what it claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = json.loads((ROOT / "docs" / "predictor.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    space: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 6 and not any(cell["outputs"] for cell in cells)
    for cell in cells:
        exec("".join(cell["source"]), space)
    assert len(space["events"]) == len(space["scenes"][0].events)
    predictor, questions = space["predictor"], space["questions"]
    assert space["answers"] == [predictor.events(*question) for question in questions]
    assert [len(events) >= 1 for events in space["both"]] == [True, True]
    (confidence,) = space["prediction"].confidences
    assert 0 < confidence["start"] <= 1 and 0 < confidence["end"] <= 1
    assert space["caption"] in capsys.readouterr().out
