"""Records in, one Markdown report with plots out. Runs without torch, on any machine."""

from reports.document import write_report

__all__ = ["write_report"]
