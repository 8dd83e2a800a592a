"""Questions by task, from a file that users edit."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from tests.conftest import ROOT
from timeexpert.config import ConfigError
from timeexpert.data.formats import ConvertOptions, convert
from timeexpert.data.instructions import ASK_ABOUT, Instructions, default_instructions, load_instructions
from timeexpert.data.records import TASKS, Sample

OWN = "extends: data/instructions\nmoment_retrieval: [\"When is '{query}' done?\", \"Where is '{query}'?\"]\n"


def test_every_task_has_six_questions_that_differ() -> None:
    assert {field.name for field in fields(Instructions)} == {*TASKS, "grounded_captioning"}
    for task in TASKS:
        wordings = getattr(default_instructions(), task)
        assert len(set(wordings)) == 6
        assert {wording.count("{query}") for wording in wordings} == {int(task in ASK_ABOUT)}


def test_the_same_key_gives_the_same_question_in_another_process() -> None:
    code = "from timeexpert.data.instructions import default_instructions as d; print(d().question('general', 'a:7'))"
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == default_instructions().question("general", "a:7")


def test_keys_spread_over_all_questions() -> None:
    assert len({default_instructions().question("moment_retrieval", str(i), "a dog") for i in range(100)}) == 6


def test_a_query_is_put_in_word_for_word_even_with_braces() -> None:
    assert "a dog {runs} {query}" in default_instructions().question("moment_retrieval", "a", " a dog {runs} {query} ")


def test_a_missing_or_needless_query_is_refused() -> None:
    ask = default_instructions().question
    with pytest.raises(ValueError, match=r"moment_retrieval asks about something: query \(None\)"):
        ask("moment_retrieval", "a")
    with pytest.raises(ValueError, match=r"dense_captioning asks about the whole video: query \('dog'\)"):
        ask("dense_captioning", "a", "dog")
    with pytest.raises(ValueError, match=r"task \('x'\) must be one of general"):
        ask("x", "a")


def test_a_file_of_ones_own_replaces_the_tasks_it_names(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    own = load_instructions(tmp_path / "own.yaml")
    assert own.question("moment_retrieval", "k", "a dog") in ("When is 'a dog' done?", "Where is 'a dog'?")
    assert own.general == default_instructions().general


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "moment_retrieval: ['When?']",
            r"own.yaml.*: moment_retrieval\[0\] \('When\?'\) holds {query} 0 times; .* once",
        ),
        (
            "general: ['What of {query}?']",
            r"general\[0\] .* 1 times; general asks about the whole video: remove {query}",
        ),
        ("moment_retrieval: ['When {qurey}?']", r"has the placeholder {qurey}; .* Did you mean {query}\?"),
        ("general: []", "general is empty; write at least one question"),
        ("general: [a, a]", r"general\[1\] \('a'\) is there twice"),
        ("general: [' ']", r"general\[0\] \(' '\) is empty"),
        ("generel: [a]", "unknown key 'generel'. Did you mean 'general'"),
        ("general: [a]\ngeneral: [b]", "key 'general' is there twice"),
    ],
)
def test_a_file_that_cannot_be_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"extends: data/instructions\n{text}\n")
    with pytest.raises(ConfigError, match=words):
        load_instructions(tmp_path / "own.yaml")


def test_a_file_without_a_task_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("general: [a]\n")
    with pytest.raises(ConfigError, match="key 'dense_captioning' is missing"):
        load_instructions(tmp_path / "own.yaml")


def test_instructions_replace_the_questions_of_a_format_but_general_ones(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    own = load_instructions(tmp_path / "own.yaml")
    rows = [
        '{"video": "a.mp4", "QA": [{"q": "Find \'a dog\'.", "a": "The given query happens in 1.0 - 2.0 seconds."}]}',
        '{"video": "b.mp4", "QA": [{"q": "Which?", "a": "1.0 seconds, significance score: 3.0, a.'
        ' 2.0 seconds, significance score: 4.0, b."}]}',
    ]
    (tmp_path / "it.json").write_text("\n".join(rows))
    talk = (
        '{"video": "a.mp4", "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Rain."}]}'
    )
    (tmp_path / "talk.json").write_text(talk)

    def asked(name: str, file: str, instructions: Instructions | None) -> list[str]:
        made = list(convert(name, tmp_path / file, ConvertOptions(instructions=instructions)))
        assert all(isinstance(sample, Sample) for sample in made), made
        return [sample.prompt for sample in made if isinstance(sample, Sample)]

    assert asked("timeit", "it.json", None) == ["Find 'a dog'.", "Which?"]
    # the second answer is about no one thing, so no question of ours asks for it
    assert asked("timeit", "it.json", own)[0] in ("When is 'a dog' done?", "Where is 'a dog'?")
    assert asked("timeit", "it.json", own)[1] == "Which?"
    assert asked("llava", "talk.json", own) == ["Why?"]
