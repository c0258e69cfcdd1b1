"""Where the files lie that come with this project: in its sources, or beside the code of an installed package.

The sources keep them where people look for them: baselines/, constraints/, tests/. A wheel holds copies of them in
bench/shipped/, whose links name what is copied (docs/decisions/0018). What a user stores goes into the current folder.
Standard library only.
"""

from __future__ import annotations

import secrets
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# None in an installed package, which stands among strangers' packages
SOURCES = ROOT if (ROOT / "pyproject.toml").is_file() and (ROOT / "baselines").is_dir() else None
RUN_BENCH = "pytest bench/ --benchmark" if SOURCES else "pytest --pyargs bench --benchmark"
OWN_BASELINES = Path("baselines")  # of the current folder

_SHIPPED = Path(__file__).resolve().parent / "shipped"
_FOLDERS = {"baselines": "baselines", "constraints": "constraints", "fixtures": "tests/grok1/fixtures"}
_READ_ONLY = ("ledger", "noise")  # below baselines/; not baselines, so a user's own folder needs no copies


def shipped(name: str) -> Path:
    """The folder of that name which came with the program: "baselines", "constraints" or "fixtures"."""
    return SOURCES / _FOLDERS[name] if SOURCES else _SHIPPED / name


def baselines() -> Path:
    """The current folder's baselines/; where there is none, the baselines that came with the program."""
    return OWN_BASELINES if OWN_BASELINES.is_dir() else shipped("baselines")


def writable_folder(folder: Path) -> Path:
    """`folder`, or its place in the current folder's baselines/ where it lies in an installed package.

    An upgrade would drop what is stored there. If there is no baselines/ yet, the shipped ones are copied first, as one
    folder is read, not two.

    Raises:
        ValueError: the copy cannot be made.
    """
    installed = shipped("baselines")
    if SOURCES is not None or not folder.is_relative_to(installed):
        return folder
    if not OWN_BASELINES.is_dir():
        _copy(installed)
    return OWN_BASELINES / folder.relative_to(installed)


def _copy(installed: Path) -> None:
    """All or nothing: another process that copies at the same time may have stored something in its copy already."""
    partial = Path(f".{OWN_BASELINES}.{secrets.token_hex(4)}.partial")
    try:
        shutil.copytree(installed, partial, ignore=shutil.ignore_patterns(*_READ_ONLY))
        partial.rename(OWN_BASELINES)
    except (OSError, shutil.Error) as error:
        if OWN_BASELINES.is_dir():
            return
        raise ValueError(f"{OWN_BASELINES}: the shipped baselines cannot be copied there: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    where = f"{OWN_BASELINES.resolve()}, where they are read from whenever this folder is the current one"
    print(f"note: the shipped baselines are copied to {where}", file=sys.stderr)
