"""The entries of METEOR's table of paraphrases that given texts can use, found without reading the whole table.

The program reads 5.3 million entries at each start (three lines each: a number that it ignores, a phrase, another).
An entry changes an alignment only where both its phrases occur in the texts, so the program may start with those
entries alone, in the table's order: no figure changes. The first use writes the decoded table with an index of its
phrases into the user's cache folder (340 MB, under the checksum of the table); later uses read the index.

What decides is a superset, never a guess. A phrase is looked up by a hash, and two phrases with one hash keep an
entry too many. A phrase that holds anything but a-z, 0-9 and single blanks, or more than seven words, is always kept.
For the others only words of a-z and 0-9 count, after the program's normaliser (``-norm``): it lower-cases, sets every
other sign apart or leaves it on a word, which then is in no such phrase, and joins what it divides in one way, by
deleting the single full stops of an abbreviation ("u.s." becomes "us"; "..." divides). So here single stops are
deleted and all other signs divide: each phrase that the program can see is seen, and some that it cannot.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_FORMAT = 1
_MAX_WORDS = 7  # of a phrase in the published table
_ALWAYS = 0  # stands for the hash of every phrase that is kept whatever the texts hold
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_MIX = 0xBF58476D1CE4E5B9  # spreads short phrases over all bits
_BLOCK = 1 << 20
_TEXTS_AT_ONCE = 10_000
_TAIL = struct.Struct("<QQI4s")  # bytes of the table, entries, CRC-32 of the index, mark
_MARK = b"MPT1"
_DOTS = re.compile(r"\.\.+|(?:DOT)+MULTI")  # the program writes the latter for dots while it divides a text
_WORD = re.compile(r"[a-z0-9]+")
_KELVIN = "\u212a"  # the one sign beyond ASCII whose lower case is a letter of a-z; the program sets it apart first

Rows = NDArray[np.int64]


class TableError(Exception):
    """The table or its decoded copy cannot be used; the program has to read its own."""


class Paraphrases:
    """The decoded, indexed copy of ``table`` (METEOR's ``paraphrase-en.gz``); made where there is none.

    Raises :class:`TableError` where the table is not one, and where the copy is damaged or cannot be written.
    """

    def __init__(self, table: Path) -> None:
        try:
            with table.open("rb") as file:
                checksum = hashlib.file_digest(file, "sha256").hexdigest()
            self.path = cache_folder() / f"meteor-paraphrases-{checksum[:16]}-{_FORMAT}"
            if not self.path.exists():
                _write(table, self.path)
            data = np.memmap(self.path, dtype=np.uint8, mode="r")
        except (OSError, EOFError, zlib.error, ValueError, OverflowError, RuntimeError) as error:
            raise TableError(str(error)) from error
        if len(data) < _TAIL.size:
            raise self._damaged("it is cut off")
        size, entries, crc, mark = _TAIL.unpack(data[-_TAIL.size :].tobytes())
        if mark != _MARK or len(data) != size + 12 * entries + _TAIL.size:
            raise self._damaged("its end is not what was written")
        index = data[size : -_TAIL.size]
        if zlib.crc32(index.data) != crc:
            raise self._damaged("its index has another checksum")
        self._table = data[:size]
        self._begins, self._first, self._second = index.view(np.uint32).reshape(3, entries)

    def rows(self, texts: Collection[str]) -> Rows:
        """Places of the entries that the texts can use, ascending."""
        wanted = phrases_of(texts)
        near = np.zeros(1 << 24, dtype=bool)  # the first bits of a hash rule out most entries
        near[wanted >> 8] = True
        rows = np.flatnonzero(near[self._first >> 8])
        rows = rows[near[self._second[rows] >> 8]]
        return rows[np.isin(self._first[rows], wanted) & np.isin(self._second[rows], wanted)]

    def write(self, rows: Rows, to: Path) -> None:
        """Write the entries at ``rows`` as a table for the program. Raises :class:`TableError`, ``OSError``."""
        ends = np.append(self._begins, len(self._table))[rows + 1]
        spans = zip(self._begins[rows].tolist(), ends.tolist(), strict=True)
        text = b"".join(self._table[begin:end].tobytes() for begin, end in spans)
        whole = text.count(b"\n") == 3 * len(rows)
        if not whole or not np.array_equal(_index(text)[1:], [self._first[rows], self._second[rows]]):
            raise self._damaged("an entry is not what was indexed")
        with gzip.open(to, "wb", compresslevel=1) as file:
            file.write(text)

    def _damaged(self, how: str) -> TableError:
        return TableError(f"{self.path} is damaged ({how}); delete it and it is made again")


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/timeexpert``, by default ``~/.cache/timeexpert``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "timeexpert"


def phrases_of(texts: Collection[str]) -> NDArray[np.uint32]:
    """Hashes of every phrase of up to seven words that the program may see in the texts, ascending and distinct."""
    found = [np.array([_ALWAYS], dtype=np.uint32)]
    distinct = list(set(texts))
    for begin in range(0, len(distinct), _TEXTS_AT_ONCE):
        lines = (" ".join(_words(text)) for text in distinct[begin : begin + _TEXTS_AT_ONCE])
        data = np.frombuffer("".join(f"{line}\n" for line in lines).encode(), dtype=np.uint8)
        inside = data > ord(" ")
        edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
        begins, ends = edges[::2], edges[1::2]
        line = np.cumsum(data == ord("\n"))[begins]
        spans = []
        for n in range(min(_MAX_WORDS, len(begins))):
            one_line = line[n:] == line[: len(line) - n]
            spans.append(np.stack([begins[: len(begins) - n], ends[n:]])[:, one_line])
        found.append(_hashes(data, *np.concatenate(spans, axis=1)) if spans else found[0])
    return np.unique(np.concatenate(found))


def _words(text: str) -> list[str]:
    return _WORD.findall(_DOTS.sub(" ", text).replace(_KELVIN, " k ").lower().replace(".", ""))


def _write(table: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=to.parent, prefix=f"{to.name}-", delete=False) as file:
        try:
            size, index = 0, [np.zeros((3, 0), dtype=np.uint32)]
            for block in _blocks(table):
                file.write(block)
                index.append(_index(block) + np.array([[size], [0], [0]], dtype=np.uint32))
                size += len(block)
            columns = np.concatenate(index, axis=1).tobytes()
            file.write(columns)
            file.write(_TAIL.pack(size, sum(part.shape[1] for part in index), zlib.crc32(columns), _MARK))
            file.close()
            os.replace(file.name, to)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _blocks(table: Path) -> Iterator[bytes]:
    """The decoded table in pieces of whole entries. Raises ``ValueError`` where it does not end with one."""
    rest = b""
    with gzip.open(table, "rb") as file:
        while block := file.read(_BLOCK):
            lines = (rest + block).split(b"\n")
            whole = (len(lines) - 1) // 3 * 3
            rest = b"\n".join(lines[whole:])
            if whole:
                yield b"\n".join(lines[:whole]) + b"\n"
    if rest:
        raise ValueError(f"{table} does not end with a whole entry of three lines")


def _index(entries: bytes) -> NDArray[np.uint32]:
    """For each entry where it begins and the hashes of its two phrases, [3, entries]."""
    data = np.frombuffer(entries, dtype=np.uint8)
    ends = np.flatnonzero(data == ord("\n")).reshape(-1, 3).T
    begins = np.append(0, ends[2] + 1)[:-1]
    return np.concatenate([begins.astype(np.uint32)[None], _hashes(data, ends[:2] + 1, ends[1:])])


@lru_cache(maxsize=1)
def _powers(bits: int) -> NDArray[np.uint64]:
    """2**bits powers of the base and of its inverse modulo 2**64, [2, 2**bits]."""
    powers = np.array([[_BASE], [pow(_BASE, -1, 1 << 64)]], dtype=np.uint64).repeat(1 << bits, axis=1)
    powers[:, 0] = 1
    return np.cumprod(powers, axis=1, dtype=np.uint64)


def _hashes(data: NDArray[np.uint8], begins: Rows, ends: Rows) -> NDArray[np.uint32]:
    """A polynomial hash of each span of bytes; ``_ALWAYS`` for spans that are kept in any case."""
    up, down = _powers(len(data).bit_length())
    sums = np.zeros(len(data) + 1, dtype=np.uint64)
    np.cumsum(data * up[: len(data)], out=sums[1:])
    hashes = (sums[ends] - sums[begins]) * down[begins]
    hashes = ((hashes ^ hashes >> np.uint64(29)) * np.uint64(_MIX) >> np.uint64(32)).astype(np.uint32)
    blank = data == ord(" ")
    plain = ((data >= ord("a")) & (data <= ord("z"))) | ((data >= ord("0")) & (data <= ord("9")))
    lone = np.zeros(len(data), dtype=bool)  # blanks between two words
    lone[1:-1] = blank[1:-1] & plain[:-2] & plain[2:]
    odd, blanks = (np.append(0, np.cumsum(signs, dtype=np.int32)) for signs in (~(plain | lone), blank))
    kept = (odd[ends] > odd[begins]) | (blanks[ends] - blanks[begins] >= _MAX_WORDS) | (begins == ends)
    return np.where(kept, np.uint32(_ALWAYS), hashes)
