"""``timeexpert data preflight`` on the command line: what it prints, the page, and its exit code."""

import argparse
import json
import re
from pathlib import Path

import pytest

from tests.data.media import question, write_lines, write_video
from tests.data.preflight.clips import black, moving, write_frames
from tests.reports.pages import is_alone, tags_of, text_of
from timeexpert.commands import data_build, data_preflight
from timeexpert.data.preflight.findings import KINDS
from timeexpert.errors import UserError

EVIL = "<script>alert(1)</script>"


def run(command, *argv: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_intermixed_args([str(arg) for arg in argv]))


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Two clips with a black stretch (one is black throughout), one without, and a text under a name of its own."""
    folder = tmp_path_factory.mktemp("media")
    write_frames(folder / "fade.mp4", [*moving(20), *black(15), *moving(20)])
    write_frames(folder / "night.mp4", black(15))
    write_video(folder / "good.mp4")
    (folder / "<b>text.mp4").write_text("no video here")
    return folder


def test_the_page_stands_alone_and_shows_what_was_found(media, tmp_path, capsys):
    rows = [question(f"{EVIL}{i}", video.name, 0, 9) for i, video in enumerate(sorted(media.iterdir()))]
    samples = write_lines(tmp_path / "s.jsonl", [*rows, "{}"])
    assert run(data_preflight, samples, "--media", media, "-o", tmp_path / "out", "--workers", 1) == 0
    out = capsys.readouterr().out
    assert re.search(r"clips\W+4\b", out) and re.search(r"left out \(exclude.jsonl\)\W+2\b", out)
    assert re.search(r"all_black\W+1\b", out) and re.search(r"past the end of their clip\W+3\b", out)
    page = (tmp_path / "out" / "preflight.html").read_text(encoding="utf-8")
    assert is_alone(page)
    tags = tags_of(page)
    assert (tags.count("svg"), tags.count("img"), tags.count("script")) == (2, 24, 0)
    assert "2.0 to 3.5 s of 5.5 s" in text_of(page) and "1 bad lines in the samples" in text_of(page)
    assert re.search(r"Clips left out \(2\).*text.mp4.*it is text.*night.mp4.*all_black", text_of(page))
    assert '<rect class="is-black" x="363.6" y="0" width="271.7"' in page  # 2.0 / 5.5 of 1000


def test_exclude_replaces_the_default_and_without_a_kind_leaves_only_the_unusable_out(media, tmp_path, capsys):
    def excluded(*flags: str) -> int:
        run(data_preflight, media, "-o", tmp_path / "out", "--json", "--workers", 1, *flags)
        return json.loads(capsys.readouterr().out)["excluded"]

    assert [excluded(), excluded("--exclude", "black", "all_black"), excluded("--exclude")] == [2, 3, 1]
    with pytest.raises(UserError, match="--exclude dark: no such kind"):
        excluded("--exclude", "dark")


def test_a_build_leaves_out_what_was_listed(media, tmp_path, capsys):
    samples = write_lines(tmp_path / "s.jsonl", [question("a", "good.mp4"), question("b", "night.mp4")])
    assert run(data_preflight, samples, "--media", media, "-o", tmp_path / "out", "--json", "--workers", 1) == 0
    arguments = (samples, "--media", media, "-o", tmp_path / "shards", "--json", "--workers", 1)
    assert run(data_build, *arguments, "--preflight", tmp_path / "out") == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["questions"], report["reasons"]) == (1, {"preflight": 1})


def test_help_and_guide_name_every_kind():
    guide = (Path(__file__).resolve().parents[2] / "docs/preflight.md").read_text(encoding="utf-8")
    for kind in KINDS:
        assert re.search(rf"\b{kind}\b", data_preflight.EPILOG) and f"| `{kind}` |" in guide


def test_a_folder_without_a_usable_clip_exits_1(tmp_path, capsys):
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "zero.mp4").touch()
    assert run(data_preflight, tmp_path / "media", "-o", tmp_path / "out", "--workers", 1) == 1
    assert re.search(r"unreadable\W+1\b", capsys.readouterr().out)
