"""The report as one HTML file that needs nothing beside it: our own Markdown, rendered, with its plots inside.

Strangers' words are text by then (reports.markdown.text). Should one ever get through, the page's policy still loads
nothing and runs nothing (reports.shell).
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from reports.markdown import state_of
from reports.shell import NARROW_PAGE, shell

_PICTURE = re.compile(r"(plot|ledger)-\d+-[a-z]+\.svg")  # what write_report itself puts beside the report
_LONG = 60  # letters: a cell with more may break its lines


def page(markdown: str, folder: Path, title: str, state: str, narrow: Path | None = None) -> str:
    """The page of a report whose plots lie in `folder`; `state` is the worst verdict's, and colours the headline.

    Those for phones lie in `narrow`, under the same names.

    `title` is the headline, in Markdown's character references as text() makes them.
    """
    return shell(html.unescape(title), rendered(markdown, folder, narrow), state)


def rendered(markdown: str, folder: Path, narrow: Path | None = None) -> str:
    """The Markdown of a report as HTML: cells say what they head or which state they tell, wide parts scroll alone."""
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    parser.add_render_rule("table_open", _table_open)
    parser.add_render_rule("table_close", _table_close)
    parser.add_render_rule("image", _image)
    env = {"folder": folder, "narrow": narrow}
    tokens = _marked(parser.parse(markdown, env))
    return str(parser.renderer.render(tokens, parser.options, env))


def _marked(tokens: Sequence[Token]) -> list[Token]:
    """With headers of columns and rows, rows that head a group, cells of a state, and cells of many words told."""
    found = list(tokens)
    for index, token in enumerate(tokens):
        if token.type == "th_open":
            found[index].attrSet("scope", "col")
        elif token.type == "td_open" and tokens[index - 1].type == "tr_open":
            found[index], found[index + 2] = token.copy(tag="th"), tokens[index + 2].copy(tag="th")
            found[index].attrSet("scope", "row")
            if tokens[index + 1].content.startswith("**"):
                found[index - 1].attrSet("class", "group")
        elif token.type == "td_open" and (kind := _kind(html.unescape(tokens[index + 1].content))):
            found[index].attrSet("class", kind)
    return found


def _kind(cell: str) -> str:
    state = state_of(cell)
    return f"state {state}" if state else "long" if len(cell) > _LONG else ""


def _table_open(renderer: RendererHTML, tokens: Sequence[Token], index: int, *rest: Any) -> str:
    return '<div class="wide" tabindex="0"><table>\n'


def _table_close(renderer: RendererHTML, tokens: Sequence[Token], index: int, *rest: Any) -> str:
    return "</table></div>\n"


def _image(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    source, caption = str(tokens[index].attrs["src"]), html.escape(tokens[index].content)
    if not _PICTURE.fullmatch(source):
        return caption
    on_phones = env["narrow"] and env["narrow"] / source
    return picture(env["folder"] / source, caption, on_phones if on_phones and on_phones.exists() else None)


def picture(path: Path, caption: str, narrow: Path | None = None) -> str:
    """An SVG of ours, inside the page. As an image it is shut off from it, and still follows the reader's scheme.

    Where the page is narrow, another is shown in its place; without one it scrolls.
    """
    wide = f'<img src="{_inside(path)}" alt="{caption}">'
    if narrow is None:
        return f'<span class="wide">{wide}</span>'
    return f'<picture><source media="{NARROW_PAGE}" srcset="{_inside(narrow)}">{wide}</picture>'


def _inside(path: Path) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
