"""From what ranks measured to a record: what it holds, and what voids it."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

import grok1
import tests.bench.measure_entries as entries
from bench import host as hosts
from bench import measure
from bench.host import OthersClock, host, is_virtual, lost_seconds, others_cores, seconds_since
from bench.judge.attribution import attribute
from bench.judge.metrics import figures_of
from bench.judge.stats import summarise
from bench.ledger.count import count
from bench.ledger.schema import RankLedger, group_totals
from bench.records.record import RankSamples, Record
from grok1.config.load import ONE_RANK, load_recipe
from grok1.distributed.launch import launch
from grok1.files import folder_digest
from grok1.training.job import Job, prepare
from grok1.training.result import (
    CollectiveSamples,
    DeviceUsed,
    LayoutUsed,
    ModuleSeconds,
    PhaseSpan,
    RunResult,
    StepMetrics,
)
from grok1.training.result import RankSamples as MeasuredRank
from tests.limits import HANG_SECONDS

STEPS = 2
ONE_OF_EACH_STAGE = (0, 8)
# what these move depends on the routing, which a ledger plans and a run learns
ROUTED = ("expert", "expert-tensor", "expert-tensor x expert")


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Two steps of grok1-nano on its sixteen ranks, written and read back."""
    made = measure.run("grok1-nano", prepare(load_recipe("grok1-nano"), STEPS), "cpu")
    assert made is not None
    path = tmp_path_factory.mktemp("record") / "record.json"
    made.write(path)
    return Record.read(path)


@pytest.fixture(scope="module")
def ledgers() -> dict[int, RankLedger]:
    """The same step counted without running it, by rank."""
    return {rank.rank: rank for rank in count(load_recipe("grok1-nano"), ONE_OF_EACH_STAGE).ranks}


def test_a_sound_run_is_valid(record: Record) -> None:
    assert record.valid
    assert all(rank.collectives and rank.timeline for rank in record.ranks)


def test_the_record_knows_its_sources(record: Record) -> None:
    """As a reader of the folder on disk would count them."""
    assert set(record.code_digests) == {"grok1", "megatron.core"}
    assert record.code_digests["grok1"] == folder_digest(Path(grok1.__file__).parent, ".py")


def test_collectives_are_those_of_the_ledger(record: Record, ledgers: dict[int, RankLedger]) -> None:
    for number, ledger in ledgers.items():
        counted = {
            f"{group} {operation}": totals
            for (group, operation), totals in group_totals(ledger).items()
            if operation not in ("send", "receive")  # the pipeline's time, not a collective
        }
        samples = record.ranks[number]
        # neither has groups of one, which move nothing: on sixteen ranks of grok1-nano no expert is held twice
        assert set(samples.collectives) == set(counted)
        assert {name: samples.collectives[name].calls for name in counted} == {
            name: STEPS * totals["calls"] for name, totals in counted.items()
        }
        fixed = [name for name in counted if not name.startswith(tuple(f"{group} " for group in ROUTED))]
        assert {name.split()[0] for name in fixed} == {"tensor", "data", "world"}
        assert {name: samples.collectives[name].bytes for name in fixed} == {
            name: STEPS * counted[name]["bytes"] for name in fixed
        }


def test_modules_are_timed_in_a_step_of_their_own(record: Record) -> None:
    told = {rank.rank: rank.modules_seconds for rank in record.ranks if rank.modules_seconds}
    assert tuple(told) == ONE_OF_EACH_STAGE
    assert {"decoder.layers.*.mlp.experts", "decoder.layers.*.mlp.router"} <= told[0].keys() & told[8].keys()
    assert ("embedding.word_embeddings" in told[0], "output_layer" in told[8]) == (True, True)
    assert not told[0].keys() >= {"output_layer"}
    assert len(record.steps) == STEPS  # and none of it among what was measured: the void check counts tokens
    seconds = [each.forward + each.backward for each in told[0].values()]
    assert seconds == sorted(seconds, reverse=True)


@pytest.mark.slow
def test_a_slow_module_is_named() -> None:
    recipe = load_recipe("grok1-nano", ONE_RANK)
    job = replace(prepare(recipe, 6), times_modules=True)
    before, after = (
        summarise(measure.make_record("grok1-nano", job, launch(job, recipe, "cpu", entry=entry), host()))
        for entry in ("grok1.training.run:run_rank", f"{entries.__name__}:dawdle_in_the_router")
    )
    found = attribute([figures_of(before)], [figures_of(after)])
    modules = [part for part in found.parts if part.kind == "module"]
    assert modules[0].name == "decoder.layers.*.mlp.router"
    assert "most in forward" in found.sentence
    assert "; of the modules decoder.layers.*.mlp.router +" in found.sentence


def test_the_host_says_what_the_run_did_not_get(record: Record) -> None:
    assert record.host is not None
    stolen, throttled = record.host.stolen_seconds, record.host.throttled_seconds
    assert (stolen is not None) == hasattr(psutil.cpu_times(), "steal")
    assert (throttled is not None) == (lost_seconds()["throttled_seconds"] is not None)


def test_lost_seconds_are_those_of_the_run(monkeypatch: pytest.MonkeyPatch, record: Record) -> None:
    now = _lost(5.0, 1.0)

    def ran(*_arguments: Any, **_settings: Any) -> RunResult:
        now.update(_lost(7.5, 1.25))
        return _result(record)

    monkeypatch.setattr(measure, "lost_seconds", lambda: dict(now))
    monkeypatch.setattr(measure, "launch", ran)
    job = prepare(load_recipe("grok1-nano"), STEPS)
    made = measure.run("grok1-nano", job, "cpu")
    assert made is not None
    assert made.host is not None
    assert (made.host.stolen_seconds, made.host.throttled_seconds) == (2.5, 0.25)


@pytest.mark.parametrize(
    ("before", "after", "expected"), [(1.0, 3.5, 2.5), (None, None, None), (None, 1.0, None), (2.0, 1.0, 0.0)]
)
def test_seconds_since(before: float | None, after: float | None, expected: float | None) -> None:
    assert seconds_since(_lost(before, 0.0), _lost(after, 0.0)) == _lost(expected, 0.0)


@pytest.mark.slow
@pytest.mark.skipif(not psutil.LINUX, reason="the system does not say")
def test_what_our_processes_do_is_not_others_work() -> None:
    """Ranks are children of the forkserver, which waits for them; what they did stays in the count."""
    before, busy = hosts._own_seconds(), hosts._busy_seconds()
    for context in (multiprocessing.get_context("forkserver"), multiprocessing.get_context("spawn")):
        process = context.Process(target=entries.compute, args=(0.3,))
        process.start()
        process.join()
    assert hosts._own_seconds() - before >= 0.55
    assert hosts._busy_seconds() - busy >= 0.55


def test_a_record_says_how_many_cores_others_used(record: Record) -> None:
    assert record.host is not None
    assert (record.host.others_cores is not None) == psutil.LINUX


@pytest.mark.parametrize(
    ("seconds", "cores"), [((1.0, 4.0), 1.5), ((4.0, 1.0), 0.0), ((None, None), None), ((1.0, None), None)]
)
def test_others_cores(seconds: tuple[float | None, float | None], cores: float | None) -> None:
    """A clock that goes backwards, as where a child is counted late, says 0."""
    assert others_cores(OthersClock(10.0, seconds[0]), OthersClock(12.0, seconds[1])) == cores


@pytest.mark.parametrize(
    ("file", "text", "seconds"),
    [
        ("cpu.stat", "usage_usec 9\nnr_throttled 3\nthrottled_usec 2500000\n", 2.5),
        ("cpu/cpu.stat", "nr_periods 9\nnr_throttled 3\nthrottled_time 1500000000\nburst_time 0\n", 1.5),
        ("cpu.stat", "usage_usec 9\n\n", None),  # a machine's root group has no quota
        ("memory.stat", "throttled_usec 1\n", None),
    ],
    ids=["v2", "v1", "no quota", "no file"],
)
def test_throttled_seconds(file: str, text: str, seconds: float | None, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    assert lost_seconds(tmp_path)["throttled_seconds"] == seconds


def test_one_token_that_misses_an_expert_voids(record: Record) -> None:
    job = prepare(load_recipe("grok1-nano"), STEPS)
    result = _result(record)
    assert measure.void_reasons(job, result) == []
    result.expert_load[1][3] -= 1
    pairs = STEPS * 4 * 32 * 2  # steps x sequences x tokens x experts a token
    assert measure.void_reasons(job, result) == [f"layer 1: 1 of {pairs} (token, expert) pairs were dropped"]
    made = measure.make_record("grok1-nano", job, result, host())
    assert not made.valid


def test_a_load_that_was_not_counted_is_not_checked(record: Record) -> None:
    job = prepare(load_recipe("grok1-nano"), STEPS)
    assert measure.void_reasons(job, replace(_result(record), expert_load=[])) == []


def test_no_more_reasons_than_a_record_holds(record: Record) -> None:
    job = prepare(load_recipe("grok1-nano"), STEPS)
    result = replace(_result(record), expert_load=[[0, 0]] * 200)
    assert len(measure.make_record("grok1-nano", job, result, host()).void_reasons) == 100


def test_a_timeline_that_no_record_could_hold_is_left_out(record: Record) -> None:
    rank, span = _samples(record.ranks[0]), PhaseSpan("forward", 0.0, 1.0)
    held = replace(rank, timeline=[span] * 20_000)
    assert measure.fitting(held, num_ranks=16).timeline == held.timeline
    assert measure.fitting(held, num_ranks=17).timeline == []
    assert measure.fitting(replace(held, timeline=[*held.timeline, span]), num_ranks=1).timeline == []


def test_the_costliest_modules_are_kept(record: Record) -> None:
    modules = {f"module {place}": ModuleSeconds(1000.0 - place, 0.0) for place in range(300)}
    kept = measure.fitting(replace(_samples(record.ranks[0]), modules_seconds=modules), 16).modules_seconds
    assert list(kept) == list(modules)[:200]


@pytest.mark.slow
def test_a_router_that_drops_tokens_voids_its_run() -> None:
    recipe = load_recipe("grok1-nano", (*ONE_RANK, "kernels.dispatch=megatron"))  # the merged one knows no dropping
    job: Job = prepare(recipe, STEPS)
    result = launch(job, recipe, "cpu", entry=f"{entries.__name__}:drop_tokens", timeout_seconds=HANG_SECONDS)
    made = measure.make_record("grok1-nano", job, result, host())
    assert [reason.split(":")[0] for reason in made.void_reasons] == ["layer 0", "layer 1"]
    assert all("(token, expert) pairs were dropped" in reason for reason in made.void_reasons)


def test_an_edit_while_it_runs_voids_the_run() -> None:
    recipe = load_recipe("grok1-nano", ONE_RANK)
    job = prepare(recipe, STEPS)
    result = launch(job, recipe, "cpu", entry=f"{entries.__name__}:edited_meanwhile", timeout_seconds=HANG_SECONDS)
    made = measure.make_record("grok1-nano", job, result, host())
    assert made.code_digests["grok1"] == "a" * 64
    (reason,) = made.void_reasons
    assert reason.startswith("the sources of grok1 were edited while it ran; ")


def test_a_node_that_runs_other_code_voids_the_run() -> None:
    recipe = load_recipe("grok1-nano", (*ONE_RANK, "parallel.world_size=2"))
    job = prepare(recipe, STEPS)
    alike, other = (
        launch(job, recipe, "cpu", entry=f"{entries.__name__}:{entry}", timeout_seconds=HANG_SECONDS)
        for entry in ("one_node_a_rank", "other_megatron_on_node_1")
    )
    assert (alike.layout.nodes, alike.code_differences) == (2, [])
    assert measure.make_record("grok1-nano", job, alike, host()).valid
    made = measure.make_record("grok1-nano", job, other, host())
    (reason,) = made.void_reasons
    assert reason.startswith("node 1 runs another megatron.core than node 0: 000000000000, not ")


def _lost(stolen: float | None, throttled: float | None) -> dict[str, float | None]:
    return {"stolen_seconds": stolen, "throttled_seconds": throttled}


def _result(record: Record) -> RunResult:
    """What rank 0 gathered, from the record that was made of it."""
    assert record.startup_seconds is not None
    return RunResult(
        steps=[StepMetrics(**step.model_dump()) for step in record.steps],
        ranks=[_samples(rank) for rank in record.ranks],
        expert_load=record.model_dump()["expert_load"],
        startup_seconds=record.startup_seconds,
        layout=LayoutUsed(**record.layout.model_dump()),
        device=DeviceUsed(**record.device.model_dump()),
        software=record.software,
        code_digests=record.code_digests,
    )


def _samples(rank: RankSamples) -> MeasuredRank:
    content = rank.model_dump(exclude={"operators_seconds", "operator_calls"})  # of ranks alone
    content["collectives"] = {name: CollectiveSamples(**each) for name, each in content["collectives"].items()}
    content["timeline"] = [PhaseSpan(**each) for each in content["timeline"]]
    content["modules_seconds"] = {name: ModuleSeconds(**each) for name, each in content["modules_seconds"].items()}
    return MeasuredRank(**content)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu vme hypervisor lahf_lm\n", True),
        ("processor\t: 0\nflags\t\t: fpu vme lahf_lm hypervisors\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd\n", None),
    ],
)
def test_a_virtual_machine_is_known_by_the_flag_that_its_hypervisor_sets(
    tmp_path: Path, text: str, expected: bool | None
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    assert is_virtual(cpuinfo) is expected
    assert is_virtual(tmp_path / "none") is None
