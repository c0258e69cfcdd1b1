"""`python -m bench ab`: two revisions compared on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.commands import fresh_runs
from bench.records.jsonfile import discard
from bench.records.terminal import plain
from grok1.cli.json_option import Json
from grok1.cli.outputs import Filled
from grok1.config.refusals import printable_lines
from grok1.device.kind import chosen_kind
from reports.names import AB_PAGE

if TYPE_CHECKING:
    from bench.ab.outcome import Outcome


def own_files(values: Mapping[str, Any]) -> Iterator[Filled]:
    """The records and logs of both revisions, and the page where no other file is named for it."""
    pages = () if values["page"] is not None else (AB_PAGE,)
    yield Filled("--results", values["results"], ("base/*", "head/*", *pages))


def ab_command(
    base: Annotated[str, typer.Option(metavar="REV", help="The git revision to compare against.")],
    case: Annotated[str, typer.Option(metavar="NAME", help="The case that both revisions run.")],
    head: Annotated[
        str | None, typer.Option(metavar="REV", help="The revision under test; default: the working tree as it is.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="Runs of each revision.", min=3, max=1000)] = 5,
    confirm: Annotated[
        int, typer.Option(help="More pairs if the result is inconclusive; both stages share the 1 % error rate.", min=0)
    ] = 0,
    recipe: Annotated[str | None, typer.Option(help="Run this recipe instead of the case's own.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one recipe value. Repeatable."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps per run; default: the case's own.", min=1)] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or npu; default: what the machine has.")] = None,
    data: fresh_runs.Data = None,
    tokenizer: fresh_runs.Tokenizer = None,
    results: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the records and logs of both revisions.")
    ] = Path("results/ab"),
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the page goes; default: ab.html in the results' folder.")
    ] = None,
    json_path: Json = None,
    require_answer: Annotated[
        bool, typer.Option("--require-answer", help="Exit 1 if the result is inconclusive.")
    ] = False,
) -> None:
    """Compare two git revisions on this machine. They run in turns, so that what disturbs one disturbs the other too.

    Exit 1 if head is significantly slower, or does not learn what base learns.
    """
    from bench.ab.checkouts import RunFailedError
    from bench.ab.compare import compare, write
    from bench.ab.request import Request

    discard(json_path)
    if device is not None:
        chosen_kind(device)
    request = Request(
        base,
        head,
        case,
        pairs,
        confirm,
        recipe,
        tuple(overrides or ()),
        steps,
        device,
        results,
        more_words=fresh_runs.corpus_words(data, tokenizer),
    )
    try:
        outcome = compare(request)
    except RunFailedError as error:
        print(f"bench: {printable_lines(str(error))}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(outcome.as_markdown())
    if json_path is not None:
        write(json_path, outcome)
    _write_page(outcome, results, page)
    if code := outcome.exit_code(require_answer):
        raise typer.Exit(code)


def _write_page(outcome: Outcome, results: Path, page: Path | None) -> None:
    from reports.ab import read_pairs, write_page

    path = page or results / AB_PAGE
    write_page(outcome, read_pairs(outcome, results), path)
    print(f"page: {plain(path, 5000)}", file=sys.stderr)
