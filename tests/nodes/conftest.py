"""Two machines for all tests of this folder, each with the corpus that the documented commands name."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from grok1.config.load import load_recipe
from grok1.data.sample_corpus import SampleCorpus, sample_corpus
from tests.nodes.machines import TwoMachines, why_not


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> SampleCorpus:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"two machines on one: {reason}")
    return sample_corpus(tmp_path_factory.mktemp("corpus"), load_recipe("grok1-nano").model.vocab_size)


@pytest.fixture(scope="session")
def two_machines(corpus: SampleCorpus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoMachines]:
    with TwoMachines(tmp_path_factory.mktemp("machines")) as two:
        yield _with_corpus(two, corpus)


@pytest.fixture(scope="module")
def more_machines(corpus: SampleCorpus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoMachines]:
    """Another pair with a cable of its own, for a job that mostly waits while the first pair works."""
    with TwoMachines(tmp_path_factory.mktemp("more-machines")) as two:
        yield _with_corpus(two, corpus)


def _with_corpus(two: TwoMachines, corpus: SampleCorpus) -> TwoMachines:
    for folder in (*(machine.source for machine in two.both), two.shared):
        _copy_corpus(corpus, folder)
    return two


def _copy_corpus(made: SampleCorpus, folder: Path) -> None:
    """Under the names that the documentation uses."""
    data, tokenizer = folder / "data", folder / "grok1-tokenizer"
    data.mkdir()
    tokenizer.mkdir()
    for suffix in (".bin", ".idx"):
        shutil.copyfile(f"{made.prefix}{suffix}", data / f"alpaca_text_document{suffix}")
    shutil.copyfile(made.tokenizer_path, tokenizer / "tokenizer.model")


@pytest.fixture
def machines(two_machines: TwoMachines) -> Iterator[TwoMachines]:
    """With the cable in, and nothing left running afterwards."""
    two_machines.plug_in()
    yield two_machines
    for machine in two_machines.both:
        machine.kill()


@pytest.fixture(scope="session")
def ports() -> Iterator[int]:
    """Numbers of ports that no other test here uses; nothing else listens on these machines."""
    return itertools.count(29500)


@pytest.fixture
def port(ports: Iterator[int]) -> int:
    return next(ports)
