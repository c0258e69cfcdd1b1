"""No output of any command takes the place of what it reads, or of another output."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from bench.__main__ import main as bench
from bench.commands.app import app as bench_app
from bench.synthetic import build_synthetic_record
from grok1.cli import console
from grok1.cli.outputs import WRITTEN
from grok1.commands.app import app as grok1_app
from reports.__main__ import app as reports_app
from reports.__main__ import main as reports
from tests.in_process import Command, command_of

HOUSE = Path(__file__).parents[3]
RECIPE = HOUSE / "grok1" / "recipes" / "grok1-nano.toml"
LEDGER = HOUSE / "baselines" / "ledger" / "grok1-nano.json"
PROFILE = HOUSE / "bench" / "plan" / "devices" / "ascend-a2-376t.toml"
PROGRAMS: dict[str, Callable[[], object]] = {
    "grok1": lambda: console.run(grok1_app, "grok1"),  # its own entry point ends a process that was a rank at once
    "bench": bench,
    "reports": reports,
}

# Paths that are read, by name; of folders that are written into, several runs may share one.
READ = {
    *("anchor", "baselines", "candidate", "data", "expected", "file", "folder", "frozen", "ledger", "load", "logs"),
    *("oracle", "prompts_file", "published", "records", "score", "source", "tokenizer", "tokenizer_name_or_path"),
}
FOLDERS = {"index_cache", "output_prefix", "profile_dir", "results", "save", "tensorboard"}

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[[str], tuple[int, str, str]]:
    """call(line): how it ends, beside two records, a history, a recipe, a profile, other names of a file."""
    for seed in range(2):
        build_synthetic_record(steps=7, seed=seed).write(tmp_path / "records" / f"{seed}.json")
    monkeypatch.chdir(tmp_path)
    Path("one.json").write_bytes(Path("records/0.json").read_bytes())
    Path("link.json").symlink_to("one.json")
    Path("hard.json").hardlink_to("one.json")
    Path("my.toml").write_bytes(RECIPE.read_bytes())
    Path("device.toml").write_bytes(PROFILE.read_bytes())
    Path("job.log").write_text("no log at all\n")
    commands: dict[str, Command] = {
        name: command_of(name, main, monkeypatch, capsys) for name, main in PROGRAMS.items()
    }
    commands["bench"]("history", "add", "records", "--history", "history.jsonl")

    def called(line: str) -> tuple[int, str, str]:
        program, *words = shlex.split(line)
        return commands[program](*words)

    return called


def state() -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("bench gate one.json --json one.json", "--json one.json is also RECORDS one.json, which would be lost;"),
        ("bench gate one.json --json records/../one.json", "--json records/../one.json is also RECORDS one.json,"),
        ("bench gate one.json --junitxml link.json", "--junitxml link.json is also RECORDS one.json,"),
        ("bench gate link.json --json one.json", "--json one.json is also RECORDS link.json,"),
        ("bench gate one.json --json hard.json", "--json hard.json is also RECORDS one.json,"),
        ("bench gate records --json records/1.json", "--json records/1.json is a file of RECORDS records, and would"),
        ("bench gate one.json --json o --junitxml ./o", "--json o and --junitxml o are one file, which can hold one;"),
        ("bench baseline record records -o records/0.json", "--output records/0.json is a file of RECORDS records,"),
        ("bench history show --history history.jsonl --json history.jsonl", "--json history.jsonl is also --history "),
        ("bench history add one.json --history new --json new", "--json new is also --history new,"),
        ("bench history site -o records --history history.jsonl", "--output records is also --records"),
        ("bench ingest job.log --case a --output job.log", "--output job.log is also LOGS job.log,"),
        ("bench ingest job.log --case a --output o --json o", "--output o and --json o are one file,"),
        ("bench plan --device device.toml --json device.toml", "--json device.toml is also --device device.toml,"),
        ("bench plan --device device.toml --picture x.svg --json x.svg", "--picture x.svg and --json x.svg are one"),
        ("bench ledger --diff one.json my.toml --json my.toml", "--json my.toml is also --diff my.toml,"),
        ("grok1 recipes my.toml --json my.toml", "--json my.toml is also NAME my.toml,"),
        ("grok1 train --data corpus --json corpus.bin", "--json corpus.bin is also --data corpus.bin,"),
        (
            "grok1 preprocess --input *.log --output-prefix p --tokenizer-name-or-path t --json job.log",
            "also --input job",
        ),
        ("reports one.json -o out --junitxml one.json", "--junitxml one.json is also RECORDS one.json,"),
        ("reports one.json -o out --step-summary one.json", "--step-summary one.json is also RECORDS one.json,"),
        (
            "reports one.json -o d --junitxml d/report.json",
            "--junitxml d/report.json is a name that this command uses in",
        ),
        ("reports one.json -o d --junitxml ./x/../d/comment.md", "uses in --output d; give the output another name"),
        ("reports one.json -o d --step-summary d/report.md", "--step-summary d/report.md is a name that this command"),
        ("reports one.json -o d --junitxml d/plot-1-steps.svg", "--junitxml d/plot-1-steps.svg is a name that this"),
        ("bench history site -o d --history history.jsonl --json d/index.html", "uses in --output d;"),
        ("bench ab --base HEAD --case grok1-nano --results d --json d/ab.html", "uses in --results d;"),
        ("bench ab --base HEAD --case grok1-nano --results d --page d/head/x.html", "uses in --results d;"),
        ("bench ab --base HEAD --case grok1-nano --results d --page p --json p", "--page p and --json p are one file,"),
        (
            "bench ingest job.log --case a --json results/records/a-0123456789abcdef.json",
            "uses in the records' folder ",
        ),
        ("bench rank --results d --json d/records/a-0123456789abcdef.json", "uses in --results d;"),
        ("bench baseline record records --json results/baselines/cpu/a.json", "uses in the candidates' folder "),
        ("bench baseline record --json results/recorded/a.json", "uses in the runs' folder results/recorded;"),
        ("bench baseline promote one.json --rationale a --baselines d --json d/cpu/a.json", "uses in --baselines d;"),
        (
            "bench ledger --recipe grok1-nano --check --baselines d --json d/grok1-nano.json",
            "uses in the stored ledgers of d;",
        ),
        ("bench ledger --update --rationale a --json baselines/ledger/grok1-40b.json", "stored ledgers of baselines/"),
        ("grok1 train --save d --json d/latest_checkpointed_iteration.txt", "uses in --save d;"),
        ("grok1 train --tensorboard d --json d/events.out.tfevents.1", "uses in --tensorboard d;"),
        ("grok1 train --profile 1 --profile-dir d --json d/rank-0-step-1.json.gz", "uses in --profile-dir d;"),
        ("grok1 convert records d --json d/model.safetensors.index.json", "uses in TARGET d;"),
        ("grok1 seal d --json d/iter_0000001/manifest.json", "uses in FOLDER d;"),
        (
            "grok1 preprocess --input a --output-prefix d/p --tokenizer-name-or-path=t --json d/p_text_document.idx",
            "uses in --output-prefix d;",
        ),
        ("reports records -o records", "--output records is also RECORDS records, whose files would mix;"),
    ],
)
def test_an_output_that_is_an_input_or_another_output_is_refused(line: str, told: str, call: Call) -> None:
    Path("corpus.bin").touch()
    if "site" in line:
        line += " --records records"
    before = state()
    code, printed, errors = call(line)
    assert (code, printed) == (2, ""), errors
    assert told in errors
    assert errors.count("\n") == 1
    assert state() == before


def test_what_takes_no_place_is_written(call: Call) -> None:
    Path("ledger.json").write_bytes(LEDGER.read_bytes())
    for line in (
        "bench gate one.json --json /dev/null --junitxml /dev/null",
        "bench gate records --json records/verdict.json",
        "bench gate records --json records/verdict.json",  # that of before goes, as ever
        "bench gate one.json --json one --junitxml other",
        "reports one.json -o d --junitxml d/junit.xml --step-summary d/summary.md",
        "bench history site -o s --history history.jsonl --json s/index.json",
        "bench ledger --diff ledger.json ledger.json --json d/grok1-nano.json",
        "bench history show --history history.jsonl --json one --case grok1-40b",
        "grok1 recipes my.toml --json -",
    ):
        code, _, errors = call(line)
        assert code == 0, (line, errors)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("bench gate one.json --json records", "--json records cannot be written: it is a folder; name a file"),
        ("bench gate one.json --junitxml one.json/x", "--junitxml one.json/x cannot be written: "),
        ("bench gate one.json --junitxml -", "--junitxml -: `-` is standard output for --json alone; name a file"),
        ("bench history check --history history.jsonl --plot records", "--plot records cannot be written: it is a fol"),
        ("bench history site --history history.jsonl -o one.json", "--output one.json cannot be written: it is a file"),
        ("bench history site --history history.jsonl -o s --records no-such", "--records no-such: is no folder; give"),
        ("bench baseline record --case grok1-nano -o records", "--output records cannot be written: it is a folder;"),
        ("bench baseline record one.json -o out.json", "1 run: a baseline that knows its noise needs at least 5;"),
        (
            "bench baseline record --case no-such --runs 4 -o out.json",
            "'--runs': Input should be greater than or equal",
        ),
        ("bench ab --base HEAD --case grok1-nano --results one.json", "--results one.json cannot be written: it is a"),
        ("bench ab --base HEAD --case grok1-nano --page records", "--page records cannot be written: it is a folder;"),
        ("bench rank --results one.json/x", "--results one.json/x cannot be written: "),
        ("bench gate '' --json out", "RECORDS is empty, which would be the current folder; name it, as `.`"),
        ("bench gate one.json --json ''", "--json is empty, which would be the current folder;"),
        ("reports one.json -o one.json", "--output one.json cannot be written: it is a file; name a folder"),
        ("reports one.json -o ''", "--output is empty, which would be the current folder;"),
        ("reports one.json -o link.json/x", "cannot be written: "),
        (
            "reports --ledger ledger.json -o d --require-verdict",
            "--require-verdict is about records, and none is given;",
        ),
        ("reports --ledger ledger.json -o d --junitxml x", "--junitxml is about records, and none is given;"),
        ("grok1 train --save one.json", "--save one.json cannot be written: it is a file; name a folder"),
        ("grok1 train --tensorboard one.json", "--tensorboard one.json cannot be written: it is a file;"),
        ("grok1 train --profile 1 --profile-dir one.json", "--profile-dir one.json cannot be written: it is a file;"),
        ("grok1 train --json records", "--json records cannot be written: it is a folder; name a file"),
        ("grok1 convert no-such d", "no-such is not a folder; give one of safetensors files, or a checkpoint's"),
        ("grok1 convert records one.json", "TARGET one.json cannot be written: it is a file; name a folder"),
        ("grok1 recipes --set training.seed=1", "--set changes a recipe, and none is named; name one,"),
    ],
)
def test_what_cannot_be_written_or_would_count_for_nothing_is_refused_at_once(line: str, told: str, call: Call) -> None:
    Path("ledger.json").write_bytes(LEDGER.read_bytes())
    before = state()
    code, printed, errors = call(line)
    assert (code, printed) == (2, ""), errors
    assert told in errors
    assert state() == before


def test_a_folder_that_is_closed_is_refused_at_once(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the system says of it: who runs the tests may be root, to whom nothing is closed."""
    Path("closed").mkdir()
    closed = os.path.realpath("closed")
    monkeypatch.setattr(os, "access", lambda path, mode, **_: not (mode & os.W_OK and str(path) == closed))
    for line in ("bench gate one.json --json closed/x/y.json", "grok1 train --save closed"):
        code, printed, errors = call(line)
        assert (code, printed) == (2, "")
        assert f"cannot be written: {closed} is closed to this user; choose another place" in errors


@pytest.mark.parametrize("words", [("--save-interval", "3"), ("--profile-ranks", "1"), ("--profile-dir", "traces")])
def test_what_counts_for_nothing_without_another_option_is_refused(words: tuple[str, ...], call: Call) -> None:
    code, _, errors = call(f"grok1 train --recipe grok1-nano --steps 1 {' '.join(words)}")
    assert code == 2
    assert f"{words[0]} counts for nothing without --" in errors


@pytest.mark.parametrize("option", ["--collective-timeout", "--start-timeout", "--progress-timeout"])
def test_nobody_is_asked_to_wait_for_ever_by_a_number(option: str, call: Call) -> None:
    code, printed, errors = call(f"grok1 train --recipe grok1-nano {option} inf")
    assert (code, printed) == (2, "")
    assert f"Invalid value for '{option}'" in errors


def _path_parameters(command: Any) -> set[str]:
    inner = getattr(command, "commands", {}).values()
    own = {each.name for each in command.params if "Path" in repr(vars(each))}
    return own.union(*map(_path_parameters, inner))


@pytest.mark.parametrize("app", [grok1_app, bench_app, reports_app])
def test_of_every_path_is_known_whether_it_is_written(app: typer.Typer) -> None:
    """A new command's output takes a name of WRITTEN; a new name of an input stands above."""
    assert not WRITTEN & (READ | FOLDERS)
    found = _path_parameters(get_command(app))
    assert found & WRITTEN
    assert found <= WRITTEN | READ | FOLDERS
