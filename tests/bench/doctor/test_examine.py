"""The doctor itself on CPU ranks: a fault that is put in on purpose is found at its check, and stops those above it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.doctor import layout, reference
from bench.doctor.examine import CHECKS, Doctor, Entries, Patient
from bench.doctor.findings import Finding
from bench.doctor.memory import RankMemory
from grok1.config.load import load_recipe
from grok1.distributed.launch import launch
from tests.limits import HANG_SECONDS

FAULTS = "tests.bench.doctor.faults"
NANO = load_recipe("grok1-nano")
NEEDS_GROUPS = ("rank_that_sums_wrongly", "weights_that_are_not_gathered", "update_that_is_skipped")


def examined(*checks: str, ranks: int = 4, limit_seconds: float = 300.0, **faulty: str) -> list[Finding]:
    """Findings of these checks, in their order, with faulty ranks in some; without names, of all."""
    entries = Entries(**{check: f"{FAULTS}:{name}" for check, name in faulty.items()})
    chosen = [each for each in CHECKS if not checks or each.name in checks]
    doctor = Doctor(Patient("cpu", NANO, ranks, limit_seconds=limit_seconds, entries=entries))
    return list(doctor.run(chosen))


def states(findings: list[Finding]) -> dict[str, str]:
    return {each.check: each.state for each in findings}


@pytest.mark.matrix(keep=2)
@pytest.mark.ranks(4)
@pytest.mark.parametrize(
    ("check", "fault", "failing", "words", "above"),
    [
        ("speed", "device_that_raises", "speed", "illegal memory access", ["layer", "oracle", "ten steps", "memory"]),
        ("speed", "product_that_is_wrong", "speed", "computes wrongly", []),
        ("speed", "silent", "speed", "measured nothing", ["collectives"]),
        ("layer", "norm_that_is_wrong", "layer fp32", "of the CPU's", ["oracle", "ten steps"]),
        ("collectives", "rank_that_sums_wrongly", "collectives tensor", "all_reduce", ["ten steps", "memory"]),
        ("oracle", "oracle_with_a_wrong_norm", "oracle bf16", "logits within", ["ten steps"]),
        ("ten steps", "weights_that_are_not_gathered", "replicas fp32", "differ between replicas", ["memory"]),
        ("ten steps", "update_that_is_skipped", "ten steps fp32", "step 3", ["memory"]),
    ],
)
def test_a_fault_is_found_at_its_check(check: str, fault: str, failing: str, words: str, above: list[str]) -> None:
    faulty: dict[str, Any] = {check.replace("ten steps", "steps"): fault}
    # those above mean nothing without all that they rest on
    chosen = ("devices", "speed" if "layer" in above else "", check, *above)
    findings = examined(*chosen, ranks=4 if fault in NEEDS_GROUPS else 1, **faulty)
    (found,) = [each for each in findings if each.check == failing]
    assert found.state == "fail"
    assert words in found.said
    assert found.remedy
    assert findings[0].state == "pass"
    assert [each.check for each in findings if each.state == "not run"] == above
    assert all("failed" in each.said for each in findings if each.state == "not run")


@pytest.mark.slow
@pytest.mark.ranks(4)
def test_a_rank_that_drops_a_collective_is_found_within_the_limit() -> None:
    findings = examined(
        "devices", "collectives", "ten steps", limit_seconds=10.0, collectives="rank_that_drops_a_collective"
    )
    assert [each.state for each in findings] == ["pass", "fail", "not run"]
    assert findings[1].check.startswith("collectives")


@pytest.mark.slow
@pytest.mark.ranks(1)
def test_the_cpus_numbers_are_the_same_from_a_process_of_its_own() -> None:
    recipe = layout.one_layer(NANO, "fp32", layout.PLAIN)
    here, there = reference.computed("layer", recipe), reference.in_child("layer", recipe)
    assert here.keys() == there.keys()
    assert all(np.array_equal(here[name], there[name]) for name in here)


def test_a_cpus_process_that_fails_says_why() -> None:
    broken = layout.one_layer(NANO, "fp32", layout.PLAIN).model_copy(
        update={"training": NANO.training.model_copy(update={"sequence_length": -1})}
    )
    with pytest.raises(RuntimeError, match="could not be computed"):
        reference.in_child("layer", broken)


@pytest.mark.ranks(4)
def test_memory_is_measured_by_stage_and_counted_by_the_ledger() -> None:
    split = layout.cut_layout(
        load_recipe("grok1-nano", ["parallel.tensor=1", "parallel.expert_tensor=1", "training.global_batch=8"]), 4
    )
    job, found = layout.nano(NANO, split, "fp32"), list[RankMemory]()
    launch(job, job, "cpu", on_event=found.append, entry=f"{FAULTS}:memory_on_a_cpu", timeout_seconds=HANG_SECONDS)
    counted = reference.computed("ledger", job)
    assert split.pipeline == 2
    assert {(each.rank, each.stage) for each in found} == {(0, 0), (1, 0), (2, 1), (3, 1)}
    assert counted["stages"].tolist() == [0, 1]
    assert all(1 << 18 < peak < 1 << 28 for peak in counted["peak_bytes"])


def test_one_rank_has_no_collectives_to_check() -> None:
    assert states(examined("devices", "collectives", ranks=1))["collectives"] == "not run"
