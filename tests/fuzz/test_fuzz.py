"""The fuzzer sees each kind of fault, and finds none in any parser: a minute of it here, an hour by a command."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import urllib.parse
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import run
from tests.fuzz.guard import ROOT
from tests.fuzz.mutate import bend_bytes
from tests.fuzz.run import Budget, fuzz, read_once
from tests.fuzz.targets import Target, all_targets, paired, parted

INPUTS = 8_000  # of all targets together; more are for the long run
HIDDEN = "\x1b[31m\u202e\x9b"  # colours, turns the text round, and one more way to start a command


def planted(read: Callable[[bytes, Path], str]) -> Target:
    return Target("planted", lambda: [b"good"], lambda raw, random: b"bad", read)


def only_bad(act: Callable[[Path], object]) -> Target:
    """A parser that is right about its seed and wrong about everything else."""
    return planted(lambda raw, folder: "" if raw == b"good" else str(act(folder) or ""))


def fail(message: str) -> None:
    from bench.ingest.make import key_values

    key_values([message])


NOTHING: dict[str, str] = {}
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "an error that is no refusal": (lambda folder: NOTHING["x"], "KeyError at nowhere of ours"),
    "a library's refusal": (lambda folder: json.loads("{"), "JSONDecodeError"),
    "an error of the standard library's": (lambda folder: urllib.parse.urlsplit("http://[x"), "a library's ValueError"),
    "bytes that are no text": (lambda folder: b"\xff".decode(), "UnicodeDecodeError"),
    "a bomb": (lambda folder: bytearray(3 << 30), "MemoryError"),
    "a pattern that never ends": (lambda folder: re.fullmatch(r"(a|a)*b", "a" * 60), "takes longer than"),
    "an end without a word": (lambda folder: os.kill(os.getpid(), signal.SIGSEGV), r"ends the process \(signal 11\)"),
    "a file elsewhere": (lambda folder: (folder.parents[1] / "out").write_text("x"), "writes outside its folder: open"),
    "a folder elsewhere": (
        lambda folder: (folder.parents[1] / "x").mkdir(exist_ok=True),
        r"writes outside its folder: os\.mkdir",
    ),
    "a command": (lambda folder: os.system("true"), r"runs something: os\.system"),
    "a text that steers the terminal": (lambda folder: HIDDEN, "shows '.x1b' as it is"),
    "a print that steers the terminal": (
        lambda folder: os.write(1, HIDDEN.encode()) and None,
        "prints: shows '.x1b' as it is",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "MOST_SECONDS", 0.3)
    act, what = FAULTS[name]
    _, findings = fuzz(only_bad(act), Budget(2, 30.0), tmp_path / "findings")
    assert len(findings) == 1, findings
    assert re.search(what, findings[0].what)
    [kept] = (tmp_path / "findings").glob("*.input")
    assert kept.read_bytes() == b"bad"


@pytest.mark.parametrize("message", ["x" * 30_000, HIDDEN, "\ud800"])
def test_our_own_refusal_is_no_fault(message: str, tmp_path: Path) -> None:
    assert read_once(only_bad(lambda folder: fail(message)), b"bad", tmp_path / "one") is None


def test_a_refusal_of_ours_that_is_not_printable_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.ingest.make.plain", lambda text: HIDDEN)
    found = read_once(only_bad(lambda folder: fail("x")), b"bad", tmp_path / "one")
    assert found is not None
    assert found.what == "a message that is not one printable line at bench/ingest/make.py key_values"


def test_the_same_seed_bends_in_the_same_way() -> None:
    assert [bend_bytes(b"some text", Random(5)) for _ in range(2)] == [bend_bytes(b"some text", Random(5))] * 2
    assert len({bend_bytes(b"some text", Random(seed)) for seed in range(50)}) > 30


@pytest.mark.parametrize("name", all_targets())
def test_a_valid_input_of_each_parser_is_read(name: str, tmp_path: Path) -> None:
    target = all_targets()[name]
    reasons = []
    for number, raw in enumerate(target.seeds()):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            assert isinstance(target.read(raw, folder), str)
        except ValueError as error:
            reasons.append(str(error))
        else:
            return
    pytest.fail(f"no seed of {name} is read: {reasons}")


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_minute_of_bent_inputs_finds_nothing(tmp_path: Path) -> None:
    """By a number of inputs and with one seed, so that what CI says of a commit depends on the commit alone."""
    words = ["--inputs", str(INPUTS), "--seed", "0", "--seconds", "3000", "--findings", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.count(" inputs ") == len(all_targets())


# ---- what it found, each in its smallest form ------------------------------------------------------------------


def _seed(name: str, old: bytes, new: bytes) -> bytes:
    raw = all_targets()[name].seeds()[0]
    assert old in raw
    return raw.replace(old, new)


def _parquet(column: str) -> bytes:
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({column: ["x"]}), sink)
    return bytes(sink.getvalue().to_pybytes())


def _header(words: str) -> bytes:
    """A dump whose tokens' header is these words."""
    first, second = parted(all_targets()["npz"].seeds()[0])
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["tokens.npy"] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(words)) + words.encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return paired(packed.getvalue(), second)


FOUND: dict[str, tuple[str, Callable[[], bytes]]] = {
    "names of columns that steer the terminal, in JSON": ("jsonl", lambda: json.dumps({HIDDEN: 1}).encode()),
    "half a surrogate pair as a name": ("jsonl", lambda: b'{"\\ud800": 1}'),
    "a column's name of 70,000 letters": ("jsonl", lambda: json.dumps({"x" * 70_000: 1}).encode()),
    "names of columns that steer the terminal, in parquet": ("parquet", lambda: _parquet(HIDDEN)),
    "an override of 70,000 letters": ("override", lambda: b"x" * 70_000),
    "a recipe's name of 70,000 letters": ("recipe-name", lambda: b"x" * 70_000),
    "a step of 5,000 digits": ("profile", lambda: b"9" * 5_000),
    "a version of 70,000 letters": ("key-values", lambda: b"x" * 70_000),
    "a device's name in a log": ("log", lambda: _log_of_device(HIDDEN)),
    "a device of 70,000 letters": ("environment", lambda: b"GROK1_DEVICE=" + b"x" * 70_000),
    "a file's name of 300 letters": ("manifest", lambda: _manifest_of("x" * 300)),
    "a class whose name steers the terminal": ("metadata", lambda: f"cos\n{HIDDEN}\n.".encode()),
    "a class's name of 70,000 letters": ("metadata", lambda: b"cos\n" + b"x" * 70_000 + b"\n."),
    "an array of no bytes": ("sample-index", lambda: paired(b"", b"")),
    "a name in a ledger": ("ledger", lambda: _seed("ledger", b'"grok1-nano"', b'"\\u001b[31m"')),
    "a header that opens brackets": ("npz", lambda: _header("{'descr': '<i8', 'shape': (1, 2")),
    "a tokenizer without the piece for unknown words": (
        "tokenizer",
        lambda: _seed("tokenizer", b'"[UNK]": 1, ', b"").replace(b'"one": 2', b'"one": 1').replace(b": 3}", b": 2}"),
    ),
    "an option of a tokenizer that it does not know": (
        "tokenizer",
        lambda: _seed("tokenizer", b'{"tokenizer_class"', b'{"added_tokens_decoder": {"0": {"content": "[EOS]", '
                      b'"\\u001b[31m": 1}}, "tokenizer_class"'),
    ),
}  # fmt: skip


def _manifest_of(name: str) -> bytes:
    from grok1.weights.manifest import FileSum, Manifest

    return Manifest(step=1, recipe_hash="", files={name: FileSum(bytes=1, xxh3_128="0" * 32)}).text().encode()


def _log_of_device(name: str) -> bytes:
    return all_targets()["log"].seeds()[1].replace(b"NVIDIA H100", f"NVIDIA {name}".encode())


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_stays_mended(name: str, tmp_path: Path) -> None:
    target, raw = FOUND[name]
    assert read_once(all_targets()[target], raw(), tmp_path / "one") is None
