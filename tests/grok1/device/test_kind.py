"""Which device a process is for: by what was activated, asked for or named, or by what the machine has."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from grok1.device import kind
from tests.grok1.conftest import run_python


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this process one that knows of no device yet, on a machine with these device files."""

    def has(*paths: str) -> None:
        monkeypatch.setattr(os.path, "exists", lambda path: path in paths)

    monkeypatch.setattr(kind, "_activated", None)
    monkeypatch.delenv(kind.KIND_VARIABLE, raising=False)
    has()
    return has


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ((), "cpu"),
        (("/dev/nvidiactl",), "cuda"),
        (("/dev/davinci_manager",), "npu"),
        (("/dev/davinci_manager", "/dev/nvidiactl"), "npu"),
    ],
)
def test_the_machine_decides_where_nobody_named_a_device(
    machine: Callable[..., None], paths: tuple[str, ...], expected: str
) -> None:
    machine(*paths)
    assert kind.chosen_kind() == kind.device_kind() == expected


def test_the_option_goes_before_the_variable_and_that_before_the_machine(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("/dev/davinci_manager")
    monkeypatch.setenv(kind.KIND_VARIABLE, "cuda")
    assert (kind.chosen_kind("cpu"), kind.chosen_kind(None), kind.device_kind()) == ("cpu", "cuda", "cuda")


def test_what_torch_was_made_ready_for_cannot_change(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind.set_activated_kind("cpu")
    monkeypatch.setenv(kind.KIND_VARIABLE, "cuda")
    assert (kind.activated_kind(), kind.device_kind()) == ("cpu", "cpu")


def test_a_named_device_is_for_good(machine: Callable[..., None]) -> None:
    kind.set_kind("cpu")
    kind.set_kind("cpu")
    assert kind.chosen_kind() == "cpu"
    with pytest.raises(kind.DeviceError, match="already runs ranks on cpu; start another one for cuda"):
        kind.set_kind("cuda")


def test_an_unknown_device_is_refused_with_the_words_that_named_it(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(kind.DeviceError, match="^--device tpu is none of cpu, cuda, npu$"):
        kind.chosen_kind("tpu")
    monkeypatch.setenv(kind.KIND_VARIABLE, "tpu")
    with pytest.raises(kind.DeviceError, match="^device 'tpu' is none of cpu, cuda, npu; unset GROK1_DEVICE"):
        kind.chosen_kind()


def test_asking_imports_no_torch() -> None:
    done = run_python(
        "import sys\nfrom grok1.device import kind\nprint(kind.device_kind(), 'torch' in sys.modules)", ""
    )
    assert done.stdout.split() == [kind._machine_kind(), "False"]
