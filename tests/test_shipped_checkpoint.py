"""The checkpoint that comes with a checkout answers."""

from __future__ import annotations

from pathlib import Path

from timeexpert.checkpoint import verify
from timeexpert.data.scene_questions import questions
from timeexpert.data.scenes import SynthConfig, make_scene
from timeexpert.data.synthetic import encode
from timeexpert.evaluation import temporal_iou
from timeexpert.predict import Predictor

FOLDER = Path(__file__).resolve().parent.parent / "checkpoints" / "tiny"


def test_it_finds_every_event_of_new_videos(tmp_path: Path):
    verify(FOLDER)
    predictor = Predictor.from_pretrained(FOLDER, device="cpu")
    config = SynthConfig(videos=3, seed=77, max_duration_s=32.0, min_event_s=6.0, max_event_s=12.0)
    for i in range(3):
        scene = make_scene(config, i)
        encode(scene, tmp_path / f"{i}.mp4")
        answer = predictor.ask(tmp_path / f"{i}.mp4", "What happens, and when?", task="dense_captioning")
        assert not answer.problems
        for event in scene.events:
            overlaps = [temporal_iou((event.start_s, event.end_s), told) for told in answer.events.segments_s]
            assert max(overlaps) >= 0.5, (i, event.caption, answer.events)


def test_it_says_when_the_event_that_is_asked_for_happens_not_another(tmp_path: Path):
    predictor = Predictor.from_pretrained(FOLDER, device="cpu")
    config = SynthConfig(videos=4, seed=78, max_duration_s=32.0, min_event_s=6.0, max_event_s=12.0)
    right, asked = 0, 0
    for i in range(4):
        scene = make_scene(config, i)
        encode(scene, tmp_path / f"{i}.mp4")
        for event in scene.events:
            answer = predictor.ask(
                tmp_path / f"{i}.mp4", f"Find the moment when {event.caption}.", task="moment_retrieval"
            )
            told = answer.events.segments_s[0]
            overlaps = [temporal_iou((other.start_s, other.end_s), told) for other in scene.events]
            asked += 1
            right += overlaps[scene.events.index(event)] == max(overlaps) >= 0.5
    assert right >= 0.8 * asked, (right, asked)


def test_the_moment_it_scores_highest_is_a_very_good_one_of_the_shape_that_is_asked_for(tmp_path: Path):
    predictor = Predictor.from_pretrained(FOLDER, device="cpu")
    config = SynthConfig(videos=8, seed=79, max_duration_s=32.0, min_event_s=6.0, max_event_s=12.0)
    right, asked = 0, 0
    for i in range(config.videos):
        scene = make_scene(config, i)
        encode(scene, tmp_path / f"{i}.mp4")
        for sample in questions(scene, config):
            if sample.task == "highlight_detection":
                told = predictor.ask(tmp_path / f"{i}.mp4", sample.prompt, task=sample.task).events
                best = max(told, key=lambda event: event.scores[0])
                clips = {event.start_s // 2 for event in sample.events if event.scores[0] >= 4}
                asked += 1
                right += best.start_s // 2 in clips
    assert asked >= 8 and right >= 0.5 * asked, (right, asked)  # noise frames: 7 %


def test_it_is_small_enough_to_ship():
    assert sum(p.stat().st_size for p in FOLDER.glob("*.safetensors")) <= 20_000_000
