"""`python -m bench ledger` refuses what it would not answer, and shows strangers' ledgers as plain text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.in_process import Command

STORED = Path(__file__).parents[3] / "baselines" / "ledger" / "grok1-nano.json"
HOSTILE = "<img src=x>[a](http://x.y)|`*b*"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--memory-gib", "inf"), "--memory-gib inf: a device's memory is a finite number of GiB"),
        (("--versus", "parallel.tensor=4,parallel.tensor=2"), "has parallel.tensor 2 times, and only one can count"),
        (("--versus", "parallel.tensor=4", "--json", "x.json"), "--json holds one ledger, and --diff and --versus"),
        (("--diff", STORED, STORED, "--json", "x.json"), "--json holds one ledger, and --diff and --versus"),
    ],
)
def test_what_would_not_be_answered_is_refused(words: tuple[object, ...], told: str, bench: Command) -> None:
    code, printed, errors = bench("ledger", "--recipe", "grok1-nano", "--ranks", "stages", *words)
    assert (code, printed) == (2, "")
    assert told in errors
    assert errors.count("\n") == 1
    assert not Path("x.json").exists()


def test_words_of_a_ledgers_file_stay_words(bench: Command) -> None:
    content = json.loads(STORED.read_text())
    content["software"]["torch"] = HOSTILE
    content["unknown_operators"] = {HOSTILE: 1}
    for rank in content["ranks"]:
        for row in rank["costs"]:
            row["component"] += HOSTILE
            row["matrix_flops"] += 1
    Path("hostile.json").write_text(json.dumps(content))
    code, printed, errors = bench("ledger", "--diff", STORED, "hostile.json")
    assert (code, errors) == (0, "")
    shown = MarkdownIt("commonmark").enable("table").render(printed)
    assert "&lt;img src=x&gt;" in shown
    assert not [tag for tag in ("<img", "<a ", "<em>", "<code>") if tag in shown]
    rows = [line for line in printed.splitlines() if "img src" in line and line.startswith("|")]
    assert rows
    assert {line.count("|") for line in rows} == {7}
