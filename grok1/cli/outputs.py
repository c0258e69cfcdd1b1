"""What a command writes is none of what it reads, and no two outputs are one file: else one of them would be lost."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from grok1.files import in_place

# Parameters of all commands by name. What is written takes one of these names, and then it is checked.
WRITTEN = frozenset(
    {"json_path", "output", "junitxml", "step_summary", "picture", "plot", "page", "store", "freeze", "target"}
)
# Folders that are written into, where that is no fault of an input that lies there.
FOLDERS = frozenset({"save", "tensorboard", "results", "profile_dir"})
_STANDARD_OUTPUT = Path("-")
_CORPUS = (".bin", ".idx")  # of a PREFIX


@dataclass(frozen=True)
class Given:
    """One path, and the words of the command line that say what it is for."""

    name: str
    path: Path
    is_written: bool
    is_folder: bool = False  # to put files into

    def __str__(self) -> str:
        return f"{self.name} {self.path}"


@dataclass(frozen=True)
class Filled:
    """Files that a command names itself: patterns (as of a shell) of their paths within a folder.

    `name` is the option or argument that gave the folder, or says what the files are.
    """

    name: str
    folder: Path
    patterns: Sequence[str]

    def holds(self, path: Path) -> bool:
        """Whether the path is that of such a file, there already or not yet."""
        real, folder = Path(os.path.realpath(path)), Path(os.path.realpath(self.folder))
        within = real.relative_to(folder).as_posix() if folder in real.parents else ""
        return bool(within) and any(fnmatchcase(within, each) for each in self.patterns)


Fills = Callable[[Mapping[str, Any]], Iterable[Filled]]  # of a command's values, by parameter


def check_outputs(
    parameters: Sequence[Any],
    values: Mapping[str, Any],
    is_kept: Callable[[Path], bool] | None,
    filled: Iterable[Filled] = (),
) -> None:
    """Refuse an output of a command that is an input, one of the files of an input folder, or another output.

    In a folder only files count of which `is_kept` says that a command reads them there. A word that is not
    declared as a path counts where it names a file, such as a recipe's. `filled` are files of the command's own naming.

    Raises:
        ValueError: one line names the output, and what else it is.
    """
    given = [each for parameter in parameters for each in _given(parameter, values.get(parameter.name))]
    unused = ("--profile-dir",) if values.get("profile") is None else ()  # it has a default
    for each in given:
        if (each.is_written or each.is_folder) and each.name not in unused and not _is_stream(each):
            _refuse_unwritable(each)
    refuse_lost(given, is_kept, filled)


def refuse_lost(
    given: Sequence[Given], is_kept: Callable[[Path], bool] | None = None, filled: Iterable[Filled] = ()
) -> None:
    """The same of these paths.

    Raises:
        ValueError: one line names the output, and what else it is.
    """
    filled = tuple(filled)
    outputs = [each for each in given if each.is_written and not _is_stream(each)]
    for index, output in enumerate(outputs):
        for other in outputs[:index]:
            if _same(output.path, other.path):
                raise ValueError(f"{other} and {output} are one file, which can hold one; give each a name of its own")
        for own in filled:
            if own.holds(output.path):
                whose = f"{own.name} {own.folder}"
                raise ValueError(f"{output} is a name that this command uses in {whose}; give the output another name")
        for read in (each for each in given if not each.is_written):
            if _same(output.path, read.path):
                mixed = "whose files would mix" if read.path.is_dir() else "which would be lost"
                raise ValueError(f"{output} is also {read}, {mixed}; give the output another name")
            if is_kept is not None and _lies_in(output.path, read.path) and is_kept(output.path):
                raise ValueError(f"{output} is a file of {read}, and would be lost; give the output another name")


def name_of(parameter: Any) -> str:
    """An option or argument, as the help has it."""
    option = str(max(parameter.opts, key=len))
    return option if option.startswith("-") else (parameter.metavar or option.upper()).strip("[].")


def _given(parameter: Any, value: Any) -> Iterator[Given]:
    """Every path of an option or argument."""
    name = name_of(parameter)
    for each in value if isinstance(value, list | tuple) else [value]:
        if isinstance(each, Path):
            is_written = parameter.name in WRITTEN
            is_folder = parameter.name in FOLDERS | {"target"} or (is_written and parameter.metavar == "DIR")
            yield Given(name, each, is_written, is_folder)
            if parameter.metavar == "PREFIX" and parameter.name == "data":
                yield from (Given(name, each.with_name(each.name + end), False) for end in _CORPUS)
        elif isinstance(each, str):
            yield from (Given(name, path, False) for path in _files_named(each))


def _files_named(word: str) -> list[Path]:
    """The files that a word names, if it is no other word: `--case base` is no file, even where one is called so."""
    try:
        if Path(word).is_file():
            return [Path(word)] if os.sep in word or Path(word).suffix else []
        return [Path(each) for each in glob.glob(word, recursive=True)] if glob.has_magic(word) else []
    except (OSError, ValueError):  # too long for a name
        return []


def _is_stream(given: Given) -> bool:
    """Standard output, a pipe, a device: nothing of it is lost."""
    return (given.path == _STANDARD_OUTPUT and given.name == "--json") or in_place(given.path)


def _refuse_unwritable(given: Given) -> None:
    """What cannot be written is refused before hours of work, not after them."""
    if given.path == _STANDARD_OUTPUT:
        raise ValueError(f"{given}: `-` is standard output for --json alone; name a file")
    path = Path(os.path.realpath(given.path))
    if given.is_folder and path.exists() and not path.is_dir():
        raise ValueError(f"{given} cannot be written: it is a file; name a folder")
    if not given.is_folder and path.is_dir():
        raise ValueError(f"{given} cannot be written: it is a folder; name a file")
    there = next(each for each in ([path] if given.is_folder else []) + list(path.parents) if each.exists())
    if not there.is_dir():
        raise ValueError(f"{given} cannot be written: {there} is a file, not a folder; choose another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{given} cannot be written: {there} is closed to this user; choose another place")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there yet
        return os.path.realpath(one) == os.path.realpath(other)


def _lies_in(path: Path, folder: Path) -> bool:
    return path.is_file() and folder.is_dir() and Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents
