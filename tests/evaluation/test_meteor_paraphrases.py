from __future__ import annotations

import gzip
import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from timeexpert.evaluation.meteor import Meteor, MeteorError
from timeexpert.evaluation.meteor_paraphrases import Paraphrases, TableError, phrases_of

ENTRIES = [
    ("0.1", "a b", "c"),
    ("0.2", "c", "a b"),
    ("0.3", "b", "us"),
    ("0.4", "b", "x ??? y"),
    ("0.5", "café", "x ??? y"),
    ("0.6", "c", "never"),
    ("0.7", "c", "a b c a b c a c"),  # eight words
    ("0.8", "b", "c"),
]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "table.gz"
    path.write_bytes(gzip.compress("".join("\n".join(entry) + "\n" for entry in ENTRIES).encode()))
    return path


def cut(table: Path, texts: list[str]) -> list[str]:
    """The numbers of the entries that a program gets for the texts; its entries are checked to be whole."""
    part = table.with_name("part.gz")
    paraphrases = Paraphrases(table)
    paraphrases.write(paraphrases.rows(texts), part)
    lines = gzip.decompress(part.read_bytes()).decode().splitlines()
    entries = list(zip(lines[::3], lines[1::3], lines[2::3], strict=True))
    assert set(entries) <= set(ENTRIES)
    return [entry[0] for entry in entries]


@pytest.mark.parametrize(
    ("texts", "kept"),
    [
        ([], ["0.5"]),  # both phrases hold other signs than a-z and 0-9
        (["a b", "c"], ["0.1", "0.2", "0.4", "0.5", "0.7", "0.8"]),
        (["a", "b c"], ["0.4", "0.5", "0.7", "0.8"]),  # "a b" stands in no text
        (["A-B", "C!"], ["0.1", "0.2", "0.4", "0.5", "0.7", "0.8"]),
        (["b", "U.S."], ["0.3", "0.4", "0.5"]),
        (["b", "u...s"], ["0.4", "0.5"]),
    ],
)
def test_the_program_gets_the_entries_whose_phrases_both_occur_in_the_order_of_the_table(
    table: Path, texts: list[str], kept: list[str]
):
    assert cut(table, texts) == kept


def test_the_table_is_decoded_once_and_again_when_it_changes(table: Path):
    path = Paraphrases(table).path
    written = path.stat().st_mtime_ns
    assert Paraphrases(table).path == path and path.stat().st_mtime_ns == written
    table.write_bytes(gzip.compress(b"1\nx\ny\n"))
    assert Paraphrases(table).path != path
    assert [p.name for p in path.parent.iterdir() if not re.fullmatch(r"meteor-paraphrases-\w{16}-1", p.name)] == []


@pytest.mark.parametrize(
    ("damage", "how"),
    [
        (lambda data: data[:10], "it is cut off"),
        (lambda data: data[:-7], "its end is not what was written"),
        (lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:], "its index has another checksum"),
        (lambda data: data.replace(b"a b", b"a e"), "an entry is not what was indexed"),
        (lambda data: data.replace(b"a b\nc", b"a\nb c"), "an entry is not what was indexed"),
    ],
    ids=["start", "end", "index", "phrase", "boundary"],
)
def test_a_damaged_copy_is_refused_with_the_way_out(table: Path, damage, how: str):
    path = Paraphrases(table).path
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TableError, match=rf"meteor-paraphrases-.* is damaged \({how}\); delete it"):
        cut(table, ["a b", "c"])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"plain text", "Not a gzipped file"),
        (gzip.compress(b"1\na\nb\n2\nc\n"), "does not end with a whole entry of three lines"),
        (gzip.compress(b"1\na\nb\n" * 9)[:-9], "end-of-stream"),
    ],
    ids=["not gzip", "half an entry", "cut off"],  # gzip writes the time
)
def test_what_is_no_table_leaves_nothing_in_the_cache(table: Path, tmp_path: Path, content: bytes, why: str):
    table.write_bytes(content)
    with pytest.raises(TableError, match=why):
        Paraphrases(table)
    assert list((tmp_path / "cache" / "timeexpert").iterdir()) == []


def test_a_cache_folder_that_cannot_be_written_is_named(table: Path, tmp_path: Path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(TableError, match="cache"):
        Paraphrases(table)


def test_phrases_do_not_reach_over_the_end_of_a_text():
    apart, together = phrases_of(["a b", "c"]), phrases_of(["a b c"])
    assert len(apart) == 1 + 4 and len(together) == 1 + 6 and set(apart) < set(together)
    assert len(phrases_of([])) == len(phrases_of(["", "é ! ..."])) == 1


WORDS = ["..", "...", "DOTMULTI", "mr.", "u.s.", "'s"]
SIGNS = [*"abcdeABCDE0123", *"..,,''--``\"?!&;:/_|()", *" " * 8, *"éÉßİ\u212a‘’“”–— \u00a0\u3000中", *WORDS]


def test_every_phrase_that_the_programs_normaliser_leaves_is_seen(tmp_path: Path):
    try:
        jar = Meteor().jar
    except MeteorError as reason:
        pytest.skip(f"METEOR cannot run here: {reason}")
    rng = random.Random(0)
    texts = ["".join(rng.choices(SIGNS, k=rng.randint(1, 30))) for _ in range(1500)]
    command = [shutil.which("java") or "java", "-Dfile.encoding=UTF-8", "-cp", str(jar)]
    command += ["edu.cmu.meteor.util.Normalizer", "en", "true"]
    said = subprocess.run(command, input="\n".join(texts) + "\n", capture_output=True, encoding="utf-8", check=True)
    normalised = said.stdout.lower().removesuffix("\n").split("\n")
    assert len(normalised) == len(texts)
    seen = 0
    for text, line in zip(texts, normalised, strict=True):
        words = line.split()
        spans = (words[i : i + n] for n in range(1, 8) for i in range(len(words) - n + 1))
        wanted = {" ".join(span) for span in spans if all(re.fullmatch("[a-z0-9]+", word) for word in span)}
        assert np.isin(phrases_of(wanted), phrases_of([text])).all(), text
        seen += len(wanted)
    assert seen > 3_000


def test_figures_with_a_part_of_the_table_are_those_with_the_whole(shared: Path):
    try:
        part, whole = Meteor(), Meteor()
    except MeteorError as reason:
        pytest.skip(f"METEOR cannot run here: {reason}")
    rows = json.loads((shared / "annotations" / "activitynet_captions" / "val_1.json").read_text("utf-8"))
    captions = [caption for row in rows.values() for caption in row["sentences"]]
    rng = random.Random(0)
    said, true = rng.choices(captions, k=800), [rng.choices(captions, k=2) for _ in range(800)]
    whole._rows = None
    with part, whole:
        mine = part.statistics(said, true)
        assert part._rows is not None and 0 < len(part._rows) < 100_000
        np.testing.assert_array_equal(mine, whole.statistics(said, true))
    assert (mine[:, 0] > 0).mean() > 0.9
