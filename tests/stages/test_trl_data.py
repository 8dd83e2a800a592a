"""Questions about videos as TRL's trainer reads them: real videos, decoded when they are asked for."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.media import question, write_lines, write_video
from timeexpert.data.video import Video
from timeexpert.stages.trl_data import (
    MERGED_PATCH,
    PHASES,
    ClipFrames,
    GrpoRows,
    TrlDataError,
    grpo_dataset,
    read_questions,
)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        write_video(tmp_path / "media" / f"{name}.mp4", brightness=ord(name))
    return tmp_path / "media"


def line(video: str, *segments_s: tuple[float, float]) -> dict[str, Any]:
    """A line as MUSEG's."""
    return {"problem": f"When in {video}?", "solution": [list(s) for s in segments_s], "video": video, "task": "tal"}


def test_lines_that_cannot_be_trained_on_are_named_and_left_out(media: Path, tmp_path: Path) -> None:
    lines = [
        line("a.mp4", (0, 0.5), (1.0, 1.5)),
        line("a.mp4", (1.0, 1.0)),
        line("b.mp4", (1.5, 1)),
        line("c.mp4", (0, 1)),
    ]
    questions, rejected = read_questions(write_lines(tmp_path / "museg.jsonl", [*lines, "{"]), media)
    assert [(q.text, q.video, q.solution) for q in questions] == [("When in a.mp4?", "a.mp4", [[0.0, 0.5], [1.0, 1.5]])]
    assert [(r.where, r.kind) for r in rejected] == [
        ("museg.jsonl:2", "zero_length"),
        ("museg.jsonl:3", "reversed"),
        ("c.mp4: When in c.mp4?", "no_video"),
        ("museg.jsonl:5", "malformed"),
    ]
    assert "c.mp4: no such file in the media folder" in rejected[2].reason


def test_samples_become_questions_with_all_segments_of_a_phrase(media: Path, tmp_path: Path) -> None:
    samples = [question("1", "a.mp4", 1.0, 1.5), question("2", "a.mp4", 0.0, 0.5), question("3", "b.mp4", 0.2, 0.4)]
    questions, rejected = read_questions(write_lines(tmp_path / "samples.jsonl", samples), media)
    assert [(q.video, q.solution) for q in questions] == [("a.mp4", [[0.0, 0.5], [1.0, 1.5]]), ("b.mp4", [[0.2, 0.4]])]
    assert "'a red square'" in questions[0].text and not rejected


def test_a_file_without_a_question_to_train_on_is_refused(media: Path, tmp_path: Path) -> None:
    void = write_lines(tmp_path / "void.jsonl", [line("a.mp4", (1.0, 1.0))])
    with pytest.raises(TrlDataError, match=r"void.jsonl: there is no question to train on. The first of 1 .*no length"):
        read_questions(void, media)
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({"v_1": {"duration": 9.0, "timestamps": [[0, 1]], "sentences": ["x"]}}))
    with pytest.raises(TrlDataError, match="of the format 'activitynet_captions'.*data convert activitynet_captions"):
        read_questions(captions, media)
    with pytest.raises(TrlDataError, match="nowhere: no such folder. --media is"):
        read_questions(void, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("frames", "height", "width", "size"),
    [
        (64, 480, 640, (6, 8)),  # 56 tokens a frame
        (224, 360, 640, (3, 5)),  # 16
        (1, 480, 640, (17, 22)),  # never enlarged
        (64, 48, 64, (1, 2)),
        (64, 10, 4000, (1, 56)),
    ],
)
def test_frames_fit_into_the_tokens_of_a_video(frames: int, height: int, width: int, size: tuple[int, int]) -> None:
    rows, columns = size
    assert ClipFrames(num_frames=frames).size(height, width) == (MERGED_PATCH * rows, MERGED_PATCH * columns)
    assert frames * rows * columns <= 3584


def test_more_frames_than_the_tokens_have_room_for_are_refused() -> None:
    with pytest.raises(
        TrlDataError, match=r"video_tokens \(3584\) must be 4000 or more: 16 for each of num_frames \(250"
    ):
        ClipFrames(num_frames=250)
    with pytest.raises(TrlDataError, match=r"num_frames \(0\) must be 1 or more"):
        ClipFrames(num_frames=0)


def test_a_row_has_each_frame_behind_its_time_and_then_the_question(media: Path) -> None:
    rows = GrpoRows(media, "Please: {question}", ClipFrames(num_frames=2))(
        {"text": ["When?"], "video": ["a.mp4"], "solution": [[[0.0, 1.0]]]}
    )
    with Video.open(media / "a.mp4") as video:
        frames, times_s = video.frames_at([0.5, 1.5], size=(28, 56))
    ((message,),) = rows["prompt"]
    assert message["role"] == "user"
    assert message["content"] == [
        {"type": "text", "text": f"{times_s[0]:.2f} s"},
        {"type": "image"},
        {"type": "text", "text": f"{times_s[1]:.2f} s"},
        {"type": "image"},
        {"type": "text", "text": "Please: When?"},
    ]
    assert np.array_equal([np.asarray(image) for image in rows["images"][0]], frames)
    assert rows["solution"] == [[[0.0, 1.0]]]


def test_a_clip_is_decoded_once_for_the_batches_in_a_row_that_ask_for_it(media: Path) -> None:
    rows = GrpoRows(media, PHASES[1].prompt, ClipFrames(num_frames=2))

    def images(*videos: str) -> list[Any]:
        count = len(videos)
        return rows({"text": ["When?"] * count, "video": list(videos), "solution": [[[0.0, 1.0]]] * count})["images"]

    first, second, other = images("a.mp4", "a.mp4", "b.mp4")
    assert first is second and first is not other
    assert images("a.mp4")[0] is first
    assert images("b.mp4")[0] is not other  # the batch before did not ask for it


@pytest.mark.skipif(find_spec("datasets") is None, reason="needs TRL: pip install -e '.[rl]'")
def test_the_data_set_decodes_when_a_row_is_asked_for(media: Path, tmp_path: Path) -> None:
    lines = [line("a.mp4", (0, 1)), line("b.mp4", (0.5, 1))]
    questions, _ = read_questions(write_lines(tmp_path / "museg.jsonl", lines), media)
    dataset = grpo_dataset(questions, media, PHASES[2].prompt, ClipFrames(num_frames=3))
    (media / "b.mp4").unlink()
    assert len(dataset) == 2 and len(dataset[0]["images"]) == 3 and dataset[0]["solution"] == [[0.0, 1.0]]
    with pytest.raises(ValueError, match="b.mp4: no such file"):
        dataset[1]
    with pytest.raises(TrlDataError, match=r"prompt \('When\?'\) must hold \{question\} once"):
        grpo_dataset(questions, media, "When?")
