"""Files that somebody bent on purpose: each is a model whose figures are numbers, or a ValueError of one line."""

from __future__ import annotations

import copy
import functools
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.judge.baseline import BaselineFile, read_baselines, recorded_baseline
from bench.judge.metrics import figures_of
from bench.judge.stats import summarise
from bench.records.jsonfile import parse_model
from bench.records.record import Record
from bench.synthetic import build_synthetic_record

MOST_CPU_SECONDS = 20.0  # what is not refused early takes minutes; usually below one
ODD_VALUES: list[Any] = [
    *(None, True, False, "", "nan", "\u2028", "\ud800", "x" * 5000, [], {}, [[]], [[[[[]]]]], {"": None}),
    *(0, -1, 1, 2**31, 2**53 + 1, 2**62, 2**63, 2**64, 10**400, -(10**400)),
    *(0.0, -0.0, -1.0, 5e-324, 1e-300, 1e-30, 1e-9, 0.1, 1e7, 1e30, 1e38, 1e308, -1e308, math.inf, -math.inf, math.nan),
]
TOKENS = (b"NaN", b"Infinity", b"-", b"1e999", b"0" * 30, b'"', b"\\", b"\xff", b"\x00", b"[", b"{", b"}", b"]", b",")


@functools.cache
def plain_record() -> str:
    content = build_synthetic_record(steps=7).model_dump(mode="json", by_alias=True)
    for rank in content["ranks"]:
        whole = {"seconds": rank["communication_seconds"], "calls": 7 * 420, "bytes": 7 * 10**9}
        rank["collectives"] = {"tensor all_gather": whole}
        rank["timeline"] = [{"phase": "forward", "start_seconds": 0.0, "end_seconds": 0.5}]
    return json.dumps(content)


@functools.cache
def plain_baselines() -> str:
    runs = [build_synthetic_record(steps=7, seed=seed) for seed in range(5)]
    return BaselineFile(baselines=[recorded_baseline(runs, "for a test")]).model_dump_json(by_alias=True)


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys or indices."""
    pairs = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    for key, child in pairs:
        yield node, key
        yield from places(child)


@st.composite
def bent_values(draw: st.DrawFn, text: Callable[[], str]) -> bytes:
    """One to four values replaced, removed, or put a second time into a list."""
    content = json.loads(text())
    for _ in range(draw(st.integers(1, 4))):
        found = list(places(content))
        if not found:  # all was removed
            break
        node, key = found[draw(st.integers(0, len(found) - 1))]
        how = draw(st.sampled_from(["replace", "replace", "replace", "all", "remove", "repeat"]))
        if how == "replace":
            node[key] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
        elif how == "all":
            value = draw(st.sampled_from(ODD_VALUES))
            for every in node if isinstance(node, dict) else range(len(node)):
                node[every] = copy.deepcopy(value)
        elif how == "remove":
            del node[key]
        elif isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
    return json.dumps(content).encode()


@st.composite
def bent_texts(draw: st.DrawFn, text: Callable[[], str]) -> bytes:
    """Cut off, a stretch repeated or lost, a token put in: keys repeat, brackets do not match."""
    raw = text().encode()
    start, length = draw(st.integers(0, len(raw))), draw(st.integers(0, 300))
    middle = draw(st.sampled_from(["cut", "lose", "repeat", "insert", "repeat a pair"]))
    if middle == "cut":
        return raw[:start]
    if middle == "lose":
        return raw[:start] + raw[start + length :]
    if middle == "repeat":
        return raw[: start + length] + raw[start:]
    if middle == "insert":
        return raw[:start] + draw(st.sampled_from(TOKENS)) + raw[start:]
    comma = raw.find(b', "', start)
    end = raw.find(b",", comma + 1)
    return raw[:end] + raw[comma:] if comma >= 0 and end > comma else raw


def read_or_complaint(read: Callable[[], Any]) -> Any:
    """What was read, or None and a complaint of one printable line."""
    complaint = ""
    try:
        return read()
    except ValueError as error:
        complaint = str(error)
    assert complaint.isprintable()
    assert 0 < len(complaint) < 1000
    return None


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(bent_values(plain_record), bent_texts(plain_record)))
def test_a_bent_record_is_refused_in_one_line_or_its_figures_are_numbers(raw: bytes) -> None:
    record = read_or_complaint(lambda: parse_model(raw, Record))
    if record is None or not record.steps or not record.ranks:
        return
    numbers = [value for value in asdict(summarise(record)).values() if isinstance(value, float)]
    assert all(math.isfinite(value) for value in [*numbers, *figures_of(summarise(record)).values()])


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(bent_values(plain_baselines), bent_texts(plain_baselines)))
def test_a_bent_file_of_baselines_is_refused_in_one_line_or_can_be_compared(raw: bytes) -> None:
    found = read_or_complaint(lambda: parse_model(raw, BaselineFile))
    for baseline in found.baselines if found else []:
        assert isinstance(baseline.differences(build_synthetic_record(steps=7)), tuple)


def test_numbers_at_their_limits_make_finite_figures() -> None:
    content = json.loads(plain_record())
    content["work"]["model_flops_per_step"], content["device"]["peak_flops_per_second"] = 1e30, 1e-30
    for rank in content["ranks"]:
        rank["step_seconds"] = [1e-9, 1e7, 1e-9, 1e-9, 1e-9, 1e-9, 1e-9]
        rank["phases_seconds"] = {name: [1e7] * 7 for name in rank["phases_seconds"]}
        rank["peak_bytes"] = 2**62
        rank["collectives"]["tensor all_gather"] |= {"calls": 2**62, "bytes": 2**62}
        rank["communication_calls"] = rank["communication_bytes"] = [2**62, *[0] * 6]
    summary = summarise(parse_model(json.dumps(content).encode(), Record))
    numbers = [value for value in asdict(summary).values() if isinstance(value, float)]
    assert len(numbers) > 10
    assert all(math.isfinite(value) for value in [*numbers, *figures_of(summary).values()])


def with_value(field: str, value: str) -> bytes:
    return json.dumps(json.loads(plain_record()) | {field: "HERE"}).replace('"HERE"', value).encode()


def with_resolved(value: str) -> bytes:
    return with_value("recipe", f'{{"name": "x", "hash": "0123456789ab", "resolved": {value}}}')


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (lambda: with_value("ranks", "[" + "{}," * 65_535 + "{}]"), "655,360 faults"),
        (lambda: with_value("steps", "[" + "null," * 1_000_000 + "null]"), "at most 100000 items"),
        (lambda: with_value("expert_load", "[" + "[null]," * 400_000 + "[null]]"), "at most 1024 items"),
        (lambda: plain_record().replace("[420, ", "[" + "420, " * 1_000_000, 1).encode(), "at most 100000 items"),
        (lambda: b"[" + b"[],[1]," * 5_000_000 + b"[]]", "holds more than 10,000,000 values"),
        (lambda: b"[" + b"null," * 5_000_000 + b"0]", "holds more than 2,000,000 values"),
        (lambda: b"{" + b",".join(b'"k%d":0' % i for i in range(900_000)) + b',"k899999":0}', "20,000 names"),
        (lambda: b"{" + b",".join(b'"k%d":0' % i for i in range(20_000 - 1)) + b',"k19998":0}', "'k19998' is repeated"),
        (lambda: b'{"a":"' + b'\\"' * 2**24 + b'"}', "Field required"),
        (lambda: b'{"a":"' + b'\\"' * 2**24 + b"}", "Unterminated string"),
        (lambda: b'{"a":' + b"[ " * 400_000 + b"0", "nested too deeply"),
        (lambda: b'{"a":' + b"1" * 2**25 + b"}", "not a usable JSON file"),
        (lambda: b" " * 2**25, "not a usable JSON file"),
        (lambda: with_resolved('{"a": [1, 1%s]}' % ("0" * 400)), "larger than any float"),
        (lambda: with_resolved('{"a": [1, 1e999]}'), "not finite"),
        (lambda: with_resolved('{"a": [1, NaN]}'), "NaN is not a JSON number"),
        (lambda: with_resolved('{"a": {"b": [1], "b": [2]}}'), "'b' is repeated"),
        (lambda: with_resolved(r'{"[1]": 1, "\u005b1]": 2}'), "'[1]' is repeated"),
        (lambda: with_resolved('{"a": %s}' % ("[" * 14 + "]" * 14)), "nested deeper than 16 levels"),
        (lambda: with_resolved(r'{"\\": "\"", "a": %s}' % ("[" * 14 + "]" * 14)), "nested deeper than 16 levels"),
    ],
)
def test_a_hostile_file_is_refused_soon(tmp_path: Path, raw: Callable[[], bytes], complaint: str) -> None:
    file = tmp_path / "hostile.json"
    file.write_bytes(raw())
    before = time.process_time()  # of this process alone, whatever else the machine does
    with pytest.raises(ValueError, match=r"hostile\.json: ") as raised:
        Record.read(file)
    assert time.process_time() - before < MOST_CPU_SECONDS
    assert complaint in str(raised.value)
    assert str(raised.value).isprintable()


def test_a_hostile_file_of_baselines_is_refused_soon(tmp_path: Path) -> None:
    run = '{"steady_step_seconds": [' + "null," * 99_000 + "null]}"
    file = tmp_path / "hostile.json"
    file.write_text('{"schema": 1, "baselines": [{"runs": [' + ",".join([run] * 8) + "]}]}")
    before = time.process_time()
    with pytest.raises(ValueError, match="faults, too many to name one"):
        read_baselines(file)
    assert time.process_time() - before < MOST_CPU_SECONDS


@pytest.mark.parametrize(
    "resolved", ['{"[1]": 1, "[2]": 2}', r'{"a": "[\"}", "b": "\\"}', '{"a": "[[[[[[[[[[[[[[[[["}']
)
def test_brackets_and_numbers_within_strings_are_text(resolved: str) -> None:
    assert parse_model(with_resolved(resolved), Record).recipe.resolved == json.loads(resolved)
