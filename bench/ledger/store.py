"""Ledgers from files, from recipes and from other revisions, and where they are stored. No torch."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.git import commit_of, worktree
from bench.ledger.schema import Ledger, read_ledger, write_ledger
from bench.places import OWN_BASELINES, SOURCES, shipped
from grok1.config.load import load_recipe, recipe_names
from grok1.config.recipe import Recipe

FOLDER = shipped("baselines") / "ledger"
# stored, and checked by a test; the 314B one takes half a minute, so the benchmark run checks it
SHIPPED = (
    "grok1-nano",
    "grok1-tiny",
    "grok1-small",
    "grok1-1gpu",
    "grok1-40b-2layer",
    "grok1-40b",
    "grok1-40b-tuned",
    "grok1-60b",
    "grok1-314b",
)
_REVISION_SECONDS = 900


def counted(recipe: Recipe, ranks: Sequence[int] | None = None, shares: Sequence[float] | None = None) -> Ledger:
    """A recipe's ledger, counted now."""
    from bench.ledger.count import count  # starts processes that import torch

    return count(recipe, ranks, shares)


def folders(given: Path | None) -> list[Path]:
    """Where stored ledgers may lie: in the folder that was given, else in the current one's baselines/ or shipped."""
    return [given] if given is not None else [OWN_BASELINES / "ledger", FOLDER]


def path_of(folder: Path | None, recipe_name: str) -> Path:
    """Where the ledger of that recipe is stored; without a folder, in the current one's baselines/, else shipped."""
    if folder is not None:
        return folder / f"{recipe_name}.json"
    own = path_of(OWN_BASELINES / "ledger", recipe_name)
    return own if own.is_file() else path_of(FOLDER, recipe_name)


def store(ledger: Ledger, folder: Path | None, rationale: str) -> Path:
    """Replace the stored ledger, with the reason in it and without the timeline, which is not compared.

    Without a folder it goes to this project's, or to the current folder's where this is an installed package.

    Raises:
        ValueError: what is stored is of another line of the engine.
    """
    path = path_of(folder or (FOLDER if SOURCES else OWN_BASELINES / "ledger"), ledger.recipe_name)
    line = read_ledger(path).engine_line if path.is_file() else ledger.engine_line
    if line != ledger.engine_line:
        raise ValueError(
            f"{path} is megatron-core {line}'s, and {ledger.engine_line} is installed; store another line's elsewhere: "
            "--baselines DIR"
        )
    ranks = [rank.model_copy(update={"timeline": []}) for rank in ledger.ranks]
    write_ledger(path, ledger.model_copy(update={"ranks": ranks, "rationale": rationale.strip()}))
    return path


def resolve(what: str, recipe: str, overrides: Sequence[str]) -> Ledger:
    """A ledger named by its file, by a recipe, or by a git revision at which `recipe` is counted.

    Raises:
        ValueError: it is none of them.
    """
    if is_file(what):
        return read_ledger(Path(what))
    if what in recipe_names() or what.endswith(".toml"):
        return counted(load_recipe(what, list(overrides)))
    return _at_revision(what, recipe, overrides)


def is_file(what: str) -> bool:
    """Whether the word names a ledger's file."""
    return Path(what).suffix == ".json" and Path(what).is_file()


def _at_revision(revision: str, recipe: str, overrides: Sequence[str]) -> Ledger:
    try:
        commit_of(revision)
    except ValueError as error:
        raise ValueError(
            f"--diff {revision}: is neither a ledger's .json file, nor a recipe, nor a git revision: {error}"
        ) from None
    with worktree(revision) as tree:
        return counted_in(tree, recipe, overrides)


def counted_in(tree: Path, recipe: str, overrides: Sequence[str], python: str = sys.executable) -> Ledger:
    """A recipe's ledger, counted by the code of another checkout.

    Raises:
        ValueError: that code cannot count it, or not in time.
    """
    with tempfile.TemporaryDirectory(prefix="grok1-ledger-") as folder:
        result = Path(folder) / "ledger.json"
        command = [python, "-m", "bench", "ledger", "--recipe", recipe, "--json", str(result)]
        command += [word for override in overrides for word in ("--set", override)]
        # run in the tree, whose packages then come before the installed ones
        try:
            done = subprocess.run(
                command, cwd=tree, capture_output=True, text=True, timeout=_REVISION_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise ValueError(f"counting its ledger took longer than {_REVISION_SECONDS} s") from None
        if done.returncode or not result.is_file():
            reason = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
            raise ValueError(f"its ledger cannot be counted: {reason}")
        return read_ledger(result)
