"""`bench ab`: order, pairing, stages and verdicts of invented records; processes in a throwaway repository."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from markdown_it import MarkdownIt

from bench.ab import compare as comparing
from bench.ab.checkouts import Checkout, RunFailedError, checkout, same_environment
from bench.ab.compare import VoidError, _ledger, check_pair, compare, write
from bench.ab.outcome import Outcome, Pair, RevisionUsed, concluded
from bench.ab.request import Request
from bench.ab.sequential import Figures, order, sequential
from bench.git import commit_of, uninterrupted, worktree
from bench.judge.evidence import FAMILY_ERROR, FIRST_STAGE_ERROR, SECOND_STAGE_ERROR
from bench.judge.metrics import STEP, figures_of
from bench.judge.stats import summarise
from bench.ledger.schema import read_ledger
from bench.places import ROOT
from bench.records.record import Record
from tests.limits import HANG_SECONDS

TRIALS = 1500
SIGMAS = 4.0  # of a count of trials: a correct test fails once in 30,000 seeds, and this seed is fixed

REVISIONS = (
    RevisionUsed(name="base", revision="main", sha="a" * 40, changed=False, records=[]),
    RevisionUsed(name="head", revision="the working tree", sha="b" * 40, changed=True, records=[]),
)


# ---- order and stages -------------------------------------------------------------------------------------


def test_runs_go_abba() -> None:
    assert [name[0] for pair in range(4) for name in order(pair)] == list("bhhbbhhb")


def test_a_linear_drift_cancels_over_an_even_number_of_pairs() -> None:
    clock = iter(range(100))
    pairs = [{name: 1.0 + 0.01 * next(clock) for name in order(pair)} for pair in range(6)]
    assert sum(pair["head"] - pair["base"] for pair in pairs) == pytest.approx(0.0)


Pairs = list[tuple[Figures, Figures]]


def draw(random: np.random.Generator, slower: float, spread: float) -> Callable[[int], Pairs]:
    """Pairs on demand, as `sequential` asks for them: what both sides meet is large, what one meets is `spread`."""
    pairs: Pairs = []

    def take(count: int) -> Pairs:
        while len(pairs) < count:
            shared = random.normal(0.0, 0.2)
            base, head = np.exp(shared + random.normal([0.0, np.log1p(slower)], spread))
            pairs.append(({STEP: base}, {STEP: head}))
        return pairs

    return take


def states(slower: float, spread: float, pairs: int, confirm: int) -> list[str]:
    random = np.random.default_rng(31)
    return [sequential(draw(random, slower, spread), pairs, confirm).deciding[1] for _ in range(TRIALS)]


@pytest.mark.parametrize("confirm", [0, 5])
@pytest.mark.parametrize("spread", [0.01, 0.05])
def test_equal_sides_fail_no_more_often_than_stated_in_one_stage_or_two(confirm: int, spread: float) -> None:
    found = states(0.0, spread, 5, confirm)
    assert found.count("fail") / TRIALS <= FAMILY_ERROR + SIGMAS * (FAMILY_ERROR * (1 - FAMILY_ERROR) / TRIALS) ** 0.5
    assert found.count("improved") / TRIALS <= FAMILY_ERROR + SIGMAS * (FAMILY_ERROR / TRIALS) ** 0.5


def test_a_slowdown_is_found_under_noise_that_both_sides_meet() -> None:
    assert states(0.1, 0.01, 5, 0).count("fail") / TRIALS > 0.99
    assert states(0.05, 0.02, 5, 5).count("fail") > 1.5 * states(0.05, 0.02, 5, 0).count("fail")


def test_a_clear_answer_takes_one_stage_and_an_inconclusive_one_two_and_never_three() -> None:
    random = np.random.default_rng(4)
    asked: list[int] = []

    def counting(take: Callable[[int], Pairs]) -> Callable[[int], Pairs]:
        def counted(count: int) -> Pairs:
            asked.append(count)
            return take(count)

        return counted

    found = sequential(counting(draw(random, 0.5, 0.01)), 5, 5)
    assert (asked, found.family_error, found.stages) == ([5], FIRST_STAGE_ERROR, 1)
    asked.clear()
    found = sequential(counting(draw(random, 0.0, 0.2)), 5, 7)
    assert (asked, found.family_error, found.stages) == ([5, 12], SECOND_STAGE_ERROR, 2)
    assert found.judged[STEP].evidence.runs == (12, 12)
    asked.clear()
    found = sequential(counting(draw(random, 0.0, 0.2)), 5, 0)
    assert (asked, found.family_error, found.stages) == ([5], FAMILY_ERROR, 1)


# ---- pairs of records --------------------------------------------------------------------------------------


def record_at(synthetic_record: Any, factor: float, seed: int, **changes: Any) -> Record:
    """A run whose steps and phases all take that much longer."""
    random = np.random.default_rng(seed)
    found: Record = synthetic_record(noise=0.002, median_seconds=40 * factor * random.normal(1, 0.002), seed=seed)
    return found.model_copy(update=changes) if changes else found


def pairs_at(synthetic_record: Any, slower: float, count: int = 5) -> list[Pair]:
    """The machine gets slower by a tenth from pair to pair, for both sides."""
    return [
        (
            record_at(synthetic_record, 1 + 0.1 * index, 2 * index + 1),
            record_at(synthetic_record, (1 + 0.1 * index) * (1 + slower), 2 * index + 2),
        )
        for index in range(count)
    ]


def outcome_of(pairs: Sequence[Pair]) -> Outcome:
    figures = [(figures_of(summarise(base)), figures_of(summarise(head))) for base, head in pairs]
    return concluded(REVISIONS, pairs, sequential(lambda count: figures[:count], len(pairs), 0))


@pytest.mark.parametrize(("slower", "state"), [(0.1, "fail"), (0.0, "pass"), (-0.1, "improved")])
def test_pairs_cancel_a_drift_that_would_hide_any_change(synthetic_record: Any, slower: float, state: str) -> None:
    outcome = outcome_of(pairs_at(synthetic_record, slower))
    assert outcome.state == state, outcome.sentence
    text = outcome.as_markdown()
    assert text.startswith(f"{state.upper()}: grok1-40b takes ")
    assert "at the working tree (bbbbbbbbbb with changes) than at main (aaaaaaaaaa)" in outcome.sentence
    step = next(row for row in outcome.metrics if row.name == STEP)
    assert step.change_percent == pytest.approx(100 * slower, abs=1.0)
    assert "| s/step" in text
    assert "smallest visible" in text
    assert outcome.exit_code(False) == int(state == "fail")
    if slower:
        assert "most in backward" in outcome.attribution


def test_the_order_of_pairs_is_what_pairs_them(synthetic_record: Any) -> None:
    """The same runs, paired wrongly, tell nothing."""
    pairs = pairs_at(synthetic_record, 0.1)
    heads = [head for _, head in reversed(pairs)]
    assert outcome_of([(base, head) for (base, _), head in zip(pairs, heads, strict=True)]).state == "inconclusive"


def test_another_metric_that_fails_makes_the_verdict(synthetic_record: Any) -> None:
    def fatter(record: Record, factor: float) -> Record:
        ranks = [rank.model_copy(update={"peak_bytes": int(rank.peak_bytes * factor)}) for rank in record.ranks]
        return record.model_copy(update={"ranks": ranks})

    outcome = outcome_of([(base, fatter(head, 1.2)) for base, head in pairs_at(synthetic_record, 0.0)])
    assert outcome.sentence.startswith("FAIL: grok1-40b: peak memory is 20.0 % higher at the"), outcome.sentence


def test_an_answer_may_be_required(synthetic_record: Any) -> None:
    pairs = pairs_at(synthetic_record, 0.0)
    outcome = outcome_of([(base, head) for (base, _), (_, head) in zip(pairs, reversed(pairs), strict=True)])
    assert outcome.state == "inconclusive"
    assert (outcome.exit_code(False), outcome.exit_code(True)) == (0, 1)
    assert "more --pairs" in outcome.sentence


def test_the_outcome_survives_json(synthetic_record: Any, tmp_path: Path) -> None:
    outcome = outcome_of(pairs_at(synthetic_record, 0.1))
    write(tmp_path / "ab.json", outcome)
    assert Outcome.model_validate_json((tmp_path / "ab.json").read_bytes()) == outcome


def test_words_of_the_other_revision_stay_words(
    synthetic_record: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What its code says of itself comes from whoever wrote it, and goes into the job's summary and the page."""
    hostile = "<img src=x>[a](http://x.y)`*b*`"
    ledger = read_ledger(Path(__file__).parents[3] / "baselines" / "ledger" / "grok1-nano.json")
    other = ledger.model_copy(update={"software": ledger.software | {"torch": hostile}})
    at_base = Checkout("base", "base", "1" * 40, False, tmp_path, "python", tmp_path)
    request = Request(base="base", head=None, case="grok1-nano", pairs=3, results=tmp_path)
    monkeypatch.setattr("bench.ledger.store.counted", lambda *_: ledger)
    monkeypatch.setattr("bench.ledger.store.counted_in", lambda *_: other)
    told = [_ledger(request, at_base, at_base)]
    monkeypatch.setattr("bench.ledger.store.counted_in", lambda *_: read_ledger(Path(hostile)))
    told.append(_ledger(request, at_base, at_base))
    outcome = outcome_of(pairs_at(synthetic_record, 1.0))
    for each in told:
        assert "img src" in each
        shown = outcome.model_copy(update={"ledger": each, "notes": [f"torch is {hostile} at base"]}).as_markdown()
        rendered = MarkdownIt("commonmark").enable("table").render(shown)
        assert rendered.count("&lt;img src=x&gt;") == 2
        assert not [tag for tag in ("<img", "<a ", "<em>", "<code>") if tag in rendered]


def trace(record: Record, name: str, factor: float) -> Record:
    """The record with the fourth step's loss or gradient norm changed."""
    steps = list(record.steps)
    steps[3] = steps[3].model_copy(update={name: getattr(steps[3], name) * factor})
    return record.model_copy(update={"steps": steps})


@pytest.mark.parametrize(
    ("name", "fine", "apart"), [("loss", 1.019, 1.021), ("loss", 0.981, 0.979), ("grad_norm", 1.09, 1.11)]
)
def test_a_side_that_learns_something_else_is_void(synthetic_record: Any, name: str, fine: float, apart: float) -> None:
    base = synthetic_record()
    assert check_pair(base, trace(base, name, fine)) == []
    with pytest.raises(VoidError, match=rf"step 4: {name.replace('_', ' ')} .* computes something else"):
        check_pair(base, trace(base, name, apart))


def test_a_void_record_voids_and_is_named(synthetic_record: Any) -> None:
    base = synthetic_record()
    void = base.model_copy(update={"valid": False, "void_reasons": ["step 3: loss is not finite"]})
    with pytest.raises(VoidError, match="head: .* step 3: loss is not finite"):
        check_pair(base, void)
    with pytest.raises(VoidError, match="base: "):
        check_pair(void, base)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("work", {"parameters_total": 50_000_000_000}, "parameters_total is 40970557440 at base and 50000000000"),
        ("work", {"model_flops_per_step": 7e16}, "model_flops_per_step"),
        ("layout", {"tensor": 8, "data": 1}, "layout"),
        ("device", {"name": "another"}, "device is Ascend910B-synthetic at base and another at head"),
    ],
)
def test_other_work_is_refused(synthetic_record: Any, field: str, value: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_pair(synthetic_record(), synthetic_record(**{field: value}))


def test_another_recipe_hash_or_library_is_noted(synthetic_record: Any) -> None:
    head = synthetic_record(recipe={"hash": "ffffffffffff"}, software={"torch": "2.8.0"})
    notes = check_pair(synthetic_record(), head)
    assert notes[0].startswith("the recipe's hash is 0123456789ab at base and ffffffffffff at head")
    assert notes[1:] == ["torch is 2.7.1 at base and 2.8.0 at head"]


# ---- a repository to run ------------------------------------------------------------------------------------

OPTIONS = ("case", "runs", "results", "set", "steps", "recipe", "device")
STUB_CONFTEST = f"""
def pytest_addoption(parser):
    parser.addoption("--benchmark", action="store_true")
    for name in {OPTIONS!r}:
        parser.addoption("--" + name, action="append")
"""
# what one run of a revision leaves: a record, whose times are the template's by that revision's factor
STUB_TEST = """
import json, pathlib, random, subprocess, sys, time, uuid
import pytest

HERE = pathlib.Path(__file__).parent

def test_pretrain(request):
    (results,) = request.config.getoption("--results")
    does = (HERE / "does").read_text().split()
    if does[0] == "hang":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (pathlib.Path(results) / "child").write_text(str(child.pid))
        time.sleep(600)
    if does[0] == "break":
        raise RuntimeError("rank 3 failed: out of luck")
    if does[0] == "refuse":
        pytest.exit("grok1-nano: recipe nonsense is none", returncode=2)
    record = json.loads((HERE / "template.json").read_text())
    factor = float(does[1]) * random.uniform(0.999, 1.001)
    for rank in record["ranks"]:
        rank["step_seconds"] = [factor * x for x in rank["step_seconds"]]
    if does[0] == "void":
        record |= {"valid": False, "void_reasons": ["step 2: loss is not finite"]}
    if does[0] == "edits":
        record["code_digests"] = {"grok1": uuid.uuid4().hex}
    if does[0] != "lie":  # the template names another commit
        record["commit"] = {"sha": None, "dirty": None}
    record |= {"id": uuid.uuid4().hex, "case": request.config.getoption("--case")[0]}
    folder = pathlib.Path(results) / "records"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / (record["id"] + ".json")).write_text(json.dumps(record))
"""


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.hooksPath="]
    return subprocess.run(
        ["git", "-C", str(root), *identity, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def does(root: Path, what: str, tag: str | None = None) -> None:
    """Change what a run of the working tree does; with a tag, as a commit of that name."""
    (root / "bench" / "does").write_text(what)
    if tag is not None:
        git(root, "add", "-A")
        git(root, "commit", "-qm", what, "--allow-empty")
        git(root, "tag", tag)


@pytest.fixture
def repository(tmp_path: Path, synthetic_record: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that runs like ours in half a second, and whose revision `base` takes a step as the template says."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # its runs need none, and loading them takes longer
    root = tmp_path / "repository"
    for name in ("bench", "grok1"):
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").write_text("")
    (root / "pytest.ini").write_text("[pytest]\n")
    (root / "conftest.py").write_text(STUB_CONFTEST)
    (root / "bench" / "test_pretrain.py").write_text(STUB_TEST)
    record = synthetic_record(noise=0.002)
    (root / "bench" / "template.json").write_text(record.model_dump_json(by_alias=True))
    # settings above the results are not those of the side that runs
    (tmp_path / "pytest.ini").write_text("[pytest]\nrequired_plugins = none-such\n")
    git(tmp_path, "init", "-q", str(root))
    does(root, "run 1.0", "base")
    return root


def worktrees(root: Path) -> list[str]:
    """The folders of all checkouts beside the repository itself."""
    assert not list((root / ".git").glob("worktrees/*"))
    return git(root, "worktree", "list").splitlines()[1:]


def request_of(root: Path, **changes: Any) -> Request:
    chosen = {"base": "base", "head": None, "case": "grok1-nano", "pairs": 3, "results": root.parent / "results"}
    return Request(**chosen | {"root": root} | changes)


@pytest.mark.slow
def test_the_working_tree_is_compared_as_it_is(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    does(repository, "run 1.1")
    outcome = compare(request_of(repository))
    assert outcome.state == "fail", outcome.sentence
    change = re.search(r"takes ([\d.]+) % more time per step", outcome.sentence)
    assert change is not None, outcome.sentence
    assert float(change[1]) == pytest.approx(10, abs=0.3)  # the stub's runs vary by 0.1 % either way
    assert "with changes" in outcome.sentence
    assert outcome.ledger.startswith("The exact cost of a step was not counted: ")
    assert "pair 3 of 3: base " in capfd.readouterr().err
    assert [len(side.records) for side in (outcome.base, outcome.head)] == [3, 3]
    logs = {name: sorted((repository.parent / "results" / name).glob("run-*.log")) for name in ("base", "head")}
    assert [len(each) for each in logs.values()] == [3, 3]
    assert not worktrees(repository)


@pytest.mark.slow
def test_two_revisions_run_their_own_code(repository: Path) -> None:
    does(repository, "run 0.8", "faster")
    does(repository, "break")
    assert compare(request_of(repository, head="faster")).state == "improved"
    assert not worktrees(repository)


def test_a_side_that_is_void_stops_at_its_pair(repository: Path) -> None:
    does(repository, "void 1.0")
    outcome = compare(request_of(repository))
    assert outcome.sentence == (
        "VOID: grok1-nano cannot be compared: head: grok1-nano cannot be judged: step 2: loss is not finite"
    )
    assert (outcome.exit_code(False), len(outcome.base.records)) == (1, 1)


def test_an_edit_during_the_comparison_voids_it(repository: Path) -> None:
    does(repository, "edits 1.0")
    outcome = compare(request_of(repository))
    assert (outcome.state, outcome.pairs) == ("void", 1)
    assert "head: runs of several programs: digest of grok1's sources is " in outcome.sentence
    assert outcome.sentence.endswith("; leave its files as they are until the comparison ends")


def test_a_run_that_breaks_shows_its_last_lines(repository: Path) -> None:
    does(repository, "break")
    with pytest.raises(RunFailedError, match="rank 3 failed: out of luck"):
        compare(request_of(repository))
    assert not worktrees(repository)


def test_a_run_that_refuses_is_refused(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    does(repository, "refuse")
    with pytest.raises(ValueError, match=r"left no record \(exit code \d\): grok1-nano: recipe nonsense is none"):
        compare(request_of(repository))
    assert "recipe nonsense is none" in capfd.readouterr().err


def test_a_run_of_another_commit_is_refused(repository: Path) -> None:
    does(repository, "lie 1.0")
    with pytest.raises(ValueError, match="head: the working tree is .* its run says that it ran 0000000000"):
        compare(request_of(repository))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"base": "nothing-of-the-kind"}, "'nothing-of-the-kind' is not a git revision"),
        ({"head": "--help"}, "'--help' is not a git revision"),
        ({"case": "grok1-huge"}, "unknown case 'grok1-huge'"),
        ({"pairs": 2}, "at least 3 pairs"),
    ],
)
def test_what_is_none_is_refused(repository: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        compare(request_of(repository, **changes))
    assert not worktrees(repository)


def test_a_folder_without_git_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a git repository"):
        commit_of("HEAD", tmp_path)


def test_a_side_whose_code_would_not_run_is_refused(repository: Path) -> None:
    (repository / "bench" / "__init__.py").unlink()  # python then finds the package that is installed
    (repository / "bench" / "conftest.py").unlink(missing_ok=True)
    git(repository, "rm", "-q", "--cached", "-r", "bench")
    git(repository, "commit", "-qm", "no code")
    with pytest.raises(ValueError, match="would not run its own code"):
        compare(request_of(repository, base="HEAD", head="base"))


@pytest.mark.parametrize(
    ("path", "content", "is_same"),
    [
        ("constraints/dev.txt", "torch==2.9\n", False),
        ("Makefile", "venv:\n", False),
        ("constraints/install.sh", "false\n", False),
        ("pyproject.toml", '[project]\ndependencies = ["torch>=2.8"]\n', False),
        ("pyproject.toml", '[project]\ndependencies = ["torch>=2.7"]\n[tool.other]\nx = 1\n', True),
        ("README.md", "other\n", True),
    ],
)
def test_other_dependencies_ask_for_another_environment(tmp_path: Path, path: str, content: str, is_same: bool) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for tree in (one, other):
        (tree / "constraints").mkdir(parents=True)
        (tree / "pyproject.toml").write_text('[project]\ndependencies = ["torch>=2.7"]\n')
        (tree / "constraints" / "dev.txt").write_text("torch==2.8\n")
    assert same_environment(one, other)
    (other / path).write_text(content)
    assert same_environment(one, other) is is_same


def test_other_dependencies_make_their_own_environment(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`make venv` of the side's own Makefile, and the interpreter that it leaves."""
    recipe = "mkdir -p .venv/bin && printf '#!/bin/sh\\nexec $(PYTHON) \"$$@\"\\n' > .venv/bin/python"
    (repository / "Makefile").write_text(f"venv:\n\t{recipe} && chmod +x .venv/bin/python && touch ../made\n")
    does(repository, "run 1.0", "other")
    (repository / "Makefile").unlink()
    with checkout("head", "other", repository.parent / "results", repository) as other:
        assert other.python == str(other.tree / ".venv" / "bin" / "python")
    assert "head: its dependencies differ" in capfd.readouterr().err


# ---- Ctrl-C ------------------------------------------------------------------------------------------------

INTERRUPTED = """
import sys, pathlib
from bench import __main__
from bench.ab import request
root = pathlib.Path(sys.argv.pop(1))
made = request.Request
request.Request = lambda *words, **more: made(*words, root=root, **more)
__main__.main()
"""


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_no_process_and_no_worktree(repository: Path, number: signal.Signals) -> None:
    results = repository.parent / "results"
    does(repository, "hang", "hangs")
    words = ["ab", "--base", "hangs", "--case", "grok1-nano", "--results", str(results)]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(repository), *words],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    pid = int(awaited(results / "base" / "child", process))
    assert psutil.pid_exists(pid)
    assert len(git(repository, "worktree", "list").splitlines()) == 2
    process.send_signal(number)
    _, errors = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 128 + number, errors
    assert errors.endswith("; all processes were ended\n")
    assert not alive(pid)
    assert not worktrees(repository)


def alive(pid: int) -> bool:
    """Whether it runs; one whose parent has not asked for its exit code does not."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def awaited(path: Path, process: subprocess.Popen[str]) -> str:
    """What a file holds, once it does; the process is to write it."""
    deadline = time.monotonic() + HANG_SECONDS
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()):
            return text
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate()[1])


def test_a_worktree_goes_with_its_block(repository: Path) -> None:
    with suppress(KeyboardInterrupt), worktree("base", repository) as tree:
        assert (tree / "bench" / "does").read_text() == "run 1.0"
        raise KeyboardInterrupt
    assert not tree.exists()
    assert not worktrees(repository)


def test_cleaning_up_is_not_interrupted_but_what_comes_after_is() -> None:
    done = []
    with suppress(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        done.append("cleaned up")
    assert done == ["cleaned up"]
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGTERM)


# ---- the command -------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`python -m bench ab` in this process: (exit code, output, errors)."""
    from bench import __main__

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", "ab", *words])
        with pytest.raises(SystemExit) as done:
            __main__.main()
        return (int(done.value.code or 0), *capsys.readouterr())

    return run


def test_the_command_prints_the_verdict_writes_json_and_exits(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, synthetic_record: Any, tmp_path: Path
) -> None:
    outcome = outcome_of(pairs_at(synthetic_record, 0.1))
    asked: list[Request] = []

    def compared(request: Request) -> Outcome:
        asked.append(request)
        return outcome

    monkeypatch.setattr(comparing, "compare", compared)
    path = tmp_path / "ab.json"
    words = ["--base", "main", "--case", "grok1-nano", "--set", "a=1", "--set", "b=2", "--steps", "9", "--confirm", "4"]
    words += ["--data", "text", "--tokenizer", "/there/t"]
    code, output, errors = command(*words, "--json", str(path), "--results", str(tmp_path / "results"))
    assert code == 1
    assert output.startswith("FAIL: ")
    assert json.loads(path.read_text())["state"] == "fail"
    page = tmp_path / "results" / "ab.html"
    assert errors == f"page: {page}\n"
    assert f"<h1>{outcome.headline}</h1>" in page.read_text()
    (request,) = asked
    assert (request.base, request.head, request.pairs, request.confirm) == ("main", None, 5, 4)
    corpus = [f"--data={Path('text').resolve()}", "--tokenizer=/there/t"]
    assert request.words == ["--case=grok1-nano", "--steps=9", "--set=a=1", "--set=b=2", *corpus]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--base", "nothing-of-the-kind", "--case", "grok1-nano"), "not a git revision"),
        (("--base", "HEAD", "--case", "grok1-huge"), "unknown case"),
    ],
)
def test_the_command_refuses_in_one_line(command: Callable[..., Any], words: tuple[str, ...], told: str) -> None:
    code, output, errors = command(*words)
    assert (code, output) == (2, "")
    assert errors.startswith("bench: ")
    assert told in errors
    assert errors.count("\n") == 1


def test_a_run_that_failed_exits_1(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(request: Request) -> Outcome:
        raise RunFailedError("base (main): run 1 failed:\nout of luck")

    monkeypatch.setattr(comparing, "compare", broken)
    code, _, errors = command("--base", "main", "--case", "grok1-nano")
    assert code == 1
    assert errors == "bench: base (main): run 1 failed:\nout of luck\n"
