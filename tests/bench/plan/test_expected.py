"""What is expected of a recorded run: by the profile of its device or a named one, else nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.ingest.make import make_record
from bench.ingest.read import read_logs
from bench.judge.beside import beside
from bench.judge.stats import summarise
from bench.plan.chips import OF_DEVICES, profile_of_device
from bench.plan.device import device_names, load_device
from bench.plan.expected import (
    expectation_by,
    expectation_of,
    known_expectations,
    rank_work,
    recipe_of_record,
)
from bench.plan.grok1_work import work_of
from bench.plan.layouts import layouts_of
from bench.plan.measured import Measured, WholeSteps
from bench.plan.played import predict_played
from bench.records.lone_rank import LoneRank
from bench.records.record import Record
from grok1.config.load import load_recipe
from grok1.device.accelerator import PEAKS
from reports.__main__ import app
from tests.bench.ingest.logs import NPU, dump, lines
from tests.conftest import RecordBuilder
from tests.in_process import Command

FULL = load_recipe("grok1-40b")
OF_40B = {
    "recipe": {"name": FULL.name, "hash": FULL.hash(), "resolved": FULL.resolved()},
    "expert_load": [],
    "device": {"name": "Ascend910B2"},
}


def test_each_known_name_has_a_profile_whose_peak_is_the_one_that_mfu_takes() -> None:
    assert set(OF_DEVICES.values()) <= set(device_names())
    for name in set(OF_DEVICES) & set(PEAKS):
        assert load_device(OF_DEVICES[name]).peak_flops("bf16") == pytest.approx(PEAKS[name][0], rel=1e-3), name


def test_of_a_known_device_it_is_the_planners_prediction(synthetic_record: RecordBuilder) -> None:
    found = expectation_of(synthetic_record(**OF_40B))
    prediction = predict_played(work_of(layouts_of(FULL)), load_device("ascend-a2-376t"))  # as plans show it
    assert found.profile == "ascend-a2-376t"
    assert found.step_seconds == pytest.approx(float(prediction.step_seconds[0]))
    assert found.terms == {name: pytest.approx(float(term[0])) for name, term in prediction.terms.items()}
    assert found.low_seconds is not None
    assert found.low_seconds < found.step_seconds < (found.high_seconds or 0.0)
    assert any("interval from" in sentence for sentence in found.basis)
    assert "expert-tensor x expert all_gather_into_tensor" in {each.name for each in found.exchanges}


def test_of_an_unknown_device_nothing_is_guessed(synthetic_record: RecordBuilder) -> None:
    record = synthetic_record(**{**OF_40B, "device": {"name": "Ascend 310"}})
    assert profile_of_device("Ascend 310") is None
    with pytest.raises(ValueError, match="no device profile is known to be of 'Ascend 310'; name one"):
        expectation_of(record)
    assert known_expectations([record]) == []
    assert [each.profile for each in known_expectations([record, record], "b200")] == ["b200"]


def test_what_cannot_be_expected_is_refused_where_a_profile_is_named(synthetic_record: RecordBuilder) -> None:
    with pytest.raises(ValueError, match="unknown device 'h101'"):
        known_expectations([synthetic_record(**OF_40B)], "h101")
    with pytest.raises(ValueError, match="holds no recipe of this version"):
        known_expectations([synthetic_record(device={"name": "Ascend910B2"})], "b200")
    assert known_expectations([synthetic_record(device={"name": "Ascend910B2"})]) == []
    void = synthetic_record(**OF_40B, valid=False, void_reasons=["why"])
    assert known_expectations([void], "b200") == []


@pytest.mark.parametrize(
    "resolved", [{}, {"model": 1, "parallel": 2, "training": 3}, {**FULL.resolved(), "more": 1}, FULL.resolved()]
)
def test_a_record_whose_recipe_is_not_its_hashs_has_none(
    synthetic_record: RecordBuilder, resolved: dict[str, Any]
) -> None:
    record = synthetic_record(recipe={"name": FULL.name, "hash": "0" * 12, "resolved": resolved})
    assert recipe_of_record(record) is None


def lone(synthetic_record: RecordBuilder, rank: int, shares: tuple[float, ...] = ()) -> Record:
    content = synthetic_record(**OF_40B).model_dump(mode="json", by_alias=True)
    content["lone_rank"] = {"rank": rank, "routing_shares": list(shares)}
    content["ranks"] = [each for each in content["ranks"] if each["rank"] == rank]
    return Record.model_validate(content)


def test_a_rank_alone_is_expected_to_do_its_stages_work_without_the_others(synthetic_record: RecordBuilder) -> None:
    device = load_device("ascend-a2-376t")
    first, last = (expectation_by(lone(synthetic_record, rank), FULL, device) for rank in (0, 15))
    assert first.terms["products"] < last.terms["products"]  # of which the last stage has the head's
    own = ("products", "attention", "memory", "host", "optimizer")
    assert last.step_seconds == pytest.approx(sum(last.terms[name] for name in own))
    assert last.terms["expert"] > 0
    whole = expectation_by(synthetic_record(**OF_40B), FULL, device)
    assert last.step_seconds < whole.step_seconds
    assert last.terms["products"] == pytest.approx(whole.terms["products"])  # its slowest stage is the last one
    assert any("none is of a rank alone" in sentence for sentence in last.basis)


def test_by_a_profile_measured_here_there_is_no_interval_and_of_shared_cores_no_part(
    synthetic_record: RecordBuilder,
) -> None:
    steps = [WholeSteps(job_ranks=ranks, factor=factor) for ranks, factor in ((1, 1.5), (16, 2.0))]
    update = {"cores": 2, "measured": Measured(source="here", whole_steps=steps)}
    plain = load_device("a100-sxm").model_copy(update={"cores": 2, "measured": Measured(source="here")})
    device, whole, alone = plain.model_copy(update=update), synthetic_record(**OF_40B), lone(synthetic_record, 0)
    found, single = expectation_by(whole, FULL, device), expectation_by(alone, FULL, device)
    assert found.step_seconds == pytest.approx(2.0 * expectation_by(whole, FULL, plain).step_seconds)
    assert single.step_seconds == pytest.approx(1.5 * expectation_by(alone, FULL, plain).step_seconds)
    assert found.low_seconds is single.low_seconds is None
    assert any("no published row" in sentence for sentence in found.basis)
    assert (found.ranks_share_cores, single.ranks_share_cores) == (True, False)
    told = beside(whole, summarise(whole), found)
    assert told.step.measured_seconds is not None
    assert {part.measured_seconds for part in told.parts} == {None}


def test_a_rank_with_more_of_the_tokens_is_expected_to_compute_more(synthetic_record: RecordBuilder) -> None:
    """Ranks 0 and 4 of a replica have the experts 0 to 3 and 4 to 7."""
    shares = (0.1875,) * 4 + (0.0625,) * 4
    device = load_device("ascend-a2-376t")
    full, light = (expectation_by(lone(synthetic_record, rank, shares), FULL, device) for rank in (0, 4))
    even = expectation_by(lone(synthetic_record, 0), FULL, device)
    assert light.terms["products"] < even.terms["products"] < full.terms["products"]


@pytest.mark.parametrize("order", ["tp-cp-ep-dp-pp", "tp-cp-ep-pp-dp"])
def test_the_stage_follows_from_the_rank_in_both_orders(order: str) -> None:
    recipe = load_recipe("grok1-nano", ["parallel.expert_tensor=2", f"parallel.order={order}"])
    stages = [int(rank_work(recipe, LoneRank(rank=rank)).stage[0]) for rank in range(16)]
    inside = [rank // 4 % 2 for rank in range(16)]
    assert stages == ([rank // 8 for rank in range(16)] if order == "tp-cp-ep-dp-pp" else inside)


def test_the_command_writes_what_a_report_takes(
    synthetic_record: RecordBuilder, bench: Command, tmp_path: Path
) -> None:
    synthetic_record(**OF_40B).write(tmp_path / "record.json")
    code, shown, errors = bench("expected", tmp_path / "record.json", "-o", tmp_path / "expected.json")
    assert (code, errors) == (0, "")
    assert "grok1-40b beside what profile ascend-a2-376t lets expect, 1 run(s):" in shown
    words = [tmp_path / "record.json", "-o", tmp_path / "out", "--expected", tmp_path / "expected.json"]
    reported = CliRunner().invoke(app, [str(word) for word in words])
    assert reported.exit_code == 0, reported.output
    assert "### Measured beside expected" in (tmp_path / "out" / "report.md").read_text()
    code, shown, _ = bench("gate", tmp_path / "record.json", "--expected", tmp_path / "expected.json")
    assert (code, "NO BASELINE" in shown) == (0, True)


def test_a_log_ingested_with_its_recipe_is_compared_as_a_whole(tmp_path: Path) -> None:
    recipe = load_recipe("grok1-40b-2layer")
    (tmp_path / "job.log").write_text(dump() + lines(*range(1, 9)))
    record = make_record(read_logs([tmp_path / "job.log"]), "a-case", NPU, recipe).record
    found = beside(record, summarise(record), expectation_of(record))
    assert found.expectation.profile == "ascend-a2-313t"
    assert found.step.measured_seconds == pytest.approx(summarise(record).median_step_seconds)
    assert {part.measured_seconds for part in found.parts} == {None}
    without = make_record(read_logs([tmp_path / "job.log"]), "a-case", NPU).record
    with pytest.raises(ValueError, match="ingest its log with --recipe"):
        expectation_of(without)


def test_the_command_refuses_what_it_cannot_say(
    synthetic_record: RecordBuilder, bench: Command, tmp_path: Path
) -> None:
    synthetic_record().write(tmp_path / "record.json")
    code, _, errors = bench("expected", tmp_path / "record.json")
    assert (code, "name one with --device-profile" in errors) == (2, True)
    code, _, errors = bench("expected", tmp_path / "record.json", "--device-profile", "h101")
    assert code == 2
    code, _, errors = bench("gate", tmp_path / "record.json", "--expected", tmp_path / "record.json")
    assert (code, "expectations: Field required" in errors or "record.json:" in errors) == (2, True)
