"""The pages of a history: whole, linked, safe with strangers' words, small, and the same for the same history."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.commands.app import app
from bench.history.store import Entry, entry_of, read, series_of
from bench.records.record import Session
from bench.synthetic import build_synthetic_record
from reports.history import pages
from reports.history.build import site_of, write_site
from reports.history.series import case_page

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=y>|`x` ../../etc \x1b[31m\u202ehttps://evil.example/x'


@functools.cache
def base() -> Entry:
    return entry_of(build_synthetic_record(steps=8), "pass")


def history(
    levels: Sequence[tuple[int, float]], *, number: int = 0, machine: str | None = None, **changes: Any
) -> list:
    """Runs every eight hours, three a commit, with levels of so many runs each."""
    random, found = np.random.default_rng(number), []
    session = None if machine is None else Session(machine=machine, boot=None, day="2025-01-01", job=None)
    for place, level in enumerate(np.concatenate([np.full(runs, seconds) for runs, seconds in levels])):
        seconds = float(level * np.exp(0.005 * random.standard_normal()))
        created = datetime(2025, 1, 1) + timedelta(hours=8 * place)
        fields = {
            "record_id": f"{number:04x}{place:028x}",
            "created_at": f"{created.isoformat()}Z",
            "step_seconds": seconds,
            "tokens_per_second_per_processor": 65536 / seconds,
            "commit": base().commit.model_copy(update={"sha": f"{number:03x}{place // 3:037x}"}),
            "session": session,
        }
        found.append(base().model_copy(update=fields | changes))
    return found


def site(*histories: list[Entry], by: Any = "machine") -> dict[str, bytes]:
    entries = [entry for each in histories for entry in each]
    return site_of(series_of(entries, apart=by), lambda entry: None)


class Page(HTMLParser):
    """What a page holds, by tag."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.html = content.decode()
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def all(self, attribute: str) -> list[str]:
        return [found for _, attributes in self.tags if (found := attributes.get(attribute)) is not None]


MANY = (
    history([(25, 2.0), (30, 1.8), (20, 1.9)], number=1, machine="a" * 16),
    history([(40, 2.1)], number=2, machine="b" * 16),
    history([(9, 2.1), (9, 2.5)], number=3, machine="c" * 16),
    history([(1, 0.3)], number=4, case="one"),
    history([(8, 1.0), (9, 1.2)], number=5, case=HOSTILE, device_name=HOSTILE, software={HOSTILE: HOSTILE}),
    history([(200, 1.0)], number=6, case="many"),
)


@pytest.fixture(scope="module")
def many() -> dict[str, Page]:
    return {name: Page(content) for name, content in site(*MANY).items()}


def test_every_link_leads_to_a_page_or_a_part_that_is_there(many: dict[str, Page]) -> None:
    ids = {name: page.all("id") for name, page in many.items()}
    assert all(len(found) == len(set(found)) for found in ids.values())
    links = [(name, link) for name, page in many.items() for link in page.all("href")]
    assert len(links) > 100
    for name, link in links:
        page, _, part = link.partition("#")
        assert part in ids[page or name] if part else page in many, (name, link)


def test_pages_load_nothing_and_run_nothing(many: dict[str, Page]) -> None:
    for page in many.values():
        assert not {"script", "img", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
        assert not page.all("src")
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
        assert not [link for link in page.all("href") if ":" in link or link.startswith("/")]


def test_cells_that_name_rows_and_columns_say_so(many: dict[str, Page]) -> None:
    scopes = [attributes.get("scope") for page in many.values() for tag, attributes in page.tags if tag == "th"]
    assert set(scopes) == {"row", "col"}


def test_a_phone_shows_figures_before_what_is_left_of_them(many: dict[str, Page]) -> None:
    """A table is narrow there: a row is a card, or its figures are the first cells."""
    page = many[case_page("many")]
    (headers,) = [re.findall(r">([^<]+)</th>", row) for row in re.findall(r"<tr>.*?</tr>", page.html) if ">day<" in row]
    assert headers[:4] == ["day", "tokens/s/p", "s/step", "95 % interval"]
    kinds = re.findall(r'<table( class="cards")?><caption>Latest changes', many["index.html"].html)
    assert kinds == [' class="cards"']


def test_hostile_names_stay_text_and_name_no_file(many: dict[str, Page]) -> None:
    name = case_page(HOSTILE)
    assert re.fullmatch(r"[A-Za-z0-9-]+\.html", name)
    assert "<script>alert(1)</script>" in many[name].text
    assert not [page for page in many.values() if "\x1b" in page.text or "\u202e" in page.text]


def test_the_same_history_gives_the_same_pages() -> None:
    assert site(*MANY[:4]) == site(*MANY[:4])


def test_cases_that_read_alike_have_pages_of_their_own() -> None:
    assert case_page("a/b") != case_page("a-b")
    assert case_page("") != case_page("/")


def test_machines_are_told_apart_unless_asked_otherwise() -> None:
    alone, other = history([(8, 1.0)], number=1, machine="a" * 16), history([(8, 3.0)], number=2, machine="b" * 16)
    apart, together = (Page(site(alone, other, by=by)[case_page("grok1-40b")]) for by in ("machine", "device"))
    headings = [[tag for tag, _ in page.tags].count("h2") for page in (apart, together)]
    assert headings == [2, 1]
    assert "machine aaaaaaaa" in apart.text
    assert "machine" not in together.text


def test_a_change_names_its_commits_and_the_versions_that_changed_with_it() -> None:
    runs = history([(15, 2.0), (15, 2.2)])
    newer = [run.model_copy(update={"software": {"torch": "2.8"}}) for run in runs[15:]]
    older = [run.model_copy(update={"software": {"torch": "2.7"}}) for run in runs[:15]]
    text = Page(site(older + newer)[case_page("grok1-40b")]).text
    assert re.search(r"(9|10)\.\d % slower", text)
    assert "after commit 000000000000, by 000000000000" in text
    assert "torch 2.7 to 2.8" in text


def test_lines_from_before_versions_were_kept_are_shown_without(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    lines = [run.model_dump_json(by_alias=True, exclude={"software"}) + "\n" for run in history([(3, 1.0)])]
    file.write_text("".join(lines))
    assert "software" not in lines[0]
    assert "Versions that ran" not in Page(site(read(file))[case_page("grok1-40b")]).text


def test_the_figures_of_a_column_have_the_same_decimals() -> None:
    runs = history([(12, 0.04)])
    even = [run.model_copy(update={"step_seconds": 0.04, "tokens_per_second_per_processor": 1e4}) for run in runs[:3]]
    html = site(even + runs[3:])[case_page("grok1-40b")].decode()
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r'<tr id="s1-p.*?</tr>', html, re.S)]
    for column in (0, 1):
        assert len(rows) == 4
        assert len({len(row[column].partition(".")[2]) for row in rows}) == 1, rows
    assert rows[-1][:2] == ["10,000", "40.00"]
    assert "ms/step" in html


def test_one_run_is_a_page_too(many: dict[str, Page]) -> None:
    page = many[case_page("one")]
    assert "1 run is too few to find a change" in page.text
    assert sum(attributes.get("class") == "mark" for _, attributes in page.tags) == 1


def test_weeks_without_a_run_are_shown() -> None:
    runs = history([(12, 2.0)])
    later = [run.model_copy(update={"created_at": run.created_at.replace("2025", "2026")}) for run in runs[6:]]
    assert re.search(r"36\d days", Page(site(runs[:6] + later)[case_page("grok1-40b")]).text)
    assert "days" not in Page(site(runs)[case_page("grok1-40b")]).text


def test_thousands_of_runs_stay_small() -> None:
    content = site(history([(1000, 1.0), (1000, 1.2)]))
    sizes = {name: len(text) for name, text in content.items()}
    assert len(sizes) == 3
    assert sizes[case_page("grok1-40b")] < 80_000
    assert sum(sizes.values()) < 400_000


def test_records_that_are_there_are_linked_from_wherever_the_site_is(tmp_path: Path) -> None:
    runs = history([(3, 1.0)])
    records = tmp_path / "my records"
    records.mkdir()
    (records / f"grok1-40b-{runs[1].record_id}.json").touch()
    write_site([runs], tmp_path / "site", records)
    (link,) = [
        each for each in Page((tmp_path / "site" / case_page("grok1-40b")).read_bytes()).all("href") if "/" in each
    ]
    assert link.startswith("../my%20records/grok1-40b-")


def break_index(monkeypatch: pytest.MonkeyPatch) -> None:
    def index(cases: object) -> bytes:
        raise RuntimeError("no index")

    monkeypatch.setattr(pages, "index", index)


def break_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)


@pytest.mark.parametrize("fault", [break_index, break_disk])
def test_a_build_that_fails_leaves_the_old_pages(
    fault: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_site([history([(3, 1.0)])], tmp_path, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patched:
        fault(patched)
        with pytest.raises((RuntimeError, ValueError), match="no index|No space left on device; choose another folder"):
            write_site([history([(3, 2.0)])], tmp_path, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_command_writes_the_pages_and_says_where(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text("".join(run.model_dump_json(by_alias=True) + "\n" for run in history([(8, 1.0)])))
    told = tmp_path / "told.json"
    words = ["history", "site", "-o", str(tmp_path / "site"), "--history", str(file), "--json", str(told)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert result.output == f"wrote {tmp_path / 'site' / 'index.html'}\n"
    assert json.loads(told.read_text())["index"] == str(tmp_path / "site" / "index.html")
    assert {path.name for path in (tmp_path / "site").iterdir()} == {"index.html", case_page("grok1-40b")}
