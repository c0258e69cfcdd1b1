"""A machine whose speed changed while it was measured is told from one that only varied."""

from __future__ import annotations

from bench.calibrate.crowding import Miss
from bench.calibrate.steadiness import changes_of_speed

STEADY = [[0.10, 0.11], [0.35, 0.33], [0.80, 0.84]]


def ran(step_seconds: float, predicted: float, exchange: float = 0.01, *, has_cores: bool = True) -> Miss:
    return Miss(step_seconds, predicted, exchange / 2, exchange, has_cores=has_cores)


def test_a_machine_that_varies_a_little_is_steady() -> None:
    assert changes_of_speed(STEADY, [ran(0.045, 0.05), ran(0.045, 0.04)]) == []
    assert changes_of_speed([], []) == []
    assert changes_of_speed([[0.1], [0.5]], []) == []  # one launch each has nothing beside it


def test_launches_that_differ_are_told_and_one_disturbed_rank_is_not() -> None:
    assert changes_of_speed([[0.10, 0.15], [0.35, 0.60], *STEADY[:1]], []) == [
        "the same steps took 1.5 times as long in one launch as in another"
    ]
    assert changes_of_speed([[0.10, 0.90], *STEADY[1:]], []) == []


def test_parts_that_exceed_the_whole_are_told() -> None:
    # measured so: ranks alone at a third of the speed that the machine had minutes later
    (said,) = changes_of_speed(STEADY, [ran(0.045, 0.12), ran(0.28, 0.47), ran(0.25, 0.75), ran(9.0, 1.0)])
    assert said.startswith(
        "by what was timed of ranks alone, steps on a core a rank take 2.0 times as long as they ran"
    )


def test_ranks_that_share_cores_say_nothing_of_it() -> None:
    assert changes_of_speed(STEADY, [ran(0.045, 0.5, has_cores=False)] * 3) == []
