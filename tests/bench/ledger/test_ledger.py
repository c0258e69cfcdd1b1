"""The ledger's gate: equal is silent, any figure that grew is named, and the shipped ledgers are the tree's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import tests.bench.ledger.ledger_entries as entries
from bench.ledger import store as ledger_store
from bench.ledger import text as ledger_text
from bench.ledger.count import count
from bench.ledger.schema import Ledger, differences, read_ledger, write_ledger
from grok1.config.load import load_recipe
from grok1.config.memory import SHOWN_GIB
from grok1.distributed.launch import rank_context
from grok1.training.optimizer import TIED_ENDS
from tests.in_process import Command
from tests.limits import HANG_SECONDS
from tests.lines import LAYS_OUT_TIED_ENDS, ONLY_0_12

REMEDY = "python -m bench ledger --recipe"


@pytest.fixture(scope="module")
def tiny() -> Ledger:
    return count(load_recipe("grok1-tiny"))


# ---- what ships ----------------------------------------------------------------------------------------


@pytest.mark.matrix(keep=1)
@ONLY_0_12
@pytest.mark.parametrize("name", ["grok1-tiny", "grok1-40b"])
def test_a_step_costs_what_is_stored(name: str, tiny: Ledger) -> None:
    """The benchmark run holds the other recipes too; these two take seconds."""
    stored = read_ledger(ledger_store.path_of(ledger_store.FOLDER, name))
    if stored.software["torch"] != tiny.software["torch"]:
        pytest.skip(f"stored with torch {stored.software['torch']}, whose backward has other operators")
    counted = tiny if name == "grok1-tiny" else count(load_recipe(name))
    assert ledger_text.complaint(stored, counted) == ""
    assert counted.is_complete


@pytest.mark.parametrize("name", ledger_store.SHIPPED)
def test_stored_ledgers_are_of_the_shipped_recipes(name: str) -> None:
    stored = read_ledger(ledger_store.path_of(ledger_store.FOLDER, name))
    recipe = load_recipe(name)
    assert (stored.recipe_name, stored.recipe_hash) == (name, recipe.hash())
    assert sum(rank.ranks_alike for rank in stored.ranks) == recipe.parallel.world_size
    assert stored.rationale
    assert stored.is_complete


def test_the_forty_billion_ledger_is_the_hand_count() -> None:
    """Two figures that were known before the ledger was: rank 0's parameters, and a micro-batch's FLOPs.

    2 x 28 x ... by hand: 66.5916 TFLOP with causal attention, where full matrices and an unfused backward give 68.65.
    """
    stored = read_ledger(ledger_store.path_of(ledger_store.FOLDER, "grok1-40b"))
    first = stored.ranks[0]
    parameters = first.parameters
    assert parameters.dense + parameters.expert + parameters.embedding == 2_705_620_992
    per_micro_batch = sum(row.matrix_flops for row in first.costs) / stored.num_micro_batches
    attention = sum(row.matrix_flops for row in first.costs if row.component == "attention core")
    core = 8192 * 8192 * 48 * 128 // 4 * 4  # heads of a tensor rank x layers: one T x T matrix product is 2 of these
    causal_backward_and_forward = 2 * core * 7 // 2
    assert attention / stored.num_micro_batches == causal_backward_and_forward
    unfused_full = 2 * core * (2 + 4)
    assert (per_micro_batch - causal_backward_and_forward + unfused_full) / 1e12 == pytest.approx(68.65, abs=0.005)


@pytest.mark.slow
def test_counting_twice_gives_the_same_bytes(tiny: Ledger, tmp_path: Path) -> None:
    write_ledger(tmp_path / "first.json", tiny)
    write_ledger(tmp_path / "second.json", count(load_recipe("grok1-tiny")))
    assert (tmp_path / "first.json").read_bytes() == (tmp_path / "second.json").read_bytes()
    assert read_ledger(tmp_path / "first.json") == tiny


# ---- the gate ------------------------------------------------------------------------------------------


def changed(ledger: Ledger, edit: Callable[[dict], None]) -> Ledger:
    content = json.loads(ledger.model_dump_json(by_alias=True))
    edit(content)
    return Ledger.model_validate_json(json.dumps(content))


def _one_more_flop(content: dict) -> None:
    content["ranks"][0]["costs"][0]["matrix_flops"] += 1


def _one_more_collective(content: dict) -> None:
    extra = {
        "phase": "forward",
        "group": "tensor",
        "operation": "all_reduce",
        "dtype": "bfloat16",
        "calls": 1,
        "bytes": 2,
    }
    content["ranks"][1]["collectives"].append(extra)


def _a_gibibyte_more(content: dict) -> None:
    content["ranks"][0]["memory"]["peak_bytes"] += 1 << 30


def _an_operator_less(content: dict) -> None:
    content["ranks"][0]["costs"][-1]["operator_calls"] -= 1


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (_one_more_flop, "matrix_flops"),
        (_one_more_collective, "forward: all_reduce on tensor, bfloat16"),
        (_a_gibibyte_more, "peak_bytes"),
        (_an_operator_less, "operator_calls"),
    ],
)
def test_any_figure_that_moved_is_named(tiny: Ledger, edit: Callable[[dict], None], named: str) -> None:
    after = changed(tiny, edit)
    assert after != tiny
    complaint = ledger_text.complaint(tiny, after)
    assert named in complaint
    assert REMEDY in complaint
    assert differences(tiny, tiny) == []


def test_a_cheaper_step_asks_for_the_same(tiny: Ledger) -> None:
    assert "if this is cheaper, store it" in ledger_text.complaint(tiny, changed(tiny, _an_operator_less))


def test_other_versions_are_said_first(tiny: Ledger) -> None:
    after = changed(tiny, lambda content: content["software"].update(torch="9.9.9"))
    lines = ledger_text.complaint(tiny, after).splitlines()
    assert lines[1] == f"- not comparable: torch {tiny.software['torch']} before, 9.9.9 after"


def test_a_ledger_of_another_line_is_said_to_be_one_and_never_to_replace_the_stored(tiny: Ledger) -> None:
    after = changed(tiny, lambda content: content["software"].update(megatron_core="0.99.1"))
    said = ledger_text.complaint(tiny, after)
    assert said.count(f"two lines of the engine: counted by megatron-core {tiny.engine_line} before, 0.99 after") == 1
    assert f"the stored ledger is megatron-core {tiny.engine_line}'s, and stays so" in said
    assert REMEDY not in said
    assert "two lines of the engine" in ledger_text.as_markdown(tiny, after, ("before", "after"))
    patch = changed(tiny, lambda content: content["software"].update(megatron_core=f"{tiny.engine_line}.99"))
    assert "two lines of the engine" not in ledger_text.complaint(tiny, patch)


def test_storing_does_not_replace_a_ledger_of_another_line(tiny: Ledger, tmp_path: Path) -> None:
    other = changed(tiny, lambda content: content["software"].update(megatron_core="0.99.1"))
    path = ledger_store.store(tiny, tmp_path, "the first")
    with pytest.raises(ValueError, match=rf"is megatron-core {tiny.engine_line}'s, and 0\.99 .*; .*--baselines") as e:
        ledger_store.store(other, tmp_path, "another line")
    assert "\n" not in str(e.value)
    assert read_ledger(path).rationale == "the first"
    ledger_store.store(tiny, tmp_path, "the second")
    assert read_ledger(path).rationale == "the second"


def test_an_unknown_operator_fails_the_gate(tiny: Ledger) -> None:
    after = changed(tiny, lambda content: content["unknown_operators"].update(mystery=3))
    assert not after.is_complete
    assert "mystery" in ledger_text.complaint(tiny, after)
    assert "INCOMPLETE: no FLOP formula for mystery (3)" in ledger_text.summary(after, load_recipe("grok1-tiny"), 64.0)


def test_an_operator_without_a_formula_is_named() -> None:
    """Counted as a call and as no FLOPs, under its name, so that the ledger cannot be silently low."""
    with ProcessPoolExecutor(1, mp_context=rank_context("cpu")) as pool:
        unknown, rows = pool.submit(entries.cost_of_a_singular_value_decomposition, None).result(timeout=HANG_SECONDS)
    assert unknown == {"_linalg_svd": 1}
    assert rows == [("optimizer", 2, 2 * 4 * 4 * 4)]


def test_an_activation_that_is_written_to_room_at_hand_has_a_formula() -> None:
    """As experts compute theirs where rows are many."""
    with ProcessPoolExecutor(1, mp_context=rank_context("cpu")) as pool:
        found = pool.submit(entries.flops_of_activations_with_room, None).result(timeout=HANG_SECONDS)
    assert len(found) == 4
    assert set(found.values()) == {(0, 12)}


def test_a_fused_update_that_scales_its_gradient_writes_it_too() -> None:
    with ProcessPoolExecutor(1, mp_context=rank_context("cpu")) as pool:
        plain, scaled = pool.map(entries.bytes_of_a_fused_update, (False, True), timeout=HANG_SECONDS)
    tensor, scalar = 16, 4
    assert plain == (4 * tensor + scalar, 3 * tensor)
    assert scaled == (4 * tensor + 2 * scalar, 4 * tensor)


def test_a_peak_above_the_devices_memory_is_said(tiny: Ledger) -> None:
    recipe = load_recipe("grok1-tiny")
    need_gib = max(rank.memory.peak_bytes for rank in tiny.ranks) / 2**30 + 5 * 2 * 200e6 / 2**30 + 1.0
    assert "fits, 1.00 GiB are left" in ledger_text.summary(tiny, recipe, need_gib + 1.0)
    assert "DOES NOT FIT: 0.01 GiB too much" in ledger_text.summary(tiny, recipe, need_gib - 0.01)


def test_the_published_job_is_not_said_to_fit_and_what_fits_is_named() -> None:
    stored = read_ledger(ledger_store.path_of(ledger_store.FOLDER, "grok1-40b"))
    said = ledger_text.summary(stored, load_recipe("grok1-40b"), SHOWN_GIB)
    assert re.search(
        r"shows 60\.96 GiB: DOES NOT FIT: \d\.\d\d GiB too much .*5 communicators and 1\.00 of margin", said
    )
    assert "what fits: --set kernels.experts=fused --set kernels.dispatch=merged" in said


@pytest.mark.slow
def test_a_changed_recipe_changes_the_ledger(tiny: Ledger) -> None:
    """The gate is alive on the real thing: one more all-gather shape, other FLOPs, other memory."""
    after = count(load_recipe("grok1-tiny", ["training.recompute=full"]))
    found = {each.figure for each in differences(tiny, after)}
    assert {"matrix_flops", "operator_calls", "peak_bytes", "calls", "bytes"} <= found
    assert any(row.phase == "recompute" for rank in after.ranks for row in rank.costs)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 1}', "NaN", '{"schema": 2}'])
def test_a_damaged_ledger_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "ledger.json").write_text(content)
    with pytest.raises(ValueError, match=r"ledger\.json"):
        read_ledger(tmp_path / "ledger.json")


# ---- the command ---------------------------------------------------------------------------------------


def in_a_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "ledger", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)


@pytest.mark.slow
def test_command_stores_checks_and_fails(tmp_path: Path) -> None:
    nano = ("--recipe", "grok1-nano", "--baselines", tmp_path)
    assert "no ledger of grok1-nano is stored" in in_a_process(*nano, "--check").stderr
    stored = in_a_process(*nano, "--update", "--rationale", "first count", "--json", tmp_path / "whole.json")
    assert (stored.returncode, stored.stderr) == (0, "")
    assert read_ledger(tmp_path / "grok1-nano.json").rationale == "first count"
    assert read_ledger(tmp_path / "whole.json").ranks[0].timeline
    same = in_a_process(*nano, "--check")
    assert same.returncode == 0
    assert "identical to " in same.stdout
    other = in_a_process(*nano, "--check", "--set", "training.micro_batch=2")
    assert other.returncode == 1
    assert "| operator_calls" in other.stdout


@pytest.mark.slow
def test_tied_ends_that_megatron_cannot_lay_out_are_refused_in_one_line() -> None:
    """Its first line puts such a weight into two buckets; the others can."""
    one_rank_a_stage = {"world_size": 2, "tensor": 1, "expert": 1, "expert_tensor": 1}
    changes = ["model.tie_embeddings=true", "training.global_batch=1"]
    changes += [f"parallel.{name}={ranks}" for name, ranks in one_rank_a_stage.items()]
    for hidden, can in ((40, LAYS_OUT_TIED_ENDS), (128, True)):
        words = [word for each in [*changes, f"model.hidden_size={hidden}"] for word in ("--set", each)]
        done = in_a_process("--recipe", "grok1-nano", *words)
        complaint = "" if can else f"bench: {TIED_ENDS}\n"
        assert (done.returncode, done.stderr) == (0 if can else 2, complaint)


@pytest.mark.matrix(keep=4)
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--update",), "say why with --rationale"),
        (("--ranks", "0,16"), r"the recipe has ranks 0 to 15"),
        (("--ranks", "some"), "must be stages, all, or numbers"),
        (("--routing", "0.5,0.5"), "has 2 shares that sum to 1, not 8"),
        (("--routing", "0.9,0.1,0,0,0,0,0,0"), "none above 1 / experts per token"),
        (("--set", "parallel.tensor=3"), "is not a multiple of"),
        (("--diff", "nothing-of-the-kind", "grok1-nano"), "nor a recipe, nor a git revision"),
        (("--versus", "parallel.tensor=4"), "'parallel.tensor=4' changes nothing of grok1-nano"),
        (("--versus", "parallel.tensor=3"), "--versus parallel.tensor=3"),
        (("--versus", "parallel.experts=8"), "unknown key"),
        (("--versus", "training.micro_batch=2", "--check"), "--versus and --check are two things to do"),
    ],
)
def test_command_refuses_in_one_line(arguments: tuple[str, ...], complaint: str, bench: Command) -> None:
    code, shown, errors = bench("ledger", "--recipe", "grok1-nano", *arguments)
    assert code == 2, shown
    assert errors.count("\n") == 1
    assert complaint in errors


@pytest.mark.slow
def test_what_if_tells_both_layouts_and_their_cost() -> None:
    changes = 'parallel.pipeline=1,training.recompute=selective,training.recompute_modules=["layernorm","moe"]'
    nano = load_recipe("grok1-nano")
    changed = load_recipe("grok1-nano", re.split(",(?=parallel|training)", changes))
    counted = [count(each) for each in (nano, changed)]
    done = in_a_process("--recipe", "grok1-nano", "--versus", changes)
    assert (done.returncode, done.stderr) == (0, "")
    title, *layouts = (line for line in done.stdout.splitlines() if line and not line.startswith("|"))
    assert title == f"# grok1-nano, and with `{changes}`"
    assert [line.partition(":")[0] for line in layouts] == ["TP4 PP2 EP2 ETP4 DP2", "TP4 PP1 EP2 ETP4 DP4"]
    assert all("fits" in line for line in layouts)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line]
    assert {row[0] for row in rows[2:]} == {"all ranks"}  # the stages are not the same ones
    calls = next(row for row in rows if row[1] == "operator calls")
    before, after = (each.total("operator_calls") for each in counted)
    assert calls[2:] == [f"{before:,}", f"{after:,}", f"{after / before - 1:+.2%}"]
    peak = next(row for row in rows if row[1] == "peak memory, GiB")
    assert peak[2] == f"{max(rank.memory.peak_bytes for rank in counted[0].ranks) / 2**30:,.4g}"
