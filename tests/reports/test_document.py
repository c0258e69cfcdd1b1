"""The report as a whole: the verdict first, everything asked for in it, plots beside it."""

from __future__ import annotations

import re
from pathlib import Path

from markdown_it import MarkdownIt

from bench.baseline import load_baselines
from reports import write_report

STORED = load_baselines(Path(__file__).parents[2] / "baselines")
PNG = b"\x89PNG\r\n\x1a\n"


def test_the_first_line_is_the_verdict(synthetic_record, tmp_path: Path) -> None:
    report = write_report([synthetic_record()], STORED, tmp_path / "out")
    assert report == tmp_path / "out" / "report.md"
    assert report.read_text().splitlines()[0].startswith("# PASS: grok1-40b ran ")


def test_every_plot_that_the_report_shows_is_there(synthetic_record, tmp_path: Path) -> None:
    report = write_report([synthetic_record(), synthetic_record(seed=1)], STORED, tmp_path)
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", report.read_text())
    assert len(shown) == 6
    assert all((tmp_path / name).read_bytes().startswith(PNG) for name in shown)
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", *shown}


def test_the_same_record_gives_the_same_report(synthetic_record, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report([synthetic_record()], STORED, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert [(tmp_path / "a" / name).read_bytes() for name in files] == [
        (tmp_path / "b" / name).read_bytes() for name in files
    ]


def test_figures_provenance_and_sources_are_in_it(synthetic_record, tmp_path: Path) -> None:
    report = write_report([synthetic_record()], STORED, tmp_path).read_text()
    for part in (
        "1,646.633",
        "2,057",
        "32.4 %",
        "OMP_NUM_THREADS",
        "0123456789ab",
        "ModelLink",
        "invented for tests",
    ):
        assert part in report, part


def test_several_cases_are_counted_in_the_first_line_and_listed_below(synthetic_record, tmp_path: Path) -> None:
    records = [synthetic_record(), synthetic_record(case="other", recipe={"name": "other"})]
    lines = write_report(records, STORED, tmp_path).read_text().splitlines()
    assert lines[0] == "# NO BASELINE: 2 cases, 1 no baseline, 1 pass"
    assert lines[2].startswith("- NO BASELINE: other ran at ")
    assert lines[3].startswith("- PASS: grok1-40b ran ")


def test_a_void_record_without_steps_is_still_reported(synthetic_record, tmp_path: Path) -> None:
    void = synthetic_record(steps=0, valid=False, void_reasons=["rank 3 died"], ranks=[])
    report = write_report([void], STORED, tmp_path).read_text()
    assert report.startswith("# VOID: grok1-40b cannot be judged: rank 3 died")
    assert "- void: rank 3 died" in report


def test_a_record_that_measured_little_is_reported_without_inventing(synthetic_record, tmp_path: Path) -> None:
    ranks = [
        rank.model_dump() | {"phases_seconds": {}, "communication_seconds": [], "reserved_bytes": None}
        for rank in synthetic_record().ranks
    ]
    unknown = {"peak_flops_per_second": None, "peak_source": None}
    record = synthetic_record(ranks=ranks, expert_load=[], startup_seconds=None, device=unknown)
    report = write_report([record], STORED, tmp_path).read_text()
    assert report.count("not measured") == 4
    assert "plot-1-phases" not in report
    assert "plot-1-experts" not in report


def test_hostile_names_stay_text(synthetic_record, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>|`x`\n\n# PASS $$\\frac$"
    record = synthetic_record(
        case=hostile,
        software={hostile: hostile},
        host={"cpu_name": hostile},
        recipe={"resolved": {hostile: hostile}},
        ranks=[rank.model_dump() | {"phases_seconds": {hostile: [1.0] * 20}} for rank in synthetic_record().ranks],
    )
    report = write_report([record], STORED, tmp_path).read_text()
    rendered = MarkdownIt("commonmark").enable("table").render(report)
    assert "<script" not in rendered
    assert rendered.count("<h1>") == 1


def test_the_step_summary_is_appended_to_and_has_no_pictures(synthetic_record, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("earlier\n")
    report = write_report([synthetic_record()], STORED, tmp_path / "out", step_summary=summary)
    appended = summary.read_text()
    assert appended.startswith("earlier\n# PASS")
    assert "![" not in appended
    assert "![" in report.read_text()


def test_a_step_summary_too_long_for_github_is_cut_to_its_verdict(
    synthetic_record, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("reports.document._MAX_STEP_SUMMARY_BYTES", 1000)
    write_report([synthetic_record()], STORED, tmp_path / "out", step_summary=tmp_path / "summary.md")
    assert (tmp_path / "summary.md").read_text().splitlines()[-1].startswith("The report is too long")
