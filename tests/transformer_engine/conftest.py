"""Transformer Engine's real Python code on a CPU, over a stand-in for what is compiled (tests/te_stand_in).

`pytest tests/transformer_engine --transformer-engine DIR`, where DIR holds it and Triton (docs/gpus.md). Without one
these tests skip.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grok1.config.load import load_recipe
from grok1.data.sample_corpus import sample_corpus
from tests.real_code import run_program

ROOT = Path(__file__).parents[2]
_SECONDS = 900
_NEEDED = ("transformer_engine/common/recipe", "triton/runtime")

Figures = dict[str, Any]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("transformer engine", "Transformer Engine's real Python code")
    group.addoption("--transformer-engine", type=Path, metavar="DIR", help="a folder with it and Triton (docs/gpus.md)")


def _folder(config: pytest.Config) -> Path | str:
    """Where it is, or why the tests skip."""
    folder = config.getoption("transformer_engine", None)
    if folder is None:
        return "needs it in a folder: pytest tests/transformer_engine --transformer-engine DIR (docs/gpus.md)"
    missing = [each for each in _NEEDED if not (folder / each).is_dir()]
    return f"{folder} holds no {missing[0]}" if missing else folder.resolve()


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Figures]:
    """run(words...): what `python -m engine_run WORDS` found, with Transformer Engine on its path; each runs once.

    With --plain it is not on the path.
    """
    folder = _folder(request.config)
    if isinstance(folder, str):
        pytest.skip(folder)
    corpus = sample_corpus(tmp_path_factory.mktemp("corpus"), load_recipe("grok1-nano").model.vocab_size)

    @functools.cache
    def once(*words: str) -> Figures:
        output = tmp_path_factory.mktemp("figures") / "figures.json"
        data = ("--data", str(corpus.prefix), "--tokenizer", str(corpus.tokenizer_path), "--output", str(output))
        environment = _environment([] if "--plain" in words else [ROOT / "tests" / "te_stand_in", folder])
        run_program(environment, "-m", "engine_run", *words, *data, cwd=ROOT, seconds=_SECONDS)
        found: Figures = json.loads(output.read_text(encoding="utf-8"))
        return found

    return once


def _environment(engine: list[Path]) -> dict[str, str]:
    """This process's own, with those folders before its own path."""
    told = {key: value for key, value in os.environ.items() if key not in ("GROK1_DEVICE", "CI")}
    paths = [str(each) for each in (ROOT, Path(__file__).parent, *engine)]
    paths += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return told | {"PYTHONPATH": os.pathsep.join(paths), "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
