"""The quick look at a JSON text: its yes is exact, so that nothing odd is accepted for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.records import jsonfile
from bench.records.record import Record
from bench.records.structure import is_plain
from bench.synthetic import build_synthetic_record


def looks_plain(text: str) -> bool:
    return is_plain(text.encode(), max_depth=16, max_names=20)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"a1": 1, "a2": 2, "a1": 3}',
        '{"a": 1, "b": {"c": {}}, "a": 2}',
        '{"a": 1, "b": [{}, {"a": 1}], "a" : 2}',
        '[{"x": {"b": 1}}, {"x": {"b": 1, "b": 1}}]',
        r'{"a": 1, "\u0061": 2}',
        '{"":1,"":2}',
        "[" * 17 + "]" * 17,
        "{" + ",".join(f'"{"x" * i}": 0' for i in range(21)) + "}",
    ],
)
def test_what_repeats_a_name_or_is_deep_or_large_is_not_plain(text: str) -> None:
    assert not looks_plain(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"a1": 1, "a2": [{"a": 1}, {"a": 2}], "b": {"a": {}}}',
        '{"a": "a", "b": "a: b, a", "c": "a"}',
        '{"layer 1": {"x": 1}, "layer 2": {"x": 1}, "layer 12": []}',
        "[" * 16 + "]" * 16,
    ],
)
def test_what_does_not_is_plain(text: str) -> None:
    assert looks_plain(text)


# few names that differ by digits, signs and spaces, as the shortened text does not know them
names = st.sampled_from(["a", "a1", "a2", "a 1", "b", "", "e", ":", "x{", "]", 'q"', "\\", "\u00e9"])
texts = st.recursive(
    st.sampled_from(["1", "-2.5e-3", "null", '"a"', '"a: 1, "', '"{"']),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: "[" + ", ".join(parts) + "]")
        | st.lists(st.tuples(names, inner), max_size=4).map(
            lambda pairs: "{" + ",\n".join(f"{json.dumps(name)}: {value}" for name, value in pairs) + "}"
        )
    ),
    max_leaves=12,
)


def repeats(text: str) -> bool:
    found = []

    def pairs(each: list[tuple[str, Any]]) -> None:
        found.append(len(dict(each)) < len(each))

    json.loads(text, object_pairs_hook=pairs)
    return any(found)


@settings(max_examples=500)
@given(texts)
def test_no_text_that_repeats_a_name_is_called_plain(text: str) -> None:
    assert not (looks_plain(text) and repeats(text))


def test_a_record_as_we_write_it_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = build_synthetic_record(steps=7).model_dump_json(indent=1, by_alias=True).encode()
    monkeypatch.setattr(jsonfile, "check_json", lambda raw: pytest.fail("read in full"))
    assert jsonfile.parse_model(raw, Record).steps
