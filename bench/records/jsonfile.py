"""JSON in and out of files that strangers may have written: strict, bounded and never half-written.

Records and baselines travel by pull request. Everything read here is refused, in one line that names the
file, before a schema sees it: oversized, deeply nested, with repeated keys, or with numbers that JSON does
not have (NaN, Infinity). Most of a record is lists of numbers, which a schema alone can check, so that what a schema
does not see is looked for in the file without its digits; only where that finds something is the file read twice.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from bench.records.kinds import another_kind
from bench.records.structure import is_plain
from bench.records.text import without_mark

MAX_DEPTH = 16
MAX_VALUES = 10_000_000  # of one file; an honest one of 64 MiB, indented, holds seven million
MAX_OTHER_VALUES = 2_000_000  # of them, outside lists of numbers
MAX_NAMES = 20_000  # of one object
_MOST_LINKS = 40  # as Linux has it
_MAX_FAULTS = 100_000  # beyond, building them all to name the first takes seconds

# in files of verdicts (of gate and ab, in JUnit, of nightly and doctor), and in no record or baseline
_VERDICTS = (b'"family_error"', b'<testsuites name="performance"', b'"is_alarm"', b'"findings"')
_VERDICTS_WITHIN = 2**20
_NUMBERS = re.compile(r"\[[-+.0-9eE,\s]*\]")
_STRING = re.compile(r'"[^"]*"')  # without escaped quotes
_NO_BRACKETS = re.compile(r"[^\[\]{}]+")
_INNERMOST = re.compile(r"\[\]|\{\}")

ModelT = TypeVar("ModelT", bound=BaseModel)


def read_model(path: Path, model: type[ModelT], *, max_bytes: int) -> ModelT:
    """Read one model from a JSON file; a ValueError of one line names the file, the field and the fault."""
    raw = read_bounded(path, max_bytes)
    try:
        return parse_model(without_mark(raw), model)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_model(raw: bytes, model: type[ModelT]) -> ModelT:
    """One model from JSON text; a ValueError of one line names the field and the fault.

    The model must forbid fields that it does not know, NaN and infinities, and give what is free-form in it to
    `check_plain_json`.
    """
    looks_plain = _looks_plain(raw)
    if not looks_plain:
        _check_whole(raw)
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        if looks_plain:
            _check_whole(raw)  # what the text itself does wrong is said first
        raise ValueError(another_kind(raw, model) or first_fault(error)) from None


def _looks_plain(raw: bytes) -> bool:
    """Few values, no escapes, no repeated key, not deep: then the schema finds whatever else is wrong with the text."""
    is_small = len(raw) <= MAX_OTHER_VALUES or _values(raw) <= MAX_OTHER_VALUES
    return is_small and is_plain(raw, max_depth=MAX_DEPTH, max_names=MAX_NAMES)


def _check_whole(raw: bytes) -> None:
    try:
        check_json(raw)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else one_line(str(error))
        if "integer string conversion" in reason:  # Python's, which tells how to raise its limit
            reason = "holds an integer of more digits than any float has"
        raise ValueError(f"not a usable JSON file: {reason}") from None


def write_model(path: Path, model: BaseModel) -> None:
    """Write a model as indented JSON, atomically."""
    write_atomically(path, (model.model_dump_json(indent=1, by_alias=True) + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part; makes missing folders.

    A link stays, and its target is written. What is no regular file (/dev/null, a pipe), or is open here (/dev/stdout),
    is written to as it is: it is not to be replaced by a file.

    Raises:
        ValueError: the system does not let us; one line names the file, and how much room it needs.
    """
    try:
        if (descriptor := _own_descriptor(path)) is not None:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
        elif path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(content)
        else:
            _write_whole(path, content)
    except OSError as error:
        raise cannot_write(path, error, len(content)) from None


def discard(*paths: Path | None) -> None:
    """Remove the verdicts of an earlier run, before there is an answer: else a service would show them for this one's.

    Nothing else is removed: no link, and no file that does not look like verdicts.

    Raises:
        ValueError: the system does not let us.
    """
    for path in paths:
        try:
            if path is not None and path.is_file() and not path.is_symlink() and _holds_verdicts(path):
                path.unlink()
        except OSError as error:
            raise ValueError(f"{path}: cannot be replaced: {error.strerror or error}") from None


def _holds_verdicts(path: Path) -> bool:
    with path.open("rb") as stream:
        start = stream.read(_VERDICTS_WITHIN)
    return any(mark in start for mark in _VERDICTS)


def _own_descriptor(path: Path) -> int | None:
    """What this process holds open and a path such as /dev/stdout leads to, opened once more and to be closed: it is
    written where it stands, after what was printed, as opening its path would cut it."""
    for _ in range(_MOST_LINKS):
        if path.name.isdecimal() and os.path.realpath(path.parent) in ("/dev/fd", f"/proc/{os.getpid()}/fd"):
            if sys.stdout is not None:
                sys.stdout.flush()
            return os.dup(int(path.name))
        if not path.is_symlink():
            return None
        path = path.parent / os.readlink(path)
    return None


def _write_whole(path: Path, content: bytes) -> None:
    target = Path(os.path.realpath(path))
    if target.is_symlink():  # a circle of links has no target
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    # not tempfile's, which would stay closed to everybody else who may read the folder
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    with temporary.open("xb") as stream:
        try:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def append_whole(path: Path, content: bytes) -> None:
    """Put content at the end of a file, all of it or nothing; an OSError where the system does not let us."""
    is_new = not path.exists()
    descriptor = _own_descriptor(path)
    if descriptor is None:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    with os.fdopen(descriptor, "wb", buffering=0) as stream:
        size = os.fstat(descriptor).st_size
        try:
            rest = memoryview(content)
            while rest:  # the first write of a disk that fills up writes a part, the next one says why
                rest = rest[stream.write(rest) :]
            if path.is_file():
                os.fsync(descriptor)
        except OSError:
            if path.is_file():
                stream.truncate(size)
            if is_new:
                path.unlink(missing_ok=True)
            raise


def why_not(error: OSError) -> str:
    """The system's reason; where a file stands in the place of a folder, that."""
    if error.errno == errno.EEXIST and error.filename is not None:
        return f"{os.fsdecode(error.filename)} is no folder"
    return error.strerror or str(error)


def cannot_write(path: Path, error: OSError, needed_bytes: int) -> ValueError:
    """The refusal of a file that could not be written: where, why, and where room is short how much of it."""
    said = f"{path}: cannot be written: {why_not(error)}"
    if error.errno == errno.EFBIG:
        return ValueError(
            f"{said}; it needs {needed_bytes:,} bytes, more than this process may write into one file (ulimit -f)"
        )
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ValueError(said)
    there = next(each for each in path.absolute().parents if each.is_dir())
    free = shutil.disk_usage(there).free
    return ValueError(
        f"{said}; it needs {needed_bytes:,} bytes, {free:,} are free in {there}: free some, or choose another folder"
    )


def first_fault(error: ValidationError) -> str:
    """The first fault of a pydantic error as one line: the field's path, then what is wrong with it."""
    if error.error_count() > _MAX_FAULTS:
        return f"the file: {error.error_count():,} faults, too many to name one"
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(one_line(str(part)) for part in fault["loc"]) or "the file"
    message = one_line(fault["msg"].removeprefix("Value error, "))
    more = f" (and {error.error_count() - 1} more faults)" if error.error_count() > 1 else ""
    return f"{where}: {message}{more}"


def nonfinite_as_null(content: object) -> Any:
    """Plain data in which what is not a finite number is null, since JSON has none."""
    if isinstance(content, dict):
        return {key: nonfinite_as_null(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [nonfinite_as_null(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def check_plain_json(value: Any, *, max_depth: int = MAX_DEPTH, max_nodes: int = 20_000) -> None:
    """Refuse a free-form value that is not JSON, is too deep or large, or holds a NaN or an infinity."""
    nodes = 0
    pending = [(value, 1)]
    while pending:
        node, depth = pending.pop()
        nodes += 1
        if depth > max_depth:
            raise ValueError(f"nested deeper than {max_depth} levels")
        if nodes > max_nodes:
            raise ValueError(f"holds more than {max_nodes} values")
        pending.extend((child, depth + 1) for child in _children(node))


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        if not all(isinstance(key, str) for key in node):
            raise ValueError("holds a key that is not a string")
        return node.values()
    if isinstance(node, list | tuple):
        return node
    if node is not None and not isinstance(node, str | bool | int | float):
        raise ValueError(f"holds a {type(node).__name__}, which JSON does not have")
    if isinstance(node, float) and not math.isfinite(node):
        raise ValueError("holds a number that is not finite")
    if isinstance(node, int) and abs(node) > sys.float_info.max:
        raise ValueError("holds an integer that is larger than any float")
    return ()


def read_bounded(path: Path, max_bytes: int) -> bytes:
    try:
        # One byte more than allowed tells a full file from an oversized one without trusting its stated size.
        with path.open("rb") as stream:
            raw = stream.read(max_bytes + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(raw) > max_bytes:
        raise ValueError(f"{path}: larger than the {max_bytes // 2**20} MiB allowed")
    return raw


def check_json(raw: bytes) -> None:
    """Refuse repeated keys, NaN tokens, deep nesting and far too many values; numbers within lists are not looked at.

    Without backslashes two keys are equal where their texts are, so that emptying lists of numbers, also those within
    strings, hides no repeated key; what it makes up is looked up in the whole text.
    """
    _bound_values(raw, MAX_VALUES)
    text = raw.decode("utf-8")
    skeleton = _NUMBERS.sub("[]", text)
    _bound_values(skeleton.encode(), MAX_OTHER_VALUES)
    if "\\" in text:
        _check_text(text)
        return
    try:
        _check_text(skeleton)
    except _RepeatedKeyError:
        _check_text(text)


def _bound_values(raw: bytes, most: int) -> None:
    """Refuse too many values before any of them is built."""
    if _values(raw) > most:
        raise ValueError(f"holds more than {most:,} values")


def _values(raw: bytes) -> int:
    """At least as many as there are."""
    return sum(raw.count(sign) for sign in (b",", b"[", b"{"))


def _check_text(text: str) -> None:
    json.loads(text, parse_float=_finite, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    brackets = _NO_BRACKETS.sub("", _STRING.sub("", text.replace(r"\\", "").replace(r"\"", "")))
    for _ in range(MAX_DEPTH):
        brackets = _INNERMOST.sub("", brackets)
    if brackets:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError("holds a number that is not finite")
    return value


def _refuse_constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is not a JSON number")


class _RepeatedKeyError(ValueError):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_NAMES:
        raise ValueError(f"an object holds more than {MAX_NAMES:,} names")
    unique = dict(pairs)
    if len(unique) != len(pairs):
        times = Counter(name for name, _ in pairs)
        repeated = next(name for name, count in times.items() if count > 1)
        raise _RepeatedKeyError(f"the key {one_line(repeated)!r} is repeated")
    return unique


def one_line(message: str) -> str:
    """Whatever a file made an error say, on one printable line of bounded length."""
    printable = "".join(char if char.isprintable() else " " for char in message)
    return " ".join(printable.split())[:300]
