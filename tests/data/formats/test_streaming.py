"""JSON read member by member is what ``json`` reads whole, wherever the window ends."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.data.formats import streaming
from timeexpert.data.formats.reading import FormatError, records, streamed

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v), max_leaves=8
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    tree=st.lists(values, max_size=5) | st.dictionaries(st.text(max_size=5), values, max_size=5),
    chunk=st.integers(1, 9),
    indent=st.none() | st.integers(0, 2),
)
def test_members_are_those_of_the_whole_file_for_every_window(tree, chunk, indent, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(tree, indent=indent, ensure_ascii=len(tree) % 2 == 0), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "CHUNK", chunk)
        found = list(streaming.json_members(path))
    if isinstance(tree, list):
        assert [key for key, _ in found] == [str(i) for i in range(len(tree))]
        assert [value for _, value in found] == tree
    else:
        assert dict(found) == tree and len(found) == len(tree)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2\n, 3", r"a.json:2: not JSON: 'the end of the file' where one of , \] is due"),
        ("[1, 2] 3", r"a.json:1: not JSON: something follows the closing \]"),
        ("[1,\n\n{]", "a.json:3: not JSON: Expecting property name"),
        ("{1: 2}", "a.json:1: not JSON: the name of a member is 1, not text"),
        ("[1 2]", r"'2' where one of , \] is due"),
        ("7", r"'7' where one of \[ \{ is due"),
        ("[" * 100_000, r"a.json:1: not JSON that can be read: nested too deeply. Correct it."),
        ("[1,\n" + "7" * 5000 + "]", r"a.json:2: not JSON that can be read: an integer of more than 4300 digits. Corr"),
    ],
)
def test_a_file_that_stops_being_json_is_an_error_with_its_line(tmp_path, text, words):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=words):
        list(streamed(path))


def test_rows_before_the_damage_are_not_kept_back(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1}, {"a": 2}, oops')
    rows = records(path)
    assert [next(rows).value, next(rows).value] == [{"a": 1}, {"a": 2}]
    with pytest.raises(FormatError, match=r"a\.json:1: not JSON: Expecting value\. Is the file complete\?"):
        next(rows)


def test_a_member_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "MAX_MEMBER", 1000)
    monkeypatch.setattr(streaming, "CHUNK", 100)
    path = tmp_path / "a.json"
    path.write_text('["' + "a" * 10_000 + '"]')
    with pytest.raises(FormatError, match="a member of more than 1000 characters"):
        list(streamed(path))
