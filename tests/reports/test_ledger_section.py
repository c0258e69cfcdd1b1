"""The report's ledger section: right figures, plain names, plots that are there, and no torch. Invented ledgers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from bench.ledger.schema import (
    CollectiveRow,
    CostRow,
    Ledger,
    Memory,
    Parameters,
    RankLedger,
    TimelinePoint,
    write_ledger,
)
from reports.__main__ import main
from reports.document import write_report
from reports.ledger import section_of
from reports.picture import WIDE
from tests.in_process import command_of

HOUSE = Path(__file__).parents[2]
SVG = b"<svg "
GIB = 2**30
HOSTILE = "<script>alert(1)</script>|`x`\n\n# PASS $$\\frac$ [a](b)"


def cost(phase: str, component: str, matrix: int, vector: int = 0, read: int = 0, written: int = 0) -> CostRow:
    return CostRow(
        phase=phase,
        component=component,
        operator_calls=1000,
        matrix_flops=matrix,
        vector_flops=vector,
        bytes_read=read,
        bytes_written=written,
    )


def collective(group: str, operation: str, calls: int, moved: int) -> CollectiveRow:
    return CollectiveRow(phase="forward", group=group, operation=operation, dtype="bfloat16", calls=calls, bytes=moved)


def a_rank(stage: int = 0, **changes: Any) -> RankLedger:
    fields: dict[str, Any] = {
        "rank": 8 * stage,
        "stage": stage,
        "ranks_alike": 8,
        "parameters": Parameters(dense=1_234_567, expert=7_654_321, embedding=131_072),
        "costs": [
            cost("backward", "experts", 400 * 10**12, 10 * 10**9, 20 * 10**9, 10 * 10**9),
            cost("forward", "attention core", 50 * 10**12, 0, 2 * 10**9, 10**9),
            cost("forward", "experts", 200 * 10**12, 5 * 10**9, 10 * 10**9, 5 * 10**9),
            cost("optimizer", "outside the model", 0, 7_500_000_000, 3 * 10**9, 4 * 10**9),
            cost("recompute", "attention core", 50 * 10**12, 0, 2 * 10**9, 10**9),
        ],
        "collectives": [
            collective("tensor", "all_gather", 20, 12 * 10**9),
            collective("tensor", "reduce_scatter", 10, 6_500_000_000),
            collective("world", "all_reduce", 3, 16),
        ],
        "memory": Memory(
            peak_bytes=60 * GIB,
            peak_phase="backward",
            peak_component="head",
            weights_bytes=10 * GIB,
            gradients_bytes=20 * GIB,
            optimizer_bytes=15 * GIB,
            activations_bytes=14 * GIB,
            temporary_bytes=GIB,
            static_bytes=45 * GIB,
        ),
        "timeline": [
            TimelinePoint(phase=phase, component="head", bytes=height * GIB)
            for phase, height in (("forward", 46), ("forward", 58), ("backward", 60), ("optimizer", 47))
        ],
    }
    return RankLedger(**fields | changes)


def a_ledger(**changes: Any) -> Ledger:
    fields: dict[str, Any] = {
        "schema": 1,
        "recipe_name": "grok1-invented",
        "recipe_hash": "0123456789ab",
        "software": {"torch": "2.13.0", "megatron-core": "0.12.3"},
        "routing_shares": [0.125] * 8,
        "num_micro_batches": 96,
        "ranks": [a_rank(0), a_rank(1)],
        "unknown_operators": {},
    }
    return Ledger(**fields | changes)


def section(ledger: Ledger, folder: Path | None = None) -> str:
    return "\n\n".join(section_of(ledger, [(folder, WIDE)] if folder is not None else []))


def rows(markdown: str) -> list[list[str]]:
    """The cells of every table row."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_it_says_what_was_counted() -> None:
    written = section(a_ledger())
    assert written.startswith("## Cost ledger: grok1-invented\n")
    facts = dict(row for row in rows(written) if len(row) == 2)
    assert facts["recipe"] == "grok1-invented, hash 0123456789ab"
    assert facts["ranks counted"] == "0, 8, standing for 16"
    assert facts["micro-batches a step"] == "96"
    assert facts["routing"] == "even over 8 experts"
    assert facts["versions"] == "megatron-core 0.12.3, torch 2.13.0"
    assert facts["operators"].startswith("complete")
    assert facts["matrix FLOPs of 16 ranks"] == "11,200 TFLOP a step"
    assert "Too low" not in written


def test_an_incomplete_ledger_says_so_before_any_figure() -> None:
    written = section(a_ledger(unknown_operators={"mystery": 3, "enigma": 1200}))
    warning = (
        "**Too low: the FLOPs of 2 unknown operator(s) are not counted:** enigma (1,200 calls), mystery (3 calls)."
    )
    assert 0 < written.index(warning) < written.index("|")
    assert "INCOMPLETE" in written


def test_each_phase_is_told_and_they_add_up() -> None:
    told = rows(section(a_ledger()))
    header = ["phase", "matrix TFLOP", "vector GFLOP", "GB read", "GB written", "operator calls"]
    start = told.index(header)
    assert told[start + 2 : start + 7] == [
        ["forward", "250.0", "5.00", "12.00", "6.00", "2,000"],
        ["recompute", "50.0", "0.00", "2.00", "1.00", "1,000"],
        ["backward", "400.0", "10.00", "20.00", "10.00", "1,000"],
        ["optimizer", "0.0", "7.50", "3.00", "4.00", "1,000"],
        ["all phases", "700.0", "22.50", "37.00", "21.00", "5,000"],
    ]


def test_each_group_is_told_with_its_calls() -> None:
    told = rows(section(a_ledger()))
    start = told.index(["group", "collectives, GB", "calls", "which"])
    assert told[start + 2 : start + 4] == [
        ["tensor", "18.50", "30", "all_gather 20, reduce_scatter 10"],
        ["world", "< 0.01", "3", "all_reduce 3"],
    ]


def test_parameters_and_memory_are_a_row_a_stage() -> None:
    told = rows(section(a_ledger()))
    assert ["1", "8", "8", "1,234,567", "7,654,321", "131,072", "700.0", "5,000", "18.50"] in told
    assert ["1", "8", "60.00", "10.00", "20.00", "15.00", "14.00", "1.00", "45.00", "backward, head"] in told


def test_a_small_recipe_is_told_in_small_units() -> None:
    tiny = a_rank(costs=[cost("forward", "experts", 150_000_000, 2_000_000, 30_000, 4_000)], collectives=[])
    written = section(a_ledger(ranks=[tiny]))
    assert ["forward", "150.0", "2.000", "30.00", "4.00", "1,000"] in rows(written)
    for part in ("matrix MFLOP", "vector MFLOP", "kB read", "No collective moves anything on this rank."):
        assert part in written, part


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ([], "no experts"),
        ([0.5, 0.25, 0.25], "uneven over 3 experts: 50, 25, 25 %"),
        ([0.5, *[0.01] * 50], "uneven over 51 experts: 1 to 50 %"),
    ],
)
def test_uneven_routing_is_told(shares: list[float], words: str) -> None:
    assert ["routing", words] in rows(section(a_ledger(routing_shares=shares)))


def test_two_ranks_of_one_stage_are_told_apart() -> None:
    written = section(a_ledger(ranks=[a_rank(0), a_rank(0, rank=3, ranks_alike=1)]))
    assert "### Stage 0, rank 0\n" in written
    assert "### Stage 0, rank 3\n" in written


def test_every_plot_is_written_and_shown(tmp_path: Path) -> None:
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", section(a_ledger(), tmp_path))
    assert shown == ["ledger-1-flops.svg", "ledger-1-collectives.svg", "ledger-1-memory.svg"]
    assert {path.name for path in tmp_path.iterdir()} == set(shown)
    assert all((tmp_path / name).read_bytes().startswith(SVG) for name in shown)
    assert "![" not in section(a_ledger())


def test_the_same_ledger_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        section(a_ledger(), tmp_path / name)
    assert all(path.read_bytes() == (tmp_path / "b" / path.name).read_bytes() for path in (tmp_path / "a").iterdir())


def test_what_was_not_counted_has_no_plot(tmp_path: Path) -> None:
    written = section(a_ledger(ranks=[a_rank(costs=[], collectives=[], timeline=[])]), tmp_path)
    assert "![" not in written
    assert not list(tmp_path.iterdir())


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    label = "".join(each if each.isprintable() else " " for each in HOSTILE)  # a ledger with another is refused
    rank = a_rank(
        costs=[cost(label, name, 10**12) for name in (label, "_hidden", "", "$")],
        collectives=[collective(label, label, 1, 10**9)],
        timeline=[TimelinePoint(phase=label, component=label, bytes=GIB)],
        memory=a_rank().memory.model_copy(update={"peak_phase": label, "peak_component": label}),
    )
    ledger = a_ledger(
        recipe_name=label,
        recipe_hash=label,
        software={label: label},
        unknown_operators={label: 1},
        rationale=HOSTILE,
        ranks=[rank],
    )
    rendered = MarkdownIt("commonmark").enable("table").render(section(ledger, tmp_path))
    assert "<script" not in rendered
    assert "<h1>" not in rendered
    assert "<a " not in rendered
    assert rendered.count("<img ") == 3
    assert rendered.count("<table>") == 5


def test_far_too_much_of_everything_is_cut_short_and_said_so(tmp_path: Path) -> None:
    names = [f"name {number}" for number in range(300)]
    rank = a_rank(
        costs=[cost(name, name, 1 << 62) for name in names],
        collectives=[collective(name, "all_reduce", 1, 1 << 62) for name in names],
        timeline=[TimelinePoint(phase=name, component=name, bytes=number) for number, name in enumerate(names)],
    )
    ranks = [rank.model_copy(update={"rank": number, "stage": number}) for number in range(20)]
    written = section(a_ledger(ranks=ranks, unknown_operators=dict.fromkeys(names, 1)), tmp_path)
    assert "The first 16 ranks follow; 4 more are in the ledger." in written
    assert "The picture has room for 8 of these ranks." in written
    assert "and 260 more." in written
    assert written.count("\n\n260 more are in the ledger.") == 32
    assert "14, 15 and 4 more, standing for 160" in written
    assert len(list(tmp_path.iterdir())) == 3


def test_ledgers_follow_the_cases_of_a_report(synthetic_record, tmp_path: Path) -> None:
    ledgers = [a_ledger(), a_ledger(recipe_name="another")]
    summary = tmp_path / "summary.md"
    report = write_report([synthetic_record()], [], tmp_path / "out", ledgers=ledgers, step_summary=summary)
    written = report.read_text()
    places = [written.index(f"\n## {title}") for title in ("grok1-40b", "Cost ledger: grok1-inv", "Cost ledger: ano")]
    assert places == sorted(places)
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", written)
    assert len(shown) == len(set(shown)) == 5 + 2 * 3
    texts = {"report.md", "report.html", "report.json", "comment.md"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*texts, *shown}
    assert "## Cost ledger: another" in summary.read_text()
    assert "![" not in summary.read_text()


def test_the_command_reads_ledgers(
    synthetic_record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic_record().write(tmp_path / "record.json")
    write_ledger(tmp_path / "good.json", a_ledger())
    (tmp_path / "bad.json").write_text("{}")

    def call(*ledgers: str) -> tuple[int, str, str]:
        options = [word for name in ledgers for word in ("--ledger", tmp_path / name)]
        where = ["-o", tmp_path / "out", "--baselines", HOUSE / "baselines"]
        return command_of("reports", main, monkeypatch, capsys)(tmp_path / "record.json", *where, *options)

    code, _, errors = call("good.json", "bad.json")
    assert code == 2
    assert len(errors.splitlines()) == 1
    assert "bad.json" in errors
    assert not (tmp_path / "out").exists()
    assert call("good.json", "good.json")[0] == 0
    assert (tmp_path / "out" / "report.md").read_text().count("\n## Cost ledger: ") == 2


def test_nothing_of_it_imports_torch() -> None:
    code = "import sys, reports.__main__, reports.ledger; print({'torch', 'megatron'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
