from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import run_config
from timeexpert.checkpoint import CheckpointError, write_folder
from timeexpert.data.frames import FrameReader
from timeexpert.data.records import TASKS
from timeexpert.data.scenes import SynthConfig, make_scene
from timeexpert.data.synthetic import encode
from timeexpert.errors import UserError
from timeexpert.model.answering import TASK_LIMITS
from timeexpert.predict import (
    Clip,
    InferenceConfig,
    Predictor,
    Request,
    load_model,
    pick_device,
    resolve_model,
)


@pytest.fixture(scope="module")
def predictor(tiny_run: Path) -> Predictor:
    return Predictor.from_pretrained(tiny_run, device="cpu")


@pytest.fixture(scope="module")
def video(tiny_data: Path) -> Path:
    return sorted((tiny_data / "held_out.raw" / "media").glob("*.mp4"))[0]


def test_a_run_means_its_last_finished_stage_and_a_model_folder_itself(tiny_run: Path) -> None:
    assert resolve_model(tiny_run) == tiny_run / "models" / "sft"
    assert resolve_model(tiny_run / "models" / "backbone") == tiny_run / "models" / "backbone"


def test_an_answer_names_the_frames_that_were_seen(predictor: Predictor, video: Path) -> None:
    answer = predictor.ask(video, "What happens, and when?", task="dense_captioning")
    assert len(answer.frame_times_s) == predictor.config.num_frames == 4
    assert all(0 <= t < answer.duration_s for t in answer.frame_times_s)
    assert answer.problems == []
    assert json.loads(json.dumps(answer.to_json(), allow_nan=False))["duration_s"] == answer.duration_s
    frames = predictor.frames_for_display(video, predictor.clip(video).times_s, height=32)
    assert frames.shape == (4, 32, 32, 3)


@pytest.mark.parametrize("fallback", ["least_utilised", "top1", "skip"])
def test_an_answer_does_not_depend_on_who_asked_before(
    tiny_run: Path, video: Path, tmp_path: Path, fallback: str
) -> None:
    config = load_model(resolve_model(tiny_run)).config
    config.moe = {**config.moe, "fallback": fallback, "alpha": 0.5}
    other = Predictor.from_pretrained(tiny_run, device="cpu")
    asked = Predictor(load_model(resolve_model(tiny_run), config).eval(), other.text, other.config)
    for gate in asked.model.gates:
        gate.threshold.data += 0.2  # so that some tokens fall back
    before = {name: value.clone() for name, value in asked.model.state_dict().items()}
    encode(make_scene(SynthConfig(seed=5), 0), tmp_path / "other.mp4")
    questions = [(video, "What happens, and when?"), (tmp_path / "other.mp4", "When does it grow?")]
    answers = [asked.ask(*question) for question in questions]
    assert [asked.ask(*question) for question in reversed(questions)] == answers[::-1]
    assert all(torch.equal(before[name], value) for name, value in asked.model.state_dict().items())


def test_two_videos_given_as_bytes_are_two_videos(predictor: Predictor, video: Path, tmp_path: Path) -> None:
    encode(make_scene(SynthConfig(seed=5), 0), tmp_path / "other.mp4")
    caching = Predictor(predictor.model, predictor.text, predictor.config, reader=FrameReader(16, 1 << 24))
    first, second = caching.clip(video.read_bytes()), caching.clip((tmp_path / "other.mp4").read_bytes())
    assert first.duration_s != second.duration_s


def test_a_batch_gives_the_answers_of_its_questions_one_by_one(predictor: Predictor, video: Path) -> None:
    clip = predictor.clip(video)
    questions = [
        Request(clip, "What happens, and when?", "dense_captioning"),
        Request(clip, "When?", "moment_retrieval"),
        Request(predictor.clip(video, num_frames=2), "Score the highlights of the red circle.", "highlight_detection"),
    ]
    together = predictor.answer(questions)
    assert [p.to_json() for p in together] == [predictor.answer([q])[0].to_json() for q in questions]
    assert predictor.answer([]) == []


def test_noise_replaces_frames_and_nothing_else(
    predictor: Predictor, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[np.ndarray, list[int]]] = []
    encode, begin = Predictor.encode, Predictor.begin

    def watch_frames(self: Predictor, clip: Clip) -> object:
        seen.append((clip.frames, []))
        return encode(self, clip)

    def watch_prompt(self: Predictor, request: Request, *args: object) -> object:
        writing = begin(self, request, *args)  # type: ignore[arg-type]
        seen[-1][1].extend(writing.prompt_ids)
        return writing

    monkeypatch.setattr(Predictor, "encode", watch_frames)
    monkeypatch.setattr(Predictor, "begin", watch_prompt)
    request = Request(predictor.clip(video), "When?", "moment_retrieval")
    predictor.answer([request])
    predictor.answer([request], noise_seed=5)
    predictor.answer([request], noise_seed=5)
    (plain, prompt), (noise, noise_prompt), (again, _) = seen
    assert np.array_equal(plain, request.clip.frames) and not np.array_equal(plain, noise)
    assert np.array_equal(noise, again)
    assert noise.shape == plain.shape and noise.dtype == np.uint8
    assert prompt == noise_prompt == predictor.prompt_ids(request)[0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_new_tokens", [17, 40])
def test_every_answer_of_an_untrained_model_parses(
    seed: int, max_new_tokens: int, predictor: Predictor, tiny_data: Path
) -> None:
    """All tasks and free prompts, in one batch, whatever the weights and however small the budget."""
    from timeexpert.model import TimeExpert

    torch.manual_seed(seed)
    model = TimeExpert(predictor.model.config)
    with torch.no_grad():
        model.heads.text.weight.mul_(20)  # sharper logits: else every row says the same
        model.heads.time.weight.mul_(20)
        model.heads.sync.weight.mul_(40)
    config = InferenceConfig(num_frames=3, max_new_tokens=max_new_tokens, max_events=3)
    untrained = Predictor(model, predictor.text, config, reader=predictor.reader)
    noise = np.random.default_rng(seed)
    tasks = [*TASKS, None]
    clips = [
        Clip(noise.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8), np.array([0.1, 2.0, 3.9]), duration_s)
        for duration_s in (4.0, 0.3, 9.96, 100.0, 1e5, 4.0, 4.0)
    ]
    for task, clip, answer in zip(
        tasks,
        clips,
        untrained.answer([Request(c, "When?", t) for t, c in zip(tasks, clips, strict=True)]),
        strict=True,
    ):
        assert answer.problems == [], task
        assert 1 <= len(answer.events) <= 3
        times, scores = TASK_LIMITS.get(task or "", ((0, 1, 2), (0, 1)))
        for event in answer.events:
            assert len(event.scores) in scores
            assert event.end_s is None or event.end_s <= clip.duration_s + 0.05
            if times == (0,):
                assert event.start_s is None
            if times == (2,):
                assert event.start_s is not None  # equal start and end are one point


@pytest.mark.usefixtures("drawing")
def test_masks_of_a_family_that_draws_them_stand_on_the_answer(tiny_run: Path) -> None:
    drawer = Predictor.from_pretrained(tiny_run, device="cpu")
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    frames[1, 4:8, 2:6] = 255
    clip = Clip(frames, np.array([1.0, 3.0]), 4.0)
    answer, unmasked = drawer.answer([Request(clip, "When?"), Request(clip, "When?", masks=False)])
    (track,) = answer.tracks
    assert (track.size, track.times_s) == ((16, 16), (1.0, 3.0)) and track.rles[0] is None
    assert track.mask(1).sum() == 16 and track.mask(1)[4:8, 2:6].all()
    assert answer.to_json()["tracks"] == [track.to_json()]
    assert unmasked.tracks == () and "tracks" not in unmasked.to_json()
    assert unmasked.events == answer.events


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"neither a model folder \(no inference.json\) nor a run with a finished"
    ):
        Predictor.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"nowhere: neither a model folder"):
        Predictor.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "sentencepiece.model", "inference.json"])
def test_a_damaged_model_file_is_named(name: str, tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_run / "models" / "sft", folder)
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{name}: (its bytes differ from the manifest|cannot be read)"):
        Predictor.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize("text", ["", "[]", "nonsense", '{"frames": 3}', b"\xff\xfe"])
def test_inference_settings_that_are_none_are_an_error(text: str | bytes, tmp_path: Path) -> None:
    (tmp_path / "inference.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=r"inference.json: cannot be read: .*Use a folder under RUN/models."):
        InferenceConfig.read(tmp_path)


def test_a_device_that_is_not_there_is_an_error() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    for name in ("cuda:99", "gpu", ""):
        with pytest.raises(UserError, match=rf"device '{name}' cannot be used: .* Choose auto, cpu, cuda or cuda:N."):
            pick_device(name)


def test_loaded_weights_lie_where_trained_ones_do(tiny_run: Path) -> None:
    """At 64 bytes: mapped from the file they lie anywhere, and matrix products round otherwise."""
    model = load_model(tiny_run / "models" / "sft")
    assert {p.data_ptr() % 64 for p in model.parameters()} == {0}


def test_the_model_of_a_run_is_what_the_run_evaluated(tiny_run: Path, tiny_data: Path, predictor: Predictor) -> None:
    from timeexpert.data.shards import ShardDataset
    from timeexpert.evaluation.runner import choose, evaluate
    from timeexpert.stages.answers import answerer

    dataset = ShardDataset(tiny_data / "held_out")
    samples = choose([dataset.sample(i) for i in range(len(dataset))], None)
    again = tiny_run.parent / "again.jsonl"
    for _ in evaluate(samples, answerer(predictor, dataset), batch_size=8, predictions=again):
        pass
    assert again.read_bytes() == (tiny_run / "predictions" / "sft.jsonl").read_bytes()
    assert run_config(tiny_data).eval.batch_size == 8


def test_a_model_folder_is_written_with_its_manifest(tiny_run: Path, tmp_path: Path, predictor: Predictor) -> None:
    def fill(folder: Path) -> None:
        predictor.model.save_pretrained(folder)
        predictor.text.save(folder)
        (folder / "inference.json").write_text('{"num_frames": 2}')

    write_folder(tmp_path / "copy", fill)
    copy = Predictor.from_pretrained(tmp_path / "copy", device="cpu")
    assert copy.config == InferenceConfig(num_frames=2)
    ours, theirs = copy.model.state_dict(), predictor.model.state_dict()
    assert all(ours[name].equal(theirs[name]) for name in theirs)
