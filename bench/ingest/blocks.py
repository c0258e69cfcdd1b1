"""Find the few lines of a long log that are worth a look, without a look at the others.

A regular expression that tries a dozen words at every byte reads some 15 MB/s. Here each word is searched on its own
in a block of bytes, which is a library's own search and a hundred times as fast.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

MAX_LINE_BYTES = 64 * 2**10
_BLOCK = 2**20
# Words without which no line means anything here, by who writes them. Long ones are found faster than short ones.
_MEGATRON = (
    b".......... ",  # its arguments: at least eleven dots follow the names that are kept
    b"using world size",
    b"padded vocab (size",
    b" memory (",
    b"MaxMemAllocated=",
    b"GB         Max_MA ",  # as DeepSpeed spaces it
    b"kipping step",
    b"[Rank 0] step=",  # of DeepSpeed, before its count of skipped updates
)
_STARTS = b"starts at step"
_TORCHTITAN = (_STARTS, b"capacity: ", b"total parameters")
_NEMO = (b"step_timing in s",)
_COLOUR = rb"(?:\x1b?\[[0-9;]{0,20}m)?"
# These begin with a word too, so that they are as fast; the number after it leaves out what merely talks of steps.
_ITERATION = re.compile(rb"iteration:?" + _COLOUR + rb"[ \t]{1,40}" + _COLOUR + rb"\d{1,12}")
_STEP = re.compile(rb"step:" + _COLOUR + rb"[ \t]{0,40}" + _COLOUR + rb"\d{1,12}")


def words_of(form: str) -> tuple[bytes | re.Pattern[bytes], ...]:
    """What to look for: of all programs, until a training line told whose log this is.

    From then on another program is known by the line with which its job starts.
    """
    if form == "torchtitan":
        return (*_TORCHTITAN, _ITERATION, _STEP)
    if form == "Megatron":
        return (*_MEGATRON, _STARTS, _ITERATION)
    return (*_MEGATRON, *_TORCHTITAN, *_NEMO, _ITERATION, _STEP)


class Hash(Protocol):
    """What takes every byte that was read."""

    def update(self, data: bytes, /) -> object: ...


class Source(Protocol):
    """A file opened for reading bytes."""

    def read(self, size: int, /) -> bytes: ...


class Line(NamedTuple):
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
    words: Callable[[], tuple[bytes | re.Pattern[bytes], ...]]
    too_long: int = 0
    _number: int = 0  # lines that have ended
    _carry: bytes = b""  # a line that has not ended
    _half: bytes = b""  # a carriage return at a block's end, half of a line end, perhaps
    _oversized: bool = False

    @property
    def lines(self) -> int:
        return self._number + bool(self._carry or self._oversized)

    def worth_a_look(self) -> Iterator[Line]:
        """The lines in their order; what is longer than 64 KiB is counted and left out."""
        while block := self.stream.read(_BLOCK):
            self.digest.update(block)
            self.advanced(len(block))
            block = self._with_line_feeds(block)
            first, end = block.find(b"\n") + 1, block.rfind(b"\n") + 1
            if first:
                yield from self._end_line(block[: first - 1])
                yield from self._whole_lines(block, first, end)
            self._begin_line(block[end:])
        if self._half:
            yield from self._end_line(b"")
        elif self._is_worth(self._carry):
            yield Line(self._number + 1, self._carry, False)
        self.too_long += self._oversized

    def _with_line_feeds(self, block: bytes) -> bytes:
        if not self._half and b"\r" not in block:
            return block
        block = self._half + block
        self._half = b"\r" if block.endswith(b"\r") else b""
        return block[: len(block) - len(self._half)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _is_worth(self, line: bytes) -> bool:
        return not self._oversized and next(_hits(line, 0, len(line), self.words()), None) is not None

    def _begin_line(self, start: bytes) -> None:
        if not self._oversized:
            self._carry += start
        if len(self._carry) > MAX_LINE_BYTES:
            self._oversized, self._carry = True, b""

    def _end_line(self, rest: bytes) -> Iterator[Line]:
        self._begin_line(rest)
        self._number += 1
        if self._is_worth(self._carry):
            yield Line(self._number, self._carry, True)
        self.too_long += self._oversized
        self._oversized, self._carry = False, b""

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


def _hits(block: bytes, start: int, end: int, words: tuple[bytes | re.Pattern[bytes], ...]) -> Iterator[int]:
    """Where the lines begin that hold one of the words; a line may come more than once."""
    for word in words:
        at = _found(block, word, start, end)
        while at >= 0:
            yield max(start, block.rfind(b"\n", start, at) + 1)
            stop = block.find(b"\n", at, end)
            at = -1 if stop < 0 else _found(block, word, stop, end)


def _found(block: bytes, word: bytes | re.Pattern[bytes], start: int, end: int) -> int:
    if isinstance(word, bytes):
        return block.find(word, start, end)
    match = word.search(block, start, end)
    return -1 if match is None else match.start()


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
