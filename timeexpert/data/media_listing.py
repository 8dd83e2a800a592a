"""Which of millions of named videos lie in a media folder: each folder is listed once, and no file is opened.

Paths are kept as 8-byte hashes, two per file and one per named video; two different paths of ten million share one with
a chance of about 3 in a million.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

HASH = np.dtype("<u8")
_NONE = np.empty(0, HASH)


def path_hashes(paths: Sequence[str]) -> np.ndarray:
    """Hashes (uint64, one each) of relative POSIX paths."""
    data = b"".join(blake2b(p.encode("utf-8", "surrogatepass"), digest_size=HASH.itemsize).digest() for p in paths)
    return np.frombuffer(data, HASH)


def stems(paths: Sequence[str]) -> list[str]:
    """The paths without the endings of their file names."""
    return [os.path.splitext(path)[0] for path in paths]


def is_in(hashes: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """For each hash whether it is in ``ordered``, which is sorted."""
    if not len(ordered):
        return np.zeros(len(hashes), bool)
    return ordered[np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)] == hashes


@dataclass(frozen=True, eq=False)
class MediaListing:
    """The files of a folder: sorted hashes of their paths and of their paths without ending.

    ``outside``: links that lead out of the folder, which builds refuse; ``problems``: folders that cannot be listed.
    """

    files: np.ndarray = field(default_factory=lambda: _NONE)
    file_stems: np.ndarray = field(default_factory=lambda: _NONE)
    outside: int = 0
    problems: tuple[str, ...] = ()


def list_media(folder: Path, batch: int = 65536) -> MediaListing:
    """All files below ``folder``; nothing where there is no such folder."""
    if not folder.is_dir():
        return MediaListing()
    root = os.path.realpath(folder)
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([_NONE], [_NONE])
    names: list[str] = []
    outside, problems, todo = 0, list[str](), [""]

    def flush() -> None:
        parts[0].append(path_hashes(names))
        parts[1].append(path_hashes(stems(names)))
        names.clear()

    while todo:
        below = todo.pop()
        try:
            with os.scandir(os.path.join(root, below)) as entries:
                for entry in entries:
                    name = below + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(name + "/")
                    elif not entry.is_symlink():
                        names.append(name)
                    elif not os.path.realpath(entry.path).startswith(os.path.join(root, "")):
                        outside += 1
                    elif entry.is_file():
                        names.append(name)
                    if len(names) >= batch:
                        flush()
        except OSError as error:
            problems.append(f"{os.path.join(root, below)}: {error.strerror or error}")
    flush()
    return MediaListing(np.sort(np.concatenate(parts[0])), np.sort(np.concatenate(parts[1])), outside, tuple(problems))


class DistinctHashes:
    """A growing set of hashes, 8 bytes each."""

    RECENT = 16  # small sorted parts are joined with the large one when there are so many

    def __init__(self) -> None:
        self._parts = [_NONE]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def add(self, hashes: np.ndarray) -> np.ndarray:
        """Positions in ``hashes`` of those that are new, in order; they are added."""
        _, first = np.unique(hashes, return_index=True)
        first = np.sort(first)
        for part in self._parts:
            first = first[~is_in(hashes[first], part)]
        if len(first):
            self._parts.append(np.sort(hashes[first]))
        if len(self._parts) > self.RECENT:
            self._parts = [np.sort(np.concatenate(self._parts))]
        return first
