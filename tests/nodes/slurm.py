"""Slurm on the two machines: the controller on the first, a daemon on each. No services, nothing outside a folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.limits import HANG_SECONDS
from tests.nodes.machines import Machine, TwoMachines

_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
_CONFIGURATION = """
ClusterName=two
SlurmctldHost={first.host}({first.address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SwitchType=switch/none
KillWait=2
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName={first.host} NodeAddr={first.address} CPUs=16 RealMemory=1000 State=UNKNOWN
NodeName={second.host} NodeAddr={second.address} CPUs=16 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes={first.host},{second.host} Default=YES State=UP
"""
# `ip netns exec` leaves none mounted, and slurmd wants one though it uses none here
_WITH_CONTROL_GROUPS = """
mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/freezer &&
mount -t cgroup -o freezer none /sys/fs/cgroup/freezer; exec "$@"
"""


def why_no_slurm() -> str | None:
    """Why Slurm cannot be started here, if it cannot."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    return f"{', '.join(missing)} not installed (Debian: apt-get install slurm-wlm munge)" if missing else None


class Slurm:
    """A cluster of the two machines."""

    def __init__(self, machines: TwoMachines, folder: Path) -> None:
        self._machines, self._folder, self._stack = machines, folder, ExitStack()

    def __enter__(self) -> Slurm:
        try:
            self._set_up()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _set_up(self) -> None:
        first, second = self._machines.both
        (self._folder / "state").mkdir(parents=True)
        for machine in (first, second):
            (self._folder / f"spool-{machine.host}").mkdir()
        configuration = self._folder / "slurm.conf"
        (self._folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        configuration.write_text(_CONFIGURATION.format(first=first, second=second, folder=self._folder))
        self._start_munge()
        self._start(first, ["slurmctld", "-D", "-f", configuration])
        for machine in (first, second):
            daemon = ["slurmd", "-D", "-N", machine.host, "-f", configuration]
            self._start(machine, ["sh", "-c", _WITH_CONTROL_GROUPS, "sh", *daemon])
        self._wait_until_idle()

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def run(self, command: Sequence[object], **variables: str) -> str:
        """What a command of Slurm's says on the first machine."""
        run = self._machines.both[0].start(command, SLURM_CONF=str(self._folder / "slurm.conf"), **variables)
        assert run.wait(HANG_SECONDS) == 0, run.text
        return run.text

    def submit(self, command: Sequence[object], **variables: str) -> int:
        """The job's number."""
        return int(self.run(["sbatch", "--parsable", *command], **variables))

    def ended(self, job: int, seconds: float) -> str:
        """The state in which the job ended, such as COMPLETED or FAILED."""
        deadline = time.monotonic() + seconds
        state = ""
        while time.monotonic() < deadline:  # sbatch --wait would ask every half minute
            (state,) = re.findall(r"JobState=(\w+)", self.run(["scontrol", "show", "job", job]))
            if state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
                return str(state)
            time.sleep(0.5)
        return str(state)

    def _start_munge(self) -> None:
        """Both machines' processes talk to one: its socket is a file."""
        key = self._folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = [f"--{each}={self._folder}/munge.{each.partition('-')[0]}" for each in ("pid-file", "log-file")]
        files += [f"--socket={self._folder}/munge.socket", f"--seed-file={self._folder}/munge.seed"]
        daemon = subprocess.Popen(
            ["munged", "--foreground", "--force", f"--key-file={key}", *files],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._stack.callback(daemon.wait)
        self._stack.callback(daemon.terminate)

    def _start(self, machine: Machine, command: list[object]) -> None:
        run = machine.start(command)
        self._stack.callback(run.process.wait)
        self._stack.callback(run.process.kill)

    def _wait_until_idle(self) -> None:
        deadline = time.monotonic() + HANG_SECONDS
        said = ""
        while time.monotonic() < deadline:
            said = self.run(["sinfo", "--noheader", "--format=%D %t"])
            if said.strip() == "2 idle":
                return
            time.sleep(0.3)
        logs = "\n".join(log.read_text()[-1500:] for log in self._folder.glob("*.log"))
        raise AssertionError(f"Slurm did not come up: {said}\n{logs}")
