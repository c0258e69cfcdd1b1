"""How a page is built: what a browser, a phone and a screen reader need of it. All numbers are invented."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.judge.baseline import recorded_baseline
from bench.judge.verdict import Verdict
from bench.records.record import Record
from reports.document import write_report
from reports.markdown import state_cell, state_of, table
from reports.page import rendered
from reports.palette import STATES
from reports.shell import STYLE


class Structure(HTMLParser):
    """The open elements at each table, the attributes of cells, and which places are linked and which exist."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.around_tables: list[str | None] = []
        self.headers: list[str | None] = []
        self.states: list[tuple[str, str]] = []
        self.links: set[str] = set()
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "table":
            self.around_tables.append(self.open[-1][1].get("class"))
        if tag == "th":
            self.headers.append(given.get("scope"))
        if tag == "a":
            self.links |= {(given.get("href") or "#")[1:]} - {""}
            self.places |= {given.get("id") or ""} - {""}
        if tag not in ("meta", "img", "source", "br", "hr"):
            self.open.append((tag, given))

    def handle_data(self, data: str) -> None:
        tag, given = self.open[-1] if self.open else ("", {})
        if tag == "td" and (given.get("class") or "").startswith("state"):
            self.states.append(((given.get("class") or "").split()[1], data))

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()


def many(synthetic_record) -> tuple[list[Record], list]:
    before = [synthetic_record(seed=seed) for seed in range(5)]
    after = [synthetic_record(seed=9 + seed, median_seconds=44.0) for seed in range(3)]
    return [*after, synthetic_record(case="other", recipe={"name": "other"})], [recorded_baseline(before, "invented")]


@pytest.fixture
def built(synthetic_record, tmp_path: Path, monkeypatch) -> Structure:
    monkeypatch.setattr("reports.document._pictures", lambda case, width: {})
    records, baselines = many(synthetic_record)
    write_report(records, baselines, tmp_path, missing=[Verdict("missing", "gone", "MISSING: gone")])
    found = Structure()
    found.feed((tmp_path / "report.html").read_text())
    return found


def test_each_table_scrolls_by_itself(built: Structure) -> None:
    assert len(built.around_tables) > 10
    assert set(built.around_tables) == {"wide"}


def test_each_header_says_what_it_heads(built: Structure) -> None:
    assert set(built.headers) == {"col", "row"}


def test_each_link_leads_somewhere_on_the_page(built: Structure) -> None:
    assert {"case-1", "case-1-figures", "case-1-moved", "case-3-time"} <= built.links
    assert built.links <= built.places


def test_each_coloured_cell_says_it_in_words_and_by_a_mark(built: Structure) -> None:
    assert {"fail", "no_baseline", "missing"} <= {state for state, _ in built.states}
    told: dict[str, tuple[str, str]] = {state: (state_cell(state), mark) for state, (mark, _) in STATES.items()}
    for state, words in built.states:
        assert words == told[state][0]
        assert words.startswith(told[state][1])


def test_states_that_differ_in_what_to_do_differ_without_colour() -> None:
    words = {state_cell(state) for state in STATES}
    assert len(words) == len(STATES)
    assert all(state_of(state_cell(state)) == state for state in STATES)
    assert state_of("fail") is None


def test_a_row_that_heads_a_group_and_a_cell_of_many_words_are_told(tmp_path: Path) -> None:
    html = rendered(table(["a", "b"], [("x", "word " * 30), ("y", "short")]), tmp_path)
    assert html.count('class="long"') == 1
    assert '<th style="text-align:left" scope="row">x</th>' in html


def test_nothing_is_cut_and_values_stay_on_a_phone() -> None:
    """A cell that hides what does not fit, or first cells that never break, push values off a screen of 390 px."""
    assert "ellipsis" not in STYLE
    assert not re.search(r"(?<!-)overflow: hidden", STYLE)
    (rule,) = re.findall(r"tbody th \{[^}]*\}", STYLE)[:1]
    assert "white-space: nowrap" not in rule
    assert "prefers-color-scheme: dark" in STYLE
