"""Which software runs in this process: versions that the modules say themselves, commits, and digests of sources."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from grok1.device.accelerator import describe_device
from grok1.device.kind import device_kind
from grok1.files import folder_digest

_MODULES = {"megatron-core": "megatron.core", "torch-npu": "torch_npu"}  # where the name is another
_CHECKED_OUT = ("megatron-core", "mindspeed")  # run from git checkouts on NPUs
_PACKAGES = ("torch", "megatron-core", "torch-npu", "mindspeed", "numpy")
_GIT_SECONDS = 10  # for one question: no run waits longer for git
_INSTALLED = {"site-packages", "dist-packages"}  # which may lie in somebody else's checkout
UNKNOWN = "unknown"


def versions(packages: Sequence[str] = _PACKAGES, with_python: bool = True) -> dict[str, str]:
    """Versions of the software that can move the numbers; packages that are absent are left out."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))} if with_python else {}
    for package in packages:
        if version := _version(package):
            found[package.replace("-", "_")] = version
    chosen = device_kind()
    if chosen != "cpu":
        skip = ("kind", "name", "memory_bytes")
        found |= {key: str(value) for key, value in describe_device(chosen).items() if value and key not in skip}
    return found


def commits() -> dict[str, str]:
    """The commits of megatron and MindSpeed, where they run from a git checkout: "SHA", or "SHA-dirty"."""
    found: dict[str, str] = {}
    for package in _CHECKED_OUT:
        folder = _folder(_module(package))
        if folder is not None and (commit := commit_of(folder)):
            found[f"{package.replace('-', '_')}_commit"] = commit
    return found


def commit_of(folder: Path) -> str | None:
    """The commit that this folder of sources was checked out from, with "-dirty" where tracked files are changed.

    None outside a git checkout, as of an installed package; "unknown" where git is absent, slow or refuses.
    """
    if _INSTALLED & set(folder.parts) or not any((above / ".git").exists() for above in (folder, *folder.parents)):
        return None
    listed = _git(folder, "ls-files", "-z", "--", "*.py")
    if listed == "":
        return None  # copied into somebody else's checkout
    sha, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--untracked-files=no")
    if not listed or not sha or changes is None:
        return UNKNOWN
    return f"{sha}-dirty" if changes else sha


def sources(named: Sequence[str] = ("grok1", "megatron.core", "mindspeed")) -> dict[str, str]:
    """A digest of each package's Python files as they lie on this node's disk, by name; absent ones are left out."""
    return {name: folder_digest(folder, ".py") for name in named if (folder := _folder(name)) is not None}


def edited(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Which sources changed between two of their digests, in words. What was imported later may be of either."""
    return [
        f"the sources of {name} were edited while it ran; run again, and leave them as they are meanwhile"
        for name in before
        if after.get(name, before[name]) != before[name]
    ]


def node_differences(nodes: Mapping[int, Mapping[str, str]]) -> list[str]:
    """What other nodes run that the first does not, in words: `nodes` holds names and versions (or digests) by node."""
    first, *others = sorted(nodes)
    reference = nodes[first]
    return [
        f"node {node} runs another {name} than node {first}: {_short(nodes[node].get(name))}, not "
        f"{_short(reference.get(name))}; install the same on all nodes"
        for node in others
        for name in sorted({*reference, *nodes[node]})
        if nodes[node].get(name) != reference.get(name)
    ]


def _module(package: str) -> str:
    return _MODULES.get(package, package)


def _version(package: str) -> str | None:
    """What the imported module says; else the installed package's, unless another copy of the module runs."""
    module = sys.modules.get(_module(package))
    said = getattr(module, "__version__", None)
    if said:
        return str(said)
    with contextlib.suppress(metadata.PackageNotFoundError):
        installed = metadata.distribution(package)
        folder = _folder(_module(package))
        place = Path(str(installed.locate_file(_module(package).replace(".", "/"))))
        if folder is None or not place.is_dir() or place.samefile(folder):
            return installed.version
    return None


def _folder(module: str) -> Path | None:
    """Where an imported package lies."""
    paths = [Path(path) for path in getattr(sys.modules.get(module), "__path__", [])]
    return next((path for path in paths if path.is_dir()), None)


def _git(folder: Path, *question: str) -> str | None:
    # other people's checkouts are what we run, so we may ask about them; but nothing that their settings would start
    trusted = ["-c", "safe.directory=*", "-c", "core.fsmonitor=false"]
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *trusted, "-C", str(folder), *question],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.strip()


def _short(said: str | None) -> str:
    return "none" if said is None else said[:12]
