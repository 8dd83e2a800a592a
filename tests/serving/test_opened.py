"""Files that are swapped between the check and the opening."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from timeexpert.serving import sources
from timeexpert.serving.limits import RequestError, ServingLimits
from timeexpert.serving.media import Decoder
from timeexpert.serving.opened import Identity, open_without_links

from ..data.media import write_video
from .conftest import Client, Servers, question
from .test_refusals import refused


def test_a_path_without_links_is_opened_and_one_with_a_link_is_not(tmp_path: Path) -> None:
    folder = tmp_path.resolve()
    (folder / "in").mkdir()
    (folder / "in" / "a.txt").write_text("inside")
    (folder / "link").symlink_to(folder / "in")
    (folder / "in" / "link.txt").symlink_to("a.txt")
    os.mkfifo(folder / "in" / "pipe")
    with open_without_links(folder / "in" / "a.txt") as file:
        assert file.read() == b"inside"
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for path in (folder / "link" / "a.txt", folder / "in" / "link.txt", folder / "in" / "pipe", folder / "in"):
        with pytest.raises(OSError):
            open_without_links(path)
    assert before is None or len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_a_link_that_is_put_in_place_after_the_check_is_not_followed(
    client: Client, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    secret = write_video(tmp_path / "secret" / "clip.mp4", num_frames=5)
    folder = video.parent / f"swapped-{swapped}"
    clip = write_video(folder / "deep" / "clip.mp4", num_frames=5)
    opened_files: list[Path] = []

    def swap_then_open(path: Path) -> object:
        """What an attacker with the folder at hand does at the worst moment."""
        if swapped == "file":
            clip.unlink()
            clip.symlink_to(secret)
        else:
            clip.parent.rename(folder / "away")
            (folder / "deep").symlink_to(secret.parent)
        file = open_without_links(path)
        opened_files.append(path)
        return file

    monkeypatch.setattr(sources, "open_without_links", swap_then_open)
    refused(client.ask(question(clip.as_uri())), 400, "file:// must name a file inside the folder of")
    assert not opened_files


@pytest.mark.parametrize("how", ["link", "other file", "other bytes"])
def test_a_file_that_is_swapped_before_it_is_decoded_is_refused(tmp_path: Path, how: str) -> None:
    path = write_video(tmp_path.resolve() / "clip.mp4", num_frames=5)
    other = write_video(tmp_path / "other.mp4", num_frames=6)
    with open_without_links(path) as file:
        checked = Identity.of(file)
    with Decoder(16, ServingLimits()) as decoder:
        assert decoder(path, 4, checked).duration_s == 1.0
        if how == "link":
            path.unlink()
            path.symlink_to(other)
        elif how == "other file":
            os.replace(other, path)
        else:
            path.write_bytes(other.read_bytes())
            os.utime(path, ns=(checked.mtime_ns, checked.mtime_ns))
        with pytest.raises(RequestError, match="changed meanwhile. Ask again|cannot be read"):
            decoder(path, 4, checked)


def test_a_file_that_changes_while_its_content_is_read_is_refused(
    client: Client, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_video(video.parent / "growing.mp4", num_frames=7)
    digest = sources.hashlib.file_digest

    def grow(file: object, name: str) -> object:
        with clip.open("ab") as end:
            end.write(b"more")
        return digest(file, name)  # type: ignore[arg-type]

    monkeypatch.setattr(sources.hashlib, "file_digest", grow)
    refused(client.ask(question(clip.as_uri())), 400, "the file is being written. Ask again when it is done.")
    monkeypatch.undo()
    assert client.ask(question(clip.as_uri())).status == 200


def test_a_sample_that_was_swapped_is_not_served(servers: Servers, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "samples" / "clip.mp4", num_frames=5)
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    own = servers.start({"samples": clip.parent})
    (row,) = own.send("GET", "/samples").body
    assert own.fetch("GET", f"/samples/{row['id']}/content")[0].status == 200
    clip.unlink()
    clip.symlink_to(secret)
    refused(own.send("GET", f"/samples/{row['id']}/content"), 404, "no such sample")
    refused(own.ask(question(row["id"])), 400, "video_url: cannot be read.")
