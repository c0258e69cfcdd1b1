"""Options of the benchmark run, and two rules: bench/ runs only when asked for, and a required verdict is one.

pytest loads this for `pytest tests/` too, so it imports nothing that takes time.
"""

import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.places import RUN_BENCH
from grok1.cli import interruption

_ROOM = Path(__file__).resolve().parent
_NOTHING_RAN = f"no benchmark ran; give {RUN_BENCH}"
_TAKE_ONE_VALUE: set[str] = set()


class _Hooks:
    def pytest_why_unjudged(self, config: pytest.Config) -> str:
        """What keeps this session from being a gate that judged; empty where nothing does."""
        raise NotImplementedError


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Let bench/ answer without being imported here."""
    pluginmanager.add_hookspecs(_Hooks)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    if "--benchmark" in sys.argv:  # bench/conftest.py, which comes next, imports for seconds
        _end_at_once(pluginmanager)
    group = parser.getgroup("grok1", "Grok-1 performance validation")

    def add(name: str, *others: str, **settings: Any) -> None:
        if "action" not in settings:
            _TAKE_ONE_VALUE.add(name)
        group.addoption(name, *others, **settings)

    for name, does in (
        ("--benchmark", "run the benchmarks in bench/ (without this option they are skipped)"),
        ("--peers", "also time megatron's own parts and Hugging Face's Mixtral (takes ten minutes)"),
        (
            "--harness",
            "also time the suite itself: reading, judging, reporting, its own cost in a step (takes two minutes)",
        ),
        ("--plan", "also hold the planner's predictions of this CPU against runs (takes thirteen minutes)"),
    ):
        add(name, action="store_true", help=does)
    add(
        "--case",
        action="append",
        metavar="NAME",
        help="this case alone: train, judge and report it; repeatable (default: the cases of the device, and the rest "
        "of bench/)",
    )
    add("--parts", action="store_true", help="with --case: time the parts of a step too, such as single operators")
    add("--ledgers", action="store_true", help="with --case: hold the stored cost ledgers too")
    add("--recipe", metavar="NAME|FILE", help="run this recipe instead of the case's own")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe value; repeatable")
    add("--device", choices=("cpu", "cuda", "npu"), help="processor to run on (default: what the machine has)")
    add("--steps", type=int, metavar="N", help="training steps per run (default: the case's own)")
    add("--runs", type=int, metavar="N", help="runs per case (default: as many as decide against its baseline)")
    add(
        "--wait-for-quiet",
        type=float,
        default=0.0,
        metavar="S",
        help="before each run, wait until other programs leave the CPU to it, at most S seconds",
    )
    add(
        "--plant-slowdown",
        type=float,
        default=0.0,
        metavar="PERCENT",
        help="make each step so much longer, to see the gate fail; such runs are marked, and are never a baseline",
    )
    add(
        "--confirm",
        type=int,
        default=0,
        metavar="N",
        help="N more runs for an inconclusive case, then a last verdict on all; both share the 1 %% error rate",
    )
    add(
        "--settle",
        action="store_true",
        help="where only the level of another session could explain a change, run the baseline's commit beside this "
        "one and decide by that; both stages share the 1 %% error rate",
    )
    add(
        "--session-spread",
        metavar="PERCENT|history",
        help="the level between sessions to assume where a baseline cannot say (default: 1.2 on accelerators, 3 on a "
        "CPU, 20 on that of a virtual machine); history: from results/history.jsonl",
    )
    add(
        "--device-profile",
        metavar="NAME|FILE",
        help="show measured steps beside what this device profile lets expect (default: the one known of the device)",
    )
    add("--data", metavar="PREFIX", help="prefix of a .bin/.idx pair of files (default: sample text)")
    add("--tokenizer", metavar="PATH", help="the tokenizer that --data was made with")
    add("--index-cache", metavar="DIR", help="keep the sample index here (default: beside the corpus)")
    add(
        "--no-shared-storage",
        action="store_true",
        help="the nodes share no disk: each builds its own sample index",
    )
    _add_nodes(add)
    add(
        "--baselines",
        metavar="DIR",
        help="folder of stored baselines (default: baselines/, else the shipped ones)",
    )
    add("--results", default="results", metavar="DIR", help="folder for records and the report")
    add(
        "--require-baseline",
        "--require-verdict",
        action="store_true",
        help="fail unless each case has a verdict that passes: not skipped, not inconclusive, not without baseline",
    )


def _add_nodes(add: Callable[..., None]) -> None:
    """Of a job on several machines."""
    add("--nnodes", type=int, default=1, metavar="N", help="number of machines of the job")
    add("--node-rank", type=int, default=0, metavar="R", help="rank of this machine, from 0")
    add("--master-addr", default="127.0.0.1", metavar="HOST", help="address of the first machine")
    add("--master-port", type=int, default=29500, metavar="PORT", help="a free port on the first machine")
    add("--nproc-per-node", type=int, metavar="N", help="ranks on this machine")
    add("--start-timeout", type=float, default=300.0, metavar="S", help="seconds that nodes wait for each other")
    add("--collective-timeout", type=float, default=600.0, metavar="S", help="seconds a collective may take")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--benchmark"):
        return
    skip = pytest.mark.skip(reason=f"benchmarks run only with --benchmark: {RUN_BENCH}")
    for item in items:
        if _ROOM in item.path.resolve().parents:
            item.add_marker(skip)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse what would drop a value, or judge nothing, without a word."""
    if not config.pluginmanager.hasplugin("timeout"):  # pytest-timeout is for development; the marks are its
        config.addinivalue_line("markers", "timeout(seconds): nothing without pytest-timeout")
    given = Counter(word.partition("=")[0] for word in config.invocation_params.args)
    for option in sorted(_TAKE_ONE_VALUE):
        if given[option] > 1:
            raise pytest.UsageError(f"{option} is given {given[option]} times, and only one can count; give it once")
    # pytest answers these with exit code 0 and runs nothing, not even the rule below
    asked = {
        "showfixtures": "--fixtures",
        "show_fixtures_per_test": "--fixtures-per-test",
        "cacheshow": "--cache-show",
        "markers": "--markers",
    }
    for name, option in asked.items():
        if config.getoption("--require-baseline") and config.getoption(name, None):
            raise pytest.UsageError(f"--require-baseline with {option} would judge nothing; leave {option} out")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    with _one_line_of_ctrl_c(session.config):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    with _one_line_of_ctrl_c(session.config):
        return (yield)


@contextmanager
def _one_line_of_ctrl_c(config: pytest.Config) -> Iterator[None]:
    """Of a benchmark: pytest tells of Ctrl-C and SIGTERM in one line, and its exit code is the shells'."""
    if not config.getoption("--benchmark"):
        yield
        return
    interruption.unwind()
    try:
        yield
    except pytest.Session.Interrupted:  # a KeyboardInterrupt by which pytest says that modules could not be collected
        raise
    except KeyboardInterrupt:
        interruption.end_children()
        pytest.exit(interruption.told(), interruption.exit_code())
    finally:
        _end_at_once(config.pluginmanager)


def _end_at_once(plugins: pytest.PytestPluginManager) -> None:
    """Ctrl-C ends pytest where nothing needs to be tidied up; what it captures would be said to nobody."""
    capture = plugins.getplugin("capturemanager")
    interruption.end_at_once("pytest", lambda: None if capture is None else capture.suspend_global_capture(in_=True))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Generator[None, None, None]:
    """Fail a session that --require-baseline was given to and that judged nothing, after pytest's own last words."""
    yield
    nothing_failed = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    if not nothing_failed or not session.config.getoption("--require-baseline"):
        return
    # bench/conftest.py answers, where pytest has loaded it
    reasons = session.config.hook.pytest_why_unjudged(config=session.config) or [_NOTHING_RAN]
    for reason in filter(None, reasons):
        print(f"error: --require-baseline: {reason}", file=sys.stderr)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
