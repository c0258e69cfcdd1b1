"""What must not import torch: the modules that check a user's input, and commands on the way to refusing it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grok1.data.sample_corpus import SampleCorpus
from tests.limits import HANG_SECONDS

HOUSE = Path(__file__).resolve().parents[1]
ENGINES = ("torch", "megatron")
UNWANTED = (*ENGINES, "multiprocessing.popen_forkserver")  # the last: a rank was started
MODULES = (
    "grok1.__main__",
    "grok1.distributed.launch",
    "grok1.distributed.rank_process",
    "grok1.distributed.rendezvous",
    "grok1.device.kind",
    "grok1.megatron.protocols",
    "grok1.training.job",
    "grok1.generation.job",
    "grok1.fidelity.job",
    "grok1.fidelity.dump",
    "grok1.fidelity.dump_recipe",
    "bench.__main__",
    "bench.session",
)
PACKAGES = (
    "grok1.config",
    "grok1.cli",
    "grok1.commands",
    "bench.records",
    "bench.judge",
    "bench.baselines",
    "bench.history",
    "bench.selftest",
    "bench.commands",
)

_IMPORTS = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
    found = [engine for engine in sys.argv[1].split(",") if engine in sys.modules]
    if found:
        sys.exit(f"importing {name} imports {' and '.join(found)}")
"""
_COMMAND = """
import json, sys
unwanted = sys.argv[1].split(",")
del sys.argv[:2]
program = sys.argv[0]
from importlib import import_module
try:
    import_module(program).main()
except SystemExit as end:
    print(json.dumps({"code": end.code, "imported": [name for name in unwanted if name in sys.modules]}))
"""


def _python(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("GROK1_DEVICE", "CI")}
    return subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        cwd=HOUSE,
        env=environment,
        timeout=HANG_SECONDS,
    )


def test_the_harness_starts_without_what_only_statistics_need() -> None:
    end = _python(_IMPORTS, "scipy.stats,ruptures", "bench.__main__")
    assert end.returncode == 0, end.stderr


def _modules(package: str) -> list[str]:
    found = sorted((HOUSE / package.replace(".", "/")).glob("*.py"))
    assert len(found) > 1, package
    return [f"{package}.{path.stem}" for path in found if path.stem != "__init__"]


def test_what_checks_input_imports_no_engine() -> None:
    names = [*MODULES, *(name for package in PACKAGES for name in _modules(package))]
    done = _python(_IMPORTS, ",".join(ENGINES), *names)
    assert done.returncode == 0, done.stderr


def test_a_module_that_imports_torch_is_named() -> None:
    done = _python(_IMPORTS, ",".join(ENGINES), "grok1.files", "grok1.device.gloo")
    assert (done.returncode, done.stderr) == (1, "importing grok1.device.gloo imports torch\n")


def _refused(program: str, *words: str) -> dict[str, Any]:
    """How the command ends in an interpreter of its own, and what it said."""
    done = _python(_COMMAND, ",".join(UNWANTED), program, *words)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "said": done.stderr}


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--recipe", "grok2"], "unknown recipe 'grok2'"),
        (["--set", "training.warp=9"], "warp"),
        (["--data", "nowhere"], "nowhere"),
        (["--load", "nowhere"], "nowhere holds no checkpoint"),
        (["--device", "tpu"], "--device tpu is none of cpu, cuda, npu"),
        (["--set", "parallel.tensor=5"], "world_size 16 is not a multiple of tensor x pipeline 10"),
        (["--nproc-per-node", "3"], "1 nodes x 3 processes are not the recipe's 16 ranks"),
        (
            ["--device", "cpu", "--set", "training.dtype=bf16", "--set", "kernels.experts=grouped"],
            "a CPU has no grouped GEMM",
        ),
        (["--device", "cpu", "--set", "kernels.experts=te_grouped"], "Transformer Engine runs on CUDA alone"),
    ],
)
def test_training_refuses_input_without_torch(words: list[str], complaint: str, corpus: SampleCorpus) -> None:
    options = ["--recipe=grok1-nano", f"--data={corpus.prefix}", f"--tokenizer={corpus.tokenizer_path}"]
    kept = [option for option in options if option.partition("=")[0] not in words]
    end = _refused("grok1.__main__", "train", *kept, "--steps", "1", *words)
    assert (end["code"], end["imported"]) == (2, []), end["said"]
    assert complaint in end["said"]


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("grok1.__main__", ["recipes", "grok2"]),
        ("grok1.__main__", ["verify", "--oracle", "nowhere.npz"]),
        ("grok1.__main__", ["generate", "--load", "nowhere", "--prompt", "a"]),
        ("grok1.__main__", ["convert", "nowhere", "elsewhere"]),
        ("bench.__main__", ["gate", "nowhere"]),
        ("bench.__main__", ["ledger", "--recipe", "grok2"]),
        ("bench.__main__", ["history", "check", "nowhere.jsonl"]),
    ],
)
def test_the_other_commands_refuse_input_without_torch(program: str, words: list[str]) -> None:
    end = _refused(program, *words)
    assert (end["code"], end["imported"]) == (2, []), end["said"]
