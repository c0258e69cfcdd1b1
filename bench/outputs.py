"""What pytest writes for itself is no file of the session's results, nothing that it reads, and no other output."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.history.store import FILE_NAME
from bench.places import baselines
from bench.records.files import OWN_FILES, is_kept
from grok1.cli.outputs import Filled, Given, refuse_lost
from reports.names import OF_REPORT


def refuse_lost_outputs(config: pytest.Config, step_summary: str | None) -> None:
    """Refuse a `--junitxml`, `--benchmark-json` or step summary that would take the place of another file.

    The refusal ends the session in `end_refused`: with --pyargs this is asked while modules are collected, where pytest
    would make a failed import of an error.
    """
    option = config.getoption
    table = option("benchmark_json", None)  # a path, or an open file, by its version
    outputs = [
        ("--junitxml", option("xmlpath", None)),
        ("--benchmark-json", table if isinstance(table, Path) else getattr(table, "name", None)),
        ("GITHUB_STEP_SUMMARY", step_summary),
    ]
    given = [Given(name, Path(path), is_written=True) for name, path in outputs if path]
    if not given:
        return
    inputs = [(name, option(name)) for name in ("--recipe", "--tokenizer", "--device-profile")]
    inputs += [("--data", f"{option('--data')}{end}") for end in (".bin", ".idx")]
    inputs += [("--baselines", option("--baselines") or baselines())]
    given += [Given(name, Path(path), is_written=False) for name, path in inputs if path and Path(path).exists()]
    patterns = [f"report/{each}" for each in OF_REPORT] + [f"records/{each}" for each in OWN_FILES]
    try:
        refuse_lost(given, is_kept, [Filled("--results", Path(option("--results")), [*patterns, FILE_NAME])])
    except ValueError as error:
        config.stash[_REFUSED] = str(error)


_REFUSED = pytest.StashKey[str]()
_SILENT = pytest.StashKey[list[object]]()


def end_refused(config: pytest.Config) -> None:
    """End a session whose outputs were refused, before anything runs, in one line that says why."""
    if not (reason := config.stash.get(_REFUSED, "")):
        return
    plugins = config.pluginmanager
    config.stash[_SILENT] = [each for each in plugins.get_plugins() if type(each).__name__ == "LogXML"]
    for each in config.stash[_SILENT]:  # it would write the file in the end after all
        plugins.unregister(each)
    pytest.exit(reason, returncode=pytest.ExitCode.USAGE_ERROR)


def let_go(config: pytest.Config) -> None:
    """Give pytest back what it takes apart itself."""
    for each in config.stash.get(_SILENT, []):
        config.pluginmanager.register(each)
