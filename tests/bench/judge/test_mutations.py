"""Every gate bites: five good runs pass their baseline, and each single thing that goes wrong is caught by its name."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.baselines.noise import complaints, notes
from bench.judge.baseline import Baseline, BaselineFile, read_baselines, recorded_baseline
from bench.judge.gate import judge, judge_suite, missing
from bench.judge.metrics import _METRICS, LOST, MEAN, PHASE, QUARTILE, RATE, STEP, figures_of, metric_of
from bench.judge.stats import summarise
from bench.judge.verdict import Verdict, exit_code
from bench.ledger import store as ledger_store
from bench.ledger import text as ledger_text
from bench.ledger.schema import Ledger, read_ledger
from bench.measure import void_reasons
from bench.records.record import Record
from bench.synthetic import build_synthetic_record
from grok1.config.load import load_recipe
from grok1.training.job import Job, prepare
from grok1.training.result import DeviceUsed, LayoutUsed, RunResult, StepMetrics

Content = dict[str, Any]
Edit = Callable[[Content], None]

RUNS, STEPS, EXPERTS_PER_TOKEN, EXPERTS = 5, 20, 2, 8
SLOWER = 1.05


def good_run(seed: int) -> Record:
    """One that learns what all others learn and drops no token."""
    pairs = STEPS * 2**20 * EXPERTS_PER_TOKEN
    model = {"num_layers": 8, "experts_per_token": EXPERTS_PER_TOKEN}
    load = [[pairs // EXPERTS] * EXPERTS] * 8
    return build_synthetic_record(steps=STEPS, seed=seed, recipe={"resolved": {"model": model}}, expert_load=load)


THEIRS, OURS = ([good_run(first + index) for index in range(RUNS)] for first in (0, RUNS))
BASELINE = recorded_baseline(THEIRS, "invented for tests")
PHASES = [name for name in figures_of(summarise(OURS[0])) if name.startswith(PHASE)]


def mutated(record: Record, edit: Edit) -> Record:
    content = record.model_dump(by_alias=True)
    edit(content)
    return Record.model_validate(content)


def verdict_on(edit: Edit, baseline: Baseline = BASELINE) -> Verdict:
    return judge([mutated(record, edit) for record in OURS], [baseline])


def test_the_unmutated_pass() -> None:
    verdict = judge(OURS, [BASELINE])
    assert verdict.state == "pass", verdict.sentence
    assert {row.state for row in verdict.rows} == {"pass"}
    assert exit_code(verdict, require_baseline=True) == 0
    assert missing(OURS, [BASELINE]) == []


# ---- slower: a mutation for each metric ----------------------------------------------------------------


def _every_step(content: Content) -> None:
    for rank in content["ranks"]:
        rank["step_seconds"] = [SLOWER * each for each in rank["step_seconds"]]


def _one_step_in_ten(content: Content) -> None:
    for rank in content["ranks"]:
        rank["step_seconds"][9::10] = [2 * each for each in rank["step_seconds"][9::10]]


def _fast_steps(content: Content) -> None:
    """Steps that were up to the median take 1.5 % longer, the others are as they were: a third of the mean's change."""
    slowest = [max(rank["step_seconds"][step] for rank in content["ranks"]) for step in range(STEPS)]
    median = sorted(slowest)[STEPS // 2]
    for rank in content["ranks"]:
        rank["step_seconds"] = [
            each * (1.015 if whole < 0.998 * median else 1.0)
            for each, whole in zip(rank["step_seconds"], slowest, strict=True)
        ]


def _memory(content: Content) -> None:
    for rank in content["ranks"]:
        rank["peak_bytes"] = int(SLOWER * rank["peak_bytes"])


def _skew(content: Content) -> None:
    """The slowest rank of each step stays as it is, and the others wait for it for longer."""
    ranks = content["ranks"]
    for step in range(STEPS):
        slowest = max(rank["step_seconds"][step] for rank in ranks)
        for rank in ranks:
            if rank["step_seconds"][step] < slowest:
                rank["step_seconds"][step] /= SLOWER


def _phase(name: str) -> Edit:
    def edit(content: Content) -> None:
        for rank in content["ranks"]:
            phases = rank["phases_seconds"]
            phases[name] = [
                each + (SLOWER - 1) * whole for each, whole in zip(phases[name], rank["step_seconds"], strict=True)
            ]

    return edit


SLOWDOWNS: dict[str, Edit] = {
    STEP: _every_step,
    MEAN: _one_step_in_ten,
    QUARTILE: _fast_steps,
    LOST: _one_step_in_ten,
    "peak_bytes": _memory,
    "skew_seconds": _skew,
    **{name: _phase(name.removeprefix(PHASE)) for name in PHASES},
}


def test_every_metric_has_a_mutation_and_every_figure_that_is_judged_is_a_metric() -> None:
    """A metric that is added without one fails here."""
    judged = {name for name in figures_of(summarise(OURS[0])) if metric_of(name)}
    assert set(SLOWDOWNS) == {*_METRICS, *PHASES} == judged
    assert {row.metric for row in judge(OURS, [BASELINE]).rows} >= judged


@pytest.mark.parametrize("name", [*_METRICS, *PHASES])
def test_each_metric_that_worsens_fails(name: str) -> None:
    verdict = verdict_on(SLOWDOWNS[name])
    assert verdict.state == "fail", verdict.sentence
    assert exit_code(verdict, require_baseline=False) == 1
    failed = {row.metric for row in verdict.rows if row.state == "fail"}
    metric = metric_of(name)
    assert metric is not None
    assert name in failed
    if name == STEP:
        assert re.search(r"takes 5\.\d % more time per step than in its baseline", verdict.sentence), verdict.sentence
    else:  # nothing else is to blame
        together = {MEAN, RATE, LOST}  # what one step in ten loses is lost to the mean
        assert failed == (together if name in together else {name})
        told = metric_of(MEAN) if name == LOST else metric
        assert told is not None
        assert re.search(rf": {re.escape(told.title)} is [\d.]+ % .*higher than in its baseline", verdict.sentence)


# ---- void: fast but wrong ------------------------------------------------------------------------------


def _at(field: str, step: int, factor: float) -> Edit:
    def edit(content: Content) -> None:
        content["steps"][step][field] *= factor

    return edit


def _few_steps(content: Content) -> None:
    content["steps"] = content["steps"][:3]
    content["expert_load"] = []
    for rank in content["ranks"]:
        for name in ("step_seconds", "communication_seconds", "communication_calls", "communication_bytes"):
            rank[name] = rank[name][:3]
        rank["phases_seconds"] = {name: values[:3] for name, values in rank["phases_seconds"].items()}


def _small_peak(content: Content) -> None:
    content["device"]["peak_flops_per_second"] = 1e12


def _dropped_token(content: Content) -> None:
    content["expert_load"][3] = [content["expert_load"][3][0] - 1, *content["expert_load"][3][1:]]


def _called_void(content: Content) -> None:
    content |= {"valid": False, "void_reasons": ["step 3: loss is not finite"]}


VOID: dict[str, tuple[Edit, str]] = {
    "other loss": (_at("loss", 7, 1.03), "step 8: loss"),
    "other grad norm": (_at("grad_norm", 7, 1.2), "step 8: grad norm"),
    "too few steps": (_few_steps, "2 steady steps of 3"),
    "dropped token": (_dropped_token, "layer 3: 1 of 41,943,040 (token, expert) pairs were dropped"),
    "void at birth": (_called_void, "loss is not finite"),
}


@pytest.mark.parametrize("edit_and_word", VOID.values(), ids=VOID)
@pytest.mark.parametrize("mutants", [1, RUNS])
def test_runs_that_are_wrong_are_void(edit_and_word: tuple[Edit, str], mutants: int) -> None:
    """One of five is enough."""
    edit, word = edit_and_word
    verdict = judge([*OURS[mutants:], *(mutated(record, edit) for record in OURS[:mutants])], [BASELINE])
    assert verdict.state == "void", verdict.sentence
    assert word in verdict.sentence
    assert verdict.rows == ()
    assert exit_code(verdict, require_baseline=False) == 1


def test_faster_than_the_hardware_is_void() -> None:
    verdict = verdict_on(_small_peak)
    assert verdict.state == "void", verdict.sentence
    assert "impossible" in verdict.sentence


@pytest.mark.parametrize("edit", [_at("loss", 7, 1.01), _at("grad_norm", 7, 1.05)], ids=["loss", "grad norm"])
def test_what_rounding_moves_is_not_void(edit: Edit) -> None:
    assert verdict_on(edit).state == "pass"


@pytest.fixture(scope="module")
def job() -> Job:
    return prepare(load_recipe("grok1-nano"), STEPS)


def raw(job: Job) -> RunResult:
    """What the engine would hand over of a good run."""
    pairs = STEPS * job.recipe.tokens_per_step * job.recipe.model.experts_per_token
    experts = job.recipe.model.num_experts
    return RunResult(
        steps=[StepMetrics(index, 11.0, 0.0, 2.0, 1e-4, skipped=False) for index in range(STEPS)],
        ranks=[],
        expert_load=[[pairs // experts] * experts for _ in range(job.recipe.model.num_layers)],
        startup_seconds=1.0,
        layout=LayoutUsed(1, 1, 1, 1, 1, 1, 1, 1),
        device=DeviceUsed("cpu", "invented", None, None, None, "fp32"),
        software={},
        code_digests={},
    )


def _third_step(**changes: Any) -> Callable[[RunResult], None]:
    def edit(result: RunResult) -> None:
        result.steps[2] = replace(result.steps[2], **changes)

    return edit


def _stopped(result: RunResult) -> None:
    del result.steps[4:]


def _lost_tokens(result: RunResult) -> None:
    result.expert_load[1][0] -= 1


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (_third_step(loss=math.nan), "step 3: loss is not finite"),
        (_third_step(grad_norm=math.nan), "step 3: grad norm is not finite"),
        (_third_step(skipped=True), "step 3: the optimizer skipped its update"),
        (_stopped, f"4 of {STEPS} steps ran"),
        (_lost_tokens, "layer 1: 1 of"),
    ],
)
def test_a_run_that_went_wrong_is_void_from_the_start(job: Job, edit: Callable[[RunResult], None], word: str) -> None:
    assert void_reasons(job, raw(job)) == []
    wrong = raw(job)
    edit(wrong)
    assert any(word in reason for reason in void_reasons(job, wrong))


def _null(field: str) -> Edit:
    def edit(content: Content) -> None:
        content["steps"][2][field] = None

    return edit


def _nan(content: Content) -> None:
    content["steps"][2]["loss"] = math.nan


def _missing_rank(content: Content) -> None:
    del content["ranks"][5]


def _repeated_rank(content: Content) -> None:
    content["ranks"][5]["rank"] = 4


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (_null("loss"), "step 3 has a loss or grad_norm that is not finite"),
        (_null("grad_norm"), "step 3 has a loss or grad_norm that is not finite"),
        (_nan, "finite number"),
        (_missing_rank, "rank 5 is missing"),
        (_repeated_rank, "ranks repeat"),
    ],
)
def test_a_record_that_calls_itself_valid_and_is_not_is_refused(edit: Edit, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        mutated(OURS[0], edit)


# ---- missing, and refused --------------------------------------------------------------------------------


def _within(part: str, **changes: Any) -> Edit:
    def edit(content: Content) -> None:
        content[part] |= changes

    return edit


def _renamed(content: Content) -> None:
    content["case"] = "grok1-40b-renamed"


REFUSED: dict[str, tuple[Edit, str]] = {
    "renamed case": (_renamed, "case grok1-40b-renamed"),
    "recipe's hash": (_within("recipe", hash="f" * 12), "recipe.hash ffffffffffff"),
    "layout": (_within("layout", nodes=1, ranks_per_node=16), "layout.nodes 1"),
    "split of experts": (_within("layout", expert_tensor=1), "layout.expert_tensor 1"),
    "device": (_within("device", name="Ascend910C"), "device.name Ascend910C"),
    "dtype": (_within("device", dtype="fp16"), "dtype fp16"),
    "software": (_within("software", torch="2.8.0"), "software.torch 2.8.0"),
    "more software": (_within("software", apex="1"), "software.apex 1"),
    "parameters": (_within("work", parameters_total=42_000_000_000), "parameters_total 42000000000"),
}


@pytest.mark.parametrize("edit_and_word", REFUSED.values(), ids=REFUSED)
def test_another_thing_is_refused_by_name(edit_and_word: tuple[Edit, str]) -> None:
    edit, word = edit_and_word
    verdict = verdict_on(edit)
    assert verdict.state == "no_baseline", verdict.sentence
    assert word in verdict.sentence
    assert verdict.rows == ()
    assert [exit_code(verdict, require_baseline=required) for required in (False, True)] == [0, 1]


@pytest.mark.parametrize("ran", [[mutated(each, _renamed) for each in OURS], [mutated(OURS[0], _renamed)]])
def test_a_case_that_did_not_run_is_missing(ran: list[Record]) -> None:
    (verdict,) = missing(ran, [BASELINE])
    assert (verdict.state, verdict.case) == ("missing", BASELINE.case)
    assert "MISSING: grok1-40b has no run to judge" in verdict.sentence
    assert exit_code(verdict, require_baseline=False) == 1


def test_a_case_that_was_asked_for_is_missing_though_nothing_is_stored() -> None:
    (verdict,) = missing(OURS, [], expected=["grok1-40b", "grok1-60b"])
    assert (verdict.state, verdict.case) == ("missing", "grok1-60b")


def test_a_case_that_is_slower_fails_in_a_suite_of_others() -> None:
    slow = [mutated(record, _every_step) for record in OURS]
    found = judge_suite([OURS, [mutated(record, _renamed) for record in OURS], slow], [BASELINE])
    assert [each.state for each in found] == ["pass", "no_baseline", "fail"]


def test_too_few_runs_to_fail_are_no_pass() -> None:
    verdict = judge([mutated(record, _every_step) for record in OURS[:2]], [BASELINE])
    assert verdict.state == "inconclusive", verdict.sentence
    assert "a decision takes at least 3 runs" in verdict.sentence
    assert "--runs 3" in verdict.sentence
    assert exit_code(verdict, require_baseline=True) == 1


# ---- the baseline ------------------------------------------------------------------------------------------


def edited_baseline(baseline: Baseline, **changes: Any) -> Baseline:
    return Baseline.model_validate(baseline.model_dump() | changes)


PUBLISHED = edited_baseline(
    BASELINE,
    kind="published",
    runs=[],
    software={},
    decides_when={"recipe": {}, "software": {}},
    recipe={"name": "grok1-40b", "hash": None},
    label="invented figure",
)


def _slower_by(factor: float) -> Edit:
    def edit(content: Content) -> None:
        for rank in content["ranks"]:
            rank["step_seconds"] = [factor * each for each in rank["step_seconds"]]

    return edit


@pytest.mark.parametrize(("factor", "state"), [(1.0, "pass"), (1.03, "pass"), (1.07, "fail")])
def test_a_published_figure_fails_beyond_its_tolerance(factor: float, state: str) -> None:
    verdict = verdict_on(_slower_by(factor), PUBLISHED)
    assert verdict.state == state, verdict.sentence
    assert verdict.sentence.endswith("the limit is 5 %")


@pytest.mark.parametrize(
    "name", ["tolerance_percent", "floor_percent", "loss_tolerance_percent", "grad_norm_tolerance_percent"]
)
def test_a_baseline_that_tolerates_anything_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "case.json"
    BaselineFile(baselines=[BASELINE]).write(path)
    assert read_baselines(path) == [BASELINE]
    content = json.loads(path.read_text())
    content["baselines"][0][name] = 51.0
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"case\.json: baselines\.0\.{name}: .*less than or equal to 50"):
        read_baselines(path)


def test_a_recorded_figure_is_that_of_its_runs() -> None:
    metrics = BASELINE.metrics
    slower = {
        "step_seconds": 1.1 * metrics.step_seconds,
        "tokens_per_second_per_processor": metrics.tokens_per_second_per_processor / 1.1,
    }
    with pytest.raises(ValueError, match="the median of the runs' medians"):
        edited_baseline(BASELINE, metrics=slower)
    with pytest.raises(ValueError, match="repeat a record_id"):
        edited_baseline(BASELINE, runs=[BASELINE.runs[0].model_dump()] * RUNS)
    with pytest.raises(ValueError, match="at least one run"):
        edited_baseline(BASELINE, runs=[])


@pytest.mark.parametrize("role", ["compare", "retired"])
def test_a_baseline_that_no_longer_judges_is_none(role: str) -> None:
    assert exit_code(judge(OURS, [edited_baseline(BASELINE, role=role)]), require_baseline=True) == 1


# ---- what has no noise -------------------------------------------------------------------------------------


def _one_more_collective(content: Content) -> None:
    content["ranks"][0]["collectives"][0]["calls"] += 1


def test_one_more_collective_is_a_complaint_of_the_ledgers_gate() -> None:
    stored = read_ledger(ledger_store.path_of(ledger_store.FOLDER, "grok1-40b"))
    content = json.loads(stored.model_dump_json(by_alias=True))
    assert ledger_text.complaint(stored, Ledger.model_validate_json(json.dumps(content))) == ""
    _one_more_collective(content)
    complaint = ledger_text.complaint(stored, Ledger.model_validate_json(json.dumps(content)))
    assert stored.ranks[0].collectives[0].operation in complaint
    assert "calls" in complaint


def _loaded(content: Content) -> None:
    content["device"]["kind"] = "cpu"
    content["host"]["load_average_1m"] = 500.0


def _steps(factors: Callable[[int], float]) -> Edit:
    def edit(content: Content) -> None:
        for rank in content["ranks"]:
            rank["step_seconds"] = [each * factors(step) for step, each in enumerate(rank["step_seconds"])]

    return edit


NOISE: dict[str, tuple[Edit, str]] = {
    "stolen": (_within("host", stolen_seconds=1e5), "the hypervisor stole"),
    "throttled": (_within("host", throttled_seconds=1e5), "throttled for"),
    "busy before": (_loaded, "the load average before the start"),
}
NOTED: dict[str, tuple[Edit, str]] = {
    "varying": (_steps(lambda step: 1.0 + 0.3 * (step % 2)), "steady steps vary by"),
    "drifting": (_steps(lambda step: 1.0 + 0.02 * step), "steady steps drift by +"),
    "stalled": (_steps(lambda step: 20.0 if step == 15 else 1.0), "step 16 of 20 took"),
}


@pytest.mark.parametrize("edit_and_word", NOISE.values(), ids=NOISE)
def test_a_noisy_run_is_a_complaint(edit_and_word: tuple[Edit, str]) -> None:
    edit, word = edit_and_word
    assert complaints(OURS[0]) == []
    assert any(word in each for each in complaints(mutated(OURS[0], edit)))


@pytest.mark.parametrize("edit_and_word", NOTED.values(), ids=NOTED)
def test_odd_steps_are_a_note(edit_and_word: tuple[Edit, str]) -> None:
    edit, word = edit_and_word
    summary = summarise(mutated(OURS[0], edit))
    assert any(word in each for each in notes(summary.step_seconds[summary.steady_from :], summary.steady_from))
