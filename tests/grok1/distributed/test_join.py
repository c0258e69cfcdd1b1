"""Ranks that torchrun or Slurm started: they compare what they run, name themselves, and give up after a time limit."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.grok1.conftest import ROOT, as_options, grok1_command
from tests.limits import HANG_SECONDS

TWO_STAGES = [
    *("parallel.world_size=2", "parallel.tensor=1", "parallel.pipeline=2"),
    *("parallel.expert=1", "parallel.expert_tensor=1"),
]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def words(corpus: tuple[Path, Path]) -> list[str]:
    prefix, tokenizer = corpus
    words = ["--recipe", "grok1-nano", "--device", "cpu", "--data", str(prefix), "--tokenizer", str(tokenizer)]
    return [*words, *as_options(TWO_STAGES)]


def _rank(rank: int, port: int, words: list[str]) -> subprocess.Popen[str]:
    """One of two nodes' only rank, as torchrun starts it."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
    place |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    return subprocess.Popen(
        grok1_command("train", *words),
        cwd=ROOT,
        env={**os.environ, **place},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_ranks_that_do_not_run_the_same_all_say_so_in_one_line(words: list[str], port: int) -> None:
    ranks = [_rank(0, port, words), _rank(1, port, [*words, "--set", "training.seed=7"])]
    said = [rank.communicate(timeout=HANG_SECONDS)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2], said
    host = socket.gethostname()
    for text in said:
        line = text.strip().splitlines()[-1]
        assert line.startswith(f"grok1: node 1 ({host}) has training.seed 7, node 0 ({host}) has 1234; type"), text
        assert "Traceback" not in text


def _absent(who: str, port: int, why: str) -> str:
    return (
        f"grok1: {who} did not come to 127.0.0.1 port {port} within 3 s{why}: not started, or with another MASTER_ADDR "
        "or MASTER_PORT, or not done with what comes before; --start-timeout gives more time\n"
    )


def _listening(rank: subprocess.Popen[str], port: int) -> set[str]:
    """The addresses at which a rank listens for the others, once it does."""
    found: set[str] = set()
    while not found and rank.poll() is None:
        every = psutil.Process(rank.pid).net_connections("tcp")
        found = {each.laddr.ip for each in every if each.status == psutil.CONN_LISTEN and each.laddr.port == port}
        time.sleep(0.1)
    return found


@pytest.mark.slow
def test_a_rank_that_does_not_come_is_named_by_those_that_wait(words: list[str], port: int) -> None:
    limited = [*words, "--start-timeout", "3"]
    alone = _rank(0, port, limited)
    listening = _listening(alone, port)
    job, *said = alone.communicate(timeout=HANG_SECONDS)[0].splitlines(keepends=True)
    assert job.startswith("grok1-nano: ")
    assert ("".join(said), alone.returncode) == (_absent("rank 1 on node 1", port, " (1 of 2 came)"), 2)
    assert listening == {"127.0.0.1"}  # and not all interfaces
    alone = _rank(1, port, limited)
    assert (alone.communicate(timeout=HANG_SECONDS)[0], alone.returncode) == (
        _absent("rank 0 on node 0", port, " (Connection refused)"),
        2,
    )


@pytest.mark.slow
def test_a_rank_of_torchruns_that_does_not_come_is_named(words: list[str], port: int, tmp_path: Path) -> None:
    """Rank 1's process is there, and still busy with something else."""
    (tmp_path / "rank").write_text(
        f'#!/bin/sh\n[ "$RANK" = 1 ] && exec sleep 100\nexec {sys.executable} -m grok1 "$@"\n'
    )
    (tmp_path / "rank").chmod(0o755)
    started = [
        "--nnodes",
        "1",
        "--master-port",
        str(port),
        "--nproc-per-node",
        "2",
        "--no-python",
        str(tmp_path / "rank"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *started, "train", *words, "--start-timeout", "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 1  # torchrun's own
    assert re.search(
        r"^grok1: rank 1 on node 0 did not come to \S+ port \d+ within 3 s \(1 of 2 came\): ", done.stderr, re.M
    ), done.stderr
    assert re.search(r"rank +: 0 \(local_rank: 0\)\n +exitcode +: 2 ", done.stderr), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a stopped process stands for a cut network; Linux alone tested")
def test_a_peer_that_falls_silent_is_given_up_after_the_time_limit(words: list[str], port: int) -> None:
    limited = [*words, "--steps", "3000", "--collective-timeout", "12"]  # a start takes less, hearts more
    ranks = [_rank(0, port, limited), _rank(1, port, limited)]
    first, second = ranks
    assert first.stdout is not None
    try:
        assert "grok1-nano" in first.stdout.readline()
        assert "step" in first.stdout.readline()
        second.send_signal(19)  # SIGSTOP
        said, _ = first.communicate(timeout=HANG_SECONDS)
    finally:
        for rank in ranks:
            rank.kill()
        second.communicate()
    assert first.returncode == 1, said
    assert f"grok1: rank 0 on node 0 ({socket.gethostname()}) failed: " in said
    assert "Timed out" in said or "timed out" in said, said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the same")
@pytest.mark.parametrize("stopped", [0])  # whose process holds torch's store too
def test_a_stopped_peer_ends_all_long_before_and_is_named(words: list[str], port: int, stopped: int) -> None:
    ranks = [_rank(number, port, [*words, "--steps", "3000"]) for number in (0, 1)]
    assert ranks[0].stdout is not None
    try:
        assert "grok1-nano" in ranks[0].stdout.readline()
        assert "step" in ranks[0].stdout.readline()
        ranks[stopped].send_signal(signal.SIGSTOP)
        said = [rank.communicate(timeout=HANG_SECONDS)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [1, 1], said
    host = socket.gethostname()
    for number, text in enumerate(said):
        line = (
            f"grok1: rank {number} on node {number} ({host}) ends: rank {stopped} on node {stopped} ({host}) is stopped"
        )
        stood = r"grok1: where the ranks stood:\n(  .*\n)+" if number == 0 else ""
        # the stopped one may be killed first, and the other meet a closed connection before it is
        closed = r"(grok1: rank 1 on .* failed: .*Connection closed by peer.*\n)?" if number == 1 else ""
        assert re.fullmatch(rf"(step .*\n)*{stood}{re.escape(line)}, as by SIGSTOP\n{closed}", text), text
    assert re.search(rf"\n  rank {stopped}: (in|after) step \d+, stopped\n", said[0]), said[0]


HANGS = """
from dataclasses import replace
from grok1.config.load import load_recipe
from grok1.device.kind import set_kind, set_recipe
from grok1.distributed.join import run_here
from grok1.distributed.rendezvous import rendezvous_from_environment
from tests.grok1.conftest import TWO_RANKS

recipe = load_recipe("grok1-nano", TWO_RANKS)
set_kind("cpu")
set_recipe(recipe)
where = replace(rendezvous_from_environment(), progress_seconds=3.0)
run_here("tests.grok1.distributed.rank_entries:hang_on_rank_one", recipe, recipe, "cpu", where, print, {})
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone says how its processes fare")
def test_a_rank_of_torchruns_that_hangs_ends_the_job_and_is_named(port: int) -> None:
    started = ["--nnodes", "1", "--master-port", str(port), "--nproc-per-node", "2", "--no-python"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *started, sys.executable, "-c", HANGS],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 1
    node = rf"on node 0 \({re.escape(socket.gethostname())}\)"
    hangs = rf"rank 1 {node} hangs at tests/\S*rank_entries\.py:\d+ hang_on_rank_one; no rank went on for \d+ s"
    assert re.search(rf"^grok1: rank 0 {node} ends: {hangs} \(--progress-timeout sets the limit\)$", done.stderr, re.M)
    assert re.search(r"^  rank 0: in step 3, waits for other ranks\n      .*barrier$", done.stderr, re.M), done.stderr
    assert re.search(r"^  rank 1: in step 3, at work\n      tests/.* hang_on_rank_one$", done.stderr, re.M), done.stderr


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize(
    ("number", "calls"), [(signal.SIGTERM, 2), (signal.SIGINT, 1)], ids=["waiting in C++", "between two attempts"]
)
def test_a_rank_that_waits_for_others_ends_when_told(
    words: list[str], port: int, number: signal.Signals, calls: int
) -> None:
    """Rank 0 never comes: what is there takes the first call, and does not answer the second, which is torch's own."""
    with socket.create_server(("127.0.0.1", port)) as silent:
        rank = _rank(1, port, words)
        silent.settimeout(HANG_SECONDS)
        accepted = [silent.accept()[0] for _ in range(calls)]
    try:
        rank.send_signal(number)
        said, _ = rank.communicate(timeout=HANG_SECONDS)
    finally:
        rank.kill()
        for each in accepted:
            each.close()
    assert rank.returncode == 128 + number, said
    assert re.search("interrupted|terminated", said.splitlines()[-1])
    assert "Traceback" not in said


STUBS = {  # what Slurm does with the two commands that the script calls, on one machine that stands for two nodes
    "srun": """#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; done
export SLURM_STEP_ID=0
SLURM_PROCID=1 SLURM_LOCALID=0 "$@" & other=$!
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" && wait $other
""",
    "scontrol": '#!/bin/sh\n[ "$*" = "show hostnames localhost" ] && echo localhost\n',
}


@pytest.mark.slow
def test_the_slurm_script_trains_with_slurms_variables_and_a_stub_of_srun(words: list[str], tmp_path: Path) -> None:
    """Not under Slurm itself: tests/nodes/test_slurm.py is, where it is installed."""
    stubs = {**STUBS, "grok1": f'#!/bin/sh\nexec "{sys.executable}" -m grok1 "$@"\n'}
    for name, text in stubs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    variables = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    variables |= {"SLURM_NNODES": "2", "RECIPE": "grok1-nano", "DEVICE": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", ROOT / "docs" / "slurm" / "grok1.sbatch", *words[4:], "--steps", "2"],
        cwd=tmp_path,
        env={**os.environ, **variables, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert [line[:8] for line in done.stdout.splitlines()][1:-1] == ["step 1/2", "step 2/2"]
