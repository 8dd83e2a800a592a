from __future__ import annotations

import gzip
import json
import stat
from pathlib import Path

import numpy as np
import pytest

from timeexpert.evaluation import dense_captioning
from timeexpert.evaluation.caption_events import TimedCaptions
from timeexpert.evaluation.meteor import JAR_VARIABLE, Meteor, MeteorError, find_jar, meteor
from timeexpert.evaluation.oracle import NotCovered, run_family
from timeexpert.evaluation.oracles.meteor_process import shared_meteor

# 23 numbers as the program prints them: five words against five, wholly matched in one piece; six against six.
SAME = "5.0 5.0 2.0 2.0 3.0 3.0 2.0 2.0 " + "0.0 " * 12 + "1.0 5.0 5.0"
OTHER = "6.0 6.0 3.0 2.0 2.0 2.0 2.0 2.0 " + "0.0 " * 8 + "1.0 1.0 1.0 0.0 4.0 6.0 5.0"
ANSWERS = f"""while read -r line; do
  echo "$line" >> "$0.asked"
  case "$line" in *same*) echo {SAME};; *) echo {OTHER};; esac
done"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shell script in the place of Java; tests write what it does."""
    java = tmp_path / "java"
    java.write_text("#!/bin/bash\n")
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    jar = tmp_path / "meteor-1.5.jar"
    jar.touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv(JAR_VARIABLE, str(jar))
    return java


def write(program: Path, body: str) -> None:
    program.write_text(f"#!/bin/bash\n{body}\n")


def test_scores_equal_what_the_program_says_of_its_own_statistics(program: Path):
    write(program, ANSWERS)
    with Meteor() as scorer:
        rows = scorer.statistics(["same", "other"], [["x"], ["y"]])
    assert meteor(rows) == pytest.approx([1.0, 0.31500266234929325], abs=1e-15)
    assert float(meteor(rows.sum(axis=0))) == pytest.approx(0.4272046357557287, abs=1e-15)
    assert float(meteor(np.zeros(6))) == 0.0


def test_a_text_is_asked_once_and_the_program_starts_once(program: Path):
    write(program, f'echo started >> "$0.asked"; {ANSWERS}')
    with Meteor() as scorer:
        scorer.statistics(["same"] * 3, [["x"]] * 3)
        scorer.statistics(["same", "b ||| c\nd"], [["x"], ["y", "z"]])
    asked = Path(f"{program}.asked").read_text().splitlines()
    assert asked == ["started", "SCORE ||| x ||| same", "SCORE ||| y ||| z ||| b c d"]


@pytest.fixture
def tables(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of paraphrases beside the jar; the file gets a line for each start: the phrases of its table."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    phrases = "".join(f"1\n{a}\n{b}\n" for a, b in zip("abcdef", "bcdefa", strict=True))
    (tmp_path / "data" / "paraphrase-en.gz").write_bytes(gzip.compress(phrases.encode()))
    cut = 'zcat "${!#}" | sed -n "2~3p" | tr -d "\\n"'
    write(program, f'case "$*" in *" -a "*) {cut}; echo;; *) echo whole;; esac >> {tmp_path}/starts; {ANSWERS}')
    return tmp_path / "starts"


def test_the_program_starts_with_the_paraphrases_of_the_texts_and_later_with_the_whole_table(tables: Path):
    with Meteor() as scorer:
        for told, true in ("ab", "ba", "bc", "cd", "ab", "de", "ef", "fa", "xa"):
            scorer.statistics([told], [[true]])
    assert tables.read_text().split() == ["a", "ab", "abc", "abcd", "whole"]


def test_announced_texts_need_no_second_start(tables: Path):
    with Meteor() as scorer:
        scorer.announce(["c"])
        scorer.announce(["d b"])
        for told, true in ("ab", "bc", "cd"):
            scorer.statistics([told], [[true]])
    assert tables.read_text().split() == ["abc"]


@pytest.mark.parametrize("broken", ["unwritable", "damaged"])
def test_without_a_good_copy_of_the_table_the_program_reads_its_own(tables: Path, tmp_path: Path, broken: str):
    if broken == "unwritable":
        (tmp_path / "cache").write_text("no folder")
    else:
        Meteor().statistics(["a"], [["b"]])
        tables.unlink()
        (copy,) = (tmp_path / "cache" / "timeexpert").iterdir()
        copy.write_bytes(copy.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"METEOR reads its whole table of paraphrases.*cache"), Meteor() as scorer:
        rows = scorer.statistics(["same"], [["x"]])
        scorer.statistics(["a"], [["b"]])
    assert meteor(rows) == 1.0 and tables.read_text().split() == ["whole"]


def test_no_texts_need_no_program(program: Path):
    write(program, "exit 9")
    assert Meteor().statistics([], []).shape == (0, 6)


def test_a_program_that_stops_is_reported_with_its_last_words(program: Path):
    write(program, "echo 'OutOfMemoryError: heap' >&2; exit 1")
    with pytest.raises(MeteorError, match="METEOR stopped on 'SCORE .*OutOfMemoryError: heap"):
        Meteor().statistics(["a"], [["b"]])


def test_a_program_that_says_nothing_is_ended_after_the_timeout(program: Path):
    write(program, "exec sleep 60")
    with pytest.raises(MeteorError, match=r"no answer within 0.2 s"):
        Meteor(timeout_s=0.2).statistics(["a"], [["b"]])


def test_the_other_figures_come_out_when_meteor_stops(program: Path):
    write(program, "exit 3")
    events = TimedCaptions.of([(0, 4), (5, 9)], ["a dog barks", "a cat runs"])
    scores = dense_captioning([events], [events], meteor=Meteor())
    assert "METEOR stopped" in scores.notes[0]
    assert scores.figures()["f1"] == 100.0 and "meteor" not in scores.figures() and "meteor" not in scores.scorers


def test_the_program_ends_with_close_and_starts_again_for_a_new_question(program: Path):
    write(program, ANSWERS)
    scorer = Meteor()
    scorer.statistics(["a"], [["b"]])
    process = scorer._process
    assert process is not None and process.poll() is None
    scorer.close()
    assert process.poll() is not None
    scorer.statistics(["c"], [["d"]])
    scorer.close()


def test_what_is_missing_is_named_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Path
):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(MeteorError, match="no `java` on the PATH.*apt-get install default-jre-headless"):
        Meteor()
    monkeypatch.setenv(JAR_VARIABLE, str(tmp_path / "no.jar"))
    with pytest.raises(MeteorError, match=r"no.jar: no such file.*pip install 'timeexpert\[eval\]'"):
        find_jar()


@pytest.fixture(scope="module")
def real() -> Meteor:
    """The METEOR that the reference cases use too: one process for this file."""
    try:
        return shared_meteor()
    except NotCovered as reason:
        pytest.skip(f"METEOR cannot run here: {reason}")


def test_the_real_program_gives_the_published_scores(real: Meteor):
    said = ["the man is opening a door", "a man opens the door", ""]
    true = [["a man opens the door slowly"], ["a man opens the door"], ["a"]]
    assert meteor(real.statistics(said, true)) == pytest.approx([0.31500266234929325, 1.0, 0.0], abs=1e-12)
    (alone,) = meteor(real.statistics(["a ||| \u00e9\r\nb \ud800"], [["x"]]))
    assert alone == 0.0  # and it still answers


def test_reference_cases_with_meteor_agree(real: Meteor, shared: Path, tmp_path: Path):
    some = (
        "one_reference",
        "tokeniser_torture",
        "twelve_ordered",
        "missing_videos",
        "L2",
        "empty_list",
        "two_refs_best_f",
    )
    rows = []
    for family in ("caption_ngram", "dvc_youcook2", "soda_and_anet_dvc"):
        (tmp_path / family).mkdir()
        for file in (shared / "oracles" / family).glob("*.json"):
            document = json.loads(file.read_text("utf-8"))
            document["cases"] = [case for case in document["cases"] if case["id"] in some]
            (tmp_path / family / file.name).write_text(json.dumps(document), "utf-8")
        rows += run_family(tmp_path, family)
    assert len(rows) >= 40
    assert [row for row in rows if row.state not in ("agreed", "no figure")] == []
