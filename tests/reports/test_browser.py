"""Every page as a browser draws it: on a phone, a tablet and a desk, light and dark. All numbers are invented.

The pictures are kept in pytest's folder of temporary files; `--basetemp DIR` says where.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.history.store import series_of
from bench.judge.baseline import recorded_baseline
from reports.ab import write_page
from reports.document import write_report
from reports.history.build import write_site
from tests.conftest import RecordBuilder
from tests.reports.browser import Browser, Scheme, why_not
from tests.reports.contrast import LEAST_CONTRAST, contrast, luminance
from tests.reports.history.test_build import history
from tests.reports.test_ab import outcome_of, pairs_at
from tests.reports.test_ledger_section import a_ledger

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not() is not None, reason=f"pages in a browser: {why_not()}")]

PHONE, TABLET, DESK = 390, 768, 1400  # px
SCHEMES: tuple[Scheme, Scheme] = ("light", "dark")
PAGES = ("report", "sides", "ledger", "ab", "index", "case")
# What scrolls by itself may be wider than the page; nothing else is
BEYOND_THE_SIDES = """[...document.body.querySelectorAll('*')].filter(each => {
  const box = each.getBoundingClientRect(), around = each.parentElement.closest('.wide, pre');
  return box.width && !around && (box.left < -0.5 || box.right > innerWidth + 0.5);
}).map(each => each.outerHTML.slice(0, 80))"""
COLOURS = "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


@pytest.fixture(scope="module")
def written(folder: Path) -> dict[str, Path]:
    """Pages that are written once, by name."""
    return {}


@pytest.fixture
def pages(written: dict[str, Path], folder: Path, synthetic_record: RecordBuilder) -> dict[str, Path]:
    if not written:
        written |= {
            "report": report(folder, synthetic_record),
            "sides": sides(folder, synthetic_record),
            "ledger": write_report([], [], folder / "ledger", ledgers=[a_ledger()]).with_suffix(".html"),
            "ab": folder / "ab.html",
            "index": site(folder),
        }
        (written["case"],) = written["index"].parent.glob("grok1-40b-*.html")
        pairs = pairs_at(0.13)
        write_page(outcome_of(pairs), pairs, written["ab"])
    return written


def report(folder: Path, synthetic_record: RecordBuilder) -> Path:
    """One case that fails by its baseline, and one that has none."""
    before = [synthetic_record(seed=seed) for seed in range(5)]
    after = [synthetic_record(seed=10 + seed, median_seconds=44.0) for seed in range(5)]
    other = [synthetic_record(seed=20 + seed, case="other", recipe={"name": "other"}) for seed in range(3)]
    baselines = [recorded_baseline(before, "invented")]
    return write_report([*after, *other], baselines, folder / "report").with_suffix(".html")


def sides(folder: Path, synthetic_record: RecordBuilder) -> Path:
    """Two commits side by side."""
    old = [synthetic_record(seed=seed) for seed in range(6)]
    new = [synthetic_record(seed=10 + seed, median_seconds=45.0, commit={"sha": "1" * 40}) for seed in range(6)]
    return write_report([*old, *new], [], folder / "sides").with_suffix(".html")


def site(folder: Path) -> Path:
    """Two machines of a case, one of which became slower, and another case."""
    entries = [
        *history([(20, 40.0), (20, 44.0)], machine="a" * 16),
        *history([(30, 40.0)], number=1, machine="b" * 16),
        *history([(12, 2.0)], number=2, case="another"),
    ]
    return write_site(series_of(entries, apart="machine"), folder / "site", folder / "records")


@pytest.mark.parametrize("width", [PHONE, TABLET, DESK])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_and_can_be_read(
    browser: Browser, pages: dict[str, Path], folder: Path, name: str, width: int
) -> None:
    """In both schemes; what is folded is looked at too."""
    colours = []
    for scheme in SCHEMES:
        browser.show(pages[name], width, scheme)
        (folder / f"{name}-{width}-{scheme}.png").write_bytes(browser.picture())
        ink, paper = browser.evaluate(COLOURS)
        assert contrast(ink, paper) >= LEAST_CONTRAST, f"{ink} on {paper}"
        colours.append(luminance(ink) < luminance(paper))
        browser.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        assert browser.evaluate("innerWidth") == width
        assert browser.evaluate("document.scrollingElement.scrollWidth") <= width
        assert browser.evaluate(BEYOND_THE_SIDES) == []
        assert browser.complaints == []
    assert colours == [True, False], "dark letters on a light page, and the other way round"


CELLS = """[...document.querySelectorAll('tr')].filter(row => row.cells[0].innerText.match(%s)).map(row =>
  [...row.cells].slice(1).map(cell => {
    const words = document.createRange(); words.selectNodeContents(cell);
    const box = words.getBoundingClientRect();
    return [cell.innerText, box.left, box.right];
  }))"""


def in_sight(browser: Browser, row: str) -> list[list[str]]:
    """Of each row whose first cell reads so (a pattern of JavaScript), the cells that need no scroll to be read."""
    found: list[list[Any]] = browser.evaluate(CELLS % row)
    return [[words for words, left, right in cells if left >= 0 and right <= PHONE and words] for cells in found]


def test_on_a_phone_the_figures_of_the_first_case_are_in_sight(browser: Browser, pages: dict[str, Path]) -> None:
    browser.show(pages["report"], PHONE, "light")
    (overview,) = in_sight(browser, "/^grok1-40b$/")
    assert {"1,487.9", "44.01"} <= set(overview)
    glance, figures = in_sight(browser, "/^tokens.s.p$/")[:2]
    assert glance[:2] == ["1,487.9", "1,648.5"]
    assert figures[:1] == ["1,487.9"]
    (steps,) = in_sight(browser, "/^s.step$/")[:1]
    assert steps[:2] == ["44.01", "39.71"]
    assert in_sight(browser, "/^step, median$/")[0][:1] == ["44.01 s"]


PICTURES = """[...document.images].map(each => {
  const box = each.getBoundingClientRect();
  return [each.alt, box.left, box.right, box.width / each.naturalWidth];
})"""


@pytest.mark.parametrize("name", ["report", "sides", "ledger", "ab"])
def test_on_a_phone_pictures_are_whole_and_their_letters_are_not_small(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    browser.show(pages[name], PHONE, "light")
    pictures = browser.evaluate(PICTURES)
    assert pictures
    assert not [each for each in pictures if each[1] < 0 or each[2] > PHONE or each[3] < 0.85]


def test_on_a_phone_a_command_is_whole(browser: Browser, pages: dict[str, Path]) -> None:
    browser.show(pages["sides"], PHONE, "light")
    wide = "[...document.querySelectorAll('pre')].map(each => each.scrollWidth - each.clientWidth)"
    assert browser.evaluate("document.querySelector('pre').innerText.length") > 60
    assert set(browser.evaluate(wide)) == {0}


def test_on_a_phone_a_points_records_take_one_line(browser: Browser, pages: dict[str, Path]) -> None:
    """They are out of sight there: rows that are high for them show nothing."""
    browser.show(pages["case"], PHONE, "light")
    heights = browser.evaluate(
        "[...document.querySelectorAll('table:not(.cards) tr[id]')].map(row => row.offsetHeight)"
    )
    assert heights
    assert max(heights) <= 40
