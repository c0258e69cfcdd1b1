"""megatron's compiled dataset helpers (`helpers_cpp`), which a wheel holds and a git checkout lacks.

megatron builds the index of samples with them. Its own `compile_helpers` calls make, which takes whatever `python3` is
first on the path, may leave half a file, and ends the process where it fails. No torch, and megatron is not imported.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from grok1.megatron.installed import megatron_core_folder

_NAME = "helpers_cpp"
_COMPILERS = ("g++", "c++", "clang++")
_FLAGS = ("-O3", "-Wall", "-shared", "-std=c++11", "-fPIC")  # as in megatron's Makefile
_BUILD_SECONDS = 300


def build_dataset_helpers(folder: Path | None = None) -> None:
    """Build the helpers where they are missing; of several processes that call this, one builds and all wait for it.

    `folder` is megatron/core/datasets; default: that of the megatron which an import would find, and nothing is done
    where there is none.

    Raises:
        ValueError: they are missing and cannot be built; one line says why and what to do.
    """
    core = megatron_core_folder()
    folder = folder or (core / "datasets" if core else None)
    if folder is None or not folder.is_dir() or _is_built(folder):
        return
    with _one_at_a_time(folder):
        if not _is_built(folder):
            _build(folder)


def _is_built(folder: Path) -> bool:
    return any((folder / f"{_NAME}{suffix}").is_file() for suffix in EXTENSION_SUFFIXES)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder itself, which leaves no file and ends with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a disk without locks: several build, and each result is whole
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _build(folder: Path) -> None:
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise ValueError(
            f"megatron's compiled dataset helpers are missing in {folder}, and there is no C++ compiler to build them; "
            "install g++, or copy the file from a node that has it"
        )
    if not os.access(folder, os.W_OK):
        raise ValueError(
            f"megatron's compiled dataset helpers are missing in {folder}, which cannot be written; "
            "build them once as its owner (make there, with this Python), or use a checkout of your own"
        )
    print(f"building megatron's dataset helpers in {folder}", file=sys.stderr, flush=True)
    target = folder / f"{_NAME}{sysconfig.get_config_var('EXT_SUFFIX')}"
    partial = folder / f".{_NAME}.{os.getpid()}.partial"
    try:
        _compile([compiler, *_FLAGS, *_includes(), str(folder / "helpers.cpp"), "-o", str(partial)], folder)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _includes() -> list[str]:
    """Python's own headers, and pybind11's as torch brings them."""
    torch = importlib.util.find_spec("torch")
    places = list(torch.submodule_search_locations or []) if torch else []
    return [f"-I{sysconfig.get_path('include')}", *(f"-I{place}/include" for place in places)]


def _compile(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
        said = done.stderr.splitlines()
        failed = bool(done.returncode)
    except (OSError, subprocess.TimeoutExpired) as error:
        said, failed = [str(error)], True
    if failed:
        cause = next((line for line in said if "error" in line), said[-1] if said else "without a word")
        raise ValueError(
            f"megatron's compiled dataset helpers cannot be built in {folder}: {cause.strip()[:300]}; "
            "check g++ and Python's headers (python3-dev), or copy the file from a node that has it"
        )
