from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from timeexpert.data.collate import BatchLoader, EventWriter, Reading, VideoQuestions, build_row, pad_rows
from timeexpert.data.frames import FrameReader
from timeexpert.data.loader import PlannedLoader
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.mixture import BatchPlanner, Mixture, SampleRef
from timeexpert.data.records import Sample
from timeexpert.data.shards import ShardDataset
from timeexpert.errors import UserError
from timeexpert.tokenization import Event, EventCodec, EventSequence, NumberFormat
from timeexpert.tokenization.text import SentencePieceText


class Letters:
    """A text vocabulary a reader can check: 'a' is 0, 'z' is 25; 26 the end, 27 padding, 28 begin, 29 answer."""

    vocab_size, eos_id, pad_id = 30, 26, 27
    special_ids = frozenset({26, 27, 28, 29})

    def encode(self, text: str) -> list[int]:
        return [ord(c) - ord("a") for c in text]

    def prompt(self, user_text: str) -> tuple[list[int], list[int]]:
        if "!" in user_text:
            raise UserError("the prompt cannot be written.")
        return [28], [*self.encode(user_text), 29]


TEXT: Any = Letters()
CODEC = EventCodec(TEXT, NumberFormat(1, 0), NumberFormat(1, 0))  # one digit: times 0 to 9 s
IDS = CODEC.ids
FRAMES = np.zeros((2, 4, 4, 3), np.uint8)
TIMES_S = np.array([2.0, 7.0])
WRITER = EventWriter(CODEC, TEXT, 2)
READING = Reading(num_frames=(2,))


def sample(id: str, prompt: str, *events: Event, task: str = "moment_retrieval") -> Sample:
    return Sample(id=id, video="v.mp4", task=task, prompt=prompt, events=EventSequence(events))


def row_of(*samples: Sample, **reading: Any) -> Any:
    return build_row(WRITER, samples, FRAMES, TIMES_S.tolist(), Reading(**{**vars(READING), **reading}))


def answer_ids(*events: Event) -> list[int]:
    return CODEC.encode(EventSequence(events))


def test_a_row_by_hand() -> None:
    assert (IDS.text_size, IDS.sync) == (30, 30)
    row, dropped = row_of(sample("q", "ab", Event(3, 5, text="c")))
    vision, time = IDS.vision, IDS.time
    two, seven = IDS.frame_time + CODEC.times.encode_number(2)[0], IDS.frame_time + CODEC.times.encode_number(7)[0]
    three, five = (CODEC.times.encode_number(t)[0] for t in (3, 5))
    answer = [
        30,  # <sync>
        *(time + i for i in (three, CODEC.times.sep, five, CODEC.times.sync)),
        IDS.score + CODEC.scores.sync,  # no scores
        2,  # c
        26,  # the end
    ]
    assert row.ids == [28, vision, vision, two, vision, vision, seven, 0, 1, 29, *answer]
    assert row.labels == [-100] * 10 + answer
    assert row.turns == [0] * 7 + [1] * 11
    assert row.positions == list(range(18))
    assert (row.sample_ids, dropped) == (["q"], [])


def masked(id: str, prompt: str, *rles: str | None, events: tuple[Event, ...] = (Event(3, 5, text="c"),)) -> Sample:
    """A question whose answer has one object of 2 x 1 pixels, annotated at 0, 2.6 and 7 s."""
    track = MaskTrack((2, 1), (0.0, 2.6, 7.0), rles, "o")
    asked = sample(id, prompt, *events, task="referring_segmentation")
    return replace(asked, tracks=(track,))


def test_masks_come_at_the_exact_times_of_the_frames_with_their_question() -> None:
    upper, lower = "011", "11"
    samples = [sample("q", "a", Event(1, 2)), masked("m", "b", None, upper, lower)]
    exact_s = [1.4, 6.6]  # shown as 2 and 7; 1.4 is nearer to 2.6 than to 0
    row, dropped = build_row(WRITER, samples, FRAMES, TIMES_S.tolist(), READING, exact_s)
    assert (row.sample_ids, dropped) == (["q", "m"], [])
    (masks,) = row.masks
    assert (masks.turn, masks.events[0].times_s) == (2, (3.0, 5.0))
    assert masks.tracks == (MaskTrack((2, 1), (1.4, 6.6), (upper, lower), "o"),)
    assert masks.tracks[0].mask(0).tolist() == [[True], [False]]


def test_the_writer_is_told_how_many_objects_an_answer_has() -> None:
    class Counting(EventWriter):
        def answer(self, task: str, events: EventSequence, objects: int = 0, shown: Any = None) -> list[int]:
            return [100 + objects]

    samples = [sample("q", "a", Event(1, 2)), masked("m", "b", None, None, "2")]
    row, _ = build_row(Counting(CODEC, TEXT, 2), samples, FRAMES, TIMES_S.tolist(), READING)
    assert [i for i in row.labels if i >= 0] == [100, 101]


def test_an_answer_whose_masks_do_not_decode_or_do_not_fit_is_left_out_whole() -> None:
    row, dropped = row_of(masked("m", "b", None, "P", "P"), sample("q", "a", Event(1, 2)))
    assert row.sample_ids == ["q"] and not row.masks
    assert dropped[0][0] == "m" and "rles[0] (at 2.0 s)" in dropped[0][1]
    long = masked("m", "b", None, None, "2", events=(Event(1, 2, text="abc"), Event(3, 4, text="abc")))
    row, dropped = row_of(long, max_tokens=24)
    assert not row.sample_ids and "does not fit into max_tokens" in dropped[0][1]
    row, dropped = row_of(replace(long, tracks=()), max_tokens=24)
    assert row.sample_ids == ["m"] and "1 of 2 events cut" in dropped[0][1]


def test_each_question_starts_again_behind_the_video() -> None:
    row, _ = row_of(sample("q", "ab", Event(3, 5, text="c")), sample("r", "d", Event(1, 2)))
    (alone, _), (other, _) = row_of(sample("q", "ab", Event(3, 5, text="c"))), row_of(sample("r", "d", Event(1, 2)))
    assert row.ids == alone.ids + other.ids[7:]
    assert row.positions == alone.positions + other.positions[7:]
    assert row.turns == alone.turns + [2] * len(other.ids[7:])
    assert row.labels == alone.labels + other.labels[7:]


def test_rows_are_padded_on_the_right() -> None:
    long, _ = row_of(sample("q", "abc", Event(3, 5)))
    short, _ = row_of(sample("r", "a", Event(3, 5)))
    long.sample_ids.append("q2")  # rows of one question each need no turns
    batch = pad_rows([long, short], TEXT.pad_id, [("s", "why")])
    assert batch.input_ids.shape == (2, len(long.ids))
    assert batch.input_ids[1, -2:].tolist() == [27, 27]
    assert batch.labels[1, -3:].tolist() == [26, -100, -100]
    assert batch.turns is not None and batch.turns[1, -3:].tolist() == [1, -1, -1]
    assert batch.attention_mask.tolist() == [[True] * len(long.ids), [True] * len(short.ids) + [False] * 2]
    assert batch.pixel_values.shape == (4, 3, 4, 4) and batch.pixel_values.dtype == torch.uint8
    assert (batch.sample_ids, batch.dropped) == (("q", "q2", "r"), (("s", "why"),))


def test_a_question_sees_the_video_and_itself_and_nothing_later() -> None:
    row, _ = row_of(sample("q", "a", Event(3, 5)), sample("r", "b", Event(3, 5)))
    mask = pad_rows([row], TEXT.pad_id).decoder_mask[0, 0]
    first, second = row.turns.index(1), row.turns.index(2)
    assert mask[second].nonzero().flatten().tolist() == [*range(first), second]
    assert mask[-1].sum() == first + len(row.ids) - second
    assert not mask.triu(1).any()


@pytest.mark.parametrize(
    ("snap", "event", "written"),
    [
        ("none", Event(3, 5), Event(3, 5)),
        ("nearest", Event(3, 6), Event(2, 7)),
        ("inside", Event(1, 8), Event(2, 7)),
        ("inside", Event(1, 3), Event(2, 2)),  # one frame inside: start and end are the same
        ("inside", Event(3, 6), Event(2, 7)),  # no frame inside: the nearest
    ],
)
def test_target_times_move_to_sampled_frames(snap: str, event: Event, written: Event) -> None:
    row, _ = row_of(sample("q", "a", event), snap=snap)
    ids = [i for i in row.labels if i >= 0]
    assert ids == [*CODEC.encode([written], pairs=True)]  # segments keep two times: the form that is asked for
    assert ids.count(CODEC.ids.time + 1) == 1  # one separator


def test_highlights_that_fall_on_one_frame_are_written_once_with_the_higher_score() -> None:
    points = (Event(1, 1, (4,)), Event(3, 3, (5,)), Event(6, 6, (1,)))
    row, _ = row_of(sample("q", "a", *points, task="highlight_detection"), snap="nearest")
    assert [i for i in row.labels if i >= 0] == answer_ids(Event(2, 2, (5,)), Event(7, 7, (1,)))  # the higher score


def test_events_of_different_texts_at_one_time_are_all_kept() -> None:
    goals = (Event(2, 2, text="a"), Event(2, 2, text="b"))
    row, dropped = row_of(sample("q", "a", *goals, task="dense_captioning"), snap="nearest")
    assert [i for i in row.labels if i >= 0] == CODEC.encode(goals, pairs=True)
    assert not dropped


def test_the_first_question_may_lose_whole_events_from_its_end() -> None:
    events = [Event(i, i + 1) for i in range(5)]
    full, _ = row_of(sample("q", "a", *events))
    row, dropped = row_of(sample("q", "a", *events), max_tokens=len(full.ids) - 1)
    assert [i for i in row.labels if i >= 0] == answer_ids(*events[:4])
    assert dropped == [("q", "1 of 5 events cut at max_tokens")]


def test_later_questions_that_do_not_fit_are_left_out_whole() -> None:
    first, second = sample("q", "a", Event(3, 5)), sample("r", "abcdefgh", Event(3, 5), Event(5, 6))
    third = sample("s", "a", Event(3, 5))
    room = len(row_of(first, third)[0].ids)
    row, dropped = row_of(first, second, third, max_tokens=room)
    assert row.sample_ids == ["q", "s"] and len(row.ids) == room
    assert dropped == [("r", f"does not fit into max_tokens ({room})")]
    row, dropped = row_of(first, max_tokens=12)
    assert (row.sample_ids, dropped) == ([], [("q", "does not fit into max_tokens (12)")])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (sample("bad", "a", Event(3, 12)), "needs more than 1 digits before the point"),
        (sample("bad", "a", Event(3, 4, (1, 2))), "of an event in an answer: at most 1"),
        (sample("bad", "!", Event(3, 4)), "the prompt cannot be written"),
    ],
)
def test_a_question_that_cannot_be_written_is_left_out_with_its_reason(bad: Sample, reason: str) -> None:
    row, dropped = row_of(bad, sample("q", "a", Event(3, 5)))
    assert row.sample_ids == ["q"]
    assert [id for id, _ in dropped] == ["bad"] and reason in dropped[0][1]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> SentencePieceText:
    texts = ["When does the red circle grow?", "a blue square moves left", "What happens, and when?", "Score it."]
    return SentencePieceText.train(texts, 300, tmp_path_factory.mktemp("text"))


def batch_loader(folder: Path, text: Any, **reading: Any) -> BatchLoader:
    tasks = ("moment_retrieval", "dense_captioning", "highlight_detection")
    settings = Reading(**{"num_frames": (2, 3), "questions_per_video": 2, "tasks": tasks, **reading})
    writer = EventWriter(EventCodec(text), text, 2)
    return BatchLoader([VideoQuestions(ShardDataset(folder), tasks)], FrameReader(16), writer, settings)


def batches(load: BatchLoader, workers: int, count: int = 4) -> list[Any]:
    planner = BatchPlanner(Mixture([len(load.sources[0])], [1.0], 0), load.length, None, 2)
    stream = iter(PlannedLoader(planner, load, workers))
    return [next(stream)[0] for _ in range(count)]


def test_batches_are_the_same_in_this_process_and_in_two_workers(tiny_data: Path, text: Any) -> None:
    here, there = (batches(batch_loader(tiny_data / "videos", text), workers) for workers in (0, 2))
    for a, b in zip(here, there, strict=True):
        assert a.sample_ids == b.sample_ids and a.dropped == b.dropped
        for name in ("input_ids", "attention_mask", "labels", "pixel_values", "position_ids", "turns"):
            assert getattr(a, name).equal(getattr(b, name)), name
    assert len({b.sample_ids for b in here}) > 1


def test_a_row_is_never_longer_than_it_was_planned(tiny_data: Path, text: Any) -> None:
    for most in (4096, 80):
        load = pickle.loads(pickle.dumps(batch_loader(tiny_data / "videos", text, max_tokens=most)))
        for serial in range(12):
            ref = SampleRef(0, serial % 3, 0, serial)
            row, _ = load.row(ref)
            assert row is None or len(row.ids) <= load.length(ref) <= most


def test_questions_of_other_tasks_are_not_asked(tiny_data: Path) -> None:
    questions = VideoQuestions(ShardDataset(tiny_data / "videos"), ["general", "dense_captioning"])
    picked = [s for i in range(len(questions)) for s in questions.pick(i, 99, np.random.default_rng(0))]
    assert len(questions) == 3
    assert {s.task for s in picked} == {"general", "dense_captioning"}
    assert sum(s.task == "dense_captioning" for s in picked) == 3
    assert len(questions.pick(0, 2, np.random.default_rng(0))) == 2
    with pytest.raises(UserError, match="videos: no video has a question of the tasks action_segmentation."):
        VideoQuestions(ShardDataset(tiny_data / "videos"), ["action_segmentation"])


def test_a_damaged_video_costs_its_own_questions_only(tiny_data: Path, text: Any, tmp_path: Path) -> None:
    shutil.copytree(tiny_data / "videos", tmp_path / "videos")
    dataset = ShardDataset(tmp_path / "videos")
    member = dataset.entries[1].media
    shard = tmp_path / "videos" / dataset.entries[1].shard
    data = bytearray(shard.read_bytes())
    data[member.offset + member.size // 2] ^= 1
    shard.write_bytes(data)
    load = batch_loader(tmp_path / "videos", text)
    batch = load([SampleRef(0, i, 0, i) for i in range(3)])
    assert not isinstance(batch, list)
    assert {id.split("/")[0] for id in batch.sample_ids} == {"video-001-00000", "video-001-00002"}
    assert {id.split("/")[0] for id, _ in batch.dropped} == {"video-001-00001"}
    assert all("have changed" in reason for _, reason in batch.dropped)
    alone = load([SampleRef(0, 1, 0, 1)])
    assert isinstance(alone, list) and len(alone) == 2


def test_frame_counts_grow_over_the_stage_where_asked() -> None:
    growing = Reading(num_frames=(1, 2, 4), total_draws=6)
    rng = np.random.default_rng(0)
    assert [growing.count(SampleRef(0, 0, 0, serial), rng) for serial in range(8)] == [1, 1, 2, 2, 4, 4, 4, 4]


def test_a_data_set_of_a_mix_may_have_frames_and_questions_of_its_own() -> None:
    reading = Reading((4, 6), questions_per_video=2, frames_of=(None, 1), questions_of=(5, None))
    first, second = (SampleRef(dataset=place, index=0, epoch=0, serial=7) for place in (0, 1))
    rng = np.random.default_rng(0)
    assert {reading.count(first, rng) for _ in range(20)} == {4, 6} and reading.count(second, rng) == 1
    assert (reading.questions(first), reading.questions(second)) == (5, 2)
