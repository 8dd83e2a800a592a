from __future__ import annotations

import json
from pathlib import Path

import pytest

from timeexpert.cli import main

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def video(tiny_data: Path) -> Path:
    return sorted((tiny_data / "held_out.raw" / "media").glob("*.mp4"))[0]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def test_tables_and_a_picture(tiny_run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(tiny_run), str(video), "When [bold] does it grow?", "--task", "moment_retrieval", "--device", "cpu"]
    assert main(["experts", "trace", *words]) == 0
    said = capsys.readouterr().out
    assert "When [bold] does it grow?" in said and "layer 1" in said and "Experts of each frame" in said
    assert f"wrote {video.stem}.experts.png" in said
    assert (tmp_path / f"{video.stem}.experts.png").read_bytes().startswith(PNG)


def test_json_names_every_layer_or_the_chosen_ones(
    tiny_run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["experts", "trace", str(tiny_run), str(video), "When?", "--json", "--no-png", "--device", "cpu"]
    assert main(words) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["layers"] == [0, 1] and row["written"] == [] and len(row["frames"]) == 4
    assert len(row["tokens"][0]["experts"]) == 2
    assert main([*words, "--layer", "1", "--num-frames", "2"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["layers"] == [1] and len(row["frames"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_of_many_layers_some_are_shown_and_json_names_all(
    tiny_run: Path, video: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timeexpert.reports.trace.DRAWN_LAYERS", 1)
    words = ["experts", "trace", str(tiny_run), str(video), "When?", "--no-png", "--device", "cpu"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 of 2 layers are shown; --layer N chooses others" in said and "layer 1" not in said
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"] == [0, 1]


def test_a_page_takes_the_place_of_the_picture(
    tiny_run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["experts", "trace", str(tiny_run), str(video), "When?", "--device", "cpu", "--html", "out.html"]
    assert main(words) == 0
    assert "wrote out.html" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["out.html"]
    assert "tiny asked about" in (tmp_path / "out.html").read_text()
    assert main([*words, "--png", "out.png"]) == 0
    assert (tmp_path / "out.png").read_bytes().startswith(PNG)


def test_what_can_be_wrong_is_said_in_one_line(
    tiny_run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4").write_text("no video here")
    (tmp_path / "file").touch()  # no folder: nothing can be written below it
    for model, clip, options, said in [
        ("nowhere", video, [], "nowhere: neither a model folder (no inference.json) nor a run with a finished stage"),
        (tiny_run, "missing.mp4", [], "missing.mp4: no such file. Give the path of a video."),
        (tiny_run, "text.mp4", [], "text.mp4: not a readable video: it is text"),
        (tiny_run, video, ["--layer", "2"], "--layer 2: the model has 2 layers, 0 to 1."),
        (tiny_run, video, ["--num-frames", "0"], "--num-frames (0) must be 1 or more."),
        (tiny_run, video, ["--html", "file/x.html"], "file/x.html: cannot be written (Not a directory)."),
        (tiny_run, video, ["--png", "file/x.png"], "file/x.png: cannot be written: Not a directory. Choose another"),
    ]:
        assert main(["experts", "trace", str(model), str(clip), "When?", "--device", "cpu", *options]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and said in error and error.count("\n") == 1, error
    assert not list(tmp_path.glob("*.png"))
