"""Text in UTF-8 is read with or without its mark, other encodings are named; both readers of the house agree."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.records import text as harness
from grok1.config import text as grok1

TEXT = 'name = "x"\n# größer\n'


@pytest.mark.parametrize("read", [harness.utf8_text, grok1.utf8_text])
@pytest.mark.parametrize("content", [TEXT, "", "a", "ab"])
def test_a_mark_is_no_part_of_the_text(read: Callable[[bytes], str], content: str) -> None:
    assert read(content.encode()) == read(content.encode("utf-8-sig")) == content


@pytest.mark.parametrize("read", [harness.utf8_text, grok1.utf8_text, harness.without_mark])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_another_encoding_is_named_with_the_remedy(read: Callable[[bytes], object], encoding: str) -> None:
    with pytest.raises(ValueError, match=rf"is text in {encoding[:6].upper()}: save it as UTF-8"):
        read(TEXT.encode(encoding))


@pytest.mark.parametrize("read", [harness.utf8_text, grok1.utf8_text])
def test_what_is_no_utf_8_is_named_with_its_line(read: Callable[[bytes], str]) -> None:
    with pytest.raises(ValueError, match=r"is no text in UTF-8 \(line 2\): save it as UTF-8"):
        read(TEXT.encode("latin-1"))


def said(read: Callable[[bytes], str], raw: bytes) -> str:
    try:
        return read(raw)
    except ValueError as error:
        return f"refused: {error}"


@given(st.binary(max_size=12))
@example(b"\xef\xbb\xbf\xff")
@example(b"\x00\x00\xfe\xff")
def test_both_readers_say_the_same(raw: bytes) -> None:
    assert said(harness.utf8_text, raw) == said(grok1.utf8_text, raw)
