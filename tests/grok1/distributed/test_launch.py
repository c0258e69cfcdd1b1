"""Starting and ending ranks: failures name the rank, nothing is left running, bad jobs never start."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from grok1.distributed.launch import LaunchError, RankFailedError, check_machine, launch
from grok1.distributed.nodes import Nodes
from grok1.training.job import Job
from tests.grok1.conftest import ROOT, TWO_RANKS, MakeJob, run_python
from tests.limits import HANG_SECONDS

TRAINING = "grok1.training.run:run_rank"


def _launch(make_job: MakeJob, entry: str) -> None:
    job = make_job(1, *TWO_RANKS)
    launch(job, job.recipe, "cpu", entry=f"tests.grok1.distributed.rank_entries:{entry}")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank alone fails, and others' words are not waited for."""
    monkeypatch.setattr("grok1.distributed.launch._SETTLE_SECONDS", 0.2)


@pytest.mark.usefixtures("hurried")
def test_a_rank_that_raises_ends_the_run_and_shows_its_traceback(make_job: MakeJob) -> None:
    """The others wait for an hour, so that pytest's time limit fails a run that waits for them."""
    with pytest.raises(RankFailedError, match=r"(?s)rank 1 failed.*the sky fell on rank one") as caught:
        _launch(make_job, "raise_on_rank_one")
    assert caught.value.rank == 1


@pytest.mark.usefixtures("hurried")
def test_a_rank_that_is_killed_ends_the_run_and_is_named(make_job: MakeJob) -> None:
    with pytest.raises(RankFailedError, match="rank 1 failed.*\n.*killed by signal 9.*out of memory"):
        _launch(make_job, "die_on_rank_one")


@pytest.mark.usefixtures("hurried")
def test_a_rank_that_is_killed_leaves_no_files_of_its_profiler(make_job: MakeJob) -> None:
    folders: list[str] = []
    job = make_job(1, *TWO_RANKS)
    with pytest.raises(RankFailedError, match="killed by signal 9"):
        launch(
            job,
            job.recipe,
            "cpu",
            on_event=folders.append,
            entry="tests.grok1.distributed.rank_entries:die_while_it_profiles",
        )
    (folder,) = folders
    assert "grok1-profile-" in folder
    assert not Path(folder).exists()


def test_a_rank_that_refuses_its_input_gives_one_line(make_job: MakeJob) -> None:
    with pytest.raises(LaunchError, match=r"^the corpus is empty; add text$"):
        _launch(make_job, "refuse")


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux alone schedules batches and lists threads")
def test_ranks_of_a_cpu_take_turns_and_share_one_connection_loop(make_job: MakeJob) -> None:
    job = make_job(1, *TWO_RANKS)
    found = launch(job, job.recipe, "cpu", entry="tests.grok1.distributed.rank_entries:describe_threads")
    assert found["policies"] == [os.SCHED_BATCH]
    assert found["groups"] > 5
    # Python's own, the heart's, one connection loop, and a worker a group; torch's gloo has a loop and two a group
    assert found["threads"] == 3 + found["groups"]


@pytest.mark.usefixtures("hurried")
def test_a_failed_run_leaves_no_rank_running(make_job: MakeJob) -> None:
    with pytest.raises(RankFailedError):
        _launch(make_job, "raise_on_rank_one")
    deadline = time.monotonic() + HANG_SECONDS
    while (left := _ranks_of_forkservers()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def _ranks_of_forkservers() -> list[psutil.Process]:
    """Those that are not yet reaped too."""
    return [rank for child in psutil.Process().children() for rank in child.children()]


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ending_the_launcher_ends_every_rank(number: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(ROOT)!r})
            from grok1.config.load import load_recipe
            from grok1.distributed.launch import launch

            def say(event):
                print(event["pid"], flush=True)

            if __name__ == "__main__":
                recipe = load_recipe("grok1-nano", {TWO_RANKS!r})
                launch(None, recipe, "cpu", on_event=say, entry="tests.grok1.distributed.rank_entries:wait_for_ever")
            """
        )
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    ) as run:
        assert run.stdout is not None
        ranks = [int(run.stdout.readline()) for _ in range(2)]
        os.kill(run.pid, number)
        run.wait(HANG_SECONDS)
        deadline = time.monotonic() + HANG_SECONDS
        while any(map(psutil.pid_exists, ranks)) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = [pid for pid in ranks if psutil.pid_exists(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.fixture(scope="module")
def fresh_command(make_job: MakeJob, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `_numbers` and `_imports` give in an interpreter of their own, whose forkserver this entry starts."""
    jobs = make_job(3), make_job(2, *TWO_RANKS)
    script = tmp_path_factory.mktemp("fresh") / "run.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import json, pickle, sys
            sys.path.insert(0, {str(ROOT)!r})
            from tests.grok1.distributed.test_launch import _imports, _numbers

            if __name__ == "__main__":
                job, small = pickle.loads({pickle.dumps(jobs)!r})
                print(json.dumps({{"imports": _imports(small), "numbers": _numbers(job)}}))
            """
        )
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=ROOT, check=True)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def _numbers(job: Job) -> dict[str, Any]:
    """What the job computes: each step's numbers, and a digest of each rank's weights."""
    weights: dict[str, str] = {}

    def on_event(event: Any) -> None:
        if isinstance(event, dict) and "weights" in event:
            weights[str(event["rank"])] = event["weights"]

    result = launch(
        job,
        job.recipe,
        "cpu",
        on_event=on_event,
        entry="tests.grok1.distributed.rank_entries:train_and_say_the_weights",
    )
    return {"steps": [asdict(step) for step in result.steps], "weights": weights}


@pytest.mark.slow
def test_a_run_after_others_is_bitwise_that_of_a_fresh_command(
    make_job: MakeJob, fresh_command: dict[str, Any]
) -> None:
    job = make_job(3)
    first = _numbers(job)
    _numbers(make_job(2, *TWO_RANKS, "training.seed=7"))
    again = _numbers(job)
    assert len(first["weights"]) == job.recipe.parallel.world_size
    assert first == again == fresh_command["numbers"]


def _imports(job: Job) -> list[dict[str, Any]]:
    """What each rank says of its imports."""
    said: list[Any] = []
    launch(
        job, job.recipe, "cpu", on_event=said.append, entry="tests.grok1.distributed.rank_entries:say_what_was_imported"
    )
    return [event for event in said if isinstance(event, dict) and "imported" in event]


@pytest.mark.slow
def test_a_rank_finds_all_it_needs_imported_but_no_compiler(fresh_command: dict[str, Any]) -> None:
    found = fresh_command["imports"]
    assert len(found) == 2
    for event in found:
        assert len(event["imported"]) < 10, event["imported"]
        assert not event["own"], "the forkserver should have imported the entry's module"
        assert not event["compiler"]


@pytest.mark.slow
def test_the_forkserver_ends_without_taking_apart_what_it_imported() -> None:
    done = run_python("import atexit\natexit.register(print, 'taken apart')\nimport grok1.distributed.preload", "cpu")
    assert (done.returncode, done.stdout) == (0, "")


def test_what_a_program_names_is_imported_whichever_entry_comes_first() -> None:
    done = run_python(
        "from multiprocessing.forkserver import _forkserver\n"
        "from grok1.distributed.launch import preload_in_ranks, rank_context\n"
        "preload_in_ranks('first')\nrank_context('cpu', 'entry')\nprint(_forkserver._preload_modules)",
        "cpu",
    )
    assert done.stdout == "['grok1.distributed.preload', 'first', 'entry']\n", done.stderr


def test_a_port_in_use_is_refused_before_any_rank_starts(make_job: MakeJob) -> None:
    job = make_job(1, *TWO_RANKS)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} cannot be used .*--master-port"):
            launch(job, job.recipe, "cpu", Nodes(nnodes=2, nproc_per_node=1, master_port=port), entry=TRAINING)


@pytest.mark.parametrize(
    ("nodes", "complaint"),
    [
        (Nodes(nnodes=3), "3 nodes x 0 processes are not the recipe's 2 ranks"),
        (Nodes(nproc_per_node=4), "1 nodes x 4 processes are not the recipe's 2 ranks"),
        (Nodes(nnodes=2, node_rank=2), "--node-rank 2 is not below --nnodes 2"),
    ],
)
def test_processes_that_do_not_make_up_the_world_are_refused(make_job: MakeJob, nodes: Nodes, complaint: str) -> None:
    job = make_job(1, *TWO_RANKS)
    with pytest.raises(LaunchError, match=complaint):
        launch(job, job.recipe, "cpu", nodes, entry=TRAINING)


def test_a_recipe_too_large_for_the_machine_is_refused() -> None:
    from grok1.config.load import load_recipe

    with pytest.raises(LaunchError, match=r"grok1-314b needs about \d+\.\d GiB for 256 ranks.*smaller recipe"):
        check_machine(load_recipe("grok1-314b"), "cpu", 256)
