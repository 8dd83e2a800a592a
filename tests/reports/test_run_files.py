"""What a run wrote down, as reports read it."""

from __future__ import annotations

import json
from pathlib import Path

from timeexpert.reports.run_files import read_run


def test_a_skipped_step_is_a_note(tmp_path: Path) -> None:
    row = {"kind": "nonfinite", "stage": "sft", "step": 3, "problem": "the loss is nan", "samples": ["a", "b"]}
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps({"kind": "train", "stage": "sft"}) + "\n" + json.dumps(row) + "\n"
    )
    run = read_run(tmp_path)
    assert len(run.train) == 1
    assert run.notes == ["step 3 of stage sft was skipped: the loss is nan; metrics.jsonl:2 has its questions."]
