"""How fast a long log is read: `python -m tests.bench.ingest.speed [MB]`. Prints CPU and wall time; asserts nothing.

One line in 97 is a training line, and the others say nothing of the job, as on a cluster whose libraries talk.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.ingest.read import read_logs
from tests.bench.ingest.logs import dump, line

_OTHERS = (
    "[2026-05-01 10:00:{:02d}] rank {}: (INFO) a module wrote a line that says nothing of the step, and 34.5 words",
    "DEBUG:megatron.core.distributed: bucket {:02d} ready after {} bytes of gradients were reduced in this rank",
    "WARNING: NCCL {:02d} cuda {}: about an environment variable, and where to read more of it in the manual",
)
_OTHERS_A_LINE = 96
_TIMES = 5


def write_long_log(path: Path, megabytes: float) -> int:
    """Write a log of that length; returns the number of its training lines."""
    chance, written, count = random.Random(1), 0, 0
    with path.open("w") as file:
        file.write(dump())
        while written < megabytes * 1e6:
            count += 1
            rows = [line(count, round(chance.uniform(650, 670), 1))]
            rows += [
                chance.choice(_OTHERS).format(chance.randrange(60), chance.randrange(10**6))
                for _ in range(_OTHERS_A_LINE)
            ]
            written += file.write("\n".join(rows) + "\n")
    return count


def speeds(path: Path, times: int) -> tuple[list[float], list[float]]:
    """MB a second of CPU time and of wall time, of each reading."""
    megabytes = path.stat().st_size / 1e6
    of_cpu, of_wall = [], []
    for _ in range(times):
        cpu, wall = time.process_time(), time.perf_counter()
        read_logs([path])
        of_cpu.append(megabytes / (time.process_time() - cpu))
        of_wall.append(megabytes / (time.perf_counter() - wall))
    return of_cpu, of_wall


def main(megabytes: float = 300) -> None:
    """Print the medians, and the slowest and fastest reading."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "long.log")
        print(f"{megabytes:g} MB with {write_long_log(path, megabytes):,} training lines, read {_TIMES} times")
        for name, found in zip(("CPU", "wall"), speeds(path, _TIMES), strict=True):
            print(f"{name}: median {median(found):.0f} MB/s ({min(found):.0f} to {max(found):.0f})")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
