"""What a calibration says of operators that it could not call."""

from __future__ import annotations

from bench.calibrate.uncalled import uncalled
from bench.plan.measured_device import OperatorCalls


def calls(signature: str, flops: int, num_bytes: int, number: int, phase: str = "forward") -> OperatorCalls:
    return OperatorCalls(phase, "experts", signature, "mm", flops, num_bytes, number)


STEP = [
    calls("mm(a)", 100, 10, 6),
    calls("mm(a)", 100, 10, 2, "recompute"),
    calls("sort(b)", 20, 100, 5),
    calls("index(c)", 0, 420, 1),
    calls("mul(d)", 25, 0, 4),
]


def test_all_called_is_nothing_to_say() -> None:
    assert uncalled(STEP, []) == []


def test_a_refused_signature_has_its_share_of_the_steps_flops_and_bytes() -> None:
    head, first, second = uncalled(STEP, ["index(c)", "sort(b)"])
    assert head.startswith("2 of 4 signatures could not be called alone: 10.00% of the step's FLOPs and 92.00% of its ")
    assert first == "  FLOPs 10.00%, bytes 50.00%: sort(b)"
    assert second == "  FLOPs 0.00%, bytes 42.00%: index(c)"


def test_many_and_long_ones_are_cut() -> None:
    step = [calls(f"op{number}({'x' * 400})\x1b[1m", 1, 1, 1) for number in range(13)]
    lines = uncalled(step, [each.signature for each in step])
    assert len(lines) == 12
    assert lines[-1] == "  and 3 smaller ones"
    assert all(len(line) < 200 and line.isprintable() for line in lines[1:])


def test_a_step_without_work_has_no_shares() -> None:
    assert "0.00% of the step's FLOPs" in uncalled([calls("empty()", 0, 0, 1)], ["empty()"])[0]
