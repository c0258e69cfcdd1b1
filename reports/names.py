"""Names of the files that a report is made of: nothing is loaded to know them."""

from __future__ import annotations

REPORT = "report.md"
COMMENT = "comment.md"
AB_PAGE = "ab.html"
# all that is written into a report's folder, as patterns
OF_REPORT = (REPORT, "report.html", "report.json", COMMENT, "plot-[0-9]*-*.svg", "ledger-[0-9]*-*.svg")
