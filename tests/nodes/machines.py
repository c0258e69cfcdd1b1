"""Two machines on one: network namespaces that a pair of virtual cables joins, each with folders of its own.

A process on one of them sees no other network, another host name, and neither the other's folders nor its home. Needs
root, `ip` and `unshare` on Linux.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tests.limits import HANG_SECONDS

ROOT = Path(__file__).parents[2]
_TOOLS = ("ip", "unshare", "mount", "git")
_PAIRS = itertools.count()
_NOT_INHERITED = ("PYTHONDONTWRITEBYTECODE", "GROK1_DEVICE", "CI", "GITHUB_STEP_SUMMARY", "MASTER_ADDR", "MASTER_PORT")


def why_not() -> str | None:
    """Why two machines cannot be made here, if they cannot."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces are made by root only"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: apt-get install iproute2 util-linux git)"
    made = subprocess.run(["unshare", "--net", "--mount", "--uts", "true"], capture_output=True, text=True, check=False)
    return f"no namespaces here: {made.stderr.strip()}" if made.returncode else None


class Run:
    """A command under way on a machine, or ended there."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self.process = process
        self._output = output
        self._started = time.monotonic()
        self.ended_at = 0.0  # of the monotonic clock
        threading.Thread(target=self._note_the_end, daemon=True).start()

    def _note_the_end(self) -> None:
        self.process.wait()
        self.ended_at = time.monotonic()

    @property
    def text(self) -> str:
        """What it has said so far, on both streams."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def seconds(self) -> float:
        """That it ran, once it has ended."""
        return self.ended_at - self._started

    def wait(self, seconds: float) -> int:
        """The exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s; it said:\n{self.text}") from None

    def wait_for(self, said: str, seconds: float) -> None:
        """Until it has said something that the pattern matches."""
        deadline = time.monotonic() + seconds
        while not re.search(said, self.text):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{said!r} was not said; this was:\n{self.text[:2000]}")
            time.sleep(0.05)


class Machine:
    """One of the two: its name space, its address, its folders."""

    def __init__(self, number: int, name: str, folder: Path) -> None:
        self.number, self.name = number, name
        self.host = f"machine-{'ab'[number]}"
        self.address = f"10.213.77.{number + 1}"
        self.folder = folder / self.host
        self.source = self.folder / "source"
        self.other: Path = folder / f"machine-{'ba'[number]}"
        self._count = 0

    def make_folders(self) -> None:
        """Its own clone of this project with what is not yet committed, its home, its temporary files."""
        for each in ("home", "temporary"):
            (self.folder / each).mkdir(parents=True)
        clone(self.source)

    def start(self, command: Sequence[object], **variables: str) -> Run:
        """Start a command there, in its clone."""
        self._count += 1
        output = self.folder / f"output-{self._count}.txt"
        environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
        environment |= {
            "HOME": str(self.folder / "home"),
            "XDG_CACHE_HOME": str(self.folder / "home" / "cache"),
            "TMPDIR": str(self.folder / "temporary"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": str(self.source),
            "OMP_NUM_THREADS": "1",
            "TORCH_CPP_LOG_LEVEL": "ERROR",  # torch complains that no name server knows these machines
            **variables,
        }
        hide = 'hostname "$1" && mount -t tmpfs -o size=1m none "$2" && shift 2 && exec "$@"'
        inside = ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", hide, "sh", self.host]
        with output.open("w") as said:
            process = self._popen([*inside, str(self.other), *map(str, command)], environment, said)
        return Run(process, output)

    def _popen(self, words: list[str], environment: dict[str, str], said: IO[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *words],
            cwd=self.source,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def processes(self) -> list[int]:
        """All that runs there."""
        return [int(word) for word in _ip("netns", "pids", self.name).split()]

    def received_bytes(self) -> int:
        """All that has come over the cable so far."""
        (found,) = json.loads(_ip("-n", self.name, "-s", "-j", "link", "show", "cable"))
        return int(found["stats64"]["rx"]["bytes"])

    def kill(self) -> None:
        """End all that runs there, as when the machine loses its power; no process says goodbye."""
        deadline = time.monotonic() + HANG_SECONDS
        while (running := self.processes()) and time.monotonic() < deadline:
            for process in running:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.05)


class TwoMachines:
    """Both machines, and the cable between them."""

    def __init__(self, folder: Path) -> None:
        tag = f"grok1-{os.getpid()}-{next(_PAIRS)}"
        self.shared = folder / "shared"  # which both machines see
        self.shared.mkdir()
        self.both = [Machine(number, f"{tag}-{number}", folder) for number in (0, 1)]

    def __enter__(self) -> TwoMachines:
        first, second = self.both
        for machine in self.both:
            _ip("netns", "add", machine.name)
            machine.make_folders()
        _ip("link", "add", "cable", "netns", first.name, "type", "veth", "peer", "name", "cable", "netns", second.name)
        for machine in self.both:
            _ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", "cable")
            _ip("-n", machine.name, "link", "set", "lo", "up")
        self.plug_in()
        return self

    def __exit__(self, *_error: object) -> None:
        for machine in self.both:
            machine.kill()
            _ip("netns", "delete", machine.name)

    def plug_in(self) -> None:
        """Join the machines."""
        for machine in self.both:
            _ip("-n", machine.name, "link", "set", "cable", "up")

    def cut(self) -> None:
        """Cut the cable, without either machine's processes being told."""
        for machine in self.both:
            _ip("-n", machine.name, "link", "set", "cable", "down")

    def start(self, command: Sequence[object], *words_of_each: Sequence[object], **variables: str) -> list[Run]:
        """Start a command on both, with more words of each machine's own."""
        return [
            machine.start([*command, *words], **variables)
            for machine, words in zip(self.both, words_of_each, strict=True)
        ]


def clone(target: Path) -> None:
    """This project with what is not yet committed."""
    _git("clone", "--quiet", "--no-hardlinks", str(ROOT), str(target), cwd=ROOT)
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)
        else:
            (target / name).unlink(missing_ok=True)


@contextmanager
def commit_change(source: Path, name: str) -> Iterator[None]:
    """One more commit in a clone, which changes nothing that runs; gone again afterwards."""
    before = (source / name).read_bytes()
    (source / name).write_bytes(before + b"# changed\n")
    _git("commit", "--quiet", "--message", "Change a comment", name, cwd=source)
    try:
        yield
    finally:
        _git("reset", "--quiet", "--soft", "HEAD~1", cwd=source)
        (source / name).write_bytes(before)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def _git(*words: str, cwd: Path) -> str:
    """Whoever owns the project's folder."""
    trusted = ["-c", "safe.directory=*", "-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    environment = {
        **os.environ,
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    return subprocess.run(
        ["git", *trusted, *words], cwd=cwd, env=environment, check=True, capture_output=True, text=True
    ).stdout
