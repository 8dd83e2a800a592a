"""Events as tokens and back: what is written reads back, and what is malformed is reported, never raised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeexpert.tokenization import Event, EventCodec, EventError, EventSequence, NumberFormatError

times = st.integers(0, 99999).map(lambda tenths: tenths / 10)
scores = st.lists(st.integers(0, 99).map(lambda tenths: tenths / 10), max_size=1).map(tuple)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=20)


@st.composite
def events(draw: st.DrawFn) -> Event:
    start_s, end_s = sorted((draw(times), draw(times)))
    span = draw(st.sampled_from([(None, None), (start_s, start_s), (start_s, end_s)]))
    return Event(*span, draw(scores), draw(texts))


def symbols(codec: EventCodec, ids: list[int]) -> str:
    """Number tokens as T and S with their symbol, the sync as |, text as letters."""
    out = ""
    for i in ids:
        if i == codec.ids.sync:
            out += "|"
        elif i >= codec.ids.score:
            out += "S" + codec.scores.symbols[i - codec.ids.score]
        elif i >= codec.ids.time:
            out += "T" + codec.times.symbols[i - codec.ids.time]
        else:
            out += "x"
    return out


def test_an_event_is_sync_times_scores_text(codec: EventCodec):
    ids = codec.encode_event(Event(1.0, 12.34, (4.5,), "a"))
    expected = "|T0T0T0T1T.T0T<sep>T0T0T1T2T.T3T<sync>S4S.S5S<sync>x"
    assert symbols(codec, ids) == expected
    assert len(ids) == 1 + 14 + 4 + 1


def test_a_point_in_time_is_written_once(codec: EventCodec):
    assert len(codec.encode_event(Event(3.0, 3.0))) == 1 + 7 + 1
    # 2.98 and 3.02 are both 3.0 at a tenth of a second
    assert codec.encode_event(Event(2.98, 3.02)) == codec.encode_event(Event(3.0, 3.0))


def test_a_general_answer_has_empty_lists(codec: EventCodec):
    ids = codec.encode_event(Event(text="yes"))
    assert ids[:3] == [codec.ids.sync, codec.ids.time, codec.ids.score]


@given(sequence=st.lists(events(), min_size=1, max_size=4))
def test_every_answer_reads_back(codec: EventCodec, sequence: list[Event]):
    decoded, problems = codec.decode(codec.encode(sequence))
    assert problems == []
    assert decoded == EventSequence(tuple(sequence))


def test_an_answer_that_reads_back_is_rounded_to_the_format(codec: EventCodec):
    decoded, _ = codec.decode(codec.encode([Event(0.25, 9.96, (3.14,), "two cats")]))
    assert decoded[0] == Event(0.2, 10.0, (3.1,), "two cats")


def test_control_pieces_in_a_caption_are_letters(codec: EventCodec):
    sequence = [Event(text="a </s> b <answer> <sync> <unk>"), Event(1.0, 2.0, text="c")]
    decoded, problems = codec.decode(codec.encode(sequence))
    assert (problems, list(decoded)) == ([], sequence)


def test_a_time_that_the_format_cannot_write_is_refused(codec: EventCodec):
    with pytest.raises(NumberFormatError, match=r"10000\.0 needs more than 4 digits"):
        codec.encode([Event(0.0, 10000.0)])


def test_a_second_score_is_refused_because_it_would_not_read_back(codec: EventCodec):
    with pytest.raises(EventError, match=r"scores \(\[1\.0, 2\.0\]\).*at most 1.*Average them"):
        codec.encode([Event(0.0, 1.0, (1.0, 2.0))])


def tokens(codec: EventCodec, spelled: str) -> list[int]:
    """Ids of a spelled answer: | sync, T and S before a number symbol (s sync, - sep), x text, p pad, . end."""
    number, out, kind = {"s": 0, "-": 1, **{d: 2 + i for i, d in enumerate("0123456789")}, ".": 12}, [], 0
    for word in spelled.split():
        if word[0] in "TS":
            kind = codec.ids.time if word[0] == "T" else codec.ids.score
            out += [kind + number[c] for c in word[1:]]
        else:
            plain = {"|": codec.ids.sync, "x": codec.text.encode("a")[0], "end": codec.text.eos_id}
            plain |= {"pad": 0, "vision": codec.ids.vision, "huge": 10**30, "minus": -1}
            out.append(plain[word])
    return out


GOOD = "| T0001.0s Ss x"


@pytest.mark.parametrize(
    ("spelled", "position", "reason"),
    [
        ("", 0, "an empty answer"),
        ("x x", 0, "tokens before the first <sync>"),
        ("|", 1, "a time list is not closed"),
        ("| x", 1, "inside a time list"),
        ("| T0001.0", 7, "a time list is not closed"),
        ("| T001.0s Ss", 1, "a time is not a number: 5 symbols where a number has 6"),
        ("| T0001.0-s Ss", 1, "a time is not a number: 0 symbols"),
        ("| T0002.0-0001.0s Ss", 1, "start 2.0 after end 1.0"),
        ("| T0001.0-0002.0-0003.0s Ss", 1, "3 times in one event; at most 2"),
        ("| Ts S1.0-2.0s", 2, "2 scores in one event; at most 1"),
        ("| Ss Ts", 1, "inside a time list"),
        ("| Ts x Ss", 2, "inside a score list"),
        ("| Ts Ss x T1", 4, "inside the text of an event"),
        ("| Ts Ss x vision", 4, "inside the text of an event"),
        ("| Ts Ss pad", 3, "token 0 inside the text of an event"),
        ("| Ts Ss huge", 3, "inside the text of an event"),
        ("| minus", 1, "token -1 inside a time list"),
    ],
)
def test_a_malformed_event_is_reported_and_its_neighbours_survive(codec, spelled, position, reason):
    _, problems = codec.decode(tokens(codec, spelled + " end"))
    assert [p.position for p in problems] == [position]
    assert reason in problems[0].reason
    if spelled.startswith("|"):
        decoded, problems = codec.decode(tokens(codec, f"{GOOD} {spelled} {GOOD} end"))
        assert list(decoded) == [Event(1.0, 1.0, (), "a")] * 2
        assert len(problems) == 1


def test_an_answer_without_an_end_is_reported_and_still_read(codec: EventCodec):
    decoded, problems = codec.decode(tokens(codec, GOOD))
    assert len(decoded) == 1
    assert [p.reason for p in problems] == ["the answer has no end of sequence"]


def test_what_follows_the_end_is_not_read(codec: EventCodec):
    decoded, problems = codec.decode(tokens(codec, f"{GOOD} end pad {GOOD} huge"))
    assert (len(decoded), problems) == (1, [])


@given(data=st.data())
def test_token_soup_never_raises_and_is_never_taken_for_an_answer(codec: EventCodec, data: st.DataObject):
    ids = codec.ids
    near = st.integers(ids.sync - 2, ids.size + 2)  # mostly number tokens, so that some lists close
    likely = st.sampled_from([ids.sync, ids.time, ids.score, codec.text.eos_id])
    soup = data.draw(st.lists(st.one_of(likely, near, st.integers()), max_size=40))
    decoded, problems = codec.decode(soup)
    body = soup[: soup.index(codec.text.eos_id)] if codec.text.eos_id in soup else soup
    starts = [i for i, token in enumerate(body) if token == ids.sync]
    malformed = [p for p in problems if body and p.position > 0 and "no end" not in p.reason]
    # each <sync> either opens an event that is returned, or is followed by one reported problem
    assert len(decoded) + len(malformed) == len(starts)
    if not problems:  # what is accepted whole is what the codec itself would write, points written once
        assert codec.decode(codec.encode(decoded)) == (decoded, [])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"start_s": 1.0}, r"start_s \(1\.0\) and end_s \(None\) must both"),
        ({"start_s": 2.0, "end_s": 1.0}, r"start_s \(2\.0\) must not be after end_s \(1\.0\)"),
        ({"start_s": -1.0, "end_s": 1.0}, r"start_s \(-1\.0\) must not be negative"),
        ({"start_s": float("nan"), "end_s": 1.0}, r"start_s \(nan\) must be a finite number of seconds"),
        ({"start_s": 0, "end_s": 10**400}, r"end_s \(1000+\) must be a finite number"),
        ({"start_s": True, "end_s": 1.0}, r"start_s \(True\) must be a finite number"),
        ({"scores": ["4"]}, r"scores: '4' must be a finite number"),
        ({"scores": 0}, r"scores \(0\) must be a list of numbers"),
        ({"scores": ""}, r"scores \(''\) must be a list of numbers"),
        ({"text": None}, r"text \(None\) must be a string"),
        ({"starts": 1.0}, r"unknown field 'starts'; an event has start_s, end_s, scores, text"),
    ],
)
def test_an_event_that_cannot_be_is_refused(fields: dict, words: str):
    with pytest.raises(EventError, match=words):
        Event.from_json(fields)


@pytest.mark.parametrize("rows", [{}, "text", [[]]])
def test_events_that_are_no_list_of_objects_are_refused(rows):
    with pytest.raises(EventError, match="events must be a list|an event must be an object"):
        EventSequence.from_json(rows)


def test_events_round_trip_through_json():
    sequence = EventSequence((Event(1.0, 2.5, (3.0,), "a"), Event(text="b")))
    assert EventSequence.from_json(sequence.to_json()) == sequence
    assert sequence.segments_s == [(1.0, 2.5)]
