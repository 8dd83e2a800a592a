from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.media import write_audio
from timeexpert.cli import main
from timeexpert.commands.predict import printable
from timeexpert.data.video import Video

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def video(tiny_data: Path) -> Path:
    return sorted((tiny_data / "held_out.raw" / "media").glob("*.mp4"))[0]


def test_events_as_json_and_a_picture_beside(
    tiny_run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["predict", str(tiny_run), str(video), "When does it grow?", "--task", "moment_retrieval", "--json"]
    assert main([*words, "--device", "cpu"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["video"], answer["prompt"]) == (str(video), "When does it grow?")
    assert answer["problems"] == [] and len(answer["frame_times_s"]) == 4
    assert all(0 <= e["start_s"] <= e["end_s"] <= answer["duration_s"] + 0.05 for e in answer["events"])
    assert answer["picture"] == f"{video.stem}.timeline.png"
    assert (tmp_path / answer["picture"]).read_bytes().startswith(PNG)


def test_a_model_folder_and_a_table(
    tiny_run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    prompt = "Is [/red] markup [bold]?"  # no: it is the user's text
    model, png = tiny_run / "models" / "sft", tmp_path / "out [x].png"
    words = ["predict", str(model), str(video), prompt, "--num-frames", "2", "--png", str(png), "--device", "cpu"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert prompt in said and video.name in said
    assert "frames seen at " in said and said.count(",") >= 1
    assert f"timeline: {png}" in said
    assert png.read_bytes().startswith(PNG)


def test_no_picture_where_none_is_wanted(
    tiny_run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(tiny_run), str(video), "When?", "--no-png", "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["picture"] is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_video_is_named_in_one_line(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video here")
    write_audio(tmp_path / "sound.mp4")
    (tmp_path / "folder.mp4").mkdir()
    for name, words in {
        "missing.mp4": "missing.mp4: no such file. Give the path of a video.",
        "folder.mp4": "folder.mp4: no such file. Give the path of a video.",
        "empty.mp4": "empty.mp4: the file is empty (0 bytes).",
        "text.mp4": "text.mp4: not a readable video: it is text",
        "sound.mp4": "sound.mp4: ",
    }.items():
        assert main(["predict", str(tiny_run), name, "When?", "--device", "cpu"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and words in said and said.count("\n") == 1, said
    assert not list(tmp_path.glob("*.png"))


def test_what_else_can_be_wrong_is_said(
    tiny_run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, options, words in [
        (
            tmp_path / "nowhere",
            [],
            "nowhere: neither a model folder (no inference.json) nor a run with a finished stage",
        ),
        (tiny_run, ["--num-frames", "0"], "--num-frames (0) must be 1 or more."),
        (tiny_run, ["--device", "tpu9"], "device 'tpu9' cannot be used: "),
        (
            tiny_run,
            ["--png", str(tmp_path / "file" / "x.png")],
            "file/x.png: cannot be written: Not a directory.",
        ),
    ]:
        (tmp_path / "file").touch()  # no folder: nothing can be written below it
        assert main(["predict", str(model), str(video), "When?", *options]) == 2
        said = capsys.readouterr().err
        assert words in said and "Traceback" not in said


def test_a_model_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\x07 ü\n") == "a\ufffd[31mb\ufffd ü\ufffd"


@pytest.mark.usefixtures("drawing")
def test_masks_are_drawn_as_a_video_with_a_strip_below(
    tiny_run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    words = ["predict", str(tiny_run), str(video), "When?", "--device", "cpu"]
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["masks"] == f"{video.stem}.masks.mp4" and answer["tracks"][0]["object_id"] == "bright"
    with Video.open(tmp_path / answer["masks"]) as drawn, Video.open(video) as source:
        assert drawn.info.duration_s == pytest.approx(source.info.duration_s, abs=0.3)
    assert main([*words, "--no-png", "--task", "referring_segmentation", "--mp4", "m.mp4"]) == 0
    said = capsys.readouterr().out
    assert "objects with masks: 1 (bright)" in said and "masks: m.mp4 (" in said
    (tmp_path / "own.mp4").write_bytes(video.read_bytes())
    assert main([*words[:2], "own.mp4", "When?", "--mp4", "own.mp4"]) == 2
    assert "--mp4 (own.mp4) is the video itself, which would be lost." in capsys.readouterr().err
    assert main([*words, "--no-png", "--mp4", "."]) == 2
    assert "--mp4 (.) is a folder. Give a file, or --no-mp4." in capsys.readouterr().err
    assert main([*words, "--no-png", "--mp4", "nowhere/m.mp4"]) == 2
    assert (
        "nowhere/m.mp4: cannot be written: No such file or directory. Choose another --mp4" in capsys.readouterr().err
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [f"{video.stem}.masks.mp4", f"{video.stem}.timeline.png", "m.mp4", "own.mp4"]
    )


def test_a_model_without_masks_says_so_and_writes_no_video(
    tiny_run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["predict", str(tiny_run), str(video), "Where?", "--no-png", "--device", "cpu"]
    assert main([*words, "--mp4", "m.mp4"]) == 0
    assert "the answer has no masks, so no video was written" in capsys.readouterr().out
    assert main([*words, "--task", "referring_segmentation"]) == 2
    assert "needs masks, and models of the family timeexpert draw none." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
