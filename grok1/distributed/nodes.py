"""The machines of a job, and what they must agree on before it starts. No torch."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grok1.config.recipe import Recipe
from grok1.device.kind import Kind
from grok1.files import folder_digest

START_SECONDS = 300.0  # that nodes wait for each other before a run, unless told otherwise
_PACKAGE = Path(__file__).resolve().parents[1]
_VERSIONED = ("torch", "megatron-core", "torch_npu")
_REMEDIES = {
    "commit": "check out the same commit on every node",
    "code": "check out the same commit on every node",
    "data": "copy the same corpus to every node, or give --data",
    "tokenizer": "copy the same tokenizer to every node, or give --tokenizer",
    "Python": "install the same versions on every node",
    **dict.fromkeys(_VERSIONED, "install the same versions on every node"),
}
_NAMED = 4  # values of a recipe in one line
_SAME_COMMAND = "type the same command on every node, but for the node's own rank"

Terms = Mapping[str, str]  # what a node runs, by name; an empty value says that the node does not know


@dataclass(frozen=True)
class Nodes:
    """The machines of a job and which of them this is."""

    nnodes: int = 1
    node_rank: int = 0
    master_addr: str = "127.0.0.1"
    master_port: int = 29500
    nproc_per_node: int | None = None
    start_timeout_seconds: float = START_SECONDS


ONE_MACHINE = Nodes()


def common_terms(recipe: Recipe, device: Kind) -> dict[str, str]:
    """What every node of a job must have in common, whatever the job does."""
    return {
        "code": f"grok1-{code_hash()}",
        "recipe": recipe.name,
        **_values(recipe),
        "--device": device,
        "Python": ".".join(platform.python_version_tuple()[:2]),
        **{name: _version(name) for name in _VERSIONED},
    }


def _values(recipe: Recipe) -> dict[str, str]:
    """Every value of a recipe under the name by which --set changes it."""
    sections = {name: section for name, section in recipe.resolved().items() if isinstance(section, dict)}
    return {
        f"{name}.{key}": value if isinstance(value, str) and value else json.dumps(value)
        for name, section in sections.items()
        for key, value in section.items()
    }


@functools.cache
def code_hash(folder: Path = _PACKAGE) -> str:
    """A digest of this package's sources and recipes: a checkout without git has one too."""
    return folder_digest(folder, ".py", ".toml")[:12]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def disagreement(nodes: Sequence[tuple[str, Terms]]) -> str | None:
    """The first thing that two nodes do not have in common, in one line; None where there is none.

    `nodes` are pairs of a node's name and its terms. What a node does not know is not compared. Of a recipe, all the
    values that these two do not have in common.
    """
    for key in dict.fromkeys(key for _, terms in nodes for key in terms):
        known = [(name, terms) for name, terms in nodes if terms.get(key)]
        for name, terms in known[1:]:
            if terms[key] != known[0][1][key]:
                return _told(key, known[0], (name, terms))
    return None


def _told(key: str, first: tuple[str, Terms], other: tuple[str, Terms]) -> str:
    keys = [key]
    if "." in key:
        keys = [each for each in first[1] if "." in each and first[1][each] != other[1].get(each, first[1][each])]
    here = " and ".join(f"{each} {other[1][each]}" for each in keys[:_NAMED])
    there = " and ".join(first[1][each] for each in keys[:_NAMED])
    more = f", and {len(keys) - _NAMED} more values differ" if len(keys) > _NAMED else ""
    return f"{other[0]} has {here}, {first[0]} has {there}{more}; {_REMEDIES.get(key, _SAME_COMMAND)}"
