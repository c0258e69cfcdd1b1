"""What the machine took from a run: heard with its value and bound, alike for both sides, and an excuse if unlike."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from bench.judge.baseline import recorded_baseline
from bench.judge.disturbance import Seen, busier, disturbed, readings, seen_of, seen_of_baseline, told
from bench.judge.gate import judge
from bench.records.record import Record
from bench.synthetic import build_synthetic_record

QUIET_HOST = {"stolen_seconds": 0.0, "throttled_seconds": 0.0}
STEADY_SECONDS = [5.0, *[1.0] * 29]  # 34 s, and 12.5 s before


def of_steps(synthetic_record, seconds: list[float], **changes: Any) -> Any:
    base = synthetic_record(steps=len(seconds))
    ranks = [rank.model_dump() | {"step_seconds": seconds, "phases_seconds": {}} for rank in base.ranks]
    return synthetic_record(steps=len(seconds), ranks=ranks, **changes)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"throttled_seconds": 0.3}, None),
        ({"throttled_seconds": 0.6}, "throttled for 0.6 s of a run of 46.5"),
        # stolen time is of all cores together
        ({"stolen_seconds": 80.0}, None),
        ({"stolen_seconds": 100.0}, "stole 100 s of 192 cores x 46.5"),
        ({"stolen_seconds": None, "throttled_seconds": None}, None),
    ],
)
def test_time_that_the_machine_took_away(synthetic_record, host: dict[str, Any], words: str | None) -> None:
    found = disturbed(of_steps(synthetic_record, STEADY_SECONDS, host=QUIET_HOST | host))
    assert len(found) == (words is not None)
    if words is not None:
        assert words in found[0]
        assert "more than the 1 % allowed" in found[0]


@pytest.mark.parametrize(
    ("kind", "load", "complains"),
    [("cpu", 201.0, True), ("cpu", 199.0, False), ("cpu", 193.0, False), ("npu", 999.0, False)],
)
def test_a_machine_that_was_busy(synthetic_record, kind: str, load: float, complains: bool) -> None:
    """What runs on the host's cores matters where they are what is measured; 8 ranks of the run before explain 8."""
    found = disturbed(synthetic_record(device={"kind": kind}, host={"load_average_1m": load}))
    assert len(found) == complains
    if complains:
        assert "was 201.0, more than 192 cores and an earlier run of 8 ranks explain" in found[0]


def test_a_rank_alone_leaves_all_cores_but_one(lone_record) -> None:
    """Its layout is that of the job, of which nothing else runs."""
    content = lone_record().model_dump(by_alias=True)
    content["device"] |= {"kind": "cpu"}
    content["host"] |= {"others_cores": 190.0}
    assert not disturbed(Record.model_validate(content))
    content["host"] |= {"others_cores": 191.0 + 9.7}
    assert "of which 1 rank leaves 191:" in disturbed(Record.model_validate(content))[0]


@pytest.mark.parametrize(
    ("kind", "cores", "complains"),
    [
        ("cpu", 188.0, False),  # 8 ranks leave 184 of 192 cores, and 5 % of 192 are 9.6
        ("cpu", 194.0, True),
        ("npu", 194.0, False),
    ],
)
def test_what_other_programs_used_is_heard_before_the_load(
    synthetic_record, kind: str, cores: float, complains: bool
) -> None:
    """The load average before the start may be of the job's own run before, or of another case of this benchmark."""
    host = {"load_average_1m": 900.0, "others_cores": cores}
    found = disturbed(synthetic_record(device={"kind": kind}, host=host))
    assert len(found) == complains
    if complains:
        assert "other programs used 194.0 of 192 cores, of which 8 ranks leave 184" in found[0]
        assert "more than the 5 %" in found[0]


def test_how_the_steps_vary_is_not_the_machines_doing(synthetic_record) -> None:
    """Otherwise a program that begins to stall would set its own runs aside."""
    seconds = [5.0, *[1.0, 1.5] * 14, 30.0]
    assert disturbed(of_steps(synthetic_record, seconds, host=QUIET_HOST)) == []


def test_a_foreign_log_knows_no_host(synthetic_record) -> None:
    assert disturbed(synthetic_record(host=None, source="a log")) == []


def test_a_void_run_without_ranks_is_looked_at_all_the_same(synthetic_record) -> None:
    void = synthetic_record(valid=False, void_reasons=["step 3: loss is not finite"], steps=0, ranks=[])
    assert disturbed(void) == []


def test_a_verdict_says_which_runs(synthetic_record) -> None:
    quiet = synthetic_record(seed=1)
    throttled = synthetic_record(seed=0xABCDEF12 << 96, noise=0.01, host={"throttled_seconds": 90.0})
    none, one, both = (
        told(runs, [readings(seen_of(run)) for run in runs], left_out=0)
        for runs in ([quiet, quiet], [quiet, throttled], [throttled, throttled])
    )
    assert none == ""
    assert one.startswith("1 of 2 runs was disturbed from outside (run abcdef12: throttled for 90")
    assert both.startswith("2 of 2 runs were disturbed")


def test_disturbed_runs_are_left_out_of_a_verdict_while_three_others_remain(synthetic_record) -> None:
    """A baseline has none of them, so that a verdict on them would compare unlike with unlike."""
    baseline = recorded_baseline([synthetic_record(seed=seed, noise=0.002) for seed in range(5)], "invented")
    quiet = [synthetic_record(seed=10 + index, noise=0.002) for index in range(3)]
    slow = [
        synthetic_record(seed=20 + index, noise=0.002, median_seconds=60.0, host={"throttled_seconds": 90.0})
        for index in range(2)
    ]
    verdict = judge([*quiet, *slow], [baseline])
    assert verdict.state == "pass", verdict.sentence
    assert "3 runs against 5" in verdict.sentence
    assert "2 of 5 runs were disturbed from outside" in verdict.sentence
    assert "what was disturbed is left out" in verdict.sentence
    few = judge([*quiet[:2], *slow], [baseline])
    assert "4 runs against 5" in few.sentence
    assert "before you trust this" in few.sentence


def test_of_six_runs_of_which_three_count_no_fewer_are_asked_for_without_a_word(synthetic_record) -> None:
    """Six were made: that four would do is true of undisturbed ones alone."""

    def runs(first: int, middle: float, places: tuple[float, ...], host: dict[str, Any]) -> list[Any]:
        return [
            synthetic_record(seed=first + index, noise=0.003, median_seconds=middle * (1 + 0.012 * place), host=host)
            for index, place in enumerate(places)
        ]

    baseline = recorded_baseline(runs(1, 40.0, (-1.2, -0.6, 0.0, 0.6, 1.2), {}), "invented")
    quiet = runs(20, 40.8, (-1.2, 0.0, 1.2), {"stolen_seconds": 0.0})
    both = judge([*quiet, *runs(30, 40.8, (-1.0, 0.0, 1.0), {"stolen_seconds": 10_000.0})], [baseline]).sentence
    assert "3 of 6 runs were disturbed from outside" in both
    assert re.search(r"; about [45] runs that nothing disturbs would settle it: --runs [45] ", both), both
    assert re.search(r"; about [45] runs in all would settle it: --runs [45] ", judge(quiet, [baseline]).sentence)


# ---- one side's machine was busier ---------------------------------------------------------------------

FREE, BUSY = {"load_average_1m": 0.3}, {"load_average_1m": 900.0}


def runs_on(synthetic_record, host: dict[str, Any], first: int, slower: float = 0.0, **changes: Any) -> list[Any]:
    return [
        synthetic_record(
            seed=first + index,
            noise=0.002,
            median_seconds=39.8 * (1 + slower + 0.001 * index),
            device={"kind": "cpu"},
            host=host,
            **changes,
        )
        for index in range(5)
    ]


def judged(synthetic_record, before: dict[str, Any], after: dict[str, Any], slower: float) -> Any:
    baseline = recorded_baseline(runs_on(synthetic_record, before, 1), "invented")
    return judge(runs_on(synthetic_record, after, 50, slower), [baseline])


@pytest.mark.parametrize(
    ("after", "told_of_both"),
    [
        (BUSY, "the machine was busier: 900.0 processes waited for its 192 cores, 0.3 when the baseline was made"),
        (
            {"others_cores": 250.0},
            "the machine was busier: other programs used 250.0 of its 192 cores, not known to be so when the baseline",
        ),
        ({"throttled_seconds": 500.0}, "its CPU quota held runs back for "),
        ({"stolen_seconds": 90_000.0}, "the hypervisor stole "),
    ],
)
@pytest.mark.parametrize("slower", [0.2, -0.2])
def test_no_change_is_told_where_the_new_runs_machine_was_busier(
    synthetic_record, after: dict[str, Any], told_of_both: str, slower: float
) -> None:
    verdict = judged(synthetic_record, FREE, FREE | after, slower)
    assert verdict.state == "inconclusive", verdict.sentence
    assert told_of_both in verdict.sentence
    assert "compare runs of free machines, or settle by A/B: python -m bench ab --base 0000" in verdict.sentence
    assert "--runs" not in verdict.sentence
    assert judged(synthetic_record, FREE, FREE, slower).state == ("fail" if slower > 0 else "improved")


@pytest.mark.parametrize(("slower", "state"), [(0.2, "fail"), (-0.2, "improved"), (0.0, "pass")])
@pytest.mark.parametrize("host", [FREE, BUSY, BUSY | {"others_cores": 300.0, "stolen_seconds": 90_000.0}])
def test_with_like_load_nothing_changes(synthetic_record, host: dict[str, Any], slower: float, state: str) -> None:
    assert judged(synthetic_record, host, host, slower).state == state


def test_equal_speed_on_a_busier_machine_passes_and_that_of_a_busier_baseline_does_not(synthetic_record) -> None:
    """What is as fast although others were there is no slower; where they were there before, they hide a slowdown."""
    assert judged(synthetic_record, FREE, BUSY, 0.0).state == "pass"
    verdict = judged(synthetic_record, BUSY, FREE, 0.0)
    assert verdict.state == "inconclusive"
    assert (
        "the machine was busier when the baseline was made: 900.0 processes waited for its 192 cores, 0.3 now"
        in verdict.sentence
    )
    assert judged(synthetic_record, BUSY, FREE, -0.2).state == "inconclusive"


def test_memory_has_no_such_excuse(synthetic_record) -> None:
    baseline = recorded_baseline(runs_on(synthetic_record, FREE, 1), "invented")
    fatter = [
        each.model_copy(
            update={"ranks": [rank.model_copy(update={"peak_bytes": 2 * rank.peak_bytes}) for rank in each.ranks]}
        )
        for each in runs_on(synthetic_record, BUSY, 50, 0.2)
    ]
    verdict = judge(fatter, [baseline])
    assert verdict.state == "fail"
    assert "peak memory" in verdict.sentence


@pytest.mark.parametrize(
    ("before", "after", "is_after"),
    [
        ([0.0] * 5, [0.11] * 5, True),
        ([0.09] * 5, [0.11] * 5, None),  # hardly more
        ([0.2] * 5, [0.29] * 5, None),
        ([0.2] * 5, [0.31] * 5, True),
        ([0.31] * 5, [0.2] * 5, False),
        ([0.0] * 5, [0.0, 0.0, 1.0, 1.0], True),  # half of the runs
        ([0.0] * 5, [0.0, 0.0, 0.0, 1.0, 1.0], None),
        ([0.0], [], None),
    ],
)
def test_busier_is_more_than_is_allowed_and_half_as_much_again(
    synthetic_record, before: list[float], after: list[float], is_after: bool | None
) -> None:
    """Of two cores that two ranks use, 5 % are 0.1."""
    layout = {"nodes": 8, "ranks_per_node": 2}

    def side(values: list[float]) -> list[Seen]:
        hosts = [{"cores": 2, "others_cores": value, "load_average_1m": 0.0} for value in values]
        return [seen_of(synthetic_record(device={"kind": "cpu"}, layout=layout, host=host)) for host in hosts]

    found = busier(side(before), side(after))
    assert (None if found is None else found.is_after) == is_after


def test_a_baseline_that_was_measured_in_another_way_is_taken_by_its_own_bounds(synthetic_record) -> None:
    ours = [seen_of(each) for each in runs_on(synthetic_record, {"others_cores": 300.0}, 1)]
    for host, is_busier in ((FREE, True), (BUSY, False)):
        theirs = [seen_of(each) for each in runs_on(synthetic_record, host, 1)]
        assert (busier(theirs, ours) is not None) == is_busier


def test_a_baseline_keeps_what_its_machine_did(synthetic_record) -> None:
    run = synthetic_record(device={"kind": "cpu"}, host=BUSY | {"stolen_seconds": 50.0, "throttled_seconds": 0.5})
    (kept,) = recorded_baseline([run], "invented").runs
    mine, theirs = (readings(each) for each in (seen_of(run), seen_of_baseline(kept, "cpu", run.layout.ranks_per_node)))
    assert [*mine] == [*theirs] == ["throttled", "stolen", "load"]
    assert [each.value for each in theirs.values()] == pytest.approx([each.value for each in mine.values()], rel=0.05)
    assert readings(seen_of_baseline(kept.model_copy(update={"host": None}), "cpu", 8)) == {}


def falling(first: float, since: float, seconds: float) -> list[Seen]:
    """Runs on two cores, one rank each, while the average goes from the first to what ran since."""
    times = [0.0, seconds / 2, seconds]
    loads = [since + (first - since) * math.exp(-each / 60) for each in times]
    host = build_synthetic_record().host
    assert host is not None
    hosts = [host.model_copy(update={"cores": 2, "load_average_1m": load}) for load in loads]
    return [Seen(host, "cpu", 1, 2.0, started=each) for host, each in zip(hosts, times, strict=True)]


def test_runs_are_not_disturbed_by_what_another_case_left(synthetic_record) -> None:
    """Load averages of 400 that halve in the minutes of five runs, with 192 cores."""
    loads = [400 * math.exp(-index * 40 / 60) for index in range(5)]
    runs = [
        synthetic_record(
            seed=50 + index,
            device={"kind": "cpu"},
            host={"load_average_1m": load},
            created_at=f"2025-01-31T12:{index * 40 // 60:02d}:{index * 40 % 60:02d}Z",
        )
        for index, load in enumerate(loads)
    ]
    assert disturbed(runs[0]), "alone it cannot be told"
    baseline = recorded_baseline([synthetic_record(seed=seed, device={"kind": "cpu"}) for seed in range(5)], "invented")
    assert "disturbed from outside" not in judge(runs, [baseline]).sentence


def test_what_another_case_left_in_the_load_average_is_no_load(synthetic_record) -> None:
    """One rank right after sixteen: 6 before the first run, less before each next one, and nobody else there."""
    free, busy, old = falling(0.3, 1.0, 12.0), falling(6.0, 6.0, 12.0), falling(6.0, 1.0, 12.0)
    assert busier(free, old) is None
    assert busier(old, free) is None
    for quiet in (free, old):
        found = busier(quiet, busy)
        assert found is not None
        assert found.words == (
            "the machine was busier: 6.0 processes waited for its 2 cores, 1.0 when the baseline was made"
        )
    assert busier(free, falling(6.0, 1.0, 8.0)) is not None, "too short to tell what ran since"


@pytest.mark.parametrize("with_baseline", [True, False])
def test_a_verdict_says_that_runs_were_slowed_down_on_purpose(synthetic_record, with_baseline: bool) -> None:
    stored = [recorded_baseline([synthetic_record(seed=seed) for seed in range(5)], "to test with")]
    runs = [synthetic_record(seed=9 + at, median_seconds=60.0, planted_percent=50.0) for at in range(3)]
    verdict = judge(runs, stored if with_baseline else [])
    assert verdict.state == ("fail" if with_baseline else "no_baseline")
    assert "Also: " in verdict.sentence
    assert "3 of 3 runs were made 50 % slower on purpose" in verdict.sentence
