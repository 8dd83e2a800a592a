"""What an answer may do to events, and what is refused."""

import json

import pytest

from tests.data.chat_server import completion, serving
from timeexpert.data.endpoint import Answer, Endpoint, EndpointConfig
from timeexpert.data.records import Sample
from timeexpert.reannotation.config import GroupingConfig
from timeexpert.reannotation.endpoint import SYSTEM, EndpointAnnotator, read_answer
from timeexpert.reannotation.grouping import Refused, Talk, apply, group_all
from timeexpert.reannotation.traced import begin
from timeexpert.tokenization import Event, EventSequence

EVENTS = [
    Event(0.0, 2.0, (), "a hand takes a bottle"),
    Event(2.0, 4.0, (), "the hand moves away"),
    Event(5.0, 9.0, (), "bottles stand; a hand puts one back"),
    Event(20.0, 22.0, (), "the end"),
]
KEEP = [{"from": [n]} for n in (1, 2, 3, 4)]


def applied(rows, **settings):
    """The events that an answer makes of EVENTS, or why it is refused."""
    groups = read_answer(Answer(rows if isinstance(rows, str) else json.dumps(rows)), EVENTS)
    return groups if isinstance(groups, Refused) else apply(begin(EVENTS), groups, GroupingConfig(**settings))


def test_an_answer_that_keeps_all_changes_nothing():
    assert applied(KEEP) == begin(EVENTS)
    echoed = [{"from": [i + 1], "start_s": e.start_s, "end_s": e.end_s, "text": e.text} for i, e in enumerate(EVENTS)]
    assert applied("```json\n" + json.dumps(echoed) + "\n```") == begin(EVENTS)


def test_merged_fragments_run_from_the_first_start_to_the_last_end():
    out = applied([{"from": [1, 2], "text": "a hand takes a bottle away"}, *KEEP[2:]])
    assert [one.span for one in out] == [(0.0, 4.0), (5.0, 9.0), (20.0, 22.0)]
    assert out[0].sources == (0, 1) and out[0].event.text == "a hand takes a bottle away"
    (step,) = out[0].steps
    assert (step.kind, step.before_s, step.after_s) == ("merged", ((0.0, 2.0), (2.0, 4.0)), (0.0, 4.0))


def test_parts_of_a_split_lie_inside_it():
    parts = [
        {"from": [3], "start_s": 5.0, "end_s": 7.0, "text": "bottles stand"},
        {"from": [3], "start_s": 7.5, "end_s": 9.004, "text": "a hand puts one back"},
    ]
    out = applied([*KEEP[:2], *parts, KEEP[3]])
    assert [one.span for one in out] == [(0.0, 2.0), (2.0, 4.0), (5.0, 7.0), (7.5, 9.0), (20.0, 22.0)]
    assert [one.sources for one in out[2:4]] == [(2,), (2,)] and out[2].steps[0].kind == "split"


def part(start_s, end_s, text="x"):
    return {"from": [3], "start_s": start_s, "end_s": end_s, "text": text}


@pytest.mark.parametrize(
    ("rows", "kind", "words"),
    [
        ("Sure! " + json.dumps(KEEP), "not the form asked for", "not JSON"),
        ({"events": KEEP}, "not the form asked for", "not a JSON array"),
        ([1, 2], "not the form asked for", "item 1 must be an object"),
        ([{"from": [1], "note": "x"}], "not the form asked for", "item 1 must be an object"),
        ([{"from": ["1"]}, *KEEP[1:]], "not the form asked for", "numbers of events, 1 to 4"),
        ([{"from": [True]}, *KEEP[1:]], "not the form asked for", "numbers of events, 1 to 4"),
        ([*KEEP, {"from": [5]}], "not the form asked for", "numbers of events, 1 to 4"),
        ('[{"from": [1], "start_s": NaN, "end_s": 2}]', "not the form asked for", "NaN is not allowed"),
        ([{"from": [1], "start_s": 1}, *KEEP[1:]], "not the form asked for", "must have start_s and end_s"),
        ([{"from": [1], "text": 7}, *KEEP[1:]], "not the form asked for", "a text that is not text"),
        (KEEP * 17, "not the form asked for", "68 items for 4 events"),
        (KEEP[:3], "breaks a rule", "event 4 is missing"),
        ([KEEP[1], KEEP[0], *KEEP[2:]], "breaks a rule", "item 1 must come from event 1 on, in order; it names 2"),
        ([{"from": [1, 3], "text": "x"}, KEEP[1], KEEP[3]], "breaks a rule", "in order; it names 1, 3"),
        ([{"from": [1, 2]}, *KEEP[2:]], "breaks a rule", "item 1 is a new event without text"),
        ([{"from": [1, 2], "text": "x" * 2001}, *KEEP[2:]], "breaks a rule", "more than 2000 characters"),
        (
            [*KEEP[:2], {"from": [3, 4], "text": "x"}],
            "breaks a rule",
            "across 11.00 s without an event; max_gap_s",
        ),
        ([{"from": [1], "text": "another"}, *KEEP[1:]], "breaks a rule", "stays as it is, and must keep its text"),
        ([{"from": [1], "start_s": 0, "end_s": 3}, *KEEP[1:]], "breaks a rule", "is no part of a split event"),
        (
            [*KEEP[:2], part(5, 7), part(7, 99), KEEP[3]],
            "breaks a rule",
            r"7 to 99 s\) leaves the event",
        ),
        (
            [*KEEP[:2], part(5, 7), part(6, 9), KEEP[3]],
            "breaks a rule",
            "begins at 6 s, before the part before",
        ),
        ([*KEEP[:2], part(5, 8.5), part(8.5, 9), KEEP[3]], "breaks a rule", r"is shorter than min_part_s \(1\)"),
        ([*KEEP[:2], part(5, 7), {"from": [3], "text": "x"}, KEEP[3]], "breaks a rule", "needs start_s and end_s"),
    ],
)
def test_an_answer_that_breaks_the_form_or_a_rule_is_refused(rows, kind, words):
    found = applied(rows)
    assert isinstance(found, Refused) and found.kind == kind
    with pytest.raises(ValueError, match=words):
        raise ValueError(found.reason)


def sample(*events):
    row = {"id": "s", "video": "v.mp4", "task": "dense_captioning", "prompt": "What happens?"}
    return Sample(**row, events=EventSequence(events))


class Scripted:
    """Answers of a list, one after the other."""

    name = "scripted"

    def __init__(self, *answers):
        self.answers, self.seen = list(answers), []

    def group(self, questions):
        for _, events in questions:
            self.seen.append([event.text for event in events])
            answer = self.answers.pop(0)
            yield answer if isinstance(answer, Refused) else read_answer(Answer(json.dumps(answer)), events)


def talk_with(*answers, **settings):
    annotator, talk = Scripted(*answers), Talk(sample(*EVENTS), begin(EVENTS))
    group_all(annotator, [talk], GroupingConfig(**settings))
    return annotator, talk


def test_it_asks_again_about_what_the_last_answer_made_until_nothing_changes():
    first = [{"from": [1, 2], "text": "one"}, *KEEP[2:]]
    second = [{"from": [1, 2], "text": "two"}, {"from": [3]}]
    annotator, talk = talk_with(first, second, KEEP[:2], max_rounds=9)
    assert [len(seen) for seen in annotator.seen] == [4, 3, 2]
    assert (talk.rounds, talk.changed) == (3, False)
    assert talk.events[0].sources == (0, 1, 2) and talk.events[0].span == (0.0, 9.0)
    assert [step.kind for step in talk.events[0].steps] == ["merged", "merged"]


def test_it_stops_at_the_limit_and_says_that_it_had_not_settled():
    _, talk = talk_with([{"from": [1, 2], "text": "one"}, *KEEP[2:]], max_rounds=1)
    assert (talk.rounds, talk.changed) == (1, True)


def test_a_refused_answer_leaves_what_earlier_ones_made():
    _, talk = talk_with([{"from": [1, 2], "text": "one"}, *KEEP[2:]], KEEP[:2])
    assert len(talk.events) == 3 and not talk.changed
    assert [refused.reason for refused in talk.refused] == ["event 3 is missing."]


def test_the_endpoint_sees_numbers_times_and_texts_and_nothing_else(tmp_path):
    with serving(lambda number, request: completion(json.dumps(KEEP))) as chat:
        config = EndpointConfig(base_url=chat.base_url, model="tiny")
        with Endpoint(config, tmp_path / "c.jsonl") as endpoint:
            annotator = EndpointAnnotator(endpoint, GroupingConfig(), None, tmp_path)
            (groups,) = annotator.group([(sample(*EVENTS), EVENTS)])
    system, user = chat.requests[0]["messages"]
    assert system["content"] == SYSTEM
    assert json.loads(user["content"])[2] == {"id": 3, "start_s": 5.0, "end_s": 9.0, "text": EVENTS[2].text}
    assert "v.mp4" not in user["content"] and len(groups) == 4
