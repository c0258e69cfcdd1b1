"""The report as one HTML file that needs nothing beside it: our own Markdown, rendered, with its plots inside.

Strangers' words are text by then (reports.markdown.text). Should one ever get through, the page's policy still loads
nothing and runs nothing.
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

_PICTURE = re.compile(r"(plot|ledger)-\d+-[a-z]+\.png")  # what write_report itself puts beside the report


def page(markdown: str, folder: Path, title: str, state: str) -> str:
    """The page of a report whose plots lie in `folder`; `state` is the worst verdict's, and colours the headline.

    `title` is the headline, in Markdown's character references as text() makes them.
    """
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    parser.add_render_rule("table_open", _table_open)
    parser.add_render_rule("table_close", _table_close)
    parser.add_render_rule("image", _image)
    body = parser.render(markdown, {"folder": folder})
    return _PAGE.format(title=html.escape(html.unescape(title)), state=state, style=_STYLE, body=body)


def _table_open(renderer: RendererHTML, tokens: Sequence[Token], index: int, *rest: Any) -> str:
    return '<div class="wide"><table>\n'


def _table_close(renderer: RendererHTML, tokens: Sequence[Token], index: int, *rest: Any) -> str:
    return "</table></div>\n"


def _image(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    source, caption = str(tokens[index].attrs["src"]), html.escape(tokens[index].content)
    if not _PICTURE.fullmatch(source):
        return caption
    content = base64.b64encode((env["folder"] / source).read_bytes()).decode()
    return f'<img src="data:image/png;base64,{content}" alt="{caption}">'


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body class="{state}">
<main>
{body}</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --paper: #fff; --line: #d5dade; --shade: #f4f6f8; --mark: #68727c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe4e8; --paper: #16191d; --line: #373e46; --shade: #1f242a; --mark: #98a2ac; }
}
.pass { --mark: #1f8a4c; } .improved { --mark: #1f6fc0; } .fail, .void, .missing { --mark: #d0342c; }
.inconclusive, .no_baseline { --mark: #c07f0c; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.3rem; line-height: 1.4; padding: .7rem 1rem; border-left: .5rem solid var(--mark); }
h1 { background: var(--shade); overflow-wrap: anywhere; }
h2 { margin-top: 3rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
h3 { margin: 2rem 0 .5rem; }
p, li { max-width: 60rem; overflow-wrap: anywhere; }
a { color: inherit; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; vertical-align: top; }
td { max-width: 40rem; overflow: hidden; text-overflow: ellipsis; }
th { text-align: left; background: var(--shade); }
img { display: block; max-width: 100%; height: auto; margin: .8rem 0; background: #fff; border-radius: 4px; }
details { margin: .8rem 0; } summary { cursor: pointer; }
"""
