"""What each check says of good and of bad measurements, without any hardware: every failure names its remedy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bench.doctor import collectives, layer, machine, memory, oracle, speed, training
from bench.doctor.collectives import GroupTimes
from bench.doctor.findings import Finding
from bench.doctor.layer import LayerResult
from bench.doctor.machine import Machine
from bench.doctor.memory import RankMemory
from bench.doctor.speed import DeviceSpeed
from bench.doctor.training import RankSteps
from grok1.config.sections import Parallel
from grok1.fidelity.result import Comparison, VerifyResult

PACKAGES = {"torch": "2.7.1+cpu", "torch_npu": "2.7.1.post6", "megatron-core": "0.12.1", "mindspeed": "0.12.1"}
MODULES = ["torch", "megatron.core", "torch_npu", "mindspeed"]
NPU = Machine("npu", ["/dev/davinci0"], "25.0", PACKAGES, MODULES, "3.10.1", "", 8, "Ascend910B3", 64 << 30)
GPU = Machine(
    "cuda",
    ["/proc/driver/nvidia/version"],
    "550.1",
    {"torch": "2.11.0", "megatron-core": "0.12.3"},
    MODULES[:2],
    "3.12.1",
    "12.8",
    8,
    "NVIDIA H100 80GB HBM3",
    80 << 30,
)
RANGES = ["torch>=2.7,<2.14", "megatron-core>=0.12.1,<0.13", "torch_npu>=2.7.1,<2.8"]
PINS = {"npu": machine.pins_for("npu"), "cuda": machine.pins_for("cuda")}


def software(found: Machine) -> Finding:
    # the pin of torch that applies on the machine of this test is the one of x86_64 or of aarch64
    here = [pin for pin in PINS[found.kind] if not pin.startswith("torch==") or found.kind == "cuda"]
    return machine.judge_software(found, RANGES, here)


def is_failed(finding: Finding, *words: str) -> bool:
    """Failed, with these words in its line and a remedy."""
    return finding.state == "fail" and bool(finding.remedy) and all(word in finding.line() for word in words)


# ---- machine -------------------------------------------------------------------------------------------


def test_a_sound_machine_passes() -> None:
    for found in (NPU, GPU):
        assert machine.judge_driver(found).state == "pass"
        assert software(found).state == "pass"
        assert machine.judge_devices(found, 8).state == "pass"


@pytest.mark.parametrize("found", [NPU, GPU])
def test_no_driver_fails(found: Machine) -> None:
    assert is_failed(machine.judge_driver(replace(found, driver_files=[])), "there is none of")


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (replace(GPU, torch_cuda=""), "CPU build"),
        (replace(GPU, packages={**GPU.packages, "torch": "2.14.0"}), "outside"),
        (replace(GPU, modules=["torch"]), "megatron.core is not installed"),
        (replace(GPU, packages={}, modules=[]), "torch is not installed"),
        (replace(NPU, torch_cuda="12.6"), "wants a CPU build"),
        (replace(NPU, packages={**PACKAGES, "torch_npu": "2.7.1.post2"}), "not the pinned"),
        (replace(NPU, modules=MODULES[:3]), "mindspeed"),
    ],
)
def test_software_that_does_not_fit_fails(found: Machine, word: str) -> None:
    assert is_failed(software(found), word)


def test_software_in_range_but_not_as_pinned_passes_on_a_gpu_and_says_so() -> None:
    assert "not as pinned: torch 2.11.0" in software(GPU).said


def test_fewer_devices_than_ranks_fail() -> None:
    assert is_failed(machine.judge_devices(replace(NPU, devices=4), 8), "sees 4 x", "8 are needed", "npu-smi")
    assert is_failed(machine.judge_devices(replace(GPU, devices=0), 0), "nvidia-smi")
    assert is_failed(machine.judge_devices(replace(GPU, trouble="CUDA error 803"), 1), "803")


# ---- speed ---------------------------------------------------------------------------------------------

H100 = (989e12, "sheet")


def speeds(*flops: float) -> list[DeviceSpeed]:
    return [DeviceSpeed(rank, each, 2.9e12, "bfloat16") for rank, each in enumerate(flops)]


def test_healthy_devices_pass_and_unknown_ones_are_only_measured() -> None:
    found = speeds(700e12, 690e12)
    assert speed.judge("matrix products", found, H100, "tool").state == "pass"
    assert speed.judge("memory bandwidth", found, (3350e9, "sheet"), "tool").state == "pass"
    unknown = speed.judge("matrix products", found, None, "tool")
    assert unknown.state == "measured"
    assert "no verdict" in unknown.said


def test_slow_products_fail_but_let_the_checks_above_run() -> None:
    finding = speed.judge("matrix products", speeds(300e12, 310e12), H100, "nvidia-smi")
    assert is_failed(finding, "30%", "nvidia-smi")
    assert not finding.blocks


def test_half_the_bandwidth_fails() -> None:
    found = [DeviceSpeed(0, 700e12, 1.6e12, "bfloat16")]
    assert is_failed(speed.judge("memory bandwidth", found, (3350e9, "sheet"), "tool"), "48%")


def test_one_slow_card_of_eight_is_named() -> None:
    finding = speed.judge("matrix products", speeds(*[700e12] * 5, 520e12, *[700e12] * 2), H100, "tool")
    assert is_failed(finding, "device 5", "74% of the median")


def test_more_than_the_data_sheet_has_fails() -> None:
    assert is_failed(speed.judge("matrix products", speeds(2000e12), H100, "tool"), "more than there is")


# ---- collectives ---------------------------------------------------------------------------------------


def times(alpha: float, beta: float, wrong: str = "", rank: int = 0) -> GroupTimes:
    return GroupTimes("tensor", 4, rank, wrong, {size: alpha + size / beta for size in (1e3, 1e5, 1e7, 1e8)})


def test_the_fit_finds_alpha_and_beta() -> None:
    line = collectives.fitted(times(30e-6, 150e9).seconds_by_bytes)
    assert line.alpha_seconds == pytest.approx(30e-6)
    assert line.beta_bytes_per_second == pytest.approx(150e9)


def test_a_time_that_falls_with_size_makes_no_negative_bandwidth() -> None:
    line = collectives.fitted({1e3: 2e-3, 1e6: 1e-3})
    assert line.beta_bytes_per_second > 0


def test_quick_and_right_collectives_pass() -> None:
    (finding,) = collectives.judge([times(30e-6, 150e9), times(31e-6, 150e9, rank=1)], True, "tool")
    assert finding.state == "pass"
    assert finding.figures["beta_bytes_per_second"] == pytest.approx(150e9, rel=0.01)


@pytest.mark.parametrize(("alpha", "beta"), [(30e-6, 0.9e9), (5e-3, 150e9)])
def test_slow_links_fail_on_an_accelerator_and_not_on_a_cpu(alpha: float, beta: float) -> None:
    (finding,) = collectives.judge([times(alpha, beta)], True, "nvidia-smi topo -m")
    assert is_failed(finding, "topo -m")
    assert not finding.blocks
    assert collectives.judge([times(alpha, beta)], False, "top")[0].state == "measured"


def test_the_slowest_rank_decides() -> None:
    (finding,) = collectives.judge([times(30e-6, 150e9), times(30e-6, 1e9, rank=1)], True, "tool")
    assert finding.state == "fail"


@pytest.mark.parametrize("is_accelerator", [True, False])
def test_wrong_numbers_of_a_collective_fail_and_block(is_accelerator: bool) -> None:
    wrong = times(30e-6, 150e9, "all_reduce gives [1.0] where [3.0] is due", rank=3)
    (finding,) = collectives.judge([times(30e-6, 150e9), wrong], is_accelerator, "tool")
    assert is_failed(finding, "rank 3", "all_reduce")
    assert finding.blocks


# ---- layer ---------------------------------------------------------------------------------------------


@pytest.fixture
def cpus() -> LayerResult:
    random = np.random.default_rng(0)
    return LayerResult(*(random.standard_normal((200, 64)).astype(np.float32) for _ in range(2)))


def noisy(due: LayerResult, size: float) -> LayerResult:
    random = np.random.default_rng(1)
    parts = (each + size * random.standard_normal(each.shape) for each in (due.output, due.gradient))
    return LayerResult(*(each.astype(np.float32) for each in parts))


@pytest.mark.parametrize(("dtype", "rounding", "too_much"), [("fp32", 1e-6, 1e-3), ("bf16", 8e-3, 1e-1)])
def test_a_layer_is_held_to_the_tolerance_of_its_dtype(
    cpus: LayerResult, dtype: str, rounding: float, too_much: float
) -> None:
    assert layer.judge(dtype, noisy(cpus, rounding), cpus).state == "pass"
    assert is_failed(layer.judge(dtype, noisy(cpus, too_much), cpus), "200 of 200 tokens", "kernel")


def test_some_tokens_may_go_to_other_experts_in_bf16_only(cpus: LayerResult) -> None:
    output = cpus.output.copy()
    output[:8] *= -1
    assert layer.judge("bf16", LayerResult(output, cpus.gradient), cpus).state == "pass"
    assert layer.judge("fp32", LayerResult(output, cpus.gradient), cpus).state == "fail"
    output[:12] *= 2
    assert layer.judge("bf16", LayerResult(output, cpus.gradient), cpus).state == "fail"


@pytest.mark.parametrize("spoil", [np.zeros_like, lambda each: each * np.nan, lambda each: each[:-1]])
def test_zeros_nan_and_missing_tokens_fail(cpus: LayerResult, spoil: Callable[[np.ndarray], np.ndarray]) -> None:
    assert layer.judge("bf16", LayerResult(cpus.output, spoil(cpus.gradient)), cpus).state == "fail"


# ---- oracle --------------------------------------------------------------------------------------------


def verified(loss: float, logits: float, gradient: float, is_passed: bool = True) -> VerifyResult:
    def compared(name: str, error: float) -> Comparison:
        return Comparison(name, error, error, 1e-5, is_passed)

    gradients = (compared("grad.a", 1e-9), compared("grad.b", gradient))
    return VerifyResult(
        "D", Parallel(world_size=1), 4.8, 4.8, compared("loss", loss), compared("logits", logits), gradients, {}
    )


def test_the_oracle_has_its_own_bounds_in_fp32_and_ours_in_bf16() -> None:
    assert oracle.judge("fp32", verified(1e-7, 1e-6, 1e-6)).state == "pass"
    assert is_failed(oracle.judge("fp32", verified(1e-7, 1e-6, 1e-6, is_passed=False)), "grok1 verify")
    assert oracle.judge("bf16", verified(2.7e-4, 1.6e-2, 6.1e-2, is_passed=False)).state == "pass"


@pytest.mark.parametrize(
    "found",
    [
        verified(5e-3, 1e-2, 5e-2),
        verified(1e-4, 5e-2, 5e-2),
        verified(1e-4, 1e-2, 0.5),
        verified(1e-4, 1e-2, math.nan),
        verified(math.nan, 1e-2, 1e-2),
    ],
)
def test_what_rounding_does_not_explain_fails_in_bf16(found: VerifyResult) -> None:
    assert is_failed(oracle.judge("bf16", found), "not Grok-1")


# ---- training ------------------------------------------------------------------------------------------

LOSSES = [6.24 - 0.03 * step for step in range(10)]
NORMS = [1.5] * 10


def steps(losses: list[float] = LOSSES, norms: list[float] = NORMS, rank: int = 0) -> RankSteps:
    return RankSteps(rank, losses, norms, 17, [], 1 << 30)


def changed(values: list[float], index: int, by: float) -> list[float]:
    return [value + by * (place >= index) for place, value in enumerate(values)]


def test_the_cpus_losses_pass() -> None:
    assert training.judge_steps("fp32", [steps(), steps(rank=1)], LOSSES, NORMS).state == "pass"
    assert training.judge_replicas("fp32", [steps()]).state == "pass"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([steps(changed(LOSSES, 1, 0.0273))], ["step 2", "6.23730", "6.21000"]),
        ([steps(changed(LOSSES, 0, math.nan))], ["not finite"]),
        ([steps(norms=changed(NORMS, 4, 0.01))], ["step 5", "gradient norm"]),
        ([steps(LOSSES[:4], NORMS[:4])], ["stopped early"]),
        ([steps(), steps(changed(LOSSES, 3, 1e-3), rank=5)], ["ranks 0 and 5"]),
    ],
)
def test_wrong_losses_fail_at_their_step(found: list[RankSteps], words: list[str]) -> None:
    assert is_failed(training.judge_steps("fp32", found, LOSSES, NORMS), *words, "--ranks 1")


def test_bf16_may_round_but_not_skip_the_gathering_of_weights() -> None:
    assert training.judge_steps("bf16", [steps(changed(LOSSES, 1, 0.0028))], LOSSES, NORMS).state == "pass"
    assert training.judge_steps("bf16", [steps(changed(LOSSES, 1, 0.0272))], LOSSES, NORMS).state == "fail"


def test_a_loss_that_does_not_fall_fails() -> None:
    flat = [6.24] * 10
    assert is_failed(training.judge_steps("fp32", [steps(flat)], flat, NORMS), "does not learn")


def test_replicas_that_differ_fail_and_one_replica_is_not_compared() -> None:
    odd = replace(steps(rank=2), differing=["layers.0.attention", "head"])
    assert is_failed(training.judge_replicas("bf16", [steps(), odd]), "2 of 17", "layers.0.attention", "rank 2")
    assert training.judge_replicas("bf16", [replace(steps(), compared=0)]).state == "not run"


# ---- memory --------------------------------------------------------------------------------------------

GIB = 1 << 30


def test_memory_near_the_ledger_passes() -> None:
    assert memory.judge([RankMemory(0, 0, 10 * GIB), RankMemory(4, 1, 9 * GIB)], {0: 9 * GIB, 1: 9 * GIB}).state == (
        "pass"
    )


@pytest.mark.parametrize(("peak", "words"), [(20 * GIB, ["2.00 times", "rank 4"]), (5 * GIB, ["only 50%"])])
def test_memory_that_the_ledger_does_not_explain_fails(peak: int, words: list[str]) -> None:
    found = [RankMemory(4, 1, peak)]
    assert is_failed(memory.judge(found, {0: 9 * GIB, 1: 10 * GIB}), *words)
