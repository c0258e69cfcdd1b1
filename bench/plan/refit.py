"""`python -m bench.plan.refit`: fit all profiles to published rows anew, and write what is shipped of it. No torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from bench.plan.calibration_file import SHIPPED, write_calibration
from bench.plan.fitted_profiles import SPEAKS_FOR, with_fitted
from bench.plan.published import SHIPPED as ROWS
from bench.plan.published import read_published
from bench.plan.published_fit import calibrate
from bench.records.jsonfile import write_atomically
from bench.records.terminal import plain

_PROFILES = Path(__file__).with_name("devices")


def refit(rows: Path = ROWS, calibration: Path = SHIPPED, profiles: Path = _PROFILES) -> list[str]:
    """Write the calibration file and the efficiencies of the profiles; a line for each row that was refused.

    Args:
        rows: the CSV file of published rows.
        calibration: the file that is written.
        profiles: the folder of the device profiles, whose efficiencies are written.

    Raises:
        ValueError: the rows cannot be read, or a file cannot be written.
    """
    published = read_published(rows, assume_layouts=True)
    found, refused = calibrate(published.rows, f"{len(published.rows)} rows of {rows.name}")
    write_calibration(calibration, found)
    for profile in SPEAKS_FOR:
        path = profiles / f"{profile}.toml"
        write_atomically(path, with_fitted(path.read_text(encoding="utf-8"), profile, found).encode())
    return [*(each.sentence for each in published.set_aside), *refused]


def main(words: Sequence[str]) -> int:
    """The command: its exit code."""
    if words:
        print(
            f"refit: {plain(words[0], 80)} is no option: it takes none, reads {ROWS.name} and writes {SHIPPED.name} "
            f"and the profiles in {_PROFILES.name}, which stand beside it",
            file=sys.stderr,
        )
        return 2
    try:
        lines = refit()
    except ValueError as error:
        print(f"refit: {error}", file=sys.stderr)
        return 2
    for line in lines:
        print(line, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
