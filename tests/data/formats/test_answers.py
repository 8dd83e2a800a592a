"""Formats whose answers are text: TimeIT, TRACE, LLaVA; and our own samples."""

import pytest

from timeexpert.data.formats import convert, detect
from timeexpert.data.formats.base import RowError
from timeexpert.data.formats.timeit import parse_answer
from timeexpert.data.records import write_samples


def test_timeit_dense_answers_become_events():
    task, events = parse_answer(
        "22.0 - 24.0 seconds, cut it.  25 - 27.5 seconds, fry. Then rest.  30 seconds, eat.", ""
    )
    assert task == "dense_captioning"
    assert [(e.times, e.text) for e in events] == [
        ([22.0, 24.0], "cut it"),
        ([25.0, 27.5], "fry. Then rest"),
        ([30.0], "eat"),
    ]


def test_a_duration_inside_a_timeit_caption_is_no_event():
    _, events = parse_answer("1.0 - 9.0 seconds, boil for 3 - 4 minutes or 180 - 240 seconds, then stir.", "")
    assert [e.text for e in events] == ["boil for 3 - 4 minutes or 180 - 240 seconds, then stir"]


def test_timeit_grounding_answers_give_a_window_or_a_point():
    assert parse_answer("The given query happens in 20.7 - 32.0 seconds.", "a dog")[1][0].times == [20.7, 32.0]
    task, (event,) = parse_answer("The given query happens in 4.0 seconds.", "a dog")
    assert (task, event.times, event.text) == ("moment_retrieval", [4.0], "a dog")


def test_timeit_highlight_answers_give_a_scored_point_each():
    for answer in (
        "There are 2 highlight moments in the 82.0, 84.0 second. Their saliency scores are 1.3, 2.",
        "The highlight timestamps are in the 82.0, 84.0 seconds. Their saliency scores are 1.3, 2.",
    ):
        task, events = parse_answer(answer, "a dog")
        assert task == "highlight_detection"
        assert [(e.times, e.scores, e.text) for e in events] == [([82.0], [1.3], "a dog"), ([84.0], [2.0], "a dog")]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("The given query happens in 1:11 - 1:38.", "must be 'start - end seconds, caption.'"),
        ("The given query happens in 20.7 - 32.0 seconds. Really.", "must be 'start - end"),
        ("First, 1.0 - 2.0 seconds, cut.", "must be 'start - end"),
        ("start time 3.0, end time 5.0, cut.", "must be 'start - end"),
        ("-5 - 20 seconds, cut.", "must be 'start - end"),
        ("I do not know.", "must be 'start - end"),
        (
            "There are 3 highlight moments in the 1, 2 second. Their saliency scores are 1, 2.",
            "3 moments, 2 times and 2",
        ),
        ("The highlight timestamps are in the 1 seconds. Their saliency scores are 1, 2.", "has 1 times and 2 scores"),
        ("Transcribed speech: None.", "there is no speech"),
        ("1.0 - 2.0 seconds, .", "caption is empty"),
    ],
)
def test_a_timeit_answer_of_another_shape_is_rejected_and_not_guessed(answer, reason):
    with pytest.raises(RowError) as error:
        parse_answer(answer, "")
    assert reason in error.value.reason


def test_timeit_speech_is_timed_text():
    task, (event,) = parse_answer("Transcribed speech: 1.0 - 2.5 seconds, Hello there.", "")
    assert (task, event.times, event.text) == ("dense_captioning", [1.0, 2.5], "Hello there")


def test_each_timeit_question_is_a_sample_and_a_bad_answer_costs_only_itself(convert_rows):
    def turn(answer):
        return {"q": "Find 'a dog'.", "a": answer}

    good, bad = turn("The given query happens in 1 - 2 seconds."), turn("Perhaps.")
    rows = [{"video": "a.mp4", "QA": [good, good], "source": "x"}, {"video": "a.mp4", "QA": [good, bad, good]}]
    samples, rejected = convert_rows("timeit", rows)
    assert [s.id for s in samples] == [f"timeit:file:{i}" for i in ("1:0", "1:1", "2:0", "2:2")]
    assert [r.where for r in rejected] == ["file.json:2.QA[1]"]
    assert samples[0].meta == {"origin": "x"}


def test_a_timeit_row_without_questions_is_rejected(convert_rows):
    _, (rejected,) = convert_rows("timeit", [{"video": "a.mp4", "QA": []}])
    assert (rejected.kind, rejected.reason) == ("no_label", "the row holds no question and no event.")


@pytest.mark.parametrize(
    ("file", "task", "count"),
    [
        ("dvc_youcook2", "dense_captioning", 100),
        ("tvg_charades", "moment_retrieval", 200),
        ("vhd_qvhighlights", "highlight_detection", 100),
    ],
)
def test_timeit_files_convert_whole(shared, convert_file, file, task, count):
    path = shared / f"annotations/CONVERTED_timeit/instruct_{file}.CONVERTED.json"
    assert detect(path) == "timeit"
    samples, rejected = convert_file("timeit", path)
    assert len(samples) == count and not rejected
    assert {s.task for s in samples} == {task}
    assert all(e.text for s in samples for e in s.events)


def test_captions_written_as_timeit_writes_them_are_read_back(shared, convert_file):
    """All 60 YouCook2 videos, in the words of TimeIT's construction: 'start - end seconds, caption. ' per event."""
    samples, _ = convert_file("youcook2", shared / "annotations/youcook2/val.caption_coco_format.json")
    for sample in samples:
        answer = " ".join(f"{e.start_s:.1f} - {e.end_s:.1f} seconds, {e.text}. " for e in sample.events).rstrip()
        task, events = parse_answer(answer, "")
        assert task == "dense_captioning"
        assert [(*e.times, e.text) for e in events] == [(e.start_s, e.end_s, e.text) for e in sample.events]


def trace_row(answer, times, scores, question="<video>\nWhat happens?"):
    talk = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"video": "a.mp4", "conversations": talk, "times": times, "scores": scores}


WINDOW = "<sync>" + "<time>" * 14 + "<score>"
POINT = "<sync>" + "<time>" * 7 + "<score>" * 4


def test_trace_placeholders_take_their_numbers_in_order(convert_rows):
    (sample,), _ = convert_rows(
        "trace", [trace_row(WINDOW + "cut" + WINDOW + "fry<sync>", [[1, 2], [3, 4.5]], [[], []])]
    )
    assert sample.task == "dense_captioning" and sample.prompt == "What happens?"
    assert [(e.start_s, e.end_s, e.text) for e in sample.events] == [(1.0, 2.0, "cut"), (3.0, 4.5, "fry")]


@pytest.mark.parametrize(
    ("answer", "times", "scores", "question", "task"),
    [
        (POINT + "a dog", [[86]], [[2.7]], "Highlights of 'a dog'?", "highlight_detection"),
        (WINDOW + "a dog.", [[1, 2]], [[]], "Find 'A dog' in it.", "moment_retrieval"),
        (WINDOW, [[1, 2]], [[]], "Find 'A dog' in it.", "moment_retrieval"),
        (WINDOW + "a cat", [[1, 2]], [[]], "Find 'A dog' in it.", "dense_captioning"),
        ("<sync><time><score>It is red.", [[]], [[]], "Which colour?", "general"),
    ],
)
def test_the_task_of_a_trace_answer_follows_from_what_it_holds(convert_rows, answer, times, scores, question, task):
    (sample,), _ = convert_rows("trace", [trace_row(answer, times, scores, question)])
    assert sample.task == task


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (trace_row(WINDOW + "a", [[1, 2], [3, 4]], [[], []]), "have 1 events, but 2 times and 2 scores"),
        (trace_row(POINT + "a", [[1, 2]], [[3]]), "event 0 has 7 <time> for 2 numbers; 14 are due"),
        (trace_row(WINDOW + "a", [[1, 2]], [[3]]), "event 0 has 1 <score> for 1 numbers; 4 are due"),
        (trace_row("a" + WINDOW, [[1, 2]], [[]]), "conversations[1] must begin with <sync>"),
        (trace_row(WINDOW + "a<time>b", [[1, 2]], [[]]), "event 0 must be <time>.. <score>.. text"),
        (trace_row("<sync>a", [[]], [[]]), "event 0 must be <time>.. <score>.. text"),
        (trace_row(WINDOW + "a", [[2, 1]], [[]]), "after its end"),
        ({**trace_row(WINDOW + "a", [[1, 2]], [[]]), "conversations": [{"from": "gpt", "value": "x"}]}, "take turns"),
        ({"image": "a.jpg", "conversations": [], "times": [], "scores": []}, "the row has no 'video'"),
    ],
)
def test_a_trace_row_whose_parts_disagree_is_rejected(convert_rows, row, reason):
    samples, (rejected,) = convert_rows("trace", [row])
    assert not samples
    assert reason in rejected.reason


def test_later_trace_turns_take_the_later_numbers(convert_rows):
    row = trace_row(WINDOW + "cut", [[1, 2], [3, 4]], [[], []])
    row["conversations"] += [{"from": "human", "value": "And then?"}, {"from": "gpt", "value": WINDOW + "fry"}]
    samples, _ = convert_rows("trace", [row])
    assert [(s.prompt, s.events.segments_s) for s in samples] == [
        ("What happens?", [(1.0, 2.0)]),
        ("And then?", [(3.0, 4.0)]),
    ]
    assert samples[1].meta == {"turn": 1, "turns": 2}


def test_the_trace_file_converts_whole(shared, convert_file):
    path = shared / "annotations/CONVERTED_trace/trace_train_sample.CONVERTED.json"
    assert detect(path) == "trace"
    samples, rejected = convert_file("trace", path)
    assert len(samples) == 120 and not rejected
    assert {s.task for s in samples} == {"dense_captioning", "highlight_detection"}
    assert not any("<" in e.text for s in samples for e in s.events)


def test_each_llava_turn_is_a_general_sample(convert_rows):
    talk = [
        {"from": "human", "value": "<video>\nWhat is it?"},
        {"from": "gpt", "value": "A dog."},
        {"from": "human", "value": "Which colour?"},
        {"from": "gpt", "value": "Brown."},
    ]
    samples, _ = convert_rows("llava", [{"id": "x", "video": "a/b.mp4", "conversations": talk}])
    assert [(s.task, s.prompt, s.events[0].text) for s in samples] == [
        ("general", "What is it?", "A dog."),
        ("general", "Which colour?", "Brown."),
    ]
    assert samples[0].events[0].times_s == () and samples[0].duration_s is None
    assert [s.meta for s in samples] == [{"turn": 0, "turns": 2}, {"turn": 1, "turns": 2}]


def test_llava_rows_that_are_not_about_one_video_are_rejected(convert_rows):
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
    inside = [{"from": "human", "value": "Is <image> in <video> there?"}, {"from": "gpt", "value": "Yes."}]
    rows = [
        {"image": "a.jpg", "conversations": talk},
        {"video": ["a.mp4", "b.mp4"], "conversations": talk},
        {"video": "a.mp4", "conversations": talk[:1]},
        {"video": "a.mp4", "conversations": inside},
        {"video": "a.mp4", "conversations": [talk[0], {"from": "gpt", "value": ""}]},
    ]
    samples, rejected = convert_rows("llava", rows)
    assert not samples
    assert [r.kind for r in rejected] == ["unsupported", "malformed", "malformed", "unsupported", "no_label"]


def test_our_own_samples_pass_through_unchanged(tmp_path, convert_rows, convert_file):
    made, _ = convert_rows("charades_sta", "A 1 2##a dog.\nB 3 4##a cat.\n")
    path = tmp_path / "samples.jsonl"
    write_samples(path, made)
    assert detect(path) == "samples"
    assert convert_file("samples", path) == (made, [])
    renamed, _ = convert_file("samples", path, source="mine")
    assert {s.source for s in renamed} == {"mine"}


def test_our_own_samples_are_checked(convert_rows):
    rows = [{"id": "a", "video": "a.mp4", "task": "grounding", "prompt": "?", "events": [{"text": "x"}]}]
    _, (rejected,) = convert_rows("samples", rows)
    assert rejected.kind == "bad_sample" and "task ('grounding') must be one of" in rejected.reason


def test_convert_gives_its_samples_one_by_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("A 1 2##a dog.\n" * 3)
    assert next(iter(convert("charades_sta", path))).events.segments_s == [(1.0, 2.0)]
