"""The frame of every page: one HTML file that needs nothing beside it, in the reader's light or dark scheme.

Nothing is loaded and nothing runs: the page's policy says so.
"""

from __future__ import annotations

import html

from reports.palette import BAD, DARK, GOOD, INK, LETTERS, LINE, MUTED, PAPER, SHADE, UNSURE


def shell(title: str, body: str, state: str = "none", more_style: str = "") -> str:
    """A whole page of this body, which is HTML of our own; `title` is plain text.

    `state` is the worst verdict's, and colours the headline. `more_style` is what a page needs beyond the common style.
    """
    return _PAGE.format(title=html.escape(title), state=state, style=STYLE + more_style, body=body)


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

NARROW_PAGE = "(max-width: 44rem)"  # a phone

_NAMES = {"paper": PAPER, "shade": SHADE, "line": LINE, "muted": MUTED, "ink": INK}


def _letters(dark: bool) -> str:
    """The colours of states, as a page writes words in them."""
    names = {"good": GOOD, "bad": BAD, "unsure": UNSURE}
    return "".join(f"--{name}: {LETTERS[colour][dark]}; " for name, colour in names.items())


STYLE = (
    f"""
:root {{ color-scheme: light dark; {"".join(f"--{name}: {colour}; " for name, colour in _NAMES.items())}
  {_letters(dark=False)}--mark: var(--muted); }}
@media (prefers-color-scheme: dark) {{
  :root {{ {"".join(f"--{name}: {DARK[colour]}; " for name, colour in _NAMES.items())}{_letters(dark=True)}}}
}}
.pass, .improved {{ --mark: var(--good); }} .fail, .void, .missing {{ --mark: var(--bad); }}
.inconclusive, .no_baseline {{ --mark: var(--unsure); }} .compared, .none {{ --mark: var(--muted); }}
"""
    + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.55 system-ui, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 1.2rem 1.2rem 4rem; }
h1 { font-size: 1.45rem; line-height: 1.35; margin: 0 0 1rem; padding: .8rem 1rem; overflow-wrap: anywhere;
  border-left: .5rem solid var(--mark); border-radius: 4px; background: var(--shade); }
h2 { margin: 3rem 0 1rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
h3 { margin: 2.2rem 0 .6rem; }
p, li, blockquote { max-width: 54rem; overflow-wrap: anywhere; }
blockquote { margin: 1rem 0; padding: .1rem 1rem; border-left: 3px solid var(--line); }
a { color: inherit; text-underline-offset: .15em; }
pre { max-width: 100%; overflow-x: auto; padding: .7rem 1rem; border: 1px solid var(--line); border-radius: 4px;
  background: var(--shade); font-size: .87rem; }
.wide { display: block; overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td { white-space: nowrap; }
td.long { white-space: normal; min-width: 12rem; max-width: 44rem; overflow-wrap: anywhere; }
th { text-align: left; font-weight: 600; }
thead th { background: var(--shade); vertical-align: bottom; }
tbody th { font-weight: 400; min-width: 7rem; max-width: 30rem; overflow-wrap: break-word; }
tr.group th { padding-top: 1rem; font-weight: 600; }
td.state { color: var(--mark); font-weight: 600; }
picture { display: block; margin: .8rem 0; }
img { display: block; width: 48rem; max-width: 100%; height: auto; border-radius: 4px; }
details { margin: .8rem 0; } summary { cursor: pointer; font-weight: 600; }
@media (max-width: 44rem) {
  main { padding: .6rem .7rem 3rem; }
  h1 { font-size: 1.15rem; padding: .6rem .7rem; }
  th, td { padding: .3rem .45rem; }
  tbody th { min-width: 6rem; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  .wide img { width: 40rem; max-width: none; }
}
@media print { details { display: block; } .wide { overflow: visible; } }
"""
)
