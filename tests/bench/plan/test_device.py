"""Device profiles: those that are shipped say where each number is from, and a bad one is refused in one line."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from bench.plan.device import Device, Efficiency, device_names, load_device, parse_device, write_device
from bench.plan.fits import candidates as layouts_of
from bench.plan.measured import Measured, TimedProduct
from bench.plan.timed import time_layouts
from grok1.config.load import load_recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def text_of(name: str) -> str:
    return (resources.files("bench.plan") / "devices" / f"{name}.toml").read_text(encoding="utf-8")


def numbers(fields: Any) -> list[dict[str, Any]]:
    if not isinstance(fields, dict):
        return []
    if "value" in fields:
        return [fields]
    return [found for each in fields.values() for found in numbers(each)]


@pytest.mark.parametrize("name", device_names())
def test_each_number_of_a_shipped_profile_has_a_source(name: str) -> None:
    device = load_device(name)
    assert device.name == name
    found = numbers(tomllib.loads(text_of(name)))
    assert len(found) >= 15
    assert all(each["source"].strip() for each in found)


def test_the_chips_that_are_asked_for_are_shipped() -> None:
    wanted = ["ascend-a2-376t", "ascend-a2-313t", "ascend-a2-280t", "ascend-a3-die-354t", "ascend-a3-die-246t"]
    assert {*wanted, "a100-sxm", "a800-sxm", "h100-sxm", "h800-sxm", "b200", "gb200"} <= set(device_names())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "products = { value = 0.",
            "products = { value = 1.",
            "efficiency.products.value: Input should be less than or equal to 1",
        ),
        ("value = 3.35e12,", "value = 0.0,", "memory.bytes_a_second.value: Input should be greater than or equal to 1"),
        ("value = 989e12,", "value = 1e-300,", "peak.bf16.value: Input should be greater than or equal to 1"),
        ("value = 450e9,", "value = 1e-300,", "links.bytes_a_second.value: Input should be greater than or equal to 1"),
        (
            "products = { value = 0.",
            "products = { value = 0.00000",
            "efficiency.products.value: Input should be greater",
        ),
        ("[host]", "[operations.all_redcue]\n[host]", "'all_redcue' is no exchange of a step; choose among all_gather"),
        ("value = 450e9,", "value = nan,", "links.bytes_a_second.value: Input should be"),
        ("value = 450e9,", "value = '450',", "links.bytes_a_second.value: Input should be a valid number"),
        ("node_size = 8", "node_size = 0", "node_size: Input should be greater than or equal to 1"),
        ('kind = "switch"', 'kind = "ring"', "links.kind: Input should be 'switch' or 'full_mesh'"),
        ("[host]", "[hosts]", "host: Field required"),
        ("[memory]", "[memory]\nspeed = 3", "memory.speed: Extra inputs are not permitted"),
        ('name = "h100-sxm"', 'name = "h100\\u202e"', "name: holds a character that is not printable"),
        ("[peak]", "[peak]\n[peak]", "is not valid TOML"),
    ],
)
def test_a_bad_profile_is_refused_in_one_line(old: str, new: str, said: str) -> None:
    text = text_of("h100-sxm")
    assert old in text
    with pytest.raises(ValueError, match="mine.toml") as refused:
        parse_device(text.replace(old, new, 1).encode(), "mine.toml")
    assert said in str(refused.value)
    assert str(refused.value).isprintable()


def at_the_bound(annotation: Any, is_least: bool) -> Any:
    """Fields of a model of a profile, each number the least, or the largest, that a file may hold."""
    fields = {}
    for name, field in annotation.model_fields.items():
        kinds = [each for each in (field.annotation, *get_args(field.annotation)) if isinstance(each, type)]
        inner = next((each for each in kinds if issubclass(each, BaseModel)), None)
        bounds = [getattr(each, "ge" if is_least else "le", None) for each in field.metadata]
        if inner is not None and inner is not Measured:
            fields[name] = at_the_bound(inner, is_least)
        elif name == "value":
            (fields[name],) = (each for each in bounds if each is not None)
    return fields | ({"source": "a bound"} if "source" in annotation.model_fields else {})


@pytest.mark.parametrize("is_least", [True, False])
def test_any_profile_that_is_read_gives_times(is_least: bool) -> None:
    told = {"name": "x", "description": "x", "node_size": 4, "operations": {}}
    fields = at_the_bound(Device, is_least) | told
    device = Device.model_validate(
        fields | {"links": fields["links"] | {"kind": "switch"}, "host": fields["host"] | {"is_hidden": True}}
    )
    layouts = layouts_of(load_recipe("grok1-40b"), 16, ("tensor", "pipeline", "expert"))
    with np.errstate(all="raise"):
        seconds = time_layouts(layouts, device).prediction.step_seconds
    assert np.isfinite(seconds).all()
    assert (seconds > 0).all()


def test_a_profile_without_a_matrix_rate_is_refused() -> None:
    lines = [line for line in text_of("h100-sxm").splitlines() if not line.startswith(("bf16", "fp8"))]
    with pytest.raises(ValueError, match="peak: names no matrix rate; give one of bf16, fp16, fp8, fp32"):
        parse_device("\n".join(lines).encode(), "mine.toml")


def test_an_unknown_chip_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="unknown device 'h1000'; choose one of a100-sxm, .*h800-sxm, or give a .toml"):
        load_device("h1000")


def test_a_type_without_a_peak_is_refused() -> None:
    assert load_device("h100-sxm").peak_flops("bf16") == 989e12
    with pytest.raises(ValueError, match="device h100-sxm states no peak for fp32, only for bf16, fp8"):
        load_device("h100-sxm").peak_flops("fp32")


def test_a_byte_order_mark_is_no_part_of_a_profile() -> None:
    text = text_of("h100-sxm")
    assert parse_device(text.encode("utf-8-sig"), "mine.toml") == load_device("h100-sxm")
    with pytest.raises(ValueError, match=r"device 'mine\.toml' is text in UTF-16: save it as UTF-8"):
        parse_device(text.encode("utf-16"), "mine.toml")


def test_files_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    path.write_text("# " + "x" * 40_000)
    with pytest.raises(ValueError, match="larger than"):
        load_device(str(path))


@given(st.dictionaries(st.sampled_from(sorted(Efficiency.model_fields)), st.floats(1e-6, 3)))
def test_efficiencies_are_replaced_by_name(values: dict[str, float]) -> None:
    device = load_device("gb200")
    other = device.with_efficiency("a fit", **values)
    assert device.efficiency.fused_tensor_exposed is None  # what a profile leaves out can be given, too
    for name, each in device.efficiency:
        expected = values.get(name, each and each.value)
        found = getattr(other.efficiency, name)
        assert (found and found.value) == expected
    assert other.peak == device.peak


def test_an_efficiency_of_no_such_name_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown efficiency 'gemm'; choose among products, shape_penalty"):
        load_device("gb200").with_efficiency(gemm=0.5)


def test_a_calibrated_profile_comes_back_as_it_was_written(tmp_path: Path) -> None:
    product = TimedProduct(rows=8, columns=16, depth=32, seconds=1e-5)
    mine = load_device("a100-sxm").model_copy(
        update={"cores": 2, "measured": Measured(source="here", products=[product])}
    )
    write_device(tmp_path / "mine.json", mine)
    assert load_device(str(tmp_path / "mine.json")) == Device.model_validate(mine.model_dump())
