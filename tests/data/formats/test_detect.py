"""Guessing a format from what is in the file."""

import json

import pytest

from tests.conftest import ROOT
from timeexpert.data.formats import FORMATS, FormatError, convert, detect


def test_every_format_says_in_one_line_what_it_reads():
    for name, chosen in FORMATS.items():
        assert chosen.name == name
        assert chosen.description and "\n" not in chosen.description


def test_every_format_has_a_section_and_an_example_in_the_docs():
    text = (ROOT / "docs/data-formats.md").read_text(encoding="utf-8")
    for name in FORMATS:
        assert f"### {name}\n" in text and f"timeexpert data convert {name} " in text


@pytest.mark.parametrize("content", ["", "\n\n", "[]", "{}", "[1, 2]", "plain text", '{"a": 1}', "[[1]]", "\x00\xff"])
def test_what_is_no_known_format_is_refused_with_the_names(tmp_path, content):
    path = tmp_path / "what.json"
    path.write_text(content)
    with pytest.raises(
        FormatError, match=r"what.json: no known format.*there are charades_sta, .*activitynet_captions"
    ):
        detect(path)


def test_the_message_shows_what_the_first_record_has(tmp_path):
    path = tmp_path / "what.json"
    path.write_text('{"qid": 1, "pred_relevant_windows": []}\n{"qid": 2}\n')
    with pytest.raises(FormatError, match=r"Its first record has 'qid', 'pred_relevant_windows'"):
        detect(path)


def test_predictions_and_durations_are_not_taken_for_annotations(shared):
    folder = shared / "annotations"
    for name in (
        "qvhighlights/sample_val_preds.jsonl",
        "qvhighlights/timechat_example_pred_file.json",
        "charades_sta/example_pred_file.json",
        "charades_sta/charades_durations.json",
        "youcook2/example_pred_file.json",
        "museg/et_bench_subset.json",
        "README.md",
    ):
        with pytest.raises(FormatError, match="no known format"):
            detect(folder / name)


def test_pretty_printed_and_one_line_json_are_the_same_format(tmp_path):
    tree = {"v_a": {"duration": 3.0, "timestamps": [[0, 1]], "sentences": ["a"]}}
    for indent in (None, 1):
        path = tmp_path / "a.json"
        path.write_text(json.dumps(tree, indent=indent))
        assert detect(path) == "activitynet_captions"


def test_an_unknown_name_is_refused_with_the_nearest_one(tmp_path):
    with pytest.raises(
        FormatError, match=r"format \('charades'\) must be auto or one of .*Did you mean 'charades_sta'\?"
    ):
        list(convert("charades", tmp_path))
