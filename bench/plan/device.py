"""A device profile: what a chip and its links can do, what share of it programs reach, and who says so. No torch.

A profile is a TOML file, as those that are shipped, or JSON, as `python -m bench calibrate` writes it. Each number has
its source beside it.
"""

from __future__ import annotations

import functools
import sys
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from bench.plan.measured import Measured, Words
from bench.records.fields import Strict
from bench.records.jsonfile import first_fault, read_bounded, read_model, write_model
from bench.records.text import utf8_text
from grok1.config.refusals import quoted, reason_of

if sys.version_info >= (3, 11):
    import tomllib
else:  # Python 3.10 is what the Ascend stack runs
    import tomli as tomllib

MAX_TOML_BYTES = 32 * 1024  # hostile keys cost tomllib quadratic time; the shipped profiles need 4 KiB
MAX_JSON_BYTES = 8 << 20  # a calibrated profile with its timed operators has some hundred KiB
DTYPES = ("bf16", "fp16", "fp8", "fp32")
# the exchanges of a step that may have links' figures of their own; a receive takes none, its time is the sender's
OPERATIONS = (
    "all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce", "all_to_all_single", "all_gather",
    "reduce_scatter", "send",
)  # fmt: skip
OF_WIDTH = {2: "bf16", 4: "fp32"}  # the products' type by the bytes of an activation


class Sourced(Strict):
    """A number and where it comes from."""

    source: Words


class Rate(Sourced):
    """FLOPs or bytes a second, or bytes."""

    value: Annotated[float, Field(ge=1, le=1e20)]


class Share(Sourced):
    """What is reached of what is possible."""

    value: Annotated[float, Field(ge=1e-4, le=1)]


class Exposed(Sourced):
    """What shows of a time, once what runs beside it is taken off; above 1 where it takes longer than by its rate."""

    value: Annotated[float, Field(ge=0, le=4)]


class Duration(Sourced):
    """Seconds."""

    value: Annotated[float, Field(ge=0, le=10)]


class Penalty(Sourced):
    """Of small products: the side at which a cube of a product takes twice its time."""

    value: Annotated[float, Field(ge=0, le=10_000)]


class Peak(Strict):
    """FLOP/s, dense, without sparsity."""

    bf16: Rate | None = None
    fp16: Rate | None = None
    fp8: Rate | None = None
    fp32: Rate | None = None
    vector: Rate | None = None  # of the unit that does not multiply matrices


class DeviceMemory(Strict):
    """The device's own memory."""

    bytes: Rate
    bytes_a_second: Rate


class Links(Strict):
    """How devices are joined. Rates are one way.

    kind: "switch": a device sends `bytes_a_second` to whichever peers of its node. "full_mesh": it has a link of
    `bytes_a_second` to each of them, so that a group of n drives n - 1 links.
    """

    kind: Literal["switch", "full_mesh"]
    bytes_a_second: Rate
    nic_bytes_a_second: Rate | None = None  # of a device, to other nodes; none where there is one node
    call_seconds: Duration  # of a collective, whatever it carries
    rank_seconds: Duration  # more for each further rank of a group within a node
    nic_rank_seconds: Duration  # and for each further node


class OperationLinks(Strict):
    """What one collective does otherwise than the others."""

    share: Share | None = None  # of the links' rate
    call_seconds: Duration | None = None
    rank_seconds: Duration | None = None


def _operation(name: str) -> str:
    if name not in OPERATIONS:
        raise ValueError(f"{quoted(name, 40)} is no exchange of a step; choose among {', '.join(OPERATIONS)}")
    return name


class Host(Strict):
    """What launching costs. `is_hidden`: the device works on while the host launches, so the longer of both counts."""

    is_hidden: bool
    seconds_a_call: Duration
    seconds_a_step: Duration


class Efficiency(Strict):
    """What a fit moves, see bench.plan.predict."""

    products: Share
    shape_penalty: Penalty
    attention: Share
    memory: Share
    exchange: Share  # of the links' rate that collectives reach
    tensor_exposed: Exposed
    fused_tensor_exposed: Exposed | None = None  # where they exchange within the products (MC2); none: as the others
    data_exposed: Exposed
    context_exposed: Exposed
    pipeline_exposed: Exposed
    layer_seconds: Duration  # of a layer and micro-batch, forward and backward, whatever its size


class Device(Strict):
    """A chip, its memory, its links, and what programs reach of them."""

    name: Words
    description: Words
    node_size: Annotated[int, Field(ge=1, le=65_536)]
    cores: Annotated[int, Field(ge=1, le=65_536)] | None = None  # that ranks share; none where each has its device
    peak: Peak
    memory: DeviceMemory
    links: Links
    host: Host
    efficiency: Efficiency
    operations: dict[Annotated[str, AfterValidator(_operation)], OperationLinks] = Field(default_factory=dict)
    measured: Measured | None = None  # on this very device; takes the place of the figures above where it has them

    @model_validator(mode="after")
    def _check(self) -> Device:
        if not any(getattr(self.peak, dtype) for dtype in DTYPES):
            raise ValueError(f"peak: names no matrix rate; give one of {', '.join(DTYPES)}")
        return self

    def peak_flops(self, dtype: str) -> float:
        """Matrix FLOP/s of that type.

        Raises:
            ValueError: the profile has none.
        """
        rate: Rate | None = getattr(self.peak, dtype, None) if dtype in DTYPES else None
        if rate is None:
            known = ", ".join(each for each in DTYPES if getattr(self.peak, each))
            raise ValueError(
                f"device {self.name} states no peak for {dtype}, only for {known}; add it to the profile, or change "
                "training.dtype"
            )
        return rate.value

    def with_efficiency(self, source: str = "given", **values: float) -> Device:
        """The same device with other efficiencies: with_efficiency(products=0.6, layer_seconds=5e-5).

        They are not checked against their bounds: a fit passes through values that no file may hold.

        Raises:
            ValueError: there is no efficiency of such a name.
        """
        unknown = sorted(set(values) - set(Efficiency.model_fields))
        if unknown:
            known = ", ".join(Efficiency.model_fields)
            raise ValueError(f"unknown efficiency {quoted(unknown[0])}; choose among {known}")
        old = self.efficiency
        update = {
            name: (getattr(old, name) or old.tensor_exposed).model_copy(
                update={"value": float(value), "source": source}
            )
            for name, value in values.items()
        }
        return self.model_copy(update={"efficiency": old.model_copy(update=update)})


def device_names() -> list[str]:
    """Names of the shipped profiles, sorted."""
    folder = resources.files("bench.plan") / "devices"
    return sorted(each.name.removesuffix(".toml") for each in folder.iterdir() if each.name.endswith(".toml"))


def load_device(name_or_path: str) -> Device:
    """The profile of that shipped name, or of a TOML or JSON file.

    Raises:
        ValueError: one line that names the file, the field and the fault.
    """
    if name_or_path.endswith(".json"):
        return read_model(Path(name_or_path), Device, max_bytes=MAX_JSON_BYTES)
    if name_or_path.endswith(".toml"):
        return parse_device(read_bounded(Path(name_or_path), MAX_TOML_BYTES), name_or_path)
    if name_or_path not in device_names():
        known = ", ".join(device_names())
        raise ValueError(f"unknown device {quoted(name_or_path)}; choose one of {known}, or give a .toml or .json file")
    return _shipped(name_or_path)


@functools.cache
def _shipped(name: str) -> Device:
    content = (resources.files("bench.plan") / "devices" / f"{name}.toml").read_bytes()
    return parse_device(content, name)


def write_device(path: Path, device: Device) -> None:
    """As JSON, atomically."""
    write_model(path, device)


def parse_device(content: bytes, name: str) -> Device:
    """A profile from TOML text; a ValueError of one line names the field and the fault."""
    try:
        text = utf8_text(content)
    except ValueError as error:
        raise ValueError(f"device {quoted(name)} {error}") from None
    try:
        fields = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"device {quoted(name)} is not valid TOML: {reason_of(error)}") from None
    try:
        return Device.model_validate(fields)
    except ValidationError as error:
        raise ValueError(f"device {quoted(name)}: {first_fault(error)}") from None
