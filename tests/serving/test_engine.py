"""The engine on the shipped checkpoint: who is answered beside, and what is cached, changes no answer."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from timeexpert.data.scenes import SynthConfig, make_scene
from timeexpert.data.synthetic import encode
from timeexpert.model.decoding import STEP_ROWS
from timeexpert.predict import Predictor, Request
from timeexpert.serving.answer_text import readable, text_so_far
from timeexpert.serving.byte_cache import ByteCache
from timeexpert.serving.engine import Busy, Engine, FrameSequence, Question, Reply, Video
from timeexpert.serving.limits import RequestError, ServingLimits
from timeexpert.tokenization import Event

TINY = Path(__file__).resolve().parents[2] / "checkpoints" / "tiny"
PROMPTS = [
    ("What happens, and when?", "dense_captioning"),
    ("When does the red circle grow?", "moment_retrieval"),
    ("Score the highlights of the white circle.", "highlight_detection"),
    ("Which shapes are there, and which colours do they have?", None),
]
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def tiny() -> Predictor:
    return Predictor.from_pretrained(TINY, device="cpu")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Video]:
    """Three generated videos."""
    folder = tmp_path_factory.mktemp("videos")
    config = SynthConfig(videos=3, seed=21, max_duration_s=24.0, min_event_s=6.0, max_event_s=8.0)
    found = []
    for i in range(3):
        path = folder / f"{i}.mp4"
        encode(make_scene(config, i), path)
        found.append(Video(path, hashlib.sha256(path.read_bytes()).hexdigest()))
    return found


@pytest.fixture(scope="module")
def asked(videos: list[Video]) -> list[Question]:
    """Every prompt about every video, some with fewer frames or a shorter answer."""
    plain = [Question(video, prompt, task) for video in videos for prompt, task in PROMPTS]
    return [*plain, Question(videos[0], "When?", num_frames=5), Question(videos[1], PROMPTS[0][0], max_tokens=20)]


@pytest.fixture(scope="module")
def alone(tiny: Predictor, asked: list[Question]) -> list[Reply]:
    """What the predictor says to each question by itself."""
    found = []
    for question in asked:
        assert isinstance(question.video, Video)
        clip = tiny.clip(question.video.path, num_frames=question.num_frames)
        prediction = tiny.answer([Request(clip, question.prompt, question.task, question.max_tokens)])[0]
        found.append(Reply(prediction))
    return found


@pytest.fixture
def running(tiny: Predictor) -> Iterator[Engine]:
    with Engine(tiny, "tiny") as engine:
        yield engine


class Gate:
    """Holds the model's thread before each step until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.reached = threading.Event(), threading.Event()
        step = Predictor.step

        def held(predictor: Predictor, answers: list[object]) -> None:
            self.reached.set()
            assert self.opened.wait(TIMEOUT_S)
            step(predictor, answers)  # type: ignore[arg-type]

        monkeypatch.setattr(Predictor, "step", held)


def test_batch_and_cache_change_no_bit_of_an_answer(
    running: Engine, asked: list[Question], alone: list[Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    tickets = [running.submit(question) for question in asked]
    gate.opened.set()  # by now most of them wait, so that rows of all kinds are written side by side
    cold = [ticket.result(TIMEOUT_S) for ticket in tickets]
    warm = [running.submit(question).result(TIMEOUT_S) for question in reversed(asked)][::-1]
    for first, second, expected in zip(cold, warm, alone, strict=True):
        assert first.prediction == second.prediction == expected.prediction  # confidences too, as floats
        assert second.timings["decode_s"] == second.timings["encode_s"] == 0.0
    stats = running.stats()
    assert max(stats["batch_sizes"]) == STEP_ROWS and stats["batch_sizes"][1] > 0
    assert stats["decoded_videos"] == 4  # three videos, one of them with two numbers of frames
    assert stats["answered"] == 2 * len(asked) and stats["queue_length"] == 0
    assert stats["cache_hits"] + stats["cache_misses"] == 2 * len(asked) and stats["cache_misses"] == 4


@pytest.mark.parametrize("limits", [{"prefix_cache_bytes": 0}, {"prefix_cache_bytes": 0, "visual_cache_bytes": 0}])
def test_without_room_in_a_cache_answers_are_the_same(
    tiny: Predictor, asked: list[Question], alone: list[Reply], limits: dict[str, int]
) -> None:
    with Engine(tiny, "tiny", ServingLimits(**limits)) as engine:  # type: ignore[arg-type]
        for question, expected in zip(asked[:2] * 2, alone[:2] * 2, strict=True):
            assert engine.answer(question).prediction == expected.prediction
        stats = engine.stats()
    assert stats["decoded_videos"] == (1 if "visual_cache_bytes" not in limits else 4)
    assert stats["cached_prefixes"] == 0


def test_a_cut_answer_says_so(running: Engine, asked: list[Question]) -> None:
    reply = running.answer(asked[-1])
    assert reply.cut and reply.prediction.completion_tokens == 20
    assert not running.answer(asked[0]).cut


def test_the_pieces_of_a_streamed_answer_make_its_text(running: Engine, asked: list[Question]) -> None:
    for question in asked[:4]:
        ticket = running.submit(question)
        pieces = list(ticket.events())
        events = ticket.result(TIMEOUT_S).prediction.events
        assert "".join(pieces) == "\n".join(readable(event) for event in events)
        assert all(pieces)
    assert len(pieces) > 1


def test_every_beginning_of_an_answer_reads_as_a_beginning_of_its_text(tiny: Predictor) -> None:
    codec = tiny.answering.codec
    told = [Event(1.0, 2.5, (), "ä red 漢 circle"), Event(3.0, 3.0, (3.0,), ""), Event(None, None, (), "two  words ")]
    tokens = codec.encode(told)
    whole = "\n".join(readable(event) for event in codec.decode(tokens)[0])
    seen = [text_so_far(tiny.answering.events_so_far(tokens[:n], None)) for n in range(len(tokens) + 1)]
    assert all(whole.startswith(text) for text in seen)
    assert seen[0] == "" and len(set(seen)) > 6


def test_a_confidence_is_the_probability_of_the_digits(tiny: Predictor, asked: list[Question]) -> None:
    question = asked[1]
    assert isinstance(question.video, Video)
    clip = tiny.clip(question.video.path)
    request = Request(clip, question.prompt, question.task)
    writing = tiny.begin(request, tiny.encode(clip))
    while not writing.done:
        tiny.step([writing])
    (confidence,) = tiny.prediction(request, writing).confidences
    width = tiny.answering.codec.time_format.width  # <sync>, then start, <sep>, end, <sync>
    start, end = writing.logprobs[1 : 1 + width], writing.logprobs[2 + width : 2 + 2 * width]
    assert confidence["start"] == pytest.approx(math.exp(sum(start)), rel=1e-12)
    assert confidence["end"] == pytest.approx(math.exp(sum(end)), rel=1e-12)
    assert confidence["score"] is None
    assert start[4] == end[4] == 0.0  # the point is all that the grammar allows there
    assert 0 < sum(confidence[name] or 0 for name in ("start", "end")) < 2


def test_expert_use_counts_the_tokens_of_the_answer(running: Engine, tiny: Predictor, asked: list[Question]) -> None:
    plain = asked[2]
    assert running.answer(plain).experts is None
    use = running.answer(Question(plain.video, plain.prompt, plain.task, experts=True)).experts
    assert use is not None
    slots, layers = tiny.model.config.moe_config.slots, len(tiny.model.gates)
    assert np.shape(use["layers"]) == (layers, slots)
    assert {len(use["tokens"][name]) for name in ("text", "time", "score")} == {slots}
    assert all(0 <= share <= 1 for row in use["layers"] for share in row)
    assert min(sum(row) for row in use["layers"]) >= 0.999  # fallback top1: no token without an expert


def test_a_full_queue_is_busy_and_drains(
    tiny: Predictor, asked: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with Engine(tiny, "tiny", ServingLimits(max_queue=2)) as engine:
        tickets = [engine.submit(question) for question in asked[:2]]
        with pytest.raises(Busy, match="2 questions wait already; ask again in") as busy:
            engine.submit(asked[2])
        assert busy.value.status == 429 and busy.value.retry_after_s >= 1
        assert not engine.drain(0.01)
        with pytest.raises(RequestError, match="the server is stopping") as stopping:
            engine.submit(asked[2])
        assert stopping.value.status == 503
        gate.opened.set()
        assert engine.drain(TIMEOUT_S)
        assert all(ticket.done for ticket in tickets)


def test_a_cancelled_question_ends_between_two_tokens_and_others_go_on(
    running: Engine, asked: list[Question], alone: list[Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    left, stays = running.submit(asked[0]), running.submit(asked[1])
    assert gate.reached.wait(TIMEOUT_S)
    left.cancel()
    gate.opened.set()
    with pytest.raises(RequestError, match="gave up"):
        left.result(TIMEOUT_S)
    assert stays.result(TIMEOUT_S).prediction == alone[1].prediction
    assert running.stats()["cancelled"] == 1
    assert list(left.events()) == []


def test_leaving_the_engine_answers_nobody_but_leaves_nobody_waiting(
    tiny: Predictor, asked: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with Engine(tiny, "tiny") as engine:
        ticket = engine.submit(asked[0])
        assert gate.reached.wait(TIMEOUT_S)
        threading.Timer(0.1, gate.opened.set).start()
    with pytest.raises(RequestError, match="stopping"):
        ticket.result(TIMEOUT_S)


def test_a_failure_costs_its_own_question(
    running: Engine, asked: list[Question], alone: list[Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match="half a surrogate|vocabulary cannot write"):
        running.answer(Question(asked[0].video, "\ud800"))
    with pytest.raises(RequestError, match="shortest answer"):
        running.answer(Question(asked[0].video, "When?", max_tokens=1))
    with pytest.raises(RequestError, match="takes? .* tokens; with 160 for the answer"):
        running.answer(Question(asked[0].video, "when " * 4000))
    with pytest.raises(RequestError, match="no such file"):
        running.answer(Question(Video(Path("absent.mp4"), "0" * 64), "When?"))

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as broken_step:
        broken_step.setattr(Predictor, "step", broken)
        with pytest.raises(ZeroDivisionError):
            running.answer(asked[0])
    assert running.answer(asked[0]).prediction == alone[0].prediction
    assert running.stats()["failed"] == 5


def test_frames_with_times_are_answered_as_the_clip_they_are_of(
    running: Engine, tiny: Predictor, asked: list[Question]
) -> None:
    video = asked[0].video
    assert isinstance(video, Video)
    clip = tiny.clip(video.path)
    reply = running.answer(Question(FrameSequence(clip.frames, tuple(clip.times_s)), *PROMPTS[0]))
    step_s = float(np.median(np.diff(clip.times_s)))
    assert reply.prediction.duration_s == clip.times_s[-1] + step_s
    assert reply.prediction.frame_times_s == tiny.answering.shown_s(clip.times_s)
    large = np.repeat(np.repeat(clip.frames, 2, 1), 2, 2)
    assert running.answer(Question(FrameSequence(large, tuple(clip.times_s)), *PROMPTS[0])).prediction.events
    with pytest.raises(RequestError, match="in order"):
        running.answer(Question(FrameSequence(clip.frames[:2], (2.0, 1.0)), "When?"))
    assert running.stats()["queue_length"] == 0


def test_questions_from_many_threads_get_their_own_answers(
    running: Engine, asked: list[Question], alone: list[Reply]
) -> None:
    order = np.random.default_rng(0).permutation(len(asked)).tolist()
    with ThreadPoolExecutor(8) as clients:
        replies = list(clients.map(lambda i: running.submit(asked[i]).result(TIMEOUT_S), order))
    assert [reply.prediction for reply in replies] == [alone[i].prediction for i in order]


def test_the_byte_cache_throws_out_what_was_not_used_for_longest() -> None:
    cache: ByteCache[str] = ByteCache(10)
    cache.put("a", "A", 4)
    cache.put("b", "B", 4)
    assert cache.get("a") == "A"
    cache.put("c", "C", 4)
    assert "b" not in cache and "a" in cache and cache.bytes == 8
    cache.put("a", "A2", 6)
    assert (cache.get("a"), cache.bytes, len(cache)) == ("A2", 10, 2)
    cache.put("d", "D", 11)
    assert "d" not in cache and cache.bytes == 10
