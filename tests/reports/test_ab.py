"""The page of an A/B comparison: the answer first, then pairs, figures, what moved and where it ran."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.ab.outcome import Outcome, Pair, RevisionUsed, concluded
from bench.ab.sequential import Role, sequential
from bench.judge.metrics import figures_of
from bench.judge.stats import summarise
from bench.records.record import Record
from bench.synthetic import build_synthetic_record
from reports.ab import as_markdown, read_pairs, write_page

ROLES: tuple[Role, Role] = ("base", "head")
SHAS = {"base": "a" * 40, "head": "b" * 40}


def run(side: str, seed: int, seconds: float, *, fatter: float = 1.0) -> Record:
    record = build_synthetic_record(
        steps=10, noise=0.002, median_seconds=seconds, seed=seed, commit={"sha": SHAS[side], "dirty": False}
    )
    ranks = [rank.model_copy(update={"peak_bytes": int(fatter * rank.peak_bytes)}) for rank in record.ranks]
    return record.model_copy(update={"ranks": ranks})


def pairs_at(slower: float, noise: float = 0.002, count: int = 5, fatter: float = 1.0) -> list[Pair]:
    random = np.random.default_rng(3)
    return [
        (
            run("base", 2 * number, 40 * random.normal(1, noise)),
            run("head", 2 * number + 1, 40 * (1 + slower) * random.normal(1, noise), fatter=fatter),
        )
        for number in range(count)
    ]


def used(name: Role, records: list[str], revision: str = "") -> RevisionUsed:
    return RevisionUsed(name=name, revision=revision or name, sha=SHAS[name], changed=False, records=records)


def outcome_of(pairs: Sequence[Pair], **changes: object) -> Outcome:
    figures = [(figures_of(summarise(base)), figures_of(summarise(head))) for base, head in pairs]
    base, head = (used(name, [pair[place].id for pair in pairs]) for place, name in enumerate(ROLES))
    found = concluded((base, head), pairs, sequential(lambda count: figures[:count], len(pairs), 0))
    return found.model_copy(update=changes)


@pytest.mark.parametrize(
    ("slower", "noise", "state", "answer"),
    [
        (0.13, 0.002, "fail", r"head is 1\.1[23]\d? ± 0\.0\d+ times slower than base"),
        (-0.13, 0.002, "improved", r"head is 1\.1[456]\d? ± 0\.0\d+ times faster than base"),
        (0.0, 0.002, "pass", r"no difference seen: a slowdown of [12]\.\d % would have been"),
        (0.006, 0.0001, "pass", r"no difference that matters: head is 1\.00\d+ ± 0\.00\d+ times slower"),
        (
            0.02,
            0.05,
            "inconclusive",
            r"no answer: -\d+\.\d to \+\d+\.\d % of time per step; only a slowdown of \d+\.\d % .*",
        ),
    ],
)
def test_the_first_line_is_the_answer(slower: float, noise: float, state: str, answer: str) -> None:
    pairs = pairs_at(slower, noise)
    outcome = outcome_of(pairs)
    assert outcome.state == state
    assert re.fullmatch(answer, outcome.headline), outcome.headline
    first, second = as_markdown(outcome, pairs).split("\n\n")[:2]
    assert html.unescape(first) == f"# {outcome.headline}"
    assert html.unescape(second) == outcome.sentence


def test_pairs_that_show_nothing_are_given_no_figure() -> None:
    headline = outcome_of(pairs_at(0.02, 0.3, count=3)).headline
    assert headline.endswith("; only a slowdown beyond tenfold would have been seen")


def test_another_metric_that_makes_the_verdict_makes_the_answer() -> None:
    assert re.fullmatch(
        r"head has 20\.0 ± 0\.\d % more peak memory than base", outcome_of(pairs_at(0.0, fatter=1.2)).headline
    )


def test_what_follows_has_its_order_and_holds_what_both_sides_measured() -> None:
    pairs = pairs_at(0.13)
    text = as_markdown(outcome_of(pairs, notes=["torch moved"], ledger="The exact cost moved."), pairs)
    parts = ["torch moved", "## Pairs", "## Both sides", "## Where the time went", "The exact cost", "## Environment"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert len(re.findall(r"^\| [1-5] +\| (?:base|head) ", text, re.MULTILINE)) == 5
    assert re.findall(r"^\| [1-5] +\| (base|head) ", text, re.MULTILINE) == ["base", "head", "base", "head", "base"]
    assert "✗ fail" in text
    assert "within the noise" not in text
    assert re.search(r"\| backward +\| phase ", text)
    assert re.search(r"\| commit +\| a{12} +\| b{12} +\|", text)


def test_pairs_are_told_in_one_unit_with_the_same_decimals() -> None:
    pairs = [(run("base", 2 * at, 0.0991), run("head", 2 * at + 1, 0.101)) for at in range(3)]
    lines = as_markdown(outcome_of(pairs), pairs).splitlines()
    rows = [line.split("|") for line in lines if re.match(r"\| [1-3] +\| (base|head) ", line)]
    assert len(rows) == 3
    assert {len(row[place].strip().partition(".")[2]) for row in rows for place in (3, 4)} == {1}
    assert [line for line in lines if "base ms/step" in line]


def test_sides_between_which_nothing_is_seen_say_so() -> None:
    pairs = [(base, base) for base, _ in pairs_at(0.0)]
    text = as_markdown(outcome_of(pairs), pairs)
    assert "What moved is within the noise, or too little to matter." in text
    assert "Nothing that a record tells." in text


HOSTILE = "<script>alert(1)</script>|`x`"


def test_a_void_comparison_is_a_page_and_hostile_words_stay_text(tmp_path: Path) -> None:
    outcome = Outcome(
        case=HOSTILE,
        state="void",
        sentence=f"VOID: {HOSTILE}",
        base=used("base", [], HOSTILE),
        head=used("head", [], HOSTILE),
        pairs=0,
        looks=0,
        family_error=0.0,
        notes=[HOSTILE],
    )
    write_page(outcome, [], tmp_path / "ab.html")
    page = (tmp_path / "ab.html").read_text()
    assert "<h1>base and head cannot be compared</h1>" in page
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 4


def test_the_page_is_one_file_that_loads_nothing_and_the_same_each_time(tmp_path: Path) -> None:
    pairs = pairs_at(0.13, count=3)
    for name in ("a", "b"):
        write_page(outcome_of(pairs), pairs, tmp_path / name / "ab.html")
    one, two = ((tmp_path / name / "ab.html").read_bytes() for name in ("a", "b"))
    assert one == two
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["ab.html"]
    assert re.findall(rb'src="([^"]{,19})', one) == [b"data:image/svg+xml;"]
    assert b"://" not in re.sub(rb"base64,[^\"]*", b"", one)


def test_pairs_are_read_back_from_where_their_runs_left_them(tmp_path: Path) -> None:
    pairs = pairs_at(0.0, count=3)
    for place, side in enumerate(("base", "head")):
        for pair in pairs:
            pair[place].write(tmp_path / side / "records" / f"any-name-{pair[place].id}.json")
    assert read_pairs(outcome_of(pairs), tmp_path) == pairs
    (tmp_path / "head" / "records" / f"any-name-{pairs[1][1].id}.json").unlink()
    with pytest.raises(ValueError, match=f"{pairs[1][1].id}.json: cannot be read"):
        read_pairs(outcome_of(pairs), tmp_path)
