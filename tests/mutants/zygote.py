"""Runs tests in a copy of the tree, once for each line of its input, each time in a fork of itself.

It has loaded what takes long to load and nothing of the tree, so that each fork reads the tree as it then is.
Input and output are JSON, one object a line.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import pytest

_OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
_CAUGHT = (1, 2)  # pytest's exit codes: a test failed, or could not be collected
_POLL_SECONDS = 0.01


class _FirstFailure:
    """A plugin of pytest that keeps the name of what failed first."""

    def __init__(self) -> None:
        self.name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.name:
            self.name = f"{report.nodeid} (cannot be collected)"


def main() -> None:
    """Serves until its input ends, or a signal does."""
    signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGTERM, _end)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(_run(asked["tests"], asked["limit_seconds"])), flush=True)
    _ignore_signals()


def _end(number: int, frame: FrameType | None) -> NoReturn:
    _ignore_signals()
    sys.exit(128 + number)


def _ignore_signals() -> None:
    """From here on it ends anyway: a signal to an interpreter that is taking itself apart prints a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _run(tests: Sequence[str], limit_seconds: float) -> dict[str, object]:
    readable, writable = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if not child:
        _test(tests, writable)
    os.close(writable)
    try:
        code = _wait(child, start + limit_seconds)
    finally:
        for each in (os.killpg, os.kill):  # with what it started; before it has a group of its own, it alone
            with contextlib.suppress(ProcessLookupError):
                each(child, signal.SIGKILL)
    with os.fdopen(readable, encoding="utf-8") as pipe:
        return {"outcome": _outcome(code), "said": pipe.read(), "seconds": time.monotonic() - start}


def _test(tests: Sequence[str], writable: int) -> NoReturn:
    """In the fork: what failed first goes into the pipe, all else nowhere."""
    code = 3
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nowhere, descriptor)
        failure = _FirstFailure()
        code = int(pytest.main([*_OPTIONS, *tests], plugins=[failure]))
        os.write(writable, failure.name.encode())
    except BaseException:
        os.write(writable, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _wait(child: int, end: float) -> int | None:
    """Its exit code; None if its time is up."""
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_POLL_SECONDS)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _outcome(code: int | None) -> str:
    if code is None:
        return "time limit"
    if code == 0:
        return "survived"
    return "caught" if code in _CAUGHT or code < 0 else "broken"


if __name__ == "__main__":
    main()
