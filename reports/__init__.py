"""Records in, one report out: Markdown, HTML, JSON and plots. Runs without torch, on any machine."""

from reports.document import write_report

__all__ = ["write_report"]
