"""What pytest loads wherever this project is installed: `pytest --pyargs bench` has the options of the benchmark run.

A package of its own, with a name that no other project has: pytest loads it for other projects' tests too, beside whose
files there may be a `bench` of theirs. For those it does nothing. In the sources, conftest.py brings the options.
"""

import importlib.util
from collections.abc import Sequence

import pytest

_OPTIONS = "bench.options"


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Load the options, where pytest is asked for our benchmarks by their package's name."""
    config = pluginmanager.get_plugin("pytestconfig")
    if isinstance(config, pytest.Config) and asks_for_bench(config.invocation_params.args) and _is_ours():
        pluginmanager.import_plugin(_OPTIONS)


def asks_for_bench(words: Sequence[str]) -> bool:
    """Whether this command line names the package or a module of it, as in `--pyargs bench.test_pretrain`."""
    names = [str(word).partition("::")[0].partition(".")[0] for word in words]
    return "--pyargs" in words and "bench" in names


def _is_ours() -> bool:
    """Whether `bench` is this project's: where pytest runs there may be another."""
    try:
        return importlib.util.find_spec(_OPTIONS) is not None
    except ModuleNotFoundError:
        return False
