"""The gate: verdicts, refusals, sentences, exit codes, and baselines in and out of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.judge.baseline import Baseline, BaselineFile, load_baselines, recorded_baseline
from bench.judge.gate import _cut_figures, judge
from bench.judge.metrics import speed_figures
from bench.judge.verdict import exit_code
from bench.judge.void import MIN_STEADY_STEPS
from bench.synthetic import LAYOUT

TOKENS_RATE = 1646.633


def published(**changes: Any) -> Baseline:
    content: dict[str, Any] = {
        "label": "invented figure",
        "kind": "published",
        "role": "judge",
        "case": "grok1-40b",
        "recipe": {"name": "grok1-40b", "hash": None},
        "sequence_length": 8192,
        "global_batch": 128,
        "parameters_total": 40_970_557_440,
        "dtype": "bf16",
        "layout": LAYOUT | dict.fromkeys(("data", "nodes", "ranks_per_node")),
        "device": {"kinds": ["npu"], "name": "Ascend 910B", "match": "prefix"},
        "metrics": {"tokens_per_second_per_processor": TOKENS_RATE, "step_seconds": 39.8},
        "tolerance_percent": 5.0,
        "decides_when": {"recipe": {}, "software": {}},
        "source": "invented for tests",
        "rationale": "to test with",
    }
    for name, value in changes.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    if content["role"] == "compare":
        content["decides_when"] = None
    return Baseline.model_validate(content)


def at_rate(synthetic_record, rate: float, **changes: Any):
    """A record without noise or skew at exactly this many tokens/s/p."""
    seconds = 2**20 / 16 / rate
    record = synthetic_record(noise=0.0)
    ranks = [rank.model_dump() | {"step_seconds": [5 * seconds] + [seconds] * 19} for rank in record.ranks]
    return synthetic_record(ranks=ranks, **changes)


@pytest.mark.parametrize(
    ("factor", "state"),
    [(0.5, "fail"), (0.949, "fail"), (0.951, "pass"), (1.0, "pass"), (1.049, "pass"), (1.051, "improved")],
)
def test_five_percent_slower_fails_and_five_percent_faster_asks_for_a_refresh(
    synthetic_record, factor: float, state: str
) -> None:
    verdict = judge(at_rate(synthetic_record, factor * TOKENS_RATE), [published()])
    assert verdict.state == state
    assert verdict.sentence.startswith(state.upper())
    assert {row.state for row in verdict.rows} == {state}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.floats(0.5, 1.5), st.floats(0.5, 20))
def test_both_metrics_always_agree(synthetic_record, factor: float, tolerance: float) -> None:
    step_seconds = 2**20 / 16 / TOKENS_RATE
    baseline = published(tolerance_percent=tolerance, metrics={"step_seconds": step_seconds})
    # Rounding may split the two rows only at the limit itself.
    if abs(abs(factor - 1) - tolerance / 100) > 1e-9:
        verdict = judge(at_rate(synthetic_record, factor * TOKENS_RATE), [baseline])
        assert len({row.state for row in verdict.rows}) == 1


def test_the_sentence_says_what_by_how_much_and_against_what(synthetic_record) -> None:
    sentence = judge(at_rate(synthetic_record, 0.9 * TOKENS_RATE), [published()]).sentence
    for part in (
        "grok1-40b",
        "10.0 % slower",
        "1,482 tokens/s/p",
        "44.22 s/step",
        "1,646.633",
        "invented figure",
    ):
        assert part in sentence
    assert sentence.endswith("the limit is 5 %")


def test_the_worst_of_several_baselines_decides(synthetic_record) -> None:
    faster = published(label="faster", metrics={"tokens_per_second_per_processor": 2057.0, "step_seconds": 32.0})
    verdict = judge(at_rate(synthetic_record, TOKENS_RATE), [published(), faster])
    assert verdict.state == "fail"
    assert "of faster" in verdict.sentence


def test_a_compared_baseline_is_shown_and_never_fails(synthetic_record) -> None:
    reference = published(
        label="reference",
        role="compare",
        device={"kinds": ["npu", "cuda"], "match": "any"},
        metrics={"tokens_per_second_per_processor": 2057.0, "step_seconds": 32.0},
    )
    verdict = judge(at_rate(synthetic_record, TOKENS_RATE), [published(), reference])
    assert verdict.state == "pass"
    assert [row.state for row in verdict.rows] == ["pass", "pass", "compared", "compared"]
    alone = judge(at_rate(synthetic_record, TOKENS_RATE), [reference])
    assert alone.state == "no_baseline"
    assert len(alone.rows) == 2


_CHOSEN = {"parallel": {"dispatcher": "allgather"}, "kernels": {"linear": "mc2"}}
_CONDITIONS = {"recipe": {"parallel.dispatcher": "allgather", "kernels.linear": "mc2"}, "software": {"engine": "0.6"}}


@pytest.mark.parametrize(
    ("resolved", "version", "unmet"),
    [
        (_CHOSEN, "0.6", ()),
        (_CHOSEN, "0.6.1", ()),
        (_CHOSEN, "0.12.1", ("software.engine 0.12.1 (baseline 0.6)",)),
        (_CHOSEN, "0.60", ("software.engine 0.60 (baseline 0.6)",)),
        (_CHOSEN, None, ("software.engine absent (baseline 0.6)",)),
        (_CHOSEN | {"kernels": {"linear": "megatron"}}, "0.6", ("kernels.linear megatron (baseline mc2)",)),
        (
            {"parallel": "mine"},
            "0.6",
            ("parallel.dispatcher None (baseline allgather)", "kernels.linear None (baseline mc2)"),
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_a_published_figure_decides_only_where_all_that_it_states_matches_and_is_shown_elsewhere(
    synthetic_record, resolved: dict[str, Any], version: str | None, unmet: tuple[str, ...], factor: float
) -> None:
    software = {"engine": version} if version else {"other": "1"}
    record = at_rate(synthetic_record, factor * TOKENS_RATE, recipe={"resolved": resolved}, software=software)
    verdict = judge(record, [published(decides_when=_CONDITIONS)])
    if unmet:
        assert verdict.state == "no_baseline"
        assert {(row.state, row.limit_percent) for row in verdict.rows} == {("compared", None)}
        assert [(each.differences, each.is_shown) for each in verdict.refusals] == [(unmet, True)]
        assert f"invented figure, is only shown: {unmet[0]}" in verdict.sentence
    else:
        assert verdict.state == {0.5: "fail", 1.0: "pass", 2.0: "improved"}[factor]
        assert verdict.refusals == ()


@pytest.mark.parametrize(
    ("stated", "chosen", "state"),
    [(False, 0, "no_baseline"), (1, True, "no_baseline"), (0, 0, "pass"), (1, 1.0, "pass")],
)
def test_a_number_is_no_truth_value(synthetic_record, stated: Any, chosen: Any, state: str) -> None:
    conditions = {"recipe": {"parallel.overlap": stated}, "software": {}}
    record = at_rate(synthetic_record, TOKENS_RATE, recipe={"resolved": {"parallel": {"overlap": chosen}}})
    assert judge(record, [published(decides_when=conditions)]).state == state


def test_a_figure_that_some_runs_lack_is_told(synthetic_record) -> None:
    """An eighth more memory would pass unseen: of one run nobody knows its peak."""
    stored = recorded_baseline([synthetic_record(seed=seed) for seed in range(5)], "to test with")
    ours = [synthetic_record(seed=10 + seed) for seed in range(5)]
    assert "is not judged" not in judge(ours, [stored]).sentence
    silent = [rank.model_copy(update={"peak_bytes": 0}) for rank in ours[2].ranks]
    ours[2] = ours[2].model_copy(update={"ranks": silent})
    assert "peak memory is not judged, as 1 of 5 runs does not state it" in judge(ours, [stored]).sentence
    bare = [rank.model_copy(update={"phases_seconds": {}}) for rank in ours[0].ranks]
    ours[0] = ours[0].model_copy(update={"ranks": bare})
    sentence = judge(ours, [stored]).sentence
    assert "; forward is not judged, as 1 of 5 runs does not state it; nor are 5 more figures" in sentence


@pytest.mark.parametrize("order", [("0.6", "0.12"), ("0.12", "0.6")])
def test_a_published_figure_decides_only_where_every_run_is_of_what_it_states(synthetic_record, order) -> None:
    conditions = {"recipe": {}, "software": {"engine": "0.6"}}
    runs = [at_rate(synthetic_record, 0.5 * TOKENS_RATE, software={"engine": each}) for each in order]
    verdict = judge(runs, [published(decides_when=conditions)])
    assert verdict.state == "void"
    assert "runs of several programs: software: engine is " in verdict.sentence


def test_a_published_figure_decides_about_one_program_alone(synthetic_record) -> None:
    """A median of two programs, one far too slow, may lie within any limit."""
    fast = [at_rate(synthetic_record, TOKENS_RATE) for _ in range(3)]
    commit = fast[0].commit.model_dump() | {"sha": "b" * 40}
    slow = [at_rate(synthetic_record, 0.7 * TOKENS_RATE, commit=commit) for _ in range(2)]
    assert judge([*fast, *slow], [published()]).state == "void"
    assert judge(fast, [published()]).state == "pass"
    assert judge(slow, [published()]).state == "fail"
    assert judge([*fast, *slow], [published(role="compare")]).state == "no_baseline"


def test_the_row_that_stands_for_a_verdict_is_of_the_baseline_by_which_it_is_worst(synthetic_record) -> None:
    record = at_rate(synthetic_record, 0.97 * TOKENS_RATE)
    strict = published(label="strict", tolerance_percent=2.0)
    for baselines in ([published(), strict], [strict, published()]):
        verdict = judge(record, baselines)
        assert verdict.state == "fail"
        row = verdict.judged("step_seconds")
        assert row is not None
        assert row.label == "strict"


def test_memory_that_one_run_shows_and_cannot_decide_is_told(synthetic_record) -> None:
    def run(seed: int, more: float = 1.0):
        plain = synthetic_record(seed=seed, noise=0.002)
        ranks = [each.model_copy(update={"peak_bytes": round(more * each.peak_bytes)}) for each in plain.ranks]
        return plain.model_copy(update={"ranks": ranks})

    baseline = recorded_baseline([run(seed) for seed in range(5)], "invented")
    verdict = judge(run(9, 1.25), [baseline])
    assert verdict.state == "pass"
    assert "peak memory is 25.0 % higher than in its baseline, which takes more runs to decide" in verdict.sentence
    assert "higher" not in judge(run(9), [baseline]).sentence
    assert judge([run(seed, 1.25) for seed in (9, 10, 11)], [baseline]).state == "fail"


def test_a_log_that_counts_fewer_tokens_a_step_is_not_of_the_baseline(synthetic_record) -> None:
    runs = [synthetic_record(seed=seed) for seed in range(5)]
    baseline = recorded_baseline(runs, "invented")
    for share, differs in ((0.995, False), (0.73, True)):
        work = runs[0].work.model_copy(update={"tokens_per_step": round(share * runs[0].work.tokens_per_step)})
        found = baseline.differences(runs[0].model_copy(update={"work": work}))
        assert bool(found) == differs
        assert all(each.startswith("tokens_per_step ") for each in found)


@pytest.mark.parametrize("changes", [{"decides_when": None}, {"decides_when": {"recipe": {"a": [1]}}}])
def test_a_published_figure_that_judges_says_when_it_decides(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="decides_when"):
        published(**changes)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"case": "renamed"}, "case grok1-40b (baseline renamed)"),
        ({"recipe": {"name": "other"}}, "recipe.name grok1-40b (baseline other)"),
        ({"recipe": {"hash": "f" * 12}}, "recipe.hash 0123456789ab"),
        ({"dtype": "fp32"}, "dtype bf16 (baseline fp32)"),
        ({"parameters_total": 11_450_603_520}, "parameters_total 40970557440"),
        ({"layout": {"tensor": 8}}, "layout.tensor 4 (baseline 8)"),
        ({"layout": {"nodes": 1}}, "layout.nodes 2 (baseline 1)"),
        ({"layout": {"context": 2}}, "layout.context 1 (baseline 2)"),
        ({"layout": {"virtual_pipeline": 2}}, "layout.virtual_pipeline 1 (baseline 2)"),
        ({"device": {"kinds": ["cuda"]}}, "device.kind npu (baseline cuda)"),
        ({"device": {"name": "Ascend 310"}}, "device.name Ascend910B-synthetic (baseline Ascend 310)"),
        ({"device": {"match": "exact"}}, "device.name Ascend910B-synthetic (baseline Ascend 910B)"),
    ],
)
def test_another_key_is_refused_and_the_difference_named(
    synthetic_record, changes: dict[str, Any], difference: str
) -> None:
    verdict = judge(synthetic_record(), [published(**changes)])
    assert verdict.state == "no_baseline"
    assert verdict.rows == ()
    assert len(verdict.refusals[0].differences) == 1
    assert difference in verdict.refusals[0].differences[0]
    assert difference in verdict.sentence


def test_another_batch_or_sequence_is_refused(synthetic_record) -> None:
    metrics = {"tokens_per_second_per_processor": TOKENS_RATE, "step_seconds": 2**19 / 16 / TOKENS_RATE}
    for changed in ({"global_batch": 64}, {"sequence_length": 4096}):
        verdict = judge(synthetic_record(), [published(**changed, metrics=metrics)])
        assert next(iter(changed)) in verdict.refusals[0].differences[0]


def test_a_case_that_nobody_has_a_figure_for_has_no_baseline(synthetic_record) -> None:
    verdict = judge(synthetic_record(), [])
    assert verdict.state == "no_baseline"
    assert "no baseline is stored for this case" in verdict.sentence


def test_a_void_record_is_never_judged(synthetic_record) -> None:
    void = synthetic_record(valid=False, void_reasons=["step 3: loss is not finite", "and more"])
    verdict = judge(void, [published()])
    assert (verdict.state, verdict.rows) == ("void", ())
    assert "step 3: loss is not finite (and 1 more reason)" in verdict.sentence


def test_too_few_steady_steps_cannot_be_judged(synthetic_record) -> None:
    assert judge(synthetic_record(steps=3), [published()]).state == "void"
    assert judge(synthetic_record(steps=4), [published()]).state != "void"


def test_faster_than_the_hardware_is_void(synthetic_record) -> None:
    verdict = judge(synthetic_record(device={"peak_flops_per_second": 1e12}), [published()])
    assert verdict.state == "void"
    assert "impossible" in verdict.sentence


def test_several_runs_are_judged_by_the_median_of_their_medians(synthetic_record) -> None:
    runs = [
        at_rate(synthetic_record, rate, id=f"{index:08x}")
        for index, rate in enumerate([TOKENS_RATE, 0.99 * TOKENS_RATE, 0.5 * TOKENS_RATE])
    ]
    verdict = judge(runs, [published()])
    assert verdict.rows[0].measured == pytest.approx(0.99 * TOKENS_RATE)
    assert "median of 3 runs" in verdict.sentence


def test_runs_of_different_layouts_are_not_mixed(synthetic_record) -> None:
    other = synthetic_record(layout={"nodes": 1, "ranks_per_node": 16})
    with pytest.raises(ValueError, match="not runs of one case"):
        judge([synthetic_record(), other], [])
    with pytest.raises(ValueError, match="no record"):
        judge([], [])


def test_exit_codes_gate_a_pipeline(synthetic_record) -> None:
    slow, fast = at_rate(synthetic_record, 1000.0), at_rate(synthetic_record, 2000.0)
    assert exit_code(judge(slow, [published()]), require_baseline=False) == 1
    assert exit_code(judge(fast, [published()]), require_baseline=True) == 0
    assert exit_code(judge(fast, []), require_baseline=False) == 0
    assert exit_code(judge(fast, []), require_baseline=True) == 1
    void = synthetic_record(valid=False, void_reasons=["x"])
    assert exit_code(judge(void, [published()]), require_baseline=False) == 1


def test_a_recorded_baseline_judges_the_records_it_came_from_as_equal(synthetic_record, tmp_path: Path) -> None:
    records = [synthetic_record(seed=seed) for seed in (1, 2, 3)]
    baseline = recorded_baseline(records, "first figures on this machine")
    BaselineFile(schema=1, baselines=[baseline]).write(tmp_path / "machine" / "case.json")
    assert load_baselines(tmp_path) == [baseline]
    verdict = judge(records, [baseline])
    assert verdict.state == "pass"
    assert verdict.rows[0].change_percent == pytest.approx(0, abs=0.5)


def test_a_recorded_baseline_refuses_void_and_mixed_records(synthetic_record) -> None:
    with pytest.raises(ValueError, match="is void"):
        recorded_baseline([synthetic_record(valid=False, void_reasons=["x"])], "why")
    mixed = [synthetic_record(), synthetic_record(seed=1, recipe={"hash": "f" * 12})]
    with pytest.raises(ValueError, match=r"differs from the first in recipe\.hash"):
        recorded_baseline(mixed, "why")
    with pytest.raises(ValueError, match="repeat a record_id"):
        recorded_baseline([synthetic_record(), synthetic_record()], "why")
    with pytest.raises(ValueError, match="at least one record"):
        recorded_baseline([], "why")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"metrics": {"step_seconds": 45.0}}, "metrics disagree"),
        ({"kind": "recorded"}, "at least one run"),
        ({"tolerance_percent": 0.0}, "greater than 0"),
        ({"tolerance_percent": 99.0}, "less than or equal to 50"),
        ({"rationale": ""}, "at least 1 character"),
        ({"device": {"kinds": []}}, "at least 1 item"),
        ({"surprise": 1}, "Extra inputs"),
        ({"layout": {"tensor": 3}}, "is not a multiple of tensor 3 x pipeline 2"),
        ({"layout": {"data": 3}}, r"is not tensor \d x pipeline \d x data 3"),
        ({"layout": {"nodes": 3, "ranks_per_node": 8}}, "is not 3 nodes x 8 ranks_per_node"),
        ({"layout": {"expert": 7}}, "is not a multiple of expert x expert_tensor x pipeline"),
    ],
)
def test_a_baseline_that_contradicts_itself_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        published(**changes)


def test_a_broken_baseline_file_is_named(tmp_path: Path) -> None:
    good = published().model_dump(mode="json")
    (tmp_path / "bad.json").write_text(json.dumps({"schema": 1, "baselines": [good | {"role": "boss"}]}))
    with pytest.raises(ValueError, match=r"bad\.json: baselines\.0\.role: ") as raised:
        load_baselines(tmp_path)
    assert "\n" not in str(raised.value)


def test_two_baselines_of_one_label_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        BaselineFile(schema=1, baselines=[published()]).write(tmp_path / f"{name}.json")
    with pytest.raises(ValueError, match=r"b\.json: the label 'invented figure' is already taken"):
        load_baselines(tmp_path)


def test_a_folder_that_does_not_exist_is_an_error_and_not_an_empty_gate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        load_baselines(tmp_path / "gone")


@given(st.lists(st.floats(0.1, 10.0), min_size=MIN_STEADY_STEPS, max_size=12), st.integers(0, 15))
def test_as_many_first_steps_are_cut_as_asked_but_for_the_few_that_a_run_needs(seconds: list[float], more: int) -> None:
    kept = max(MIN_STEADY_STEPS, len(seconds) - more)
    assert _cut_figures(seconds, more) == speed_figures(seconds[len(seconds) - kept :])
