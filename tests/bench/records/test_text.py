"""Text in UTF-8 is read with or without its mark, other encodings are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.records.record import Record
from bench.records.text import utf8_text, without_mark
from bench.synthetic import build_synthetic_record

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


def test_a_record_is_read_with_its_mark_and_in_another_encoding_named(tmp_path: Path) -> None:
    record, path = build_synthetic_record(steps=12), tmp_path / "record.json"
    record.write(path)
    text = path.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8-sig")
    assert Record.read(path) == record
    path.write_text(text, encoding="utf-16")
    with pytest.raises(ValueError, match=r"record\.json: is text in UTF-16: save it as UTF-8"):
        Record.read(path)
