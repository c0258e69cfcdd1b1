"""Programs that run others' real code over a stand-in, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def run_program(
    environment: Mapping[str, str], *words: object, cwd: Path, seconds: float
) -> subprocess.CompletedProcess[str]:
    """`python WORDS` in that environment; a failure shows what it said."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done
