"""What --version says. Nothing of it is imported."""

from __future__ import annotations

import importlib.metadata
import platform

_PACKAGES = ("grok1-bench", "torch", "megatron-core")


def versions() -> str:
    """This package's version, torch's, megatron-core's and Python's, in one line."""
    return ", ".join([*map(_version, _PACKAGES), f"Python {platform.python_version()}"])


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} not installed"
