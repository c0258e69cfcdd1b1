"""The conformance run: MindSpeed's and Megatron-LM's real code over a stand-in for torch_npu.

`pytest tests/conformance --mindspeed DIR --megatron DIR`, or `make conformance`. Without the two checkouts its tests
skip.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from grok1.data.sample_corpus import SampleCorpus
from tests.limits import HANG_SECONDS
from tests.real_code import run_program

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "npu_stand_in"
TESTED = {"MindSpeed": "3c44c134", "Megatron-LM": "a845aa7e"}  # the commits that docs/ascend.md names
_SECONDS = 1800  # a limit against hangs

Figures = dict[str, dict[str, Any]]  # by case


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance", "MindSpeed's and Megatron-LM's real code")
    group.addoption("--mindspeed", type=Path, metavar="DIR", help="a checkout of MindSpeed, 26.0.0_core_r0.12.1")
    group.addoption("--megatron", type=Path, metavar="DIR", help="a checkout of Megatron-LM, core_v0.12.1")


@dataclass(frozen=True)
class Checkouts:
    """Where the two are."""

    mindspeed: Path
    megatron: Path

    def environment(self, device: str) -> dict[str, str]:
        """Of a process: on an NPU both checkouts and the stand-in are on its path, on the CPU neither."""
        told = {key: value for key, value in os.environ.items() if key not in ("GROK1_DEVICE", "PYTHONPATH", "CI")}
        folders = [ROOT, Path(__file__).parent]
        if device == "npu":
            folders += [STAND_IN, self.megatron, self.mindspeed]
        return told | {"PYTHONPATH": os.pathsep.join(map(str, folders)), "OMP_NUM_THREADS": "1"}

    def run(self, device: str, *words: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        """`python WORDS` in such a process; a failure shows what it said."""
        return run_program(self.environment(device), *words, cwd=cwd, seconds=_SECONDS)


def _checkouts(config: pytest.Config) -> Checkouts | str:
    """Where they are, or why the tests skip."""
    given = [config.getoption(name, None) for name in ("mindspeed", "megatron")]
    if None in given:
        return "needs checkouts: pytest tests/conformance --mindspeed DIR --megatron DIR (docs/ascend.md)"
    mindspeed, megatron = (each.resolve() for each in given)
    for folder, holds in ((mindspeed, "mindspeed/megatron_adaptor.py"), (megatron, "megatron/core/package_info.py")):
        if not (folder / holds).is_file():
            return f"{folder} holds no {holds}"
    return Checkouts(mindspeed, megatron)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Which commits are run, and whether they are those that the documents speak of."""
    found = _checkouts(config)
    if isinstance(found, str):
        return []
    return [
        f"conformance: {name} {commit[:8]}" + ("" if commit.startswith(TESTED[name]) else f", not {TESTED[name]}")
        for name, commit in (("MindSpeed", _commit(found.mindspeed)), ("Megatron-LM", _commit(found.megatron)))
    ]


def _commit(folder: Path) -> str:
    words = ["git", "-c", f"safe.directory={folder}", "-C", str(folder), "rev-parse", "HEAD"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    return done.stdout.strip() or "of no git checkout"


@pytest.fixture(scope="session")
def checkouts(request: pytest.FixtureRequest) -> Checkouts:
    """The two checkouts; skips without them."""
    found = _checkouts(request.config)
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture(scope="session")
def figures(
    checkouts: Checkouts, corpus: SampleCorpus, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Figures]:
    """figures(device, ranks): what the cases of that many ranks gave there. Each is run once."""
    folder = tmp_path_factory.mktemp("figures")

    @functools.cache
    def of(device: str, ranks: str) -> Figures:
        output = folder / f"{device}-{ranks}.json"
        data = ("--data", corpus.prefix, "--tokenizer", corpus.tokenizer_path)
        checkouts.run(device, "-m", "conformance_run", "--device", device, "--ranks", ranks, *data, "--output", output)
        found: Figures = json.loads(output.read_text(encoding="utf-8"))
        return found

    return of
