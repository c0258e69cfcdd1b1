"""The package as a wheel installs it, outside any checkout: what it holds, and that every command finds its files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.baselines.store import candidate_of, write
from bench.installed.pytest_grok1.entry import asks_for_bench
from bench.judge.baseline import Baseline
from bench.synthetic import build_synthetic_record
from grok1.config.load import ONE_RANK
from tests.limits import HANG_SECONDS

HOUSE = Path(__file__).resolve().parents[1]
TOP_LEVEL = {"bench", "grok1", "pytest_grok1", "reports"}  # docs/decisions/0018
COPIED = {"baselines": "bench/shipped/baselines", "constraints": "bench/shipped/constraints"}
ONE_FAST_STEP = [f"--set={each}" for each in (*ONE_RANK, "training.global_batch=2")]

Run = Callable[..., subprocess.CompletedProcess[str]]


def tracked() -> list[str]:
    """What git holds, or is about to: an untracked file is in no clone, and so in nobody's wheel."""
    command = ["git", "-c", f"safe.directory={HOUSE}", "ls-files", "-z", "-c", "-o", "--exclude-standard"]
    listed = subprocess.run(command, cwd=HOUSE, check=True, capture_output=True, text=True).stdout.split("\0")
    return [name for name in listed if name and (HOUSE / name).exists()]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the wheel of what git holds; the packages it needs are this Python's."""
    pytest.importorskip("pip", reason="this Python has no pip to install a wheel with")
    sources, site = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("site")
    for name in tracked():
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        if (HOUSE / name).is_symlink():
            (sources / name).symlink_to((HOUSE / name).readlink())
        else:
            (sources / name).write_bytes((HOUSE / name).read_bytes())
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", *offline]
    command = [*install, "--target", str(site), str(sources)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Run:
    """Runs a command of the installed package in an empty folder."""
    unset = ("GROK1_DEVICE", "GITHUB_STEP_SUMMARY", "PYTEST_ADDOPTS", "PYTHONSAFEPATH")
    environment = {key: value for key, value in os.environ.items() if key not in unset}

    def command(*words: object) -> subprocess.CompletedProcess[str]:
        given = [str(word) for word in words]
        starter = [] if given[0].startswith(str(site)) else [sys.executable, "-m"]
        return subprocess.run(
            [*starter, *given],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )

    return command


def test_a_wheel_holds_all_code_and_data_and_nothing_else(site: Path) -> None:
    wanted = {name for name in tracked() if name.startswith(("grok1/", "reports/")) and name.endswith((".py", ".toml"))}
    for name in tracked():
        room = name.partition("/")[0]
        if name.startswith("bench/installed/"):
            wanted.add(name.removeprefix("bench/installed/"))
        elif room == "bench" and (name.endswith(".py") or name.startswith("bench/plan/")):
            wanted.add(name)
        elif room == "baselines" or name in ("constraints/ascend.txt", "constraints/dev.txt"):
            wanted.add(name.replace(room, COPIED[room], 1))
    wanted |= {"bench/shipped/fixtures/D.npz", "bench/shipped/fixtures/D.grads.npz"}
    found = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    assert {name for name in found if ".dist-info/" not in name} == wanted | {"bin/grok1"}
    assert {name.partition("/")[0] for name in wanted} == TOP_LEVEL


@pytest.mark.slow
def test_the_job_is_run_judged_and_reported_outside_a_checkout(run: Run, site: Path, tmp_path: Path) -> None:
    job = ("pytest", "--pyargs", "bench", "--benchmark", "--case", "grok1-nano", "--steps", 6, *ONE_FAST_STEP)
    done = run(*job, "-p", "no:cacheprovider", "-k", "pretrain or verdict")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NO BASELINE: grok1-nano ran at" in done.stdout
    assert (tmp_path / "results" / "report" / "report.md").is_file()
    (record,) = (tmp_path / "results" / "records").glob("*.json")
    assert '"sha":null' in record.read_text().replace(" ", "")
    for words in (("bench", "gate", record), ("reports", record, "-o", "again")):
        judged = run(*words)
        assert judged.returncode == 0, judged.stderr
        assert "NO BASELINE: grok1-nano ran at" in judged.stdout
    refused = run("bench", "ab", "--base", "main", "--case", "grok1-nano")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"bench: {site} holds an installed package, which has no revisions to compare")


@pytest.mark.slow
def test_commands_find_what_is_shipped(run: Run, site: Path, tmp_path: Path) -> None:
    recipes = run(site / "bin" / "grok1", "recipes")
    assert "grok1-314b" in recipes.stdout, recipes.stderr
    assert "grok1-40b on 16 NPUs, published" in run("bench", "baseline", "list").stdout
    without = ("-p", "no:timeout", "--strict-markers")  # pytest-timeout is a test tool
    skipped = run("pytest", "--pyargs", "bench.test_ledger", "-p", "no:cacheprovider", "-rs", *without)
    assert skipped.returncode == 0, skipped.stdout + skipped.stderr
    assert "run only with --benchmark: pytest --pyargs bench --benchmark" in skipped.stdout
    (tmp_path / "look.py").write_text(LOOK)
    looked = run("look")
    series, ledgers = (len(list((HOUSE / "baselines" / each).glob("*.json"))) for each in ("noise", "ledger"))
    assert looked.stdout.split() == ["True", str(series), str(ledgers)], looked.stderr


LOOK = """
from bench.doctor.machine import pins_for, project_ranges
from bench.doctor.oracle import DUMP
from bench.ledger.store import SHIPPED, path_of
from bench.selftest.series import FOLDER, read_series
from packaging.requirements import Requirement
print(DUMP.is_file() and DUMP.with_suffix(".grads.npz").is_file())
print(len([read_series(path) for path in FOLDER.glob("*.json")]))
print(sum(path_of(None, each).is_file() for each in SHIPPED))
for kind, needs in (("cpu", {"torch", "megatron-core", "numpy"}), ("npu", {"torch", "torch_npu", "megatron-core"})):
    for lines in (project_ranges(kind), pins_for(kind)):
        assert needs <= {Requirement(line).name for line in lines}, (kind, lines)
"""


@pytest.mark.slow
def test_a_baseline_is_stored_in_the_current_folder(run: Run, site: Path, tmp_path: Path) -> None:
    before = sorted(path for path in site.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    write(tmp_path / "candidate.json", [_candidate()])
    done = run("bench", "baseline", "promote", "candidate.json", "--rationale", "a test")
    assert done.returncode == 0, done.stderr
    own = tmp_path / "baselines"
    assert f"the shipped baselines are copied to {own}" in done.stderr
    assert "wrote baselines/ascend910b-synthetic/grok1-40b.json: " in done.stdout
    assert sorted(path.name for path in own.iterdir()) == [
        ".lock",
        "README.md",
        "ascend910b-synthetic",
        "npu-910b",
        "reference-chip",
    ]
    assert before == sorted(path for path in site.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    listed = run("bench", "baseline", "list").stdout
    assert "Ascend910B-synthetic" in listed
    assert "grok1-40b on 16 NPUs, published" in listed


def _candidate() -> Baseline:
    runs = [build_synthetic_record(seed=seed, noise=0.002) for seed in range(5)]
    return candidate_of(runs, tolerance_percent=2.0, floor_percent=1.0)


@pytest.mark.slow
def test_other_projects_tests_are_left_alone(run: Run, tmp_path: Path) -> None:
    """One with a `bench` of its own, which pytest imports from there."""
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").touch()
    (tmp_path / "bench" / "test_theirs.py").write_text("def test_it(): pass\n")
    for words in (["bench/"], ["--pyargs", "bench"]):
        done = run("pytest", "-p", "no:cacheprovider", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1 passed" in done.stdout
    assert "unrecognized arguments: --benchmark" in run("pytest", "bench/", "--benchmark").stderr


@pytest.mark.parametrize(
    ("words", "asks"),
    [
        (["--pyargs", "bench", "--benchmark"], True),
        (["--benchmark", "bench.test_pretrain::test_verdict", "--pyargs"], True),
        (["bench/", "--benchmark"], False),
        (["--pyargs", "benchmarks"], False),
        (["--pyargs", "other", "--case", "bench2"], False),
    ],
)
def test_only_our_package_asks_for_our_options(words: list[str], asks: bool) -> None:
    assert asks_for_bench(words) == asks
