"""`python -m bench ledger`: count, compare and store the exact cost of a step."""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.ledger import store as ledger_store
from bench.ledger import text as ledger_text
from bench.ledger.comparison import comparison, write_comparison
from bench.ledger.schema import Ledger, read_ledger, write_ledger
from bench.records.terminal import plain
from grok1.cli.json_option import Json
from grok1.cli.outputs import Filled
from grok1.config.load import build_recipe, load_recipe
from grok1.config.memory import SHOWN_GIB
from grok1.config.recipe import Recipe
from grok1.config.refusals import quoted

_NEXT_KEY = re.compile(r",(?=[a-z]+\.)")  # a comma before the next section.key, not one inside a list


def own_files(values: Mapping[str, Any]) -> Iterator[Filled]:
    """The stored ledgers, which --check reads and --update writes."""
    if values["check"] or values["update"]:
        name = load_recipe(values["recipe"], values["overrides"] or []).name
        for folder in ledger_store.folders(values["baselines"]):
            yield Filled("the stored ledgers of", folder, (f"{name}.json",))


def ledger(
    recipe: Annotated[str, typer.Option(help="A shipped recipe (see `grok1 recipes`) or a .toml file.")] = "grok1-40b",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one recipe value. Repeatable."),
    ] = None,
    ranks: Annotated[
        str, typer.Option(help="Which ranks: stages (the first rank of each), all, or numbers such as 0,15.")
    ] = "stages",
    routing: Annotated[
        str | None,
        typer.Option(help="Each expert's share of the (token, expert) pairs, such as 0.3,0.1,...; default: equal."),
    ] = None,
    json_path: Json = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with the stored ledger; exit 1 if anything differs.")
    ] = False,
    update: Annotated[bool, typer.Option("--update", help="Store this ledger; needs --rationale.")] = False,
    rationale: Annotated[str, typer.Option(help="Why the cost changed; kept in the stored ledger.")] = "",
    memory_gib: Annotated[
        float, typer.Option(help="Memory that a rank's device shows; an Ascend of 64 GB shows 60.96 to 61.27.", min=0.0)
    ] = SHOWN_GIB,
    baselines: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of stored ledgers. Default: baselines/ledger, else the shipped ones."),
    ] = None,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Compare two ledgers: each a file, a recipe, or a git revision at which to count --recipe.",
        ),
    ] = None,
    versus: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=VALUE,...",
            help="What if: the recipe beside itself so changed, such as parallel.expert=8,parallel.expert_tensor=1.",
        ),
    ] = None,
) -> None:
    """Count exactly what a step of the full-size job costs each rank, without its data or its hardware.

    The real training step runs on tensors that have shapes but no data. FLOPs, bytes, collectives, operator calls and
    memory are counted from what ran, not from a formula. There is no noise, so --check has no tolerance.
    """
    if not math.isfinite(memory_gib * 2**30):
        raise ValueError(
            f"--memory-gib {memory_gib}: a device's memory is a finite number of GiB, such as {SHOWN_GIB:g}"
        )
    _refuse_what_would_not_count(
        {
            "--diff": diff is not None,
            "--versus": versus is not None,
            "--check": check,
            "--update": update,
            "--ranks": ranks != "stages",
            "--routing": routing is not None,
            "--memory-gib": memory_gib != SHOWN_GIB,
            "--baselines": baselines is not None,
            "--rationale": bool(rationale.strip()),
        }
    )
    chosen = load_recipe(recipe, overrides or [])
    if diff is not None:
        _diff(diff, recipe, overrides or [], json_path)
        return
    if versus is not None:
        _what_if(chosen, versus, routing_shares(routing), memory_gib, json_path)
        return
    if update and not rationale.strip():
        raise ValueError("--update replaces the ledger that later changes are compared with; say why with --rationale")
    asked = _words(recipe, overrides or [], ranks, routing, baselines)
    stored = ledger_store.path_of(baselines, chosen.name)
    if check and not stored.is_file():
        add = f"python -m bench ledger --recipe {asked} --update --rationale TEXT"
        raise ValueError(f"{stored}: no ledger of {chosen.name} is stored; add it: {add}")
    counted = ledger_store.counted(chosen, _ranks(ranks, chosen), routing_shares(routing))
    if json_path is not None:
        write_ledger(json_path, counted)
    print(ledger_text.summary(counted, chosen, memory_gib))
    if update:
        print(f"wrote {plain(ledger_store.store(counted, baselines, rationale), 5000)}")
    elif check:
        _compare(counted, stored, asked)


def _words(recipe: str, overrides: list[str], ranks: str, routing: str | None, baselines: Path | None) -> str:
    """What follows --recipe on the command line that counted, as a shell takes it."""
    changes: list[tuple[str, object]] = [("--set", each) for each in overrides]
    changes += [("--ranks", ranks), ("--routing", routing), ("--baselines", baselines)]
    return shlex.join([recipe, *(f"{name}={value}" for name, value in changes if value not in (None, "stages"))])


def _refuse_what_would_not_count(given: Mapping[str, bool]) -> None:
    """Each of these asks for something, or changes what another one does: none is dropped without a word."""
    chosen = [name for name in _ASK if given[name]]
    if len(chosen) > 1:
        raise ValueError(f"{chosen[0]} and {chosen[1]} are two things to do; give one of them")
    asked = chosen[0] if chosen else ""
    for name in _ASK.get(asked, _BESIDE_COUNTING):
        if given[name]:
            said = f"counts for nothing beside {asked}" if asked else "goes with --check or --update"
            said = "says why, to --update" if name == "--rationale" else said
            raise ValueError(f"{name} {said}; leave it out")


_BESIDE_COUNTING = ("--baselines", "--rationale")
_ASK = {  # what can be asked for, and what would not count beside it
    "--diff": ("--ranks", "--routing", "--memory-gib", *_BESIDE_COUNTING),
    "--versus": ("--ranks", *_BESIDE_COUNTING),
    "--check": ("--rationale",),
    "--update": (),
}


def _diff(asked: tuple[str, str], recipe: str, overrides: list[str], json_path: Path | None) -> None:
    """Two ledgers beside each other."""
    if overrides and all(map(ledger_store.is_file, asked)):
        raise ValueError("--set changes a recipe that is counted, and --diff has two files; leave --set out")
    before, after = (ledger_store.resolve(each, recipe, overrides) for each in asked)
    if json_path is not None:
        write_comparison(json_path, comparison(before, after, (plain(asked[0], 5000), plain(asked[1], 5000))))
    print(ledger_text.as_markdown(before, after, (plain(asked[0]), plain(asked[1]))))


def _what_if(
    recipe: Recipe, changes: str, shares: list[float] | None, memory_gib: float, json_path: Path | None
) -> None:
    """The recipe's ledger beside that of the recipe with these changes."""
    given = _NEXT_KEY.split(changes)
    key, times = Counter(each.partition("=")[0].strip() for each in given).most_common(1)[0]
    if times > 1:
        raise ValueError(f"--versus {quoted(changes)} has {key} {times} times, and only one can count; give it once")
    changed = build_recipe(f"--versus {changes}", recipe.resolved(), given)
    if changed.hash() == recipe.hash():
        raise ValueError(f"--versus {quoted(changes)} changes nothing of {recipe.name}; name another value")
    before, after = ((each, ledger_store.counted(each, None, shares)) for each in (recipe, changed))
    if json_path is not None:
        fits = ledger_text.fit(before[1], recipe, memory_gib), ledger_text.fit(after[1], changed, memory_gib)
        write_comparison(json_path, comparison(before[1], after[1], (plain(recipe.name), plain(changes, 5000)), fits))
    print(ledger_text.what_if(before, after, plain(changes), memory_gib))


def _compare(counted: Ledger, path: Path, asked: str) -> None:
    complaint = ledger_text.complaint(read_ledger(path), counted, asked)
    if complaint:
        print(f"\n{complaint}")
        raise typer.Exit(1)
    print(f"\nidentical to {plain(path, 5000)}")


def _ranks(text: str, recipe: Recipe) -> list[int] | None:
    if text == "stages":
        return None
    if text == "all":
        return list(range(recipe.parallel.world_size))
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise ValueError(f"--ranks {text!r} must be stages, all, or numbers such as 0,15") from None


def routing_shares(text: str | None) -> list[float] | None:
    """What `--routing 0.3,0.1,...` says; None where it says nothing."""
    try:
        return None if text is None else [float(each) for each in text.split(",")]
    except ValueError:
        raise ValueError(f"--routing {text!r} must be numbers such as 0.3,0.1,0.1,0.1,0.1,0.1,0.1,0.1") from None
