"""`python -m bench baseline`, through files: what is stored, what is refused in one line, and what stays as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.judge.baseline import Baseline, BaselineFile, load_baselines, recorded_baseline, stored_baselines
from bench.judge.gate import judge, missing
from tests.in_process import Command


def write_runs(synthetic_record, folder: Path, count: int = 5, first: int = 1, **changes: Any) -> Path:
    """So many runs that differ by half a percent, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    seconds = changes.pop("median_seconds", 39.8)
    for seed in range(first, first + count):
        between = 1 + 0.005 * float(np.random.default_rng(seed).standard_normal())
        run = synthetic_record(seed=seed, noise=0.003, median_seconds=seconds * between, **changes)
        run.write(folder / f"{seed}.json")
    return folder


def stored_one(folder: Path = Path("baselines")) -> Baseline:
    (found,) = load_baselines(folder)
    return found


def refused(outcome: tuple[int, str, str], *words: str) -> None:
    """Exit 2, and the last line of the errors says these words."""
    code, _, errors = outcome
    assert code == 2
    assert errors.splitlines()[-1].startswith("bench: ")
    for word in words:
        assert word in errors.splitlines()[-1], errors


CANDIDATE = "results/baselines/ascend910b-synthetic/grok1-40b.json"


def promoted(bench: Command, synthetic_record, name: str = "runs", **changes: Any) -> str:
    """The output of recording and promoting five runs."""
    assert (
        bench("baseline", "record", write_runs(synthetic_record, Path(name), **changes), "-o", f"{name}.json")[0] == 0
    )
    code, output, errors = bench("baseline", "promote", f"{name}.json", "--rationale", f"because of {name}")
    assert code == 0, errors
    return output


def test_record_then_promote_then_judge(bench: Command, synthetic_record) -> None:
    code, output, _ = bench("baseline", "record", write_runs(synthetic_record, Path("runs")))
    assert code == 0
    assert f"wrote {CANDIDATE}" in output
    assert load_baselines(Path("baselines")) == []
    assert bench("baseline", "promote", CANDIDATE, "--rationale", "first  figures")[0] == 0
    (path, baseline) = stored_baselines(Path("baselines"))[0]
    assert path == Path("baselines/ascend910b-synthetic/grok1-40b.json")
    assert (baseline.role, baseline.rationale, len(baseline.runs)) == ("judge", "first figures", 5)
    assert re.fullmatch(r"grok1-40b on Ascend910B-synthetic, 2025-01-31 \([0-9a-f]{8}\)", baseline.label)
    assert baseline.software == {"python": "3.10.0", "torch": "2.7.1", "megatron-core": "0.6.0"}
    assert judge([synthetic_record(seed=seed, noise=0.003) for seed in (11, 12, 13)], [baseline]).state == "pass"


def test_tolerance_and_floor_are_stored(bench: Command, synthetic_record) -> None:
    runs = write_runs(synthetic_record, Path("runs"))
    assert bench("baseline", "record", runs, "--tolerance-percent", 3, "--floor-percent", 0.5)[0] == 0
    (baseline,) = load_baselines(Path("results/baselines"))
    assert (baseline.tolerance_percent, baseline.floor_percent) == (3.0, 0.5)


@pytest.mark.parametrize("value", ["0", "51", "nan", "inf", "-1", "much"])
def test_a_tolerance_that_is_none_is_refused(bench: Command, synthetic_record, value: str) -> None:
    runs = write_runs(synthetic_record, Path("runs"))
    for option in ("--tolerance-percent", "--floor-percent"):
        assert bench("baseline", "record", runs, option, value)[0] == 2
    assert not Path("results").exists()


def test_fewer_than_five_runs_are_refused(bench: Command, synthetic_record) -> None:
    refused(
        bench("baseline", "record", write_runs(synthetic_record, Path("runs"), 4)), "4 runs", "at least 5", "--runs 5"
    )
    Path("empty").mkdir()
    refused(bench("baseline", "record", "empty"), "0 runs")
    refused(bench("baseline", "record", "gone.json"), "gone.json: cannot be read")


def test_each_unfit_run_is_named_with_all_that_is_against_it(bench: Command, synthetic_record) -> None:
    runs = write_runs(synthetic_record, Path("runs"))
    steps = [300.0, *[39.8, 100.0] * 9, 39.8]
    ranks = [each.model_dump() | {"step_seconds": steps} for each in synthetic_record().ranks]
    synthetic_record(seed=21, ranks=ranks).write(runs / "a.json")
    synthetic_record(seed=22, noise=0.003, host={"throttled_seconds": 90.0}).write(runs / "b.json")
    synthetic_record(seed=23, valid=False, void_reasons=["step 3: loss is not finite"]).write(runs / "c.json")
    synthetic_record(seed=24, noise=0.003, device={"peak_flops_per_second": 1e12}).write(runs / "d.json")
    outcome = bench("baseline", "record", runs)
    refused(outcome, "about 9 records", "run all of them again")
    lines = outcome[2].splitlines()[:-1]
    words = {
        "a": "the middle half of its steady steps",
        "b": "throttled for 90 s",
        "c": "loss is not finite",
        "d": "impossible",
    }
    for name, word in words.items():
        assert any(line.startswith(f"runs/{name}.json: run 0000") and word in line for line in lines), lines
    assert not any(f"runs/{seed}.json" in line for seed in range(1, 6) for line in lines)
    assert not Path("results").exists()


def test_steps_that_vary_are_noted_and_refuse_nothing(bench: Command, synthetic_record) -> None:
    runs = write_runs(synthetic_record, Path("runs"), 4)
    steps = [300.0, *[39.8, 36.0, 43.0] * 6, 39.8]
    ranks = [each.model_dump() | {"step_seconds": steps} for each in synthetic_record().ranks]
    synthetic_record(seed=9 << 96, ranks=ranks).write(runs / "9.json")
    code, output, errors = bench("baseline", "record", runs, "-o", "candidate.json")
    assert code == 0, errors
    note = "note: run 00000009: steady steps vary by 7."
    assert note in output
    bench("baseline", "promote", "candidate.json", "--rationale", "x")
    assert note in bench("baseline", "show", stored_one().label)[1]


def test_notes_of_many_runs_are_counted(bench: Command, synthetic_record) -> None:
    steps = [300.0, *[39.8, 36.0, 43.0] * 6, 39.8]
    ranks = [each.model_dump() | {"step_seconds": steps} for each in synthetic_record().ranks]
    Path("runs").mkdir()
    for seed in range(23):
        synthetic_record(seed=seed, ranks=ranks).write(Path("runs") / f"{seed}.json")
    lines = bench("baseline", "record", "runs")[1].splitlines()
    assert sum(line.startswith("note: run") for line in lines) == 20
    assert "note: and 3 more" in lines


def test_the_option_that_is_gone_says_so(bench: Command, synthetic_record) -> None:
    runs = write_runs(synthetic_record, Path("runs"))
    refused(bench("baseline", "record", runs, "--max-cv-percent", 10), "--max-cv-percent is gone", "leave the option")
    assert "--max-cv-percent" not in bench("baseline", "record", "--help")[1]


def with_a_far_run(synthetic_record, folder: Path, far: int = 1) -> Path:
    """Ten runs that differ by half a percent, so many of them 10 % slower."""
    write_runs(synthetic_record, folder, 10 - far)
    for index in range(far):
        run = synthetic_record(seed=(0xFA << 120) + index, noise=0.003, median_seconds=39.8 * 1.1)
        run.write(folder / f"far-{index}.json")
    return folder


NAMED = "run fa000000 is far from the others: s/step 4"


def test_a_run_far_from_the_others_refuses_them_all(bench: Command, synthetic_record) -> None:
    runs = with_a_far_run(synthetic_record, Path("runs"))
    outcome = bench("baseline", "record", runs)
    refused(outcome, "1 of 10 runs far from the others", "record all of them again", "--allow-outliers")
    (line,) = outcome[2].splitlines()[:-1]
    assert line.startswith(NAMED)
    assert "% above the median of the other 9" in line
    assert not Path("results").exists()


def test_a_far_run_that_is_kept_is_named_wherever_the_baseline_is(bench: Command, synthetic_record) -> None:
    runs = with_a_far_run(synthetic_record, Path("runs"))
    code, output, _ = bench("baseline", "record", runs, "--allow-outliers", "-o", "candidate.json")
    assert code == 0
    assert NAMED in output
    assert f"in the candidate, {NAMED}" in bench("baseline", "diff", "candidate.json")[1]
    assert NAMED in bench("baseline", "promote", "candidate.json", "--rationale", "x")[1]
    assert f"in the candidate, {NAMED}" in bench("baseline", "diff", "candidate.json")[1]
    assert f"{stored_one().label}: {NAMED}" in bench("baseline", "list")[1]
    assert NAMED in bench("baseline", "show", stored_one().label)[1]


def test_three_far_runs_are_how_the_machine_runs(bench: Command, synthetic_record) -> None:
    code, output, _ = bench("baseline", "record", with_a_far_run(synthetic_record, Path("runs"), far=3))
    assert code == 0
    assert output.count("this is how runs vary here") == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipe": {"hash": "f" * 12}}, "recipe.hash"),
        ({"case": "another"}, "case another"),
        ({"device": {"name": "Ascend310"}}, "device.name"),
        ({"layout": {"nodes": 1, "ranks_per_node": 16}}, "layout.nodes"),
        ({"software": {"torch": "2.8.0"}}, "software.torch 2.8.0 (first 2.7.1)"),
        ({"software": {"extra": "1"}}, "software.extra 1 (first absent)"),
    ],
)
def test_runs_of_two_keys_are_no_baseline(
    bench: Command, synthetic_record, changes: dict[str, Any], words: str
) -> None:
    runs = write_runs(synthetic_record, Path("runs"))
    write_runs(synthetic_record, runs, count=1, first=9, **changes)
    refused(bench("baseline", "record", runs), words)


def test_software_is_compared_even_where_the_first_states_none(synthetic_record) -> None:
    first = synthetic_record().model_copy(update={"software": {}})
    second = synthetic_record(seed=1, software={"python": "3.10.0", "torch": "2"})
    with pytest.raises(ValueError, match=r"differs from the first in software\.megatron-core 0\.6\.0 \(first absent\)"):
        recorded_baseline([first, second], "why")


def test_runs_that_learn_something_else_are_no_baseline(bench: Command, synthetic_record) -> None:
    runs = write_runs(synthetic_record, Path("runs"))
    steps = [each.model_dump() | {"loss": 3.0} for each in synthetic_record().steps]
    write_runs(synthetic_record, runs, count=1, first=9, steps=20)
    other = synthetic_record(seed=9, noise=0.003).model_dump(by_alias=True) | {"steps": steps}
    type(synthetic_record()).model_validate(other).write(runs / "9.json")
    refused(bench("baseline", "record", runs), "loss", "must all compute the same")


def test_one_run_given_twice_is_refused(bench: Command, synthetic_record) -> None:
    runs = write_runs(synthetic_record, Path("runs"))
    refused(bench("baseline", "record", runs, runs / "1.json"), "runs/1.json", "give each run once")


def test_promoting_replaces_the_judge_of_the_key_alone(bench: Command, synthetic_record) -> None:
    promoted(bench, synthetic_record, "first")
    output = promoted(bench, synthetic_record, "second", first=11, median_seconds=30.0)
    assert "would replace" in output
    assert "because of first" in output
    assert re.search(r"\ns/step +39\.\d+ s +(29|30)\.\d+ s +-2\d\.\d+ % ", output)
    assert stored_one().rationale == "because of second"
    promoted(bench, synthetic_record, "torch-2.8", software={"torch": "2.8.0"}, first=21)
    promoted(bench, synthetic_record, "hash", recipe={"hash": "f" * 12}, first=31)
    assert [each.rationale for each in load_baselines(Path("baselines"))] == [
        "because of second", "because of torch-2.8", "because of hash"
    ]  # fmt: skip


def test_a_judge_is_replaced_in_the_file_that_holds_it(bench: Command, synthetic_record) -> None:
    promoted(bench, synthetic_record, "first")
    Path("baselines/elsewhere").mkdir()
    Path("baselines/ascend910b-synthetic/grok1-40b.json").rename("baselines/elsewhere/mine.json")
    promoted(bench, synthetic_record, "second", first=11)
    assert [path for path, _ in stored_baselines(Path("baselines"))] == [Path("baselines/elsewhere/mine.json")]


def test_a_judge_that_states_no_software_is_another_key(bench: Command, synthetic_record) -> None:
    promoted(bench, synthetic_record, "first")
    path = stored_baselines(Path("baselines"))[0][0]
    content = json.loads(path.read_text())
    content["baselines"][0]["software"] = {}
    path.write_text(json.dumps(content))
    promoted(bench, synthetic_record, "second", first=11)
    assert [each.rationale for each in load_baselines(Path("baselines"))] == ["because of first", "because of second"]


def test_runs_without_software_are_no_baseline(bench: Command, synthetic_record) -> None:
    for path in write_runs(synthetic_record, Path("runs")).iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"software": {}}))
    refused(bench("baseline", "record", "runs"), "states no software", "--software")


def test_a_promotion_twice_is_one(bench: Command, synthetic_record) -> None:
    promoted(bench, synthetic_record)
    assert bench("baseline", "promote", "runs.json", "--rationale", "again")[0] == 0
    assert stored_one().rationale == "again"


@pytest.mark.parametrize("words", [["--rationale", " \n "], ["--rationale", ""], []])
def test_a_rationale_is_needed(bench: Command, synthetic_record, words: list[str]) -> None:
    promoted(bench, synthetic_record)
    before = Path(f"baselines/{CANDIDATE.removeprefix('results/baselines/')}").read_bytes()
    assert bench("baseline", "promote", "runs.json", *words)[0] == 2
    assert bench("baseline", "retire", stored_one().label, *words)[0] == 2
    assert Path("baselines/ascend910b-synthetic/grok1-40b.json").read_bytes() == before


def test_a_folder_that_does_not_exist_is_not_made(bench: Command, synthetic_record) -> None:
    bench("baseline", "record", write_runs(synthetic_record, Path("runs")))
    outcome = bench("baseline", "promote", CANDIDATE, "--rationale", "x", "--baselines", "basleines")
    refused(outcome, "basleines: no such folder")


def test_a_retired_one_judges_no_more_and_is_missed_by_nobody(bench: Command, synthetic_record) -> None:
    promoted(bench, synthetic_record)
    label, run = stored_one().label, synthetic_record(seed=50)
    assert judge(run, [stored_one()]).state == "pass"
    elsewhere = synthetic_record(case="another")
    assert [each.case for each in missing([elsewhere], [stored_one()])] == ["grok1-40b"]
    assert bench("baseline", "retire", label, "--rationale", "the machine is gone")[0] == 0
    retired = stored_one()
    assert retired.role == "retired"
    assert re.fullmatch(r"because of runs \d{4}-\d\d-\d\d: retired, the machine is gone", retired.rationale)
    assert judge(run, [retired]).state == "no_baseline"
    assert missing([elsewhere], [retired]) == []
    refused(bench("baseline", "retire", label, "--rationale", "x"), "retired already", "the machine is gone")
    refused(bench("baseline", "promote", "runs.json", "--rationale", "x"), "the label", "record other runs")
    promoted(bench, synthetic_record, "new", first=11)
    assert [each.role for each in load_baselines(Path("baselines"))] == ["retired", "judge"]


def test_a_reason_that_does_not_fit_is_refused(bench: Command, synthetic_record) -> None:
    promoted(bench, synthetic_record)
    refused(bench("baseline", "retire", stored_one().label, "--rationale", "x" * 2000), "rationale", "2000")
    assert stored_one().role == "judge"


def test_list_and_show(bench: Command, synthetic_record) -> None:
    assert bench("baseline", "list")[:2] == (0, "baselines: holds no baselines\n")
    promoted(bench, synthetic_record)
    code, output, _ = bench("baseline", "list")
    assert code == 0
    row = output.splitlines()[-1]
    assert stored_one().label in row
    for words in ("recorded  judge", "0123456789ab", "16 ranks, TP4 PP2 EP2, 2 nodes", "39."):
        assert words in row
    assert re.search(r" 5 +\d+ d$", row)
    code, output, _ = bench("baseline", "show", stored_one().label)
    for words in ("torch 2.7.1", "0" * 40, "OMP_NUM_THREADS 1", "because of runs", "5 recorded run(s)", f"{3:032x}"):
        assert words in output
    spread = float(re.search(r"between runs +(\S+) %", output).group(1))  # type: ignore[union-attr]
    smallest = float(re.search(r"smallest slowdown +(\S+) %", output).group(1))  # type: ignore[union-attr]
    assert 0.1 < spread < 1.0
    # of the t and its power: 2 x 5 runs see a bit less than three times the spread
    assert 2.0 < smallest / spread < 4.0
    refused(bench("baseline", "show", "no such"), "'no such'", "`python -m bench baseline list --baselines baselines`")


def test_runs_of_several_commits_are_remarked(bench: Command, synthetic_record) -> None:
    runs = write_runs(synthetic_record, Path("runs"))
    write_runs(synthetic_record, runs, count=1, first=9, commit={"sha": "1" * 40, "dirty": True})
    code, output, _ = bench("baseline", "record", runs)
    assert code == 0
    assert "runs of 2 commits" in output
    assert f"{'1' * 40} with changes" in output


def test_edits_of_one_working_tree_are_several_programs(bench: Command, synthetic_record) -> None:
    commit = {"sha": "0" * 40, "dirty": True}
    runs = write_runs(synthetic_record, Path("runs"), commit=commit, code_digests={"grok1": "1" * 64})
    write_runs(synthetic_record, runs, count=1, first=9, commit=commit, code_digests={"grok1": "2" * 64})
    told = "are of commit 0000000000, whose sources were edited between; record a baseline of one program"
    refused(bench("baseline", "record", runs), told)
    (runs / "9.json").unlink()
    assert bench("baseline", "record", runs, "-o", "candidate.json")[0] == 0
    later: dict[str, Any] = {
        "created_at": "2025-02-01T12:00:00Z",
        "commit": commit,
        "code_digests": {"grok1": "2" * 64},
    }
    more = write_runs(synthetic_record, Path("more"), first=11, **later)
    refused(bench("baseline", "add", "candidate.json", more), told)


def test_diff_names_what_keeps_the_nearest_from_being_replaced(bench: Command, synthetic_record) -> None:
    write_runs(synthetic_record, Path("runs"))
    bench("baseline", "record", "runs", "-o", "candidate.json")
    assert "no baseline is stored for the case grok1-40b" in bench("baseline", "diff", "candidate.json")[1]
    promoted(bench, synthetic_record, "near", first=21, software={"torch": "2.8.0"})
    code, output, _ = bench("baseline", "diff", "candidate.json")
    assert code == 0
    assert "differs in software.torch 2.7.1 (stored 2.8.0)" in output
    assert "because of near" in output
    # another torch alone: the speeds may be looked at side by side
    assert "98 % interval" in output
    assert re.search(r"peak memory +52.000 GiB +52.000 GiB +\+0.00 %", output)
    written = json.loads(bench("baseline", "diff", "candidate.json", "--json", "-")[1])
    assert (written["replaces"], written["differences"]) == (None, ["software.torch 2.7.1 (stored 2.8.0)"])
    assert {"stored", "candidate", "change_percent", "low_percent", "high_percent"} == set(
        written["changes"]["peak_bytes"]
    )


def test_diff_beside_a_published_figure(bench: Command, synthetic_record) -> None:
    shipped = Path(__file__).parents[3] / "baselines"
    bench("baseline", "record", write_runs(synthetic_record, Path("runs")), "-o", "candidate.json")
    code, output, _ = bench("baseline", "diff", "candidate.json", "--baselines", shipped)
    assert code == 0
    assert "nearest    grok1-40b on 16 NPUs, published" in output
    assert "differs in nothing that it states" in output
    written = json.loads(bench("baseline", "diff", "candidate.json", "--baselines", shipped, "--json", "-")[1])
    assert (written["nearest"], written["changes"]) == ("grok1-40b on 16 NPUs, published", {})


def test_diff_beside_too_few_stored_runs_has_no_interval(bench: Command, synthetic_record) -> None:
    promoted(bench, synthetic_record)
    path = Path("baselines/ascend910b-synthetic/grok1-40b.json")
    content = json.loads(path.read_text())
    content["baselines"][0]["runs"] = [content["baselines"][0]["runs"][0]]
    median = float(np.median(content["baselines"][0]["runs"][0]["steady_step_seconds"]))
    content["baselines"][0]["metrics"] = {
        "step_seconds": median, "tokens_per_second_per_processor": 2**20 / 16 / median
    }  # fmt: skip
    path.write_text(json.dumps(content))
    assert "too few stored runs" in bench("baseline", "diff", "runs.json")[1]
    assert "its tolerance alone" in bench("baseline", "show", stored_one().label)[1]


def test_names_of_strangers_reach_no_path_and_no_terminal(bench: Command, synthetic_record) -> None:
    case, device = "../../<b>|x|\x1b[31m\u202e", "ledger"
    runs = write_runs(synthetic_record, Path("runs"), case=case, device={"name": device})
    code, output, errors = bench("baseline", "record", runs)
    assert code == 0, errors
    (path,) = Path("results/baselines").rglob("*.json")
    assert path.parts[:3] == ("results", "baselines", "device-ledger")
    assert "\x1b" not in output
    assert "\u202e" not in output
    code, output, _ = bench("baseline", "promote", path, "--rationale", "<script>\x1b]0;x\x07 | `x`")
    assert code == 0
    assert stored_one().case == case
    for words in (["list"], ["show", stored_one().label], ["diff", path]):
        code, output, _ = bench("baseline", *words)
        assert code == 0
        assert not any(char in output for char in "\x1b\x07\u202e")
    shown = bench("baseline", "list")[1].splitlines()[-1].split("  ")[0]
    assert bench("baseline", "show", shown)[0] == 0


@pytest.fixture(scope="module")
def recorded() -> list[str]:
    """What the first test that needs one recorded, for those that bend it."""
    return []


@pytest.fixture
def content(bench: Command, synthetic_record, recorded: list[str]) -> dict[str, Any]:
    """Of a candidate of five runs, which lies in candidate.json too."""
    path = Path("candidate.json")
    if not recorded:
        bench("baseline", "record", write_runs(synthetic_record, Path("runs")), "-o", path)
        recorded.append(path.read_text())
    path.write_text(recorded[0])
    return dict(json.loads(recorded[0]))


def altered(content: dict[str, Any], **changes: Any) -> str:
    return json.dumps(content | {"baselines": [content["baselines"][0] | changes]})


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda c: json.dumps(c)[:-50], "not a usable JSON file"),
        (lambda c: "", "not a usable JSON file"),
        (lambda c: "[" * 100_000, "not a usable JSON file"),
        (lambda c: '{"a":' * 30 + "1" + "}" * 30, "nested deeper"),
        (lambda c: json.dumps(c | {"schema": 2}), "schema"),
        (lambda c: json.dumps(c | {"baselines": []}), "baselines"),
        (lambda c: json.dumps(c | {"baselines": c["baselines"] * 2}), "holds 2 baselines"),
        (lambda c: altered(c, surprise=1), "Extra inputs"),
        (lambda c: altered(c, label=7), "label"),
        (lambda c: altered(c, role="retired"), "role retired"),
        (lambda c: altered(c, software={}), "states no software"),
        (lambda c: altered(c, tolerance_percent=float("nan")), "NaN"),
        (lambda c: altered(c, metrics={"step_seconds": 1, "tokens_per_second_per_processor": 65536.0}), "step_seconds"),
        (lambda c: altered(c, global_batch=10**300), "global_batch"),
        (lambda c: altered(c, global_batch=10**400), "bad.json"),
        (lambda c: altered(c, global_batch=2**62), "metrics disagree"),
        (lambda c: altered(c, runs=c["baselines"][0]["runs"][:1] * 5), "repeat a record_id"),
        (lambda c: json.dumps(c).replace('"peak_bytes": ', '"peak_bytes": 0e0, "x": '), "peak_bytes"),
        (lambda c: json.dumps(c).replace('"figures": {"step_seconds": ', '"figures": {"step_seconds": 1'), "figures"),
        (lambda c: altered(c, runs=[run | {"figures": {}} for run in c["baselines"][0]["runs"]]), "without figures"),
        (lambda c: json.dumps(c) + " " * 5 * 2**20, "larger than the 4 MiB"),
    ],
)  # fmt: skip
def test_a_candidate_that_is_not_one_is_refused(bench: Command, content: Any, alter: Any, words: str) -> None:
    Path("bad.json").write_text(alter(content))
    for command in (["promote", "bad.json", "--rationale", "x"], ["diff", "bad.json"]):
        refused(bench("baseline", *command), "bad.json", words)
    assert load_baselines(Path("baselines")) == []


def test_a_candidate_of_three_runs_is_refused(bench: Command, synthetic_record) -> None:
    three = recorded_baseline([synthetic_record(seed=seed) for seed in range(3)], "too few")
    BaselineFile(schema=1, baselines=[three]).write(Path("few.json"))
    refused(bench("baseline", "promote", "few.json", "--rationale", "x"), "3 runs", "at least 5")


def test_runs_too_far_apart_are_no_baseline(bench: Command, content: Any) -> None:
    runs = content["baselines"][0]["runs"]
    steps = [1e6] * len(runs[0]["steady_step_seconds"])
    slow = {"steady_step_seconds": steps, "figures": {"step_seconds": 1e6}}
    for odd in (slow, {"figures": runs[0]["figures"] | {"peak_bytes": 1e-300}}):
        Path("bad.json").write_text(altered(content, runs=[runs[0] | odd, *runs[1:]]))
        refused(bench("baseline", "diff", "bad.json"), "not of one program on one machine")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda run: run["figures"].update(mean_step_seconds=30.0), "the mean of the steady steps"),
        (lambda run: run["figures"].update(lower_quartile_step_seconds=30.0), "the lower quartile of the steady steps"),
        (lambda run: run.update(warmup_steps=run["warmup_steps"] + 1), "losses holds 20 numbers for 21 steps"),
        (lambda run: run["grad_norms"].pop(), "grad_norms holds 19 numbers for 20 steps"),
    ],
)
def test_a_run_whose_figures_are_not_those_of_its_steps_is_no_baseline(
    bench: Command, content: Any, change: Callable[[Any], object], complaint: str
) -> None:
    runs = content["baselines"][0]["runs"]
    change(runs[0])
    Path("bad.json").write_text(altered(content, runs=runs))
    refused(bench("baseline", "diff", "bad.json"), complaint)


@pytest.mark.usefixtures("content")
def test_a_damaged_folder_of_baselines_is_refused_and_left_alone(bench: Command) -> None:
    Path("baselines/bad.json").write_text("{")
    for words in (["list"], ["show", "x"], ["diff", "candidate.json"], ["retire", "x", "--rationale", "x"],
                  ["promote", "candidate.json", "--rationale", "x"]):  # fmt: skip
        refused(bench("baseline", *words), "baselines/bad.json")
    assert {path.name for path in Path("baselines").iterdir()} == {"bad.json", ".lock"}


def test_a_file_that_would_grow_too_large_to_read_is_not_written(bench: Command, synthetic_record) -> None:
    Path("baselines/full").mkdir()
    promoted(bench, synthetic_record)
    baseline = stored_one()
    path = stored_baselines(Path("baselines"))[0][0]
    long = baseline.model_copy(update={"rationale": "x", "label": "long", "role": "retired", "steps": None})
    steps = (float(np.median(long.runs[0].steady_step_seconds)) + np.zeros(60_000)).tolist()
    bare: dict[str, Any] = {"figures": {}, "losses": [], "grad_norms": []}
    runs = [run.model_copy(update={"steady_step_seconds": steps, **bare}) for run in long.runs]
    median = steps[0]
    metrics = {"step_seconds": median, "tokens_per_second_per_processor": 2**20 / 16 / median}
    content = json.loads(path.read_text())
    content["baselines"].append(
        json.loads(long.model_copy(update={"runs": runs[:3]}).model_dump_json()) | {"metrics": metrics}
    )
    path.write_text(json.dumps(content))
    outcome = bench("baseline", "retire", baseline.label, "--rationale", "x")
    refused(outcome, "MiB allowed")
    assert json.loads(path.read_text()) == content


def test_an_output_that_cannot_be_written_is_one_line(bench: Command, synthetic_record) -> None:
    Path("file").write_text("")
    runs = write_runs(synthetic_record, Path("runs"))
    refused(bench("baseline", "record", runs, "-o", "file/candidate.json"), "cannot be written")


@pytest.mark.slow
def test_a_record_of_a_million_steps_is_refused(bench: Command, synthetic_record) -> None:
    content = synthetic_record().model_dump(mode="json", by_alias=True)
    content["steps"] = content["steps"][:1] * 1_000_000
    Path("long.json").write_text(json.dumps(content))
    refused(bench("baseline", "record", "long.json"), "long.json")


def test_the_label_is_that_of_the_runs(synthetic_record) -> None:
    runs = [synthetic_record(seed=seed) for seed in range(6)]
    assert recorded_baseline(runs[:5], "x").label == recorded_baseline(runs[4::-1], "x").label
    assert recorded_baseline(runs[:5], "x").label != recorded_baseline(runs[1:], "x").label
