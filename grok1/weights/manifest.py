"""The checksums of a checkpoint's files, written last and read before anything is loaded. No torch.

manifest.json lists every file of one step's folder with its size and its XXH3-128 digest, and says which step, recipe,
corpus and tokenizer they belong to. XXH3 finds accidents, and reads faster than a disk does. It is no signature: who
can write the folder can write the manifest too.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grok1.config.refusals import listed, printable
from grok1.files import read_start, write_text

MANIFEST = "manifest.json"

_MAX_BYTES = 64 << 20  # a checkpoint of 16 ranks needs 4 KiB
_BLOCK_BYTES = 256 << 10  # stays in the cache between the copy and the digest
_MAX_THREADS = 4  # more wait for the disk
_SHOWN = 5  # files that a message names
_LONGEST_NAME = 200  # in a message
_MOST_OTHER_STEPS = 20  # among which a file's own is looked for
_COPY_AGAIN = "copy the checkpoint again, whole, or resume from an older step"


class FileSum(BaseModel):
    """A file's size and digest."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    bytes: int = Field(ge=0, lt=1 << 63)
    xxh3_128: str = Field(pattern=r"^[0-9a-f]{32}$")


class Manifest(BaseModel):
    """What one step's folder holds."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    schema_: int = Field(default=1, ge=1, le=1, alias="schema")
    step: int = Field(ge=0)
    recipe_hash: str = Field(max_length=64)
    corpus: str = Field(default="", max_length=128)  # its digest; empty for weights that were imported
    tokenizer: str = Field(default="", max_length=128)  # the same; empty in manifests that are older than it
    megatron: str = Field(default="", max_length=16)  # the line that wrote it; empty: 0.12, or weights of no line
    files: dict[str, FileSum] = Field(min_length=1, max_length=1 << 20)

    def text(self) -> str:
        """As it is stored, with a digest of itself."""
        return json.dumps({**self.content(), "self": _own_digest(self.content())}, indent=1) + "\n"

    def content(self) -> dict[str, object]:
        """What its own digest is over: as it was stored, with or without a tokenizer and megatron's line."""
        absent = {name for name in ("tokenizer", "megatron") if not getattr(self, name)}
        return self.model_dump(mode="json", by_alias=True, exclude=absent)

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(each.bytes for each in self.files.values())


def file_sum(path: Path) -> FileSum:
    """Read a file through; in blocks, so that its size does not matter."""
    digest, size = xxhash.xxh3_128(), 0
    block = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
            size += count
    return FileSum(bytes=size, xxh3_128=digest.hexdigest())


def file_sums(folder: Path, names: Iterable[str]) -> dict[str, FileSum]:
    """The sums of these files, several read at once."""
    ordered = sorted(names)
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
        return dict(zip(ordered, threads.map(file_sum, (folder / name for name in ordered)), strict=True))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it into the folder that it describes, as the last of its files."""
    write_text(folder / MANIFEST, manifest.text())


def read_manifest(folder: Path, step: int) -> Manifest:
    """The manifest of this step's folder.

    Raises:
        ValueError: there is none, it is damaged, or it is of another step.
    """
    path = folder / MANIFEST
    try:
        text = read_at_most(path, _MAX_BYTES)
    except FileNotFoundError:
        raise ValueError(
            f"{path} is missing, so nothing says that the checkpoint is whole; copy the checkpoint again, or, if it "
            f"was written before there were checksums, write them: `grok1 seal {shlex.quote(str(folder.parent))}`"
        ) from None
    try:
        content = json.loads(text.decode("utf-8"))
        own = content.pop("self")
        manifest = Manifest.model_validate(content)
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        manifest, own = None, ""
    if manifest is None or own != _own_digest(manifest.content()):
        raise ValueError(f"{path} is damaged; {_COPY_AGAIN}")
    if manifest.step != step:
        raise ValueError(f"{folder} holds the files of step {manifest.step}, not of step {step}; {_COPY_AGAIN}")
    return manifest


def read_at_most(path: Path, limit: int) -> bytes:
    """The start of a file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no file, or cannot be read.
    """
    try:
        return read_start(path, limit)
    except FileNotFoundError:
        raise
    except OSError as error:
        why = "is not a file" if error.errno == errno.EINVAL else f"cannot be read: {error.strerror}"
        raise ValueError(f"{path} {why}; {_COPY_AGAIN}") from None


def check_content(folder: Path, name: str, content: bytes, manifest: Manifest) -> None:
    """Compare a file that was read already with the manifest.

    Raises:
        ValueError: it is of another size or of another content.
    """
    found = FileSum(bytes=len(content), xxh3_128=xxhash.xxh3_128(content).hexdigest())
    if found != manifest.files.get(name):
        _refuse(folder, [f"{name} {_whose(found, manifest, _other_steps(folder, manifest.step))}"])


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare all files with the manifest; reads every one through.

    Raises:
        ValueError: one line that names each file that is missing, extra, cut short or changed.
    """
    there = {path.name for path in folder.iterdir()}
    extra = sorted(there - manifest.files.keys() - {MANIFEST})
    problems = [f"{name} does not belong to it" for name in extra]
    _refuse(folder, problems + _differences(folder, manifest, there))


def _differences(folder: Path, manifest: Manifest, there: Container[str]) -> list[str]:
    """What is wrong with the files. Sizes first: they cost nothing, and a file cut short need not be read."""
    problems, whole = [], []
    for name, wanted in sorted(manifest.files.items()):
        path = folder / name
        if name not in there:  # whatever else it names, it names no file of this folder
            problems.append(f"{name[:_LONGEST_NAME]} is missing")
        elif not path.is_file():
            problems.append(f"{name} is not a file")
        elif path.stat().st_size != wanted.bytes:
            problems.append(f"{name} has {path.stat().st_size} bytes in place of {wanted.bytes}")
        else:
            whole.append(name)
    if problems:
        return problems
    try:
        found = file_sums(folder, whole)
    except OSError as error:
        return [f"{Path(str(error.filename)).name} cannot be read: {error.strerror}"]
    wrong = [name for name in whole if found[name] != manifest.files[name]]
    if not wrong:
        return []
    others = _other_steps(folder, manifest.step)
    told = [f"{name} {_whose(found[name], manifest, others)}" for name in wrong[:_SHOWN]]
    return told + wrong[_SHOWN:]  # a message counts those


def _whose(found: FileSum, manifest: Manifest, others: Sequence[Manifest]) -> str:
    """Where else a content belongs that is not its file's own."""
    for name, each in manifest.files.items():
        if each == found:
            return f"holds what belongs into {name}"
    for other in others:
        if found in other.files.values():
            return f"is of step {other.step}"
    return "is not what was written: its checksum differs"


def _other_steps(folder: Path, step: int) -> list[Manifest]:
    """The manifests of the nearest other steps beside this one."""
    names = (path.parent.name.removeprefix("iter_") for path in folder.parent.glob(f"iter_*/{MANIFEST}"))
    steps = {int(name): name for name in names if name.isascii() and name.isdecimal() and len(name) < 20}
    steps.pop(step, None)
    manifests = []
    for other in sorted(steps, key=lambda each: abs(each - step))[:_MOST_OTHER_STEPS]:
        with suppress(ValueError):
            manifests.append(read_manifest(folder.with_name(f"iter_{steps[other]}"), other))
    return manifests


def _refuse(folder: Path, problems: list[str]) -> None:
    if problems:
        raise ValueError(f"checkpoint {printable(str(folder))}: {listed(problems, _SHOWN)}; {_COPY_AGAIN}")


def _own_digest(content: Mapping[str, object]) -> str:
    return xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest()
