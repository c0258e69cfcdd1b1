"""Profiles: times add up, land on the right module, and only what was asked for is profiled."""

from __future__ import annotations

import gzip
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from grok1.config.load import ONE_RANK
from grok1.training.job import ProfileRequest, profile_request
from grok1.training.profiled_seconds import module_seconds, operator_use
from grok1.training.profiling import StepProfiler, named_modules
from grok1.training.result import StepMetrics
from grok1.training.step import StepResult
from tests.grok1.conftest import as_options, run_grok1


class Heavy(torch.nn.Module):
    """Nearly all of the work of the model below, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(512, 512) / 512)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for _ in range(8):
            hidden = hidden @ self.weight
        return hidden


def events_of(model: torch.nn.Module) -> list[Any]:
    hidden = torch.randn(256, 512)
    with named_modules(model), profile(activities=[ProfilerActivity.CPU], acc_events=True) as found:
        model(hidden).sum().backward()
    return list(found.events())


@pytest.fixture(scope="module")
def events() -> list[Any]:
    layers = [torch.nn.Sequential(OrderedDict(light=torch.nn.ReLU(), heavy=Heavy())) for _ in range(2)]
    model = torch.nn.Sequential(*layers)
    events_of(model)  # the first run of an operator pays for what the later ones find
    return events_of(model)


def test_times_of_modules_and_of_operators_add_up_to_the_same(events: list[Any]) -> None:
    modules = sum(each.forward + each.backward for each in module_seconds(events).values())
    everything = sum(event.self_cpu_time_total for event in events) / 1e6
    marks = sum(event.self_cpu_time_total for event in events if event.name.startswith("module ")) / 1e6
    assert modules == pytest.approx(everything)
    assert sum(each.seconds for each in operator_use(events).values()) == pytest.approx(everything - marks)


def test_layers_share_a_name_and_the_work_is_where_it_is_done(events: list[Any]) -> None:
    found = module_seconds(events)
    assert set(found) >= {"*.light", "*.heavy"}
    assert next(iter(found)) == "*.heavy", found
    heavy, light = found["*.heavy"], found["*.light"]
    assert heavy.forward > light.forward, found
    assert heavy.backward > light.backward, found


def test_the_products_are_counted(events: list[Any]) -> None:
    calls = operator_use(events)["aten::mm"].calls
    assert calls == 2 * 8 * 3 - 1, "one forward, two backward; the first of all needs no gradient of its input"


def test_no_hook_stays_behind(events: list[Any]) -> None:
    model = torch.nn.Sequential(Heavy())
    with named_modules(model):
        assert model[0]._forward_hooks
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks


@pytest.mark.parametrize(("rank", "step", "is_asked"), [(0, 4, True), (1, 4, False), (0, 3, False)])
def test_only_what_was_asked_for_is_profiled(tmp_path: Path, rank: int, step: int, is_asked: bool) -> None:
    model = torch.nn.Sequential(Heavy())
    request = ProfileRequest(frozenset({5}), frozenset({0}), tmp_path / "traces")
    profiler = StepProfiler(request, rank, model)
    with profiler.step(step):
        model(torch.randn(4, 512))
    taken = StepResult(StepMetrics(step, 1.0, 0.0, 1.0, 0.1, skipped=False), 0.5, {}, {})
    assert [(each.rank, each.step, each.step_seconds) for each in profiler.profiles([taken])] == [
        (0, 5, 0.5)
    ] * is_asked
    assert [path.name for path in tmp_path.rglob("*.json.gz")] == ["rank-0-step-5.json.gz"] * is_asked


def test_requests_are_lists_and_ranges() -> None:
    found = profile_request("2,4-6", "0,15", Path("here"), 6, 16)
    assert sorted(found.steps) == [2, 4, 5, 6]
    assert sorted(found.ranks) == [0, 15]
    assert found.folder.is_absolute()


@pytest.mark.parametrize(
    ("steps", "ranks", "complaint"),
    [
        ("0", "0", "--profile '0': '0' is not within 1 to 6"),
        ("7", "0", "--profile '7': '7' is not within 1 to 6"),
        ("5-3", "0", "--profile '5-3': '5-3' is not within"),
        ("x", "0", "--profile 'x' is not a list of numbers"),
        ("1", "16", "--profile-ranks '16': '16' is not within 0 to 15"),
        ("1", "-1", "--profile-ranks '-1' is not a list"),
    ],
)
def test_other_requests_are_refused(steps: str, ranks: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        profile_request(steps, ranks, Path("here"), 6, 16)


@pytest.mark.slow
def test_the_command_prints_tables_and_writes_a_trace(tmp_path: Path) -> None:
    words = ["train", "--recipe", "grok1-nano", "--steps", "3", "--profile", "2", "--profile-dir", str(tmp_path)]
    done = run_grok1(*words, *as_options(ONE_RANK))
    assert done.returncode == 0, done.stderr
    assert "profiler" not in done.stderr  # torch's would say when it starts and stops
    for part in ("rank 0, step 2", "decoder.layers.*.self_attention", "aten::mm", "backward ms", "collective"):
        assert part in done.stdout
    trace = json.loads(gzip.decompress((tmp_path / "rank-0-step-2.json.gz").read_bytes()))
    assert any("module decoder.layers.*" in str(event.get("name")) for event in trace["traceEvents"])
