"""Text in UTF-8 is read with or without its mark, other encodings are named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.records.text import utf8_text, without_mark

TEXT = 'name = "x"\n# größer\n'


@pytest.mark.parametrize("content", [TEXT, "", "a", "ab"])
def test_a_mark_is_no_part_of_the_text(content: str) -> None:
    assert utf8_text(content.encode()) == utf8_text(content.encode("utf-8-sig")) == content


@pytest.mark.parametrize("read", [utf8_text, without_mark])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_another_encoding_is_named_with_the_remedy(read: Callable[[bytes], object], encoding: str) -> None:
    with pytest.raises(ValueError, match=rf"is text in {encoding[:6].upper()}: save it as UTF-8"):
        read(TEXT.encode(encoding))


def test_what_is_no_utf_8_is_named_with_its_line() -> None:
    with pytest.raises(ValueError, match=r"is no text in UTF-8 \(line 2\): save it as UTF-8"):
        utf8_text(TEXT.encode("latin-1"))
