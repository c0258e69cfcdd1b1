"""Nothing that a record says can become structure in a report."""

from __future__ import annotations

import html

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bench.records.markdown import code
from reports.markdown import table, text

RENDER = MarkdownIt("commonmark").enable("table")


def leaves(markdown: str) -> list[str]:
    """The types of every inline piece of the rendered Markdown."""
    return [child.type for token in RENDER.parse(markdown) for child in token.children or []]


@given(st.text())
@example("<img src=x onerror=alert(1)>")
@example("a | b `c` **d** _e_ [f](javascript:g) ![h](i) \\")
@example("line\nbreak\r\n\n# heading")
@example("&lt;script&gt; &#60;")
@example("# heading")
@example("- item")
def test_any_text_in_a_cell_stays_one_plain_cell(value: str) -> None:
    markdown = table(["key", "value"], [("k", value)])
    tokens = [token.type for token in RENDER.parse(markdown)]
    assert tokens.count("tr_open") == 2
    assert tokens.count("td_open") == 2
    assert set(leaves(markdown)) <= {"text", "text_special"}


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=60))
def test_printable_text_reads_as_it_was_written(value: str) -> None:
    rendered = RENDER.render(f"x {text(value)} x")
    assert html.unescape(rendered) == f"<p>x {value} x</p>\n"


@given(st.text(min_size=1))
@example("`")
@example("a``b`")
@example('training.recompute_modules=["layernorm","moe"]')
def test_any_text_as_code_is_one_piece_of_a_heading(value: str) -> None:
    assert leaves(f"# x {code(value)} x") in (["text"], ["text", "code_inline", "text"])


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60))
def test_printable_text_as_code_reads_as_it_was_written(value: str) -> None:
    rendered = RENDER.render(f"# x {code(value)} x")
    assert html.unescape(rendered) == f"<h1>x <code>{value}</code> x</h1>\n"


@pytest.mark.parametrize("char", ["\u202e", "\u200b", "\u2066", "\x00", "\x1b", "\u2028"])
def test_invisible_and_direction_changing_characters_are_dropped(char: str) -> None:
    assert char not in text(f"a{char}b")


@pytest.mark.parametrize("link", ["https://example.org", "www.example.org", "$x$", "@someone", "#1"])
def test_what_github_would_link_or_typeset_is_broken_up(link: str) -> None:
    assert link not in text(link)


def test_long_text_is_cut() -> None:
    assert len(text("x" * 10_000)) <= 500


def test_numbers_and_names_stay_readable_in_the_source() -> None:
    assert text("1,646.633 tokens/s/p (39.8 s/step)") == "1,646.633 tokens/s/p (39.8 s/step)"
    assert text("OMP_NUM_THREADS") == "OMP_NUM_THREADS"
