"""`python -m tests.fuzz`: bends valid inputs of every parser, and looks for a traceback, a hang, a bomb, an escape.

Exit code: 0 nothing was found, 1 something was; its input and its traceback lie in the folder that --findings names.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.run import Budget, fuzz, summary
from tests.fuzz.targets import all_targets


def main() -> int:
    """Runs the targets in turn."""
    targets = all_targets()
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", action="append", choices=sorted(targets), help="only this parser; repeatable")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together (default: 60)")
    parser.add_argument("--inputs", type=int, default=10**9, help="at most so many in all, by cost")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="default: the time")
    parser.add_argument("--findings", type=Path, help="folder for what is found (default: a new temporary one)")
    given = parser.parse_args()
    chosen = [targets[name] for name in given.target or targets]
    folder = given.findings or Path(tempfile.mkdtemp(prefix="grok1-fuzz-"))
    print(f"seed {given.seed}; findings go to {folder}")
    found = 0
    for target in chosen:
        start = time.monotonic()
        inputs = max(1, given.inputs // (len(chosen) * target.cost))
        budget = Budget(inputs, given.seconds / len(chosen), given.seed)
        count, findings = fuzz(target, budget, folder / target.name)
        print(summary(target.name, count, time.monotonic() - start, findings), flush=True)
        found += len(findings)
    print(f"{found or 'no'} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
