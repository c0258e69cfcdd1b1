"""Text files as editors and spreadsheets save them: in UTF-8, with or without a byte order mark."""

from __future__ import annotations

_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
# which of the first four bytes are zero where such a file begins with two plain letters, and no mark
_ZEROS = {"-0-0": "UTF-16", "0-0-": "UTF-16", "-000": "UTF-32", "000-": "UTF-32"}


def without_mark(raw: bytes) -> bytes:
    """The bytes of a text in UTF-8, without the mark that some programs put first.

    Raises:
        ValueError: the text begins as one in another encoding.
    """
    marked = next((name for mark, name in _OTHER_MARKS if raw.startswith(mark)), None)
    zeros = "".join("-" if byte else "0" for byte in raw[:4])
    if other := marked or _ZEROS.get(zeros):
        raise ValueError(f"is text in {other}: save it as UTF-8")
    return raw.removeprefix(_MARK)


def utf8_text(raw: bytes) -> str:
    """The text of such a file.

    Raises:
        ValueError: it is in another encoding.
    """
    try:
        return without_mark(raw).decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"is no text in UTF-8 (line {line}): save it as UTF-8") from None
