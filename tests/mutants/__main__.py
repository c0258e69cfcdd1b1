"""`python -m tests.mutants`: plants faults in copies of the tree, one at a time; is there a test that fails?

Exit code: 0 every fault was caught or is known to change nothing, 1 a fault survived, 2 the tests fail without one.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.mutants.generated import generated
from tests.mutants.known import why_known
from tests.mutants.mutant import Mutant
from tests.mutants.plan import MODULES
from tests.mutants.planted import planted
from tests.mutants.trying import Trial, copies, seconds_without_fault, try_all

ROOT = Path(__file__).resolve().parents[2]
_TELL_EVERY = 20


def main() -> int:
    """Makes the mutants, tries them, and says what survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--path", action="append", help="only faults in this file; repeatable")
    parser.add_argument("--planted", action="store_true", help="only the faults planted by hand")
    parser.add_argument("--most", type=int, help="generated mutants of each file (default: as planned)")
    parser.add_argument("--copies", type=int, default=2, help="that are tested at once (default: 2)")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background command ignores the first otherwise
        signal.signal(number, signal.default_int_handler)
    try:
        mutants = _chosen(given.path, given.planted, given.most)
        with tempfile.TemporaryDirectory(prefix="grok1-mutants-") as folder:
            trials = _tried(mutants, Path(folder), given.copies)
    except KeyboardInterrupt:
        print("stopped; the copies are gone", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not there: make mutants installs it; --planted does without", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return _told(trials)


def _chosen(paths: Sequence[str] | None, is_planted_only: bool, most: int | None) -> list[Mutant]:
    modules = [each if most is None else replace(each, most=most) for each in MODULES]
    found = planted(ROOT)
    if not is_planted_only:
        found += generated(ROOT, [each for each in modules if paths is None or each.path in paths])
    found = [each for each in found if paths is None or each.path in paths]
    if not found:
        raise RuntimeError(f"no fault is planned for {', '.join(paths or ())}; tests/mutants/plan.py lists the files")
    return found


def _tried(mutants: Sequence[Mutant], folder: Path, count: int) -> list[Trial]:
    start, done = time.monotonic(), 0

    def tell(trial: Trial) -> None:
        nonlocal done
        done += 1
        if trial.outcome in ("survived", "broken") and why_known(trial.mutant) is None:
            print(f"{trial.outcome}: {trial.mutant}" + f"\n{trial.said}" * (trial.outcome == "broken"), flush=True)
        if done % _TELL_EVERY == 0 or done == len(mutants):
            print(f"{done} of {len(mutants)} after {time.monotonic() - start:.0f} s", flush=True)

    with copies(ROOT, folder, count) as made:
        print(f"{len(mutants)} faults in {len({each.path for each in mutants})} files; first without any", flush=True)
        return try_all(made, mutants, seconds_without_fault(made, mutants), tell)


def _told(trials: Sequence[Trial]) -> int:
    """A table by file, and the survivors."""
    print(f"\n{'file':40} {'faults':>7} {'caught':>7} {'known':>7} {'survived':>9}")
    for path in sorted({each.mutant.path for each in trials}):
        faults, caught, known, survived = _counts(path, trials)
        print(f"{path:40} {faults:7} {caught:7} {known:7} {survived:9}")
    for each in trials:
        if each.outcome == "caught" and (reason := why_known(each.mutant)):
            print(f"caught, though listed as one that changes nothing ({reason}): {each.mutant}")
    survivors = [each for each in trials if _survived(each)]
    print("\n".join([f"\n{len(survivors) or 'no'} survivors", *(str(each.mutant) for each in survivors)]))
    return 1 if survivors else 0


def _survived(trial: Trial) -> bool:
    return trial.outcome in ("survived", "broken") and why_known(trial.mutant) is None


def _counts(path: str, trials: Sequence[Trial]) -> tuple[int, int, int, int]:
    """(faults, caught, known, survived) of one file."""
    here = [each for each in trials if each.mutant.path == path]
    caught = sum(each.outcome in ("caught", "time limit") for each in here)
    survived = sum(map(_survived, here))
    return len(here), caught, len(here) - caught - survived, survived


if __name__ == "__main__":
    sys.exit(main())
