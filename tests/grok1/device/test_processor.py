"""The processor's name: one function, which a record's host and its device share."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from bench.host import host
from grok1.device.processor import processor_name
from tests.grok1.conftest import run_python


def test_it_is_the_kernels_name_where_there_is_one(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: AMD EPYC 7B13\nmodel name\t: other\n")
    assert processor_name(cpuinfo) == "AMD EPYC 7B13"


def test_it_is_never_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert processor_name(tmp_path / "absent")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "")
    assert processor_name(tmp_path / "absent") == "cpu"


@pytest.mark.slow
def test_host_and_device_give_the_same_name() -> None:
    said = run_python("from grok1.device import measuring\nprint(measuring.describe().name)", "cpu").stdout.strip()
    assert host()["cpu_name"] == said == processor_name()
