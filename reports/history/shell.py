"""The page around a history's content. It loads nothing and runs nothing."""

from __future__ import annotations

from reports.markup import shown


def page(title: str, body: str) -> bytes:
    """A whole page."""
    return _PAGE.format(title=shown(title), style=_STYLE, body=body).encode()


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --quiet: #56616b; --paper: #fff; --line: #d5dade; --shade: #f4f6f8;
  --blue: #1f5fa8; --orange: #b4530f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe4e8; --quiet: #a4afb8; --paper: #16191d; --line: #373e46; --shade: #1f242a;
    --blue: #7fb2ec; --orange: #f0a468; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 84rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1 { font-size: 1.3rem; line-height: 1.4; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin-top: 2.5rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
p, li { max-width: 60rem; overflow-wrap: anywhere; }
a { color: inherit; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .28rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th, td { white-space: nowrap; }
.w { white-space: normal; min-width: 9rem; max-width: 26rem; overflow-wrap: anywhere; }
.n { text-align: right; }
thead th { background: var(--shade); }
tbody th { font-weight: 500; }
tr:target, h2:target { background: var(--shade); outline: 2px solid var(--blue); }
.spark { display: block; } .spark polyline { fill: none; stroke: var(--blue); stroke-width: 1.5; }
.spark circle { fill: var(--orange); }
figure { margin: 1rem 0; }
figcaption, .units, .left, .right, .dates { color: var(--quiet); font-size: .8rem; }
.units { display: flex; justify-content: space-between; margin-bottom: 1.1rem; }
.plot { display: grid; grid-template-columns: 3.6rem minmax(0, 1fr) 3.4rem; }
.plot > svg { width: 100%; height: 15rem; overflow: visible; font-size: 12px; background: var(--shade); }
.left, .right { position: relative; font-variant-numeric: tabular-nums; }
.left span, .right span { position: absolute; transform: translateY(-50%); }
.left span { right: .4rem; } .right span { left: .4rem; }
.dates { position: relative; height: 2.6rem; margin: .3rem 3.4rem 0 3.6rem; line-height: 1.25; }
.dates span { position: absolute; transform: translateX(-50%); text-align: center; white-space: nowrap; }
.dates .first { transform: none; text-align: left; margin-left: -.6rem; }
.dates .last { transform: translateX(-100%); text-align: right; margin-left: .6rem; }
.trend text { fill: var(--ink); } .trend text.quiet { fill: var(--quiet); }
.grid { stroke: var(--line); } .gap { stroke: var(--quiet); stroke-dasharray: 1 4; }
.level { stroke: var(--quiet); stroke-width: 3; opacity: .6; }
.change { stroke: var(--orange); stroke-width: 1.5; stroke-dasharray: 6 4; }
.dots { fill: none; stroke: var(--blue); stroke-width: 6; stroke-linecap: round; }
.dots.many { stroke-width: 3; }
.interval { stroke: var(--blue); stroke-width: 1; } .mark { fill: transparent; }
.trend a:hover .mark, .trend a:focus .mark { stroke: var(--orange); stroke-width: 2; }
@media (max-width: 44rem) {
  .dates .between { display: none; }
  .cards thead { display: none; }
  .cards tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  .cards th, .cards td { display: flex; gap: .6rem; padding: .1rem 0; border: 0; white-space: normal; }
  .cards td.n { text-align: left; }
  .cards tbody th { font-weight: 700; overflow-wrap: anywhere; }
  .cards td::before { content: attr(data-name); flex: 0 0 6.5rem; color: var(--quiet); }
}
@media print { .wide { overflow: visible; } }
"""
