"""The documentation: links resolve, the files and modules that it names exist, and the README stays short."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+?)\s*$", re.M)
ANCHOR = re.compile(r'<a id="([^"]+)">')
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
# a path below one of our folders, or a dotted name below one of our packages
PATH = re.compile(r"(?<![\w/.-])((?:grok1|bench|reports|tests|docs|baselines|constraints)/[\w/.-]*[\w/])")
DOTTED = re.compile(r"(?<![\w/.-])((?:grok1|bench|reports)(?:\.[A-Za-z_]\w*)+)")
MOST_WORDS = 900


def pages() -> list[Path]:
    """Every Markdown page in git, or about to be."""
    command = ["git", "-c", f"safe.directory={HOUSE}", "ls-files", "-z", "-c", "-o", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=HOUSE, check=True, capture_output=True, text=True).stdout
    return [HOUSE / name for name in listed.split("\0") if name and (HOUSE / name).is_file()]


def anchors(page: Path) -> set[str]:
    """What `#...` may name on a page, as GitHub makes it of the headings."""
    text = page.read_text(encoding="utf-8")
    words = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", each).lower()) for each in _headings(text)]
    return {each.replace(" ", "-") for each in words} | set(ANCHOR.findall(text))


def _headings(text: str) -> list[str]:
    return HEADING.findall(FENCE.sub("", text))


def broken_links(page: Path) -> Iterator[str]:
    """Relative links to a file or a heading that is not there."""
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        if not linked.exists():
            yield f"{page.name}: {target} is not there"
        elif anchor and linked.suffix == ".md" and anchor not in anchors(linked):
            yield f"{page.name}: {target} has no such heading"


def unknown_names(text: str) -> Iterator[str]:
    """Paths and modules of ours that do not exist. A path may be cut short, as in `bench/test_*.py`."""
    for path in map(Path, PATH.findall(text)):
        if not list((HOUSE / path.parent).glob(f"{path.name}*")):
            yield str(path)
    for name in DOTTED.findall(text):
        if not _exists(name.split(".")):
            yield name


def _exists(parts: list[str]) -> bool:
    """Whether a dotted name is a package, a module, or something that a module mentions."""
    for count in range(len(parts), 0, -1):
        path = HOUSE.joinpath(*parts[:count])
        if path.is_dir():
            return count == len(parts)
        if path.with_suffix(".py").is_file():
            return all(re.search(rf"\b{word}\b", path.with_suffix(".py").read_text()) for word in parts[count:])
    return False


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(HOUSE)))
def test_every_link_resolves(page: Path) -> None:
    assert not list(broken_links(page))


@pytest.mark.parametrize(
    "page", [page for page in pages() if page.name != "CHANGELOG.md"], ids=lambda page: str(page.relative_to(HOUSE))
)
def test_every_file_and_module_that_is_named_exists(page: Path) -> None:
    assert not list(unknown_names(page.read_text(encoding="utf-8")))


def test_every_page_is_in_the_index() -> None:
    index = HOUSE / "docs" / "index.md"
    listed = {
        (index.parent / target.partition("#")[0]).resolve()
        for target in LINK.findall(index.read_text(encoding="utf-8"))
    }
    ours = [page for page in pages() if page.parent.name in ("docs", "decisions") and page != index]
    assert ours
    assert not [page.name for page in ours if page not in listed]


def test_the_readme_is_read_to_its_end() -> None:
    assert len((HOUSE / "README.md").read_text(encoding="utf-8").split()) <= MOST_WORDS


def test_the_readme_leads_from_a_clone_to_a_fail() -> None:
    text = (HOUSE / "README.md").read_text(encoding="utf-8")
    places = [text.index(word) for word in ("make bench", "baseline record", "baseline promote", "--plant-slowdown")]
    assert places == sorted(places)


def test_a_broken_link_is_named(tmp_path: Path) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# Two words, really\n")
    page.write_text(
        "[a](other.md) [b](other.md#two-words-really) [c](nowhere.md) [d](other.md#three) [e](#none)\n# F\n"
    )
    found = [line.split(": ")[1] for line in broken_links(page)]
    assert found == ["nowhere.md is not there", "other.md#three has no such heading", "#none has no such heading"]


@pytest.mark.parametrize(
    "text", ["`grok1/device.py`", "see bench/nothing.py", "grok1.train", "`bench.judge.gate.nowhere`"]
)
def test_a_name_of_nothing_is_named(text: str) -> None:
    assert list(unknown_names(text))


@pytest.mark.parametrize(
    "text", ["`grok1/device/`", "bench/cases.py", "`grok1.training.step.Stepper`", "https://a.b/docs/x"]
)
def test_a_name_of_something_passes(text: str) -> None:
    assert not list(unknown_names(text))
