"""`python -m bench ledger` refuses what it would not answer, and shows strangers' ledgers as plain text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from bench.ledger.comparison import Comparison, comparison
from bench.ledger.schema import differences, incomparable, read_ledger
from tests.in_process import Command

STORED = Path(__file__).parents[3] / "baselines" / "ledger" / "grok1-nano.json"
HOSTILE = "<img src=x>[a](http://x.y)|`*b*"


OTHER = STORED.with_name("grok1-tiny.json")
CHANGE = "training.micro_batch=2"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--memory-gib", "inf"), "--memory-gib inf: a device's memory is a finite number of GiB"),
        (("--memory-gib", "1e308"), "--memory-gib 1e+308: a device's memory is a finite number of GiB"),
        (("--versus", "parallel.tensor=4,parallel.tensor=2"), "has parallel.tensor 2 times, and only one can count"),
        (("--diff", STORED, OTHER, "--check"), "--diff and --check are two things to do; give one of them"),
        (("--diff", STORED, OTHER, "--update"), "--diff and --update are two things to do;"),
        (("--diff", STORED, OTHER, "--versus", CHANGE), "--diff and --versus are two things to do;"),
        (("--versus", CHANGE, "--check"), "--versus and --check are two things to do;"),
        (("--check", "--update", "--rationale", "why"), "--check and --update are two things to do;"),
        (("--diff", STORED, OTHER, "--ranks", "all"), "--ranks counts for nothing beside --diff; leave it out"),
        (("--diff", STORED, OTHER, "--routing", "0.5,0.5"), "--routing counts for nothing beside --diff;"),
        (("--diff", STORED, OTHER, "--memory-gib", "64"), "--memory-gib counts for nothing beside --diff;"),
        (("--diff", STORED, OTHER, "--baselines", "b"), "--baselines counts for nothing beside --diff;"),
        (
            ("--diff", STORED, OTHER, "--set", CHANGE),
            "--set changes a recipe that is counted, and --diff has two files",
        ),
        (("--versus", CHANGE, "--ranks", "0"), "--ranks counts for nothing beside --versus;"),
        (("--check", "--rationale", "why"), "--rationale says why, to --update; leave it out"),
        (("--rationale", "why"), "--rationale says why, to --update; leave it out"),
        (("--baselines", "b"), "--baselines goes with --check or --update; leave it out"),
    ],
)
def test_what_would_not_be_answered_is_refused(
    words: tuple[object, ...], told: str, bench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.ledger.store.counted", lambda *_: pytest.fail("it was refused after it had run"))
    monkeypatch.setattr("bench.ledger.store.read_ledger", lambda *_: pytest.fail("it was refused after it had run"))
    code, printed, errors = bench("ledger", "--recipe", "grok1-nano", "--json", "x.json", *words)
    assert (code, printed) == (2, "")
    assert told in errors
    assert errors.count("\n") == 1
    assert not Path("x.json").exists()


def test_json_of_two_ledgers_holds_each_figure_that_differs(bench: Command) -> None:
    code, printed, errors = bench("ledger", "--diff", STORED, OTHER, "--json", "diff.json")
    assert (code, errors) == (0, "")
    assert printed.startswith("# ")
    found = json.loads(Path("diff.json").read_text())
    one, other = read_ledger(STORED), read_ledger(OTHER)
    assert found["schema"] == 1
    assert [found[side]["name"] for side in ("before", "after")] == [str(STORED), str(OTHER)]
    assert found["before"]["recipe_hash"] == one.recipe_hash
    assert found["before"]["fit"] is None
    assert found["incomparable"] == incomparable(one, other)
    assert found["differences"] == [each.model_dump() for each in differences(one, other)]
    total = {(each["stage"], each["figure"]): (each["before"], each["after"]) for each in found["totals"]}
    assert total[None, "matrix_flops"] == (one.total("matrix_flops"), other.total("matrix_flops"))
    assert total[1, "static_bytes"] == (one.ranks[1].memory.static_bytes, other.ranks[1].memory.static_bytes)
    assert Comparison.model_validate_json(Path("diff.json").read_bytes()) == comparison(
        one, other, (str(STORED), str(OTHER))
    )
    assert bench("ledger", "--diff", STORED, OTHER, "--json", "-")[1] == Path("diff.json").read_text()


def test_json_of_what_if_says_which_side_fits(bench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counting itself has tests of its own: here each side's ledger is a stored one."""
    monkeypatch.setattr(
        "bench.ledger.store.counted",
        lambda recipe, *_: read_ledger(STORED if recipe.training.micro_batch == 1 else OTHER),
    )
    line = ("ledger", "--recipe", "grok1-nano", "--versus", CHANGE, "--memory-gib", "1.0")
    code, printed, _ = bench(*line, "--json", "what-if.json")
    assert code == 0
    found = json.loads(Path("what-if.json").read_text())
    assert [found[side]["name"] for side in ("before", "after")] == ["grok1-nano", CHANGE]
    fits = [found[side]["fit"] for side in ("before", "after")]
    assert [each["device_bytes"] for each in fits] == [2**30] * 2
    assert [each["fits"] for each in fits] == ["DOES NOT FIT" not in line for line in printed.splitlines()[2:4]]


def test_json_of_two_ledgers_takes_the_place_of_none_of_them(bench: Command) -> None:
    Path("one.json").write_bytes(STORED.read_bytes())
    code, _, errors = bench("ledger", "--diff", "one.json", OTHER, "--json", "one.json")
    assert (code, "--json one.json is also --diff one.json, which would be lost" in errors) == (2, True)
    assert Path("one.json").read_bytes() == STORED.read_bytes()


def test_a_ledger_whose_name_is_not_utf8_is_named_in_json(bench: Command) -> None:
    name = "caf\udce9.json"  # as Python has what is not UTF-8
    Path(name).write_bytes(STORED.read_bytes())
    code, _, errors = bench("ledger", "--diff", name, OTHER, "--json", "diff.json")
    assert (code, errors) == (0, "")
    assert "caf" in json.loads(Path("diff.json").read_text())["before"]["name"]


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
