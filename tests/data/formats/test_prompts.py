"""Questions for data sets that come without them."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from timeexpert.data.formats.prompts import PROMPTS, prompt_for
from timeexpert.data.records import TASKS


def test_every_task_has_several_questions_that_differ():
    assert set(PROMPTS) == set(TASKS)
    for templates in PROMPTS.values():
        assert len(templates) >= 4 and len(set(templates)) == len(templates)


def test_all_questions_of_a_task_take_a_query_or_none_does():
    for templates in PROMPTS.values():
        assert len({template.count("{query}") for template in templates}) == 1


def test_the_same_key_gives_the_same_question_in_another_process():
    code = "from timeexpert.data.formats.prompts import prompt_for; print(prompt_for('dense_captioning', 'a:7'))"
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == prompt_for("dense_captioning", "a:7")


def test_keys_spread_over_all_questions():
    seen = {prompt_for("moment_retrieval", str(i), "a dog") for i in range(100)}
    assert len(seen) == len(PROMPTS["moment_retrieval"])


def test_a_query_is_put_in_word_for_word_even_with_braces():
    assert "a dog {runs} {query}" in prompt_for("moment_retrieval", "a", " a dog {runs} {query} ")


def test_a_missing_or_needless_query_is_refused():
    with pytest.raises(ValueError, match=r"moment_retrieval asks about something: query \(None\)"):
        prompt_for("moment_retrieval", "a")
    with pytest.raises(ValueError, match=r"dense_captioning asks about the whole video: query \('dog'\)"):
        prompt_for("dense_captioning", "a", "dog")
    with pytest.raises(ValueError, match=r"task \('x'\) must be one of general"):
        prompt_for("x", "a")
