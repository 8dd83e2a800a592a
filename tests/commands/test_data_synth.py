from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.media import write_video
from timeexpert.cli import main

SHORT = ["--videos", "2", "--min-duration-s", "4", "--max-duration-s", "5", "--min-event-s", "1", "--max-event-s", "3"]


def test_what_was_made_can_be_built_by_the_command_it_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "made [x]"
    clips = tmp_path / "clips"
    write_video(clips / "[/b].mp4", 10, 5)
    rows = [
        {"video": v, "duration": 2.0, "events": [{"start": 0, "end": 1, "caption": "x"}]}
        for v in ("[/b].mp4", "[/c].mp4")
    ]
    (clips / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "synth", "-o", str(out), *SHORT, "--clips", str(clips)]) == 0
    said = capsys.readouterr().out
    questions = len((out / "samples.jsonl").read_text().splitlines())
    assert f"2 questions about clips of {clips}" in said
    assert "[/c].mp4 is not a file inside" in said
    assert f"2 videos, {questions} questions in {out}" in said
    command = next(line for line in said.splitlines() if line.startswith("next: timeexpert data build "))
    assert command.endswith(f"{out}/samples.jsonl --media {out}/media -o SHARDS")
    build = ["data", "build", f"{out}/samples.jsonl", "--media", f"{out}/media", "-o", str(tmp_path / "shards")]
    assert main(build) == 0
    assert json.loads((tmp_path / "shards" / "dataset.json").read_text())


def test_settings_that_cannot_be_are_one_line_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for options, words in [
        (["--videos", "0"], "videos (0) must be 1 or more."),
        (["--min-duration-s", "inf", "--max-duration-s", "inf"], "durations (inf to inf s) must be positive"),
        (["--max-event-s", "90"], "event lengths (5.0 to 90.0 s) must be"),
        (["--highlight-from", "6"], "highlight_from (6.0) is a score, between 1 and 5."),
        (["--persistent", "2"], "persistent (2.0) is a share of the events, between 0 and 1."),
        (["--clips", str(tmp_path)], "annotations.jsonl: no such file. --clips needs a folder with clips"),
    ]:
        assert main(["data", "synth", "-o", str(out), *options]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
    assert not out.exists()
