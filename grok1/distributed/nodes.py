"""The machines of a job, and what they must agree on before it starts. No torch."""

from __future__ import annotations

import functools
import importlib.metadata
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
        "recipe": f"{recipe.name} {recipe.hash()}",
        "--device": device,
        "Python": ".".join(platform.python_version_tuple()[:2]),
        **{name: _version(name) for name in _VERSIONED},
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

    `nodes` are pairs of a node's name and its terms. What a node does not know is not compared.
    """
    for key in dict.fromkeys(key for _, terms in nodes for key in terms):
        known = [(name, terms[key]) for name, terms in nodes if terms.get(key)]
        for name, value in known[1:]:
            if value != known[0][1]:
                return f"{name} has {key} {value}, {known[0][0]} has {known[0][1]}; {_REMEDIES.get(key, _SAME_COMMAND)}"
    return None
