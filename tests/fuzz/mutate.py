"""Bends inputs: bytes of any kind, and what a mutation of bytes rarely survives (JSON, TOML, archives, headers)."""

from __future__ import annotations

import copy
import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

Bend = Callable[[bytes, Random], bytes]

# What must never reach a terminal, a report or a message as it is.
HOSTILE_TEXTS = (
    "\x1b[31mred\x1b]0;title\x07", "\x07", "\x9b31m", "\x7f", "\x00", "\n", "a\r\nbench: all is well", "\t", "\x0b\x0c",
    "\u202etxt.exe", "\u2066x\u2069", "\u200b", "\ufeff", "\u2028", "\u2029", "\x85", "\ud800", "\udfff", "\udc80x",
    "\U000e0001", "\ue000", "<script>alert(1)</script>", "[x](javascript:x)", "|", "`", "![](http://x)", "{0}", "%s%n",
    "../../escape", "/etc/passwd", "C:\\x", "-", "--", "", " ", ".", "..", "x" * 300, "x" * 70_000, "é" * 200,
    "٣", "²", "1_000", "nan", "inf", "__class__", "$(touch escape)", "; touch escape",
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 127, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64,
    -(2**63), 10**30, 10**400, -(10**400), 0.0, -0.0, 5e-324, 1e-30, 0.1, 1e7, 1e30, 1e308, -1e308,
    float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, [], {}, [[]], [[[[[[]]]]]], {"": None}, [None] * 300, *HOSTILE_TEXTS, *NUMBERS
)  # fmt: skip
_TOKENS = (
    b"NaN", b"-", b"1e999", b"0" * 40, b"9" * 5000, b'"', b"'", b"\\", b"\\ud800", b"\xff", b"\xfe\xff", b"\x00",
    b"[" * 200_000, b"{", b"}", b"]", b",", b"=", b".", b"\n", b"\r\n", b"\x1b[2J", b"\xef\xbb\xbf", b"\xe2\x80\xae",
    b"\xed\xa0\x80", b"a." * 2000, b" " * 5000, b"1:" * 2000,
)  # fmt: skip


def bend_bytes(raw: bytes, random: Random) -> bytes:
    """One to four changes of bytes: flipped, cut off, lost, repeated, put in, or an integer made odd."""
    content = bytearray(raw)
    for _ in range(random.choice((1, 1, 2, 4))):
        start = random.randrange(len(content) + 1)
        length = random.choice((1, 2, 4, 8, 64, 1000))
        how = random.randrange(7)
        if how == 0 and content:
            content[start % len(content)] ^= 1 << random.randrange(8)
        elif how == 1:
            del content[start:]
        elif how == 2:
            del content[start : start + length]
        elif how == 3:
            content[start:start] = content[start : start + length]
        elif how == 4:
            content[start:start] = random.choice(_TOKENS)
        elif how == 5:
            content[start : start + length] = random.randbytes(length)
        else:
            content[start:start] = random.choice(HOSTILE_TEXTS).encode("utf-8", "surrogatepass")
    return bytes(content)


def bend_json(raw: bytes, random: Random) -> bytes:
    """One to four values or names of a JSON text replaced, removed or repeated."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return bend_bytes(raw, random)
    for _ in range(random.choice((1, 1, 2, 4))):
        content = _bend_value(content, random)
    return json.dumps(content, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")


def bend_json_lines(raw: bytes, random: Random) -> bytes:
    """One line bent as JSON, or lines repeated, lost or in another order."""
    lines = raw.splitlines(keepends=True) or [b""]
    place = random.randrange(len(lines))
    how = random.randrange(4)
    if how == 0:
        lines[place:place] = [random.choice(lines)]
    elif how == 1:
        random.shuffle(lines)
    else:
        lines[place] = bend_json(lines[place].strip(), random) + b"\n"
    return b"".join(lines)


def _bend_value(content: Any, random: Random) -> Any:
    places = list(_places(content))
    if not places:
        return copy.deepcopy(random.choice(ODD_VALUES))
    node, key = random.choice(places)
    how = random.randrange(8)
    if how == 0:
        del node[key]
    elif how == 1 and isinstance(node, dict):
        node[random.choice(HOSTILE_TEXTS)] = node.pop(key)
    elif how == 1:
        node.extend(copy.deepcopy(node[: 10_000 // len(node)]))
    elif how == 2:
        node[key] = copy.deepcopy(random.choice(places)[0])
    elif how == 3 and isinstance(node[key], int | float):
        node[key] = random.choice(NUMBERS)
    else:
        node[key] = copy.deepcopy(random.choice(ODD_VALUES))
    return content


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys or indices."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(node, dict):
        pairs = list(node.items())
    elif isinstance(node, list):
        pairs = list(enumerate(node[:500]))
    for key, child in pairs:
        yield node, key
        yield from _places(child)


def bend_toml(raw: bytes, random: Random) -> bytes:
    """A line's key or value replaced, lines moved, or bytes bent."""
    lines = raw.decode("utf-8", "replace").split("\n")
    place = random.randrange(len(lines))
    key, separator, _ = lines[place].partition("=")
    how = random.randrange(5)
    if how == 0:
        return bend_bytes(raw, random)
    if how == 1:
        lines[place:place] = [random.choice(lines)]
    elif how == 2:
        lines[place] = f"{json.dumps(random.choice(HOSTILE_TEXTS), ensure_ascii=False)} = 1"
    elif separator:
        lines[place] = f"{key}= {_toml_value(random)}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _toml_value(random: Random) -> str:
    value = random.choice((*ODD_VALUES, "1979-05-27", "07:32:00"))
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=random.random() < 0.5)
    return json.dumps(value).replace("null", "{}").replace("Infinity", "inf").replace("NaN", "nan")


def bend_words(raw: bytes, random: Random) -> bytes:
    """A word of a text replaced by an odd one; bytes bent."""
    if random.random() < 0.3:
        return bend_bytes(raw, random)
    words = raw.decode("utf-8", "replace").split(" ")
    for _ in range(random.choice((1, 1, 3))):
        words[random.randrange(len(words))] = str(random.choice((*HOSTILE_TEXTS, *map(str, NUMBERS[:20]))))
    return " ".join(words).encode("utf-8", "surrogatepass")


def bend_zip(raw: bytes, random: Random) -> bytes:
    """Members of an archive bent, renamed, repeated, dropped, or said to be larger than they are."""
    if random.random() < 0.25:
        return bend_bytes(raw, random)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError):
        return bend_bytes(raw, random)
    if not members:
        return bend_bytes(raw, random)
    place = random.randrange(len(members))
    name, content = members[place]
    how = random.randrange(6)
    if how == 0:
        del members[place]
    elif how == 1:
        members[place] = (random.choice(HOSTILE_TEXTS).replace("\x00", "") + random.choice((".npy", "")), content)
    elif how == 2:
        members.append((name, random.choice(members)[1]))
    else:
        members[place] = (name, bend_npy(content, random))
    return _zipped(members, random)


def _zipped(members: Sequence[tuple[str, bytes]], random: Random) -> bytes:
    packed = io.BytesIO()
    method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w", method) as archive:
        warnings.simplefilter("ignore")  # names may repeat
        for name, content in members:
            archive.writestr(name.encode("utf-8", "replace").decode()[:10_000] or "_", content)  # zipfile wants a name
    return packed.getvalue()


_NPY_HEADERS = (
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (-1,)}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2), 'x\\x1b[31m': 1}",
    "{'descr': [('a\\u202e', '<f4')], 'fortran_order': False, 'shape': ()}",
    "{'descr': '<U1000000000', 'fortran_order': False, 'shape': ()}",
    "__import__('os').system('touch escape')",
    "(" * 500,
)


def bend_npy(raw: bytes, random: Random) -> bytes:
    """A .npy's header replaced by an odd one, or its bytes bent."""
    if random.random() < 0.5 or len(raw) < 10 or not raw.startswith(b"\x93NUMPY"):
        return bend_bytes(raw, random)
    size = struct.unpack_from("<H", raw, 8)[0]
    header = random.choice((random.choice(_NPY_HEADERS).encode(), bend_words(raw[10 : 10 + size], random)))[:60_000]
    return raw[:8] + struct.pack("<H", len(header)) + header + raw[10 + size :]


def bend_safetensors(raw: bytes, random: Random) -> bytes:
    """The JSON header bent, with a length that fits, or bytes bent."""
    if random.random() < 0.3 or len(raw) < 8:
        return bend_bytes(raw, random)
    size = struct.unpack_from("<Q", raw)[0]
    header = bend_json(raw[8 : 8 + size], random)
    length = len(header) if random.random() < 0.9 else random.choice((0, 1, 2**31, 2**63, 2**64 - 1))
    return struct.pack("<Q", length) + header + raw[8 + size :]


def bend_integers(raw: bytes, random: Random) -> bytes:
    """An integer of a binary header replaced by an odd one, or bytes bent."""
    if random.random() < 0.3 or not raw:
        return bend_bytes(raw, random)
    content = bytearray(raw)
    width, place = random.choice((1, 4, 8)), random.randrange(min(len(content), 80))
    value = random.choice([each for each in NUMBERS if isinstance(each, int) and abs(each) <= 2**64])
    content[place : place + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(content)
