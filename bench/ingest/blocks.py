"""Find the few lines of a long log that are worth a look, without a look at the others.

A regular expression that tries a dozen words at every byte reads some 15 MB/s. Here each word is searched on its own
in a block of bytes, which is a library's own search and a hundred times as fast.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

MAX_LINE_BYTES = 64 * 2**10
_BLOCK = 2**20
# Words without which no line means anything here, by who writes them. Long ones are found faster than short ones.
_MEGATRON = (
    b".......... ",  # its arguments: at least eleven dots follow the names that are kept
    b"using world size",
    b"padded vocab (size",
    b" memory (",
    b"MaxMemAllocated=",
    b" Max_MA ",
    b"kipping step",
    b", skipped=",
)
_TORCHTITAN = (b"starts at step", b"capacity: ", b"total parameters")
_NEMO = (b"step_timing in s",)
_COLOUR = rb"(?:\x1b?\[[0-9;]{0,20}m)?"
# These begin with a word too, so that they are as fast; the number after it leaves out what merely talks of steps.
_PATTERNS = (
    re.compile(rb"iteration:?" + _COLOUR + rb"[ \t]{1,40}" + _COLOUR + rb"\d{1,12}"),
    re.compile(rb"step:" + _COLOUR + rb"[ \t]{0,40}" + _COLOUR + rb"\d{1,12}"),
)


def words_of(form: str) -> tuple[bytes, ...]:
    """The words to look for; of all programs until a training line told whose log this is."""
    if form == "torchtitan":
        return _TORCHTITAN
    return _MEGATRON if form == "Megatron" else _MEGATRON + _TORCHTITAN + _NEMO


class Hash(Protocol):
    """What takes every byte that was read."""

    def update(self, data: bytes, /) -> object: ...


class Source(Protocol):
    """A file opened for reading bytes."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Line:
    """One line worth a look, from 1, and whether a line end followed it."""

    number: int
    raw: bytes
    ended: bool


@dataclass
class Blocks:
    """Reads one file. Carriage returns end a line; memory is bounded whatever the lines' length."""

    stream: Source
    digest: Hash
    advanced: Callable[[int], None]
    words: Callable[[], tuple[bytes, ...]]
    too_long: int = 0
    _number: int = 0  # lines before this block
    _carry: bytes = b""  # a line that has not ended
    _oversized: bool = field(default=False)

    @property
    def lines(self) -> int:
        return self._number + bool(self._carry or self._oversized)

    def worth_a_look(self) -> Iterator[Line]:
        """The lines in their order; what is longer than 64 KiB is counted and left out."""
        while block := self.stream.read(_BLOCK):
            self.digest.update(block)
            self.advanced(len(block))
            yield from self._of_block(self._carry + block)
        last = self._carry.rstrip(b"\r")
        if not self._oversized and next(_hits(last, 0, len(last), self.words()), None) is not None:
            yield Line(self._number + 1, last, last != self._carry)
        self.too_long += self._oversized

    def _of_block(self, block: bytes) -> Iterator[Line]:
        half = b""
        if b"\r" in block:
            half = b"\r" if block.endswith(b"\r") else b""  # half of \r\n, perhaps
            block = block[: len(block) - len(half)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        end = block.rfind(b"\n") + 1
        start = 0
        if self._oversized and end:
            start = block.find(b"\n") + 1
            self._oversized = False
            self._number += 1
            self.too_long += 1
        if end:
            yield from self._whole_lines(block, start, end)
        rest = b"" if self._oversized else block[end:]
        if len(rest) > MAX_LINE_BYTES:
            self._oversized, rest = True, b""
        self._carry = rest + half

    def _whole_lines(self, block: bytes, start: int, end: int) -> Iterator[Line]:
        self.too_long += _count_long(block, start, end)
        at = start
        for begin in sorted(set(_hits(block, start, end, self.words()))):
            self._number += block.count(b"\n", at, begin)
            at = begin
            stop = block.find(b"\n", begin, end)
            if stop - begin <= MAX_LINE_BYTES:
                yield Line(self._number + 1, block[begin:stop], True)
        self._number += block.count(b"\n", at, end)


def _hits(block: bytes, start: int, end: int, words: tuple[bytes, ...]) -> Iterator[int]:
    """Where the lines begin that hold one of the words; a line may come more than once."""
    for word in words:
        at = block.find(word, start, end)
        while at >= 0:
            yield max(start, block.rfind(b"\n", start, at) + 1)
            at = _after_line(block, word, at, end)
    for pattern in _PATTERNS:
        found = pattern.search(block, start, end)
        while found:
            yield max(start, block.rfind(b"\n", start, found.start()) + 1)
            stop = block.find(b"\n", found.end() - 1, end)
            found = None if stop < 0 else pattern.search(block, stop, end)


def _after_line(block: bytes, word: bytes, at: int, end: int) -> int:
    stop = block.find(b"\n", at, end)
    return -1 if stop < 0 else block.find(word, stop, end)


def _count_long(block: bytes, start: int, end: int) -> int:
    """How many lines are too long, found by jumps of the longest allowed length."""
    found, at = 0, start
    while at < end:
        last = block.rfind(b"\n", at, at + MAX_LINE_BYTES + 1)
        if last < 0 or last >= end:
            last = block.find(b"\n", at, end)
            found += last - at > MAX_LINE_BYTES
        at = last + 1
    return found
