"""The frame of a history's pages: that of every page, and what trends and their tables need beyond its style."""

from __future__ import annotations

from bench.records.terminal import plain
from reports.palette import MEASURED
from reports.shell import shell


def page(title: str, body: str) -> bytes:
    """A whole page."""
    return shell(plain(title), body, more_style=_STYLE).encode()


_STYLE = (
    f":root {{ --measured: {MEASURED}; }}"
    + """
nav { margin-bottom: .8rem; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
tbody th { white-space: nowrap; }
.n { text-align: right; }
tbody th.long { white-space: normal; min-width: 9rem; max-width: 26rem; overflow-wrap: anywhere; }
td.long { min-width: 9rem; max-width: 26rem; }
tr:target, h2:target { background: var(--shade); outline: 2px solid var(--measured); }
.spark { display: block; } .spark polyline { fill: none; stroke: var(--measured); stroke-width: 1.5; }
.spark circle { fill: var(--ink); }
figure { margin: 1rem 0; }
figcaption, .units, .left, .right, .dates { color: var(--muted); font-size: .8rem; }
.units { display: flex; justify-content: space-between; margin-bottom: 1.1rem; }
.plot { display: grid; grid-template-columns: 3.9rem minmax(0, 1fr) 3.6rem; }
.plot > svg { width: 100%; height: 15rem; overflow: visible; font-size: 12px; background: var(--shade); }
.left, .right { position: relative; font-variant-numeric: tabular-nums; }
.left span, .right span { position: absolute; transform: translateY(-50%); }
.left span { right: .4rem; } .right span { left: .4rem; }
.dates { position: relative; height: 2.6rem; margin: .3rem 3.6rem 0 3.9rem; line-height: 1.25; }
.dates span { position: absolute; transform: translateX(-50%); text-align: center; white-space: nowrap; }
.dates .first { transform: none; text-align: left; margin-left: -.6rem; }
.dates .last { transform: translateX(-100%); text-align: right; margin-left: .6rem; }
.trend text { fill: var(--ink); } .trend text.quiet { fill: var(--muted); }
.grid { stroke: var(--line); } .gap { stroke: var(--muted); stroke-dasharray: 1 4; }
.level { stroke: var(--ink); stroke-width: 3; opacity: .5; }
.change { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 6 4; } .change.better { stroke: var(--good); }
.dots { fill: none; stroke: var(--measured); stroke-width: 6; stroke-linecap: round; }
.dots.many { stroke-width: 3; }
.interval { stroke: var(--measured); stroke-width: 1; } .mark { fill: transparent; }
.trend a:hover .mark, .trend a:focus .mark { stroke: var(--ink); stroke-width: 2; }
@media (max-width: 44rem) {
  .dates .between { display: none; }
  td.long { min-width: 18rem; }
}
@media (max-width: 60rem) {
  .cards thead { display: none; }
  .cards tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  .cards th, .cards td { display: flex; gap: .6rem; padding: .1rem 0; border: 0; white-space: normal; }
  .cards td.n { text-align: left; }
  .cards tbody th { font-weight: 700; max-width: none; overflow-wrap: anywhere; }
  .cards td.long { max-width: none; }
  .cards td::before { content: attr(data-name); flex: 0 0 6.5rem; color: var(--muted); }
}
@media (min-width: 40rem) and (max-width: 60rem) {
  .cards tr { display: grid; grid-template-columns: 1fr 1fr; column-gap: 1rem; }
  .cards tbody th { grid-column: 1 / -1; }
}
"""
)
