"""A profiler that refuses or fails costs its profile, never the run; torch_npu's refuses much."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from grok1.cli.progress import profile_tables
from grok1.device import measuring
from grok1.training.job import ProfileRequest
from grok1.training.profiling import StepProfiler
from grok1.training.result import StepMetrics, StepProfile
from grok1.training.step import StepResult

STAND_IN = Path(__file__).parents[2] / "npu_stand_in" / "torch_npu" / "profiler" / "__init__.py"
TAKEN = StepResult(StepMetrics(4, 1.0, 0.0, 1.0, 0.1, skipped=False), 0.5, {}, {})


def stand_in() -> ModuleType:
    """That of torch_npu's profiler, alone: the package around it would make this process an NPU's."""
    spec = importlib.util.spec_from_file_location("stand_in_profiler", STAND_IN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def profiled(folder: Path) -> StepProfile:
    """One step of a small model, which is asked to be profiled."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    profiler = StepProfiler(ProfileRequest(frozenset({5}), frozenset({0}), folder), 0, model)
    done = False
    with profiler.step(4):
        model(torch.randn(4, 8)).sum().backward()
        done = True
    assert done
    assert not model[0]._forward_hooks
    (found,) = profiler.profiles([TAKEN])
    return found


@pytest.fixture
def on_an_npu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The stand-in in place of torch_npu's profiler, which is started in an empty folder."""
    monkeypatch.setattr(measuring, "device_kind", lambda: "npu")
    module = stand_in()
    monkeypatch.setitem(sys.modules, "torch_npu.profiler", module)
    (tmp_path / "cwd").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return module


@pytest.mark.parametrize("name", ["traces", "lr=1e-4+cosine"])
def test_an_npu_writes_its_trace(name: str, on_an_npu: Any, tmp_path: Path) -> None:
    found = profiled(tmp_path / name)
    assert found.trouble is None
    assert found.trace == str(tmp_path / name / "rank-0-step-5.json.gz")
    events = json.loads(gzip.decompress(Path(found.trace).read_bytes()))
    assert any("module *" in str(event.get("name")) for event in events)
    assert (found.modules, found.operators) == ({}, {})


def test_an_npu_leaves_nothing_but_the_trace(on_an_npu: Any, tmp_path: Path) -> None:
    profiled(tmp_path / "traces")
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ["traces/rank-0-step-5.json.gz"]
    assert not list((tmp_path / "temporary").iterdir())
    assert not list((tmp_path / "cwd").iterdir())


def test_an_npu_whose_analysis_fails_has_no_trace_and_says_so(
    on_an_npu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_an_npu, "analysis_fails", True)
    found = profiled(tmp_path / "traces")
    assert found.trace is None
    assert found.trouble is not None
    assert found.trouble.endswith("rank-0-step-5.json.gz: it made no trace; its own messages say why")


def test_an_npu_whose_profiler_does_not_start_has_no_trace_and_says_so(
    on_an_npu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "a+b"
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    found = profiled(tmp_path / "traces")
    assert (found.trace, found.trouble is None) == (None, False)


class Broken:
    """A profiler of torch's, one part of which fails."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._torch = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True)

    def __getattr__(self, name: str) -> Any:
        if name != self._part:
            return getattr(self._torch, name)

        def fail(*_unused: object) -> None:
            if name == "stop":
                self._torch.stop()
            raise RuntimeError(f"no {name}\ntoday")

        return fail


@pytest.mark.parametrize(
    ("part", "trouble", "has_trace"),
    [
        ("start", "the profiler could not start: no start today", False),
        ("stop", "the profiler could not stop: no stop today", False),
        ("export_chrome_trace", "rank-0-step-5.json.gz: no export_chrome_trace today", False),
        ("events", "the profiler could not tell of modules: no events today", True),
    ],
)
def test_a_profiler_that_fails_leaves_the_step_alone(
    part: str, trouble: str, has_trace: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "profiler", lambda raw_folder: Broken(part))
    found = profiled(tmp_path)
    assert (found.trouble or "").endswith(trouble)
    assert (found.trace is not None, (tmp_path / "rank-0-step-5.json.gz").exists()) == (has_trace, has_trace)
    warnings = [line for line in profile_tables(found).splitlines() if line.startswith("warning: ")]
    assert warnings == [f"warning: rank 0, step 5: {found.trouble}"]


def test_a_profiler_that_cannot_be_made_leaves_the_step_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(raw_folder: Path) -> None:
        raise ImportError("no such module")

    monkeypatch.setattr(measuring, "profiler", refuse)
    assert profiled(tmp_path).trouble == "the profiler could not start: no such module"


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found = profiled(tmp_path / "file")
    assert found.trace is None
    assert "the profiler could not write" in (found.trouble or "")
    assert found.modules


def test_what_the_step_raises_is_raised(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    profiler = StepProfiler(ProfileRequest(frozenset({5}), frozenset({0}), tmp_path), 0, model)
    with pytest.raises(ZeroDivisionError), profiler.step(4):
        raise ZeroDivisionError
    assert not model[0]._forward_hooks
    assert not torch.autograd.profiler._is_profiler_enabled  # the next step can be profiled
