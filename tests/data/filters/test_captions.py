"""Which captions say nothing, and which answers are not of the kind that was asked for."""

from collections import Counter

import pytest

from timeexpert.data.filters.captions import CaptionFilter, count_captions
from timeexpert.data.filters.config import CaptionsConfig
from timeexpert.data.filters.consistency import judge_by_rules
from timeexpert.data.records import Sample
from timeexpert.tokenization import Event, EventSequence


def sample(*texts, task="dense_captioning", prompt="Describe all events.", id="q", times=True):
    events = [Event(*((2.0 * i, 2.0 * i + 1) if times else (None, None)), text=text) for i, text in enumerate(texts)]
    return Sample(id=id, video="a.mp4", task=task, prompt=prompt, events=EventSequence(tuple(events)))


def fault(made, **config):
    return CaptionFilter(CaptionsConfig(**config), Counter()).judge([made])[0].fault


@pytest.mark.parametrize(
    "caption",
    [
        "A person is doing something.",
        "the video continues",
        "Something happens",
        "We see an an ending screen.",  # of a published data set
        "this is a scene of the clip",
    ],
)
def test_a_caption_without_a_content_word_is_generic(caption):
    assert fault(sample("a dog catches a stick", caption)) == "no content"


@pytest.mark.parametrize(
    "caption",
    [
        "a person opens the door",
        "person they look at a picture",
        "a man gets up",
        "a woman appears",
        "he goes out of the room",
        "the camera pans down from pink clouds",
        "a red circle moves left",
    ],
)
def test_a_plain_caption_of_an_event_passes(caption):
    assert fault(sample(caption)) is None


def test_a_dense_caption_of_one_word_is_too_short_and_a_query_of_one_word_is_not():
    assert fault(sample("rafting")) == "too short"
    assert fault(sample("rafting", task="moment_retrieval", prompt="When does this happen: rafting?")) is None


def test_an_empty_caption_is_named():
    verdict = CaptionFilter(CaptionsConfig(), Counter()).judge([sample("a dog barks", " ")])[0]
    assert (verdict.fault, verdict.reason) == ("empty", "events[1] has no caption.")


def test_a_moment_whose_answer_is_times_alone_is_judged_by_its_question():
    ask = {"task": "moment_retrieval"}
    assert fault(sample("", prompt="When does something happen in the video?", **ask)) == "no content"
    assert fault(sample("", prompt="When does the dog catch the stick?", **ask)) is None


def test_a_caption_all_over_the_data_set_is_repeated_and_below_the_share_it_is_not():
    samples = [sample("a cat sleeps", id=f"c{i}") for i in range(6)]
    samples += [sample(f"dog {chr(97 + i)} runs", id=f"d{i}") for i in range(14)]
    counts = count_captions(samples)
    loose, strict = CaptionsConfig(max_share=0.3, min_repeats=5), CaptionsConfig(max_share=0.2, min_repeats=5)
    assert [v.fault for v in CaptionFilter(loose, counts).judge(samples)] == [None] * 20
    verdicts = CaptionFilter(strict, counts).judge(samples)
    assert [v.fault for v in verdicts] == ["repeated"] * 6 + [None] * 14
    assert (verdicts[0].value, verdicts[0].threshold) == (0.3, 0.2)


def test_more_generic_words_can_be_given():
    assert fault(sample("a red circle"), extra_generic=("red circle",)) == "no content"


def test_other_scripts_and_other_tasks_pass_as_not_measured():
    for made in (sample("一个人打开门"), sample("yes", task="general", times=False)):
        verdict = CaptionFilter(CaptionsConfig(), Counter()).judge([made])[0]
        assert (verdict.fault, verdict.measured) == (None, False)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (sample("a dog runs"), None),
        (sample("a dog runs", times=False), "wrong kind of answer"),
        (sample("", task="highlight_detection"), "wrong kind of answer"),  # no score
        (sample("at noon", task="general", times=False, prompt="When does he eat?"), "wrong kind of answer"),
        (sample("after 3 seconds", task="general", times=False, prompt="When does he eat?"), None),
        (sample("yes", task="general", times=False, prompt="What is it?"), "wrong kind of answer"),
        (sample("yes", task="general", times=False, prompt="Is it red?"), None),
        (sample("What is it", task="general", times=False, prompt="What is it?"), "repeats the prompt"),
        (sample("the dog barks", task="moment_retrieval", prompt="When does the dog bark?"), None),
        (sample("a cat sleeps", task="moment_retrieval", prompt="When does the dog bark?"), "other subject"),
    ],
)
def test_the_answer_must_be_of_the_kind_that_the_prompt_asks_for(made, expected):
    assert judge_by_rules(made).fault == expected
