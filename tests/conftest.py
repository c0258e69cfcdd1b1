"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from bench.records.record import Record
from bench.synthetic import build_synthetic_record
from grok1.cli import interruption
from grok1.config.load import load_recipe
from grok1.data.sample_corpus import SampleCorpus, sample_corpus
from grok1.distributed.launch import preload_in_ranks

# recipe changes that choose megatron's own part everywhere; experts first
MEGATRONS_PARTS = (
    "kernels.experts=sequential",
    "kernels.dispatch=megatron",
    "kernels.cross_entropy=megatron",
    "kernels.linear=megatron",
)
RecordBuilder = Callable[..., Record]
# whichever test launches first: most ranks of the tests train
preload_in_ranks("grok1.training.run")

# a busy neighbour is no failure, and what CI says of a commit does not depend on chance; `--hypothesis-profile explore`
# looks for new examples
settings.register_profile("explore", deadline=None)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

# as from a terminal: a job that a script put in the background ignores Ctrl-C, and so would all that the tests start
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
_HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


# pytest that a test starts is no worker of pytest-xdist's, in which pytest-benchmark would refuse to measure
for _name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
    del os.environ[_name]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test with `matrix(keep=n)`, all cases but the first n are slow: `make test-all` alone runs them."""
    cases: Counter[str] = Counter()
    for item in items:
        mark = item.get_closest_marker("matrix")
        if mark is not None:
            name = item.nodeid.partition("[")[0]
            cases[name] += 1
            if cases[name] > mark.kwargs["keep"]:
                item.add_marker("slow")


@pytest.fixture(autouse=True)
def no_signal_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command handles signals until its process ends; where it ran in this one, the next test starts without.

    Else a test that interrupts itself would have the next command end this process.
    """
    monkeypatch.setattr(interruption, "_came", None)
    _handle_as_at_the_start()
    yield
    _handle_as_at_the_start()


def _handle_as_at_the_start() -> None:
    for number, handler in _HANDLERS.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def corpus(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> SampleCorpus:
    """The sample corpus in grok1-nano's vocabulary. It is built once, and each of pytest-xdist's workers has a copy."""
    own = tmp_path_factory.getbasetemp()
    everybodys = own.parent if hasattr(pytestconfig, "workerinput") else own
    built = sample_corpus(everybodys / "corpora", load_recipe("grok1-nano").model.vocab_size)
    folder = shutil.copytree(built.prefix.parent, own / "corpus")
    return SampleCorpus(folder / built.prefix.name, folder / built.tokenizer_path.name)


@pytest.fixture
def synthetic_record() -> RecordBuilder:
    """A builder of invented records: right in form, made up in every number. Never stored as data."""
    return build_synthetic_record


@pytest.fixture
def lone_record(synthetic_record: RecordBuilder) -> RecordBuilder:
    """A builder of invented records of one rank of sixteen alone, the fifth unless told."""

    def build(rank: int = 5, shares: tuple[float, ...] = (), **changes: object) -> Record:
        whole = synthetic_record(**{"case": "grok1-40b-rank-5", "expert_load": [], **changes})
        content = whole.model_dump(mode="json", by_alias=True)
        content["ranks"] = [each for each in content["ranks"] if each["rank"] == rank]
        content["lone_rank"] = {"rank": rank, "routing_shares": list(shares)}
        for step in content["steps"]:
            step |= {"loss": None, "aux_loss": None, "grad_norm": None}
        content["ranks"][0] |= {"operators_seconds": 30.0, "operator_calls": 1_000_000}
        return Record.model_validate(content)

    return build
