"""The wordings of a VideoLoom's answers: written, read back, and refused where they could not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from timeexpert.config import ConfigError, load
from timeexpert.families.video_loom.answer_forms import AnswerForms
from timeexpert.families.video_loom.answer_text import read_answer, write_answer
from timeexpert.families.video_loom.frame_ids import FrameIds
from timeexpert.paths import config_path
from timeexpert.stages.config import RunConfig
from timeexpert.tokenization import Event

IDS = FrameIds(10, 30.0)
OWN = AnswerForms(
    span="frames {first}-{last}",
    moments="Seen in {spans}",
    event="In the frames {first} until {last} one sees: {text};",
    highlights="Best: {frames} with {scores}!",
    one_object="Here [SEG].",
    objects="All of them: {objects}",
)


@pytest.mark.parametrize(
    ("task", "events", "text"),
    [
        ("moment_retrieval", [Event(9, 24), Event(27, 30)], "Seen in frames 3-7 and frames 9-9"),
        (
            "dense_captioning",
            [Event(0, 9, text="a dog runs in the grass."), Event(9, 12, text="it sits")],
            "In the frames 0 until 2 one sees: a dog runs in the grass; In the frames 3 until 3 one sees: it sits;",
        ),
        ("highlight_detection", [Event(10.5, 10.5, (2.0,)), Event(22.5, 22.5, (3.5,))], "Best: 3, 7 with 2.0, 3.5!"),
    ],
)
def test_an_answer_is_written_and_read_in_the_words_of_the_config(task: str, events: list[Event], text: str) -> None:
    assert write_answer(task, events, IDS, forms=OWN) == text
    for asked in (task, None):  # without a task, the text decides
        found, problems = read_answer(text, asked, IDS, OWN)
        assert problems == [] and [event.times_s for event in found] == [event.times_s for event in events]
        assert [event.scores for event in found] == [event.scores for event in events]
    if task == "dense_captioning":
        assert [event.text for event in found] == ["a dog runs in the grass", "it sits"]
        assert read_answer(text, task, IDS)[1] == ["no frames were read from the text"]  # not the paper's words


def test_an_answer_has_a_seg_for_each_object() -> None:
    assert write_answer("referring_segmentation", [Event(text="a dog")], IDS, 1, OWN) == "Here [SEG]."
    assert write_answer("referring_segmentation", [Event(text="dogs")], IDS, 2, OWN) == "All of them: [SEG], [SEG]"
    named = AnswerForms(one_object="[SEG] {text}.")
    assert write_answer("referring_segmentation", [Event(text="red circle")], IDS, 1, named) == "[SEG] red circle."
    twice = AnswerForms(one_object=" {text} [SEG]{text}.")
    said = write_answer("referring_segmentation", [Event(text="red circle")], IDS, 1, twice)
    assert said == " red circle [SEG]red circle."


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("span: from {first}", r"span \('from \{first\}'\) holds \{last\} 0 times; it must hold it once"),
        ("span: '{first} to {last} of {first}'", r"holds \{first\} 2 times; it must hold it once"),
        ("span: to {last} from {first}", r"must hold \{first\}, then \{last\}, in this order"),
        ("span: '{first}{last}'", r"span .* cannot be read back: .*Put words or signs between its placeholders"),
        ("moments: It happens.", r"moments \('It happens.'\) holds \{spans\} 0 times"),
        ("moments: '{span}'", r"has the placeholder \{span\}; there is \{spans\}.*Did you mean 'spans'"),
        (
            "event: '{text} from {first} to {last}.'",
            r"must hold \{first\}, then \{last\}, then \{text\}, in this order",
        ),
        ("event: 'From {first} to {last}{text}'", "event .* cannot be read back"),
        ("highlights: '{frames}{scores}'", "highlights .* cannot be read back"),
        ("highlights: '{count}: {frames}'", r"holds \{scores\} 0 times"),
        ("highlights: '{count} of {count} in {frames}: {scores}'", r"holds \{count\} 2 times; it must hold it once"),
        ("one_object: It is this.", r"holds \[SEG\] 0 times; one_object holds it once, the other forms never"),
        ("one_object: 'It is {it} [SEG].'", r"has the placeholder \{it\}; there is \{text\}"),
        ("objects: '[SEG] and {objects}'", r"holds \[SEG\] 1 times"),
        ("objects: '{objects} {'", "has a brace that belongs to no placeholder"),
    ],
)
def test_a_form_that_cannot_be_is_refused_with_its_file(form: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"extends: video_loom_tiny\nmodel:\n  answers:\n    {form}\n")
    with pytest.raises(ConfigError, match=f"own.yaml, which extends .*: model.answers: .*{words}"):
        load(RunConfig, file)


def test_the_papers_words_are_those_of_a_config_that_says_nothing() -> None:
    assert load(RunConfig, config_path("video_loom")).model.answers == AnswerForms()
