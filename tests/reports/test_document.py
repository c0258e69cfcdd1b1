"""The report as a whole: the verdict first, everything asked for in it, plots beside it."""

from __future__ import annotations

import base64
import html
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import NoReturn

import pytest
from markdown_it import MarkdownIt

from bench.judge.baseline import Baseline, load_baselines, recorded_baseline
from bench.judge.gate import judge
from bench.judge.metrics import RATE, STEP
from bench.judge.stats import Summary, summarise
from bench.judge.verdict import Row, Verdict
from bench.records.record import Record
from bench.synthetic import build_synthetic_record
from reports.case import CaseResult
from reports.data import as_json
from reports.document import write_report
from reports.markdown import text
from reports.page import page as html_page

STORED = load_baselines(Path(__file__).parents[2] / "baselines")
SVG = b"<svg "


def test_the_first_line_is_the_verdict(synthetic_record, tmp_path: Path, without_plots) -> None:
    report = write_report([synthetic_record()], STORED, tmp_path / "out")
    assert report == tmp_path / "out" / "report.md"
    assert report.read_text().splitlines()[0].startswith("# PASS: grok1-40b ran ")


@pytest.mark.parametrize("others", [[], ["another case"]])
def test_a_verdict_is_whole_to_its_last_command(synthetic_record, tmp_path: Path, without_plots, others) -> None:
    noisy = [synthetic_record(seed=seed, median_seconds=38.0 + seed) for seed in range(5)]
    records = [synthetic_record(seed=9, case=name, asked=["--steps=20"]) for name in ["grok1-40b", *others]]
    report = write_report(records, [recorded_baseline(noisy, "invented")], tmp_path).read_text()
    told = [line for line in report.splitlines() if "INCONCLUSIVE: grok1-40b takes" in line]
    assert len(told) == 1 + bool(others)
    for line in told:
        assert re.search(
            r"python -m bench ab --base 0{40} --case grok1-40b --steps=20 --device npu \(\d+ min\)$", line
        ), line


def test_every_plot_that_the_report_shows_is_there(synthetic_record, tmp_path: Path) -> None:
    report = write_report([synthetic_record(), synthetic_record(seed=1)], STORED, tmp_path)
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", report.read_text())
    assert len(shown) == 6
    assert all((tmp_path / name).read_bytes().startswith(SVG) for name in shown)
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.md",
        "report.html",
        "report.json",
        "comment.md",
        *shown,
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report of one record, with its plots, which take most of the time."""
    return write_report([build_synthetic_record()], STORED, tmp_path_factory.mktemp("written")).parent


def test_the_same_record_gives_the_same_report(synthetic_record, written: Path, tmp_path: Path) -> None:
    write_report([synthetic_record()], STORED, tmp_path)
    files = sorted(path.name for path in written.iterdir())
    assert files == sorted(path.name for path in tmp_path.iterdir())
    assert [(written / name).read_bytes() for name in files] == [(tmp_path / name).read_bytes() for name in files]


def test_figures_provenance_and_sources_are_in_it(synthetic_record, tmp_path: Path, without_plots) -> None:
    record = synthetic_record(is_dated=False, code_digests={"grok1": "fedc" * 16})
    report = write_report([record], STORED, tmp_path).read_text()
    for part in (
        "fedcfedc",
        f"{record.id}, read {record.created_at}",
        "1,646.6",
        "2,057",
        "32.4 %",
        "OMP_NUM_THREADS",
        "0123456789ab",
        "ModelLink",
        "invented for tests",
    ):
        assert part in report, part


def test_the_layout_names_every_axis_that_is_split(synthetic_record, tmp_path: Path, without_plots) -> None:
    split = {
        "tensor": 2,
        "context": 2,
        "pipeline": 2,
        "virtual_pipeline": 2,
        "data": 2,
        "expert": 2,
        "expert_tensor": 2,
    }
    report = write_report([synthetic_record(layout=split)], STORED, tmp_path).read_text()
    assert "tensor 2 x context 2 x pipeline 2 x data 2, 2 chunks a stage; expert 2, tensor within an expert 2" in report


def test_several_cases_are_counted_in_the_first_line_and_listed_below(
    synthetic_record, tmp_path: Path, without_plots
) -> None:
    records = [synthetic_record(), synthetic_record(case="other", recipe={"name": "other"})]
    lines = write_report(records, STORED, tmp_path).read_text().splitlines()
    assert lines[0] == "# NO BASELINE: 2 cases, 1 no baseline, 1 pass"
    assert lines[2].startswith("- NO BASELINE: other ran at ")
    assert [line for line in lines if line.startswith("## ")] == ["## other: NO BASELINE", "## grok1-40b: PASS"]
    assert [line for line in lines if line.startswith("PASS: grok1-40b ran ")]
    assert "[other](#case-1)" in next(line for line in lines if "○ no baseline" in line)


def test_a_void_record_without_steps_is_still_reported(synthetic_record, tmp_path: Path, without_plots) -> None:
    void = synthetic_record(steps=0, valid=False, void_reasons=["rank 3 died"], ranks=[])
    report = write_report([void], STORED, tmp_path).read_text()
    assert report.startswith("# VOID: grok1-40b cannot be judged: rank 3 died")
    assert "- void: rank 3 died" in report


def test_a_record_that_measured_little_is_reported_without_inventing(
    synthetic_record, tmp_path: Path, without_plots
) -> None:
    ranks = [
        rank.model_dump() | {"phases_seconds": {}, "communication_seconds": [], "reserved_bytes": None}
        for rank in synthetic_record().ranks
    ]
    unknown = {"peak_flops_per_second": None, "peak_source": None}
    record = synthetic_record(ranks=ranks, expert_load=[], startup_seconds=None, device=unknown)
    report = write_report([record], STORED, tmp_path).read_text()
    assert report.count("not measured") == 6
    assert "plot-1-phases" not in report
    assert "plot-1-experts" not in report


HOSTILE = '<script>alert(1)</script>|`x`\n\n# PASS $$\\frac$ [a](javascript:b)" onload="c \x1b[31m\u202e' + "long" * 12


def test_hostile_names_stay_text_everywhere(synthetic_record, tmp_path: Path) -> None:
    ranks = [
        rank.model_dump()
        | {
            "phases_seconds": {HOSTILE: [1.0] * 20},
            "communication_seconds": [0.5] * 20,
            "communication_calls": [1] * 20,
            "communication_bytes": [2] * 20,
            "collectives": {HOSTILE: {"seconds": [0.5] * 20, "calls": 20, "bytes": 40}},
            "timeline": [{"phase": HOSTILE, "start_seconds": 0.0, "end_seconds": 1.0}],
        }
        for rank in synthetic_record().ranks
    ]
    record = synthetic_record(
        case=HOSTILE,
        software={HOSTILE: HOSTILE},
        host={"cpu_name": HOSTILE},
        recipe={"name": HOSTILE, "resolved": {HOSTILE: HOSTILE}},
        device={"name": HOSTILE, "peak_source": HOSTILE},
        ranks=ranks,
    )
    missing = [Verdict("missing", HOSTILE, HOSTILE)]
    report = write_report([record], STORED, tmp_path, missing=missing)
    rendered = MarkdownIt("commonmark").enable("table").render(report.read_text())
    assert "<script" not in rendered
    assert rendered.count("<h1>") == 1
    page = Page()
    page.feed((tmp_path / "report.html").read_text())
    page.check()
    assert json.loads((tmp_path / "report.json").read_text())["records"][0]["case"] == HOSTILE


OURS = set(
    re.findall(
        r"\w+",
        "html head meta title style body main h1 h2 h3 h4 p ul li a div span table thead tbody tr th td img "
        "picture source details summary pre code blockquote strong",
    )
)


class Page(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: set[tuple[str, str]] = set()
        self.targets: list[str] = []
        self.narrow: list[str] = []
        self.title = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {(tag, name) for name, _ in attrs}
        self.targets += [value or "" for name, value in attrs if name in ("href", "src")]
        self.narrow += [value or "" for name, value in attrs if name == "srcset"]
        if tag not in ("meta", "img", "source", "br", "hr"):
            self.open.append(tag)

    def handle_data(self, data: str) -> None:
        self.title += data * (self.open[-1:] == ["title"])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def check(self) -> None:
        """Nothing but what we write: no script, no handler, no address outside the page."""
        assert not self.open
        assert set(self.tags) <= OURS
        assert self.attributes <= {
            *(("meta", name) for name in ("charset", "name", "content", "http-equiv")),
            *(("img", name) for name in ("src", "alt")),
            *(("source", name) for name in ("media", "srcset")),
            *(("a", name) for name in ("id", "href")),
            *((tag, "class") for tag in ("div", "span", "body", "tr", "td")),
            ("div", "tabindex"),
            ("th", "scope"),
            *((tag, "style") for tag in ("th", "td")),
            ("html", "lang"),
            ("code", "class"),
        }
        assert all(
            re.fullmatch(r"#case-\d+(-[a-z]+)?|data:image/svg\+xml;base64,[A-Za-z0-9+/=]+", each)
            for each in self.targets + self.narrow
        )


def test_a_title_is_the_headline_and_nothing_else(tmp_path: Path) -> None:
    page = Page()
    page.feed(html_page("# headline", tmp_path, text("</title><b onload=x>&amp;"), "pass"))
    page.check()
    assert page.tags["title"] == 1
    assert page.title == "</title><b onload=x>&amp;"


def test_the_page_holds_its_plots_and_tables(written: Path) -> None:
    report = written / "report.md"
    page = Page()
    page.feed((written / "report.html").read_text())
    page.check()
    plots = re.findall(r"\]\((plot[^)]+)\)", report.read_text())
    encoded = [base64.b64encode((written / name).read_bytes()).decode() for name in plots]
    assert [each for each in page.targets if each.startswith("data")] == [
        f"data:image/svg+xml;base64,{e}" for e in encoded
    ]
    assert len(set(page.narrow) - set(page.targets)) == len(plots), "each is drawn for phones too"
    assert page.tags["table"] == len(re.findall(r"[-:]\|\n\|", report.read_text()))
    assert (written / "report.html").read_text().count('<body class="pass">') == 1


def test_the_runs_of_a_case_are_one_section_with_a_bounded_table(synthetic_record, tmp_path: Path, monkeypatch) -> None:
    summarised = Counter[str]()

    def counted(record: Record) -> Summary:
        summarised[record.id] += 1
        return summarise(record)

    monkeypatch.setattr("reports.case.summarise", counted)
    records = [
        synthetic_record(seed=seed, id=f"{seed:08x}" * 4, median_seconds=39.0 + 0.1 * (7 * seed % 25))
        for seed in range(25)
    ]
    report = write_report(records, STORED, tmp_path).read_text()
    assert re.findall(r"\n## (.*)", report) == ["grok1-40b: PASS"]
    table = report[report.index("### Runs") : report.index("and 5 more runs")]
    assert table.count("| ok") == 20
    slowest_first = sorted(records, key=lambda record: -summarise(record).median_step_seconds)
    assert f"This and what follows is of the median run, {slowest_first[12].id[:8]}." in report
    assert [line.split("|")[1].strip() for line in table.splitlines()[4:24]] == [r.id[:8] for r in slowest_first[:20]]
    assert report.count("![") == 6
    assert set(summarised.values()) == {1}


def test_only_the_worst_cases_have_plots_and_it_says_so(synthetic_record, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("reports.document.MAX_CASES_WITH_PLOTS", 1)
    monkeypatch.setattr("reports.body.MAX_CASES_WITH_PLOTS", 1)
    monkeypatch.setattr("reports.document._pictures", lambda case, width: {"steps": SVG})
    records = [synthetic_record(), synthetic_record(case="other", recipe={"name": "other"})]
    report = write_report(records, STORED, tmp_path).read_text()
    assert "Only the first 1 cases have plots" in report
    assert report.index("## other") < report.index("![") < report.index("## grok1-40b")
    assert report.count("![") == 1


def test_a_missing_case_is_reported(synthetic_record, tmp_path: Path, without_plots) -> None:
    gone = Verdict("missing", "gone", "MISSING: gone has no run to judge")
    report = write_report([synthetic_record()], STORED, tmp_path, missing=[gone]).read_text()
    assert report.startswith("# MISSING: 2 cases, 1 missing, 1 pass\n\n- MISSING: gone has no run")
    assert report.index("## gone: MISSING") < report.index("## grok1-40b: PASS")


def test_verdicts_that_were_given_are_kept(synthetic_record, tmp_path: Path, without_plots) -> None:
    settled = Verdict("inconclusive", "grok1-40b", "INCONCLUSIVE: at the second look")
    report = write_report([synthetic_record()], STORED, tmp_path, verdicts=[settled]).read_text()
    assert report.startswith("# INCONCLUSIVE: at the second look")


def refuse(token: str) -> NoReturn:
    raise AssertionError(token)


def with_collectives(record: Record, calls: int, share: float) -> Record:
    """The record with one kind of collective that takes that share of a step and so many calls a step of a rank."""
    ranks = [
        rank.model_dump()
        | {
            "collectives": {
                "tensor all_gather": {
                    "seconds": [share * seconds for seconds in rank.step_seconds],
                    "calls": calls * len(rank.step_seconds),
                    "bytes": 1_500_000 * len(rank.step_seconds),
                }
            },
            "communication_seconds": [share * seconds for seconds in rank.step_seconds],
            "communication_calls": [calls] * len(rank.step_seconds),
            "communication_bytes": [1_500_000] * len(rank.step_seconds),
        }
        for rank in record.ranks
    ]
    return Record.model_validate(record.model_dump(by_alias=True) | {"ranks": ranks})


@pytest.fixture
def slower(synthetic_record) -> tuple[list[Record], Baseline]:
    """Three runs a fifth slower than the five of a baseline, in a collective that is called more often."""
    before = [with_collectives(synthetic_record(seed=seed), 10, 0.1) for seed in range(5)]
    after = [with_collectives(synthetic_record(seed=9 + s, median_seconds=48.0), 11, 0.25) for s in range(3)]
    return after, recorded_baseline(before, "invented")


def test_a_slowdown_is_shown_with_its_evidence_and_its_place(slower, tmp_path: Path, without_plots) -> None:
    records, baseline = slower
    report = write_report(records, [baseline], tmp_path).read_text()
    rows = rows_of(report, "### Against the baselines")
    assert rows["tokens/s/p"][-1] == rows["s/step"][-1] == rows["forward"][-1] == "✗ fail"
    judged = {row.metric: row for row in judge(records, [baseline]).rows}
    longer, less = (judged[name].change_percent for name in (STEP, RATE))
    assert (rows["s/step"][2], rows["s/step"][4]) == (f"{longer:+.2f} %", "+5.26 %")
    assert (rows["tokens/s/p"][2], rows["tokens/s/p"][4]) == (f"{less:+.2f} %", "-5.00 %")
    assert re.fullmatch(r"\+\S+ to \+\S+ %", rows["s/step"][3])
    low, high = rows["tokens/s/p"][3].removesuffix(" %").split(" to ")
    assert float(low) < less < float(high)
    assert (rows["s/step"][5][0], rows["tokens/s/p"][5][0]) == ("+", "-")
    assert rows["peak memory"][:2] == ["52.00 GiB", "52.00 GiB"]
    assert rows["forward"][2].endswith("% of a step")
    moved = rows_of(report, "### What moved")
    assert next(iter(moved.values())) == ["kind", "s before", "after", "change", "of the step's change"]
    assert moved["backward"][0] == "phase"
    assert [line for line in report.splitlines() if "tensor all_gather" in line and "calls" in line and "176" in line]
    assert rows_of(report, "### Collectives")["tensor all_gather"][1:] == ["24.9 %", "176", "24.00"]
    figures = rows_of(report, "### Figures")
    assert figures["loss, furthest from the baseline's (limit 2 %)"][0] == "the same to the last digit"
    assert figures["MFU of 353.9 TFLOP/s"][0].endswith(" %")
    assert figures["pipeline bubble (ideal 1.5 %)"][0] == "8.9 %"


def rows_of(report: str, heading: str) -> dict[str, list[str]]:
    """The rows below a heading by their first cell; of several alike the first."""
    section = report[report.index(heading) + 3 :].split("\n#")[0]
    rows: dict[str, list[str]] = {}
    for line in section.splitlines():
        if line.startswith("|"):
            first, *rest = [html.unescape(cell.strip()) for cell in line.split("|")[1:-1]]
            rows.setdefault(first, rest)
    return rows


def test_how_far_the_losses_are_apart_is_told(slower, tmp_path: Path, without_plots) -> None:
    records, baseline = slower
    steps = [
        step.model_dump() | {"loss": (step.loss or 0) * (1.01 if step.step == 7 else 1)} for step in records[0].steps
    ]
    other = Record.model_validate(records[0].model_dump(by_alias=True) | {"steps": steps})
    report = write_report([other, *records[1:]], [baseline], tmp_path).read_text()
    assert "1 % at step 8" in report


def test_what_a_median_cannot_see_is_listed(synthetic_record, tmp_path: Path, without_plots) -> None:
    records = []
    for seed in range(3):
        record = synthetic_record(steps=40, seed=seed)
        ranks = [rank.model_dump() for rank in record.ranks]
        for rank in ranks:
            rank["memory_bytes"] = [2**35 + 2**28 * step * (rank["rank"] == 5) for step in range(40)]
            rank["step_seconds"] = [
                seconds * (3 if step and step % 10 == 0 else 1) for step, seconds in enumerate(rank["step_seconds"])
            ]
        records.append(Record.model_validate(record.model_dump(by_alias=True) | {"ranks": ranks}))
    report = write_report(records, [], tmp_path).read_text()
    listed = rows_of(report, "### What a median cannot see")
    assert listed["periodic"][0].startswith("every 10th step takes 3 times the median (steps 11, 21, 31): 1")
    assert listed["periodic"][1].endswith(" % of the mean step")
    assert listed["memory"][0].startswith("memory of rank 5 grows by 256 MiB a step")
    assert listed["memory"][1].endswith(" % of the peak in 100 steps")
    (verdict,) = json.loads((tmp_path / "report.json").read_text())["verdicts"]
    assert {each["kind"] for each in verdict["findings"]} == {"periodic", "memory"}


def test_programs_read_strict_json(slower, tmp_path: Path, without_plots) -> None:
    records, baseline = slower
    write_report(records, [baseline], tmp_path)
    read = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    (verdict,) = read["verdicts"]
    assert verdict["state"] == "fail"
    assert verdict["records"] == [record.id for record in records]
    assert verdict["rows"][0]["evidence"]["runs"] == [5, 3]
    assert verdict["attribution"]["counted"][0]["after"] == 176
    figures = read["records"][0]["figures"]
    assert figures["step_seconds"] == summarise(records[0]).median_step_seconds
    assert read["records"][0]["summary"]["bubble_ideal"] == pytest.approx(1 / 65)


def test_what_is_not_finite_is_null(synthetic_record) -> None:
    row = Row("step_seconds", float("inf"), 1.0, float("nan"), None, "compared", "label", "source")
    case = CaseResult(Verdict("pass", "case", "PASS", rows=(row,)))
    read = json.loads(as_json([case]), parse_constant=refuse)
    assert read["verdicts"][0]["rows"][0]["measured"] is None
    assert read["verdicts"][0]["rows"][0]["change_percent"] is None


def test_the_step_summary_is_appended_to_and_has_no_pictures(synthetic_record, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("earlier\n")
    report = write_report([synthetic_record()], STORED, tmp_path / "out", step_summary=summary)
    appended = summary.read_text()
    assert appended.startswith("earlier\n# PASS")
    assert "![" not in appended
    assert "![" in report.read_text()


def test_a_step_summary_too_long_for_github_is_cut_to_its_verdict(
    synthetic_record, tmp_path: Path, without_plots, monkeypatch
) -> None:
    monkeypatch.setattr("reports.document._MAX_STEP_SUMMARY_BYTES", 1000)
    write_report([synthetic_record()], STORED, tmp_path / "out", step_summary=tmp_path / "summary.md")
    assert (tmp_path / "summary.md").read_text().splitlines()[-1].startswith("The report is too long")
