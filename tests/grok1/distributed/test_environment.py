"""Variables and limits that cannot be used are named, each with its value and what to do; odd but usual ones work."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from grok1.device.kind import Kind
from grok1.distributed import environment
from grok1.distributed.environment import bare_address, check_environment, short_temporary_folder, tcp_url, threads
from grok1.distributed.rendezvous import first_rank_here, rendezvous_from_environment
from tests.grok1.conftest import ROOT, TWO_RANKS
from tests.limits import HANG_SECONDS

TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0"}
SLURM |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*TOLD, *SLURM, "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "GLOO_SOCKET_IFNAME", "HCCL_BUFFSIZE"]:
        monkeypatch.delenv(name, raising=False)


def _set(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("RANK", value) for value in ("", " ", "x", "2", "-1", "1.0", "9" * 30)),
        *(("WORLD_SIZE", value) for value in ("", "0", "two")),
        *(("LOCAL_RANK", value) for value in ("", "2")),
        *(("LOCAL_WORLD_SIZE", value) for value in ("", "3")),
        *(("MASTER_PORT", value) for value in ("0", "99999", "http", "29500,")),
        *(("MASTER_ADDR", value) for value in ("tcp://a", "a:29500", "a b", "a/b", "[::1", "\x1b[2J")),
        ("OMPI_COMM_WORLD_SIZE", "16"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    _set(monkeypatch, {**({} if name.startswith("OMPI") else TORCHRUN), name: value})
    with pytest.raises(ValueError, match=rf"^{name} is {re.escape(ascii(value))}.*; ") as caught:
        rendezvous_from_environment()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE"])
def test_half_of_torchruns_variables_are_refused(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    _set(monkeypatch, {name: value for name, value in TORCHRUN.items() if name != missing})
    with pytest.raises(ValueError, match=f"^{missing} is not set; start with torchrun"):
        rendezvous_from_environment()


@pytest.mark.parametrize(("given", "url"), [("::1", "tcp://[::1]:29500"), ("[fe80::1%lo]", "tcp://[fe80::1%lo]:29500")])
def test_an_ipv6_address_stands_in_brackets(monkeypatch: pytest.MonkeyPatch, given: str, url: str) -> None:
    _set(monkeypatch, {**TORCHRUN, "MASTER_ADDR": given})
    where = rendezvous_from_environment()
    assert where is not None
    assert where.url == url
    assert tcp_url(bare_address("--master-addr", "node-1"), 1) == "tcp://node-1:1"


def test_a_task_of_srun_is_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, SLURM)
    where = rendezvous_from_environment()
    assert where is not None
    assert (where.rank, where.world_size, where.local_rank, where.ranks_per_node) == (3, 4, 1, 2)


def test_a_batch_script_without_srun_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, {**SLURM, "SLURM_PROCID": "0"})
    monkeypatch.delenv("SLURM_STEP_ID")
    with pytest.raises(ValueError, match=r"^SLURM_NTASKS is 4, and this is the batch script.*`srun grok1 \.\.\.`"):
        rendezvous_from_environment()


@pytest.mark.parametrize("changed", [{"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, {"SLURM_PROCID": None}])
def test_a_task_alone_and_a_shell_of_salloc_start_their_own_ranks(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | None]
) -> None:
    _set(monkeypatch, {name: value for name, value in {**SLURM, **changed}.items() if value is not None})
    assert rendezvous_from_environment() is None


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, True),
        (TORCHRUN, True),
        ({**TORCHRUN, "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, False),
        ({**TORCHRUN, "WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}, True),
        ({**SLURM, "SLURM_LOCALID": "1"}, False),
        ({**SLURM, "SLURM_STEP_ID": ""}, True),  # a batch script, which may start our own launcher
    ],
)
def test_one_process_of_a_node_does_what_is_done_once(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: bool
) -> None:
    _set(monkeypatch, variables)
    assert first_rank_here() == expected


@pytest.mark.parametrize(("given", "number"), [("2,1", 2), (" 4 ", 4), ("", 1)])
def test_a_list_of_threads_gives_its_first(monkeypatch: pytest.MonkeyPatch, given: str, number: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads() == number


@pytest.mark.parametrize(
    ("device", "name", "value"),
    [
        *(("cpu", "OMP_NUM_THREADS", value) for value in ("0", "-1", "all", "2,", "99999")),
        *(("cpu", "GLOO_SOCKET_IFNAME", value) for value in ("eth99", "lo,", ",")),
        *(("npu", "HCCL_BUFFSIZE", value) for value in ("", "200M", "0", "1e3")),
        *(("npu", "HCCL_SOCKET_IFNAME", value) for value in ("nosuch", "=l")),
        ("cuda", "NCCL_SOCKET_IFNAME", "nosuch"),
    ],
)
def test_what_would_fail_on_a_rank_is_refused_before(
    monkeypatch: pytest.MonkeyPatch, device: Kind, name: str, value: str
) -> None:
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"lo": [], "eth0": []})
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"^{name} is {re.escape(ascii(value))}.*; .*unset it$"):
        check_environment(device, 1, 1)


@pytest.mark.parametrize("value", ["eth", "^lo", "=eth0", "lo,eth"])
def test_nccls_own_ways_to_name_an_interface_pass(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"lo": [], "eth0": []})
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", value)
    check_environment("cuda", 1, 1)


def test_too_few_open_files_are_refused_and_a_soft_limit_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    limits, raised = [(64, 64)], []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: raised.append(limit))
    with pytest.raises(ValueError, match=r"^ulimit -n is 64: .* may need 138; raise the limit"):
        check_environment("cpu", 16, 16)
    check_environment("cpu", 1, 1)
    assert not raised
    limits.append((64, 4096))
    check_environment("cpu", 16, 16)
    assert raised == [(138, 4096)]


def test_no_folder_for_temporary_files_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    monkeypatch.setenv("TMPDIR", "/gone")
    with pytest.raises(ValueError, match="^TMPDIR is '/gone', and no folder .*; set TMPDIR to one that can"):
        environment.temporary_folder()


def test_a_long_folder_without_a_short_one_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("a" * 90)
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setattr(environment, "_SHORT_FOLDERS", ())
    with pytest.raises(ValueError, match="^TMPDIR is '.*too long for a socket"), short_temporary_folder():
        pass
    assert tempfile.tempdir == str(long)


@pytest.mark.slow
def test_ranks_start_from_a_long_folder_with_marks_that_urls_have(tmp_path: Path) -> None:
    """The rendezvous is a file in it, and multiprocessing's socket may not be."""
    folder = tmp_path / ("a#b?c%20" + "d" * 90)
    folder.mkdir()
    script = f"""
from grok1.config.load import load_recipe
from grok1.distributed.launch import launch
recipe = load_recipe("grok1-nano", {TWO_RANKS!r})
print(launch(recipe, recipe, "cpu", entry="tests.grok1.distributed.rank_entries:meet"))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"]
    assert [each.name for each in tmp_path.iterdir()] == [folder.name]
