"""megatron's sample index on disk: where it is kept, under which name, and whether it is whole. No torch.

An index says which tokens make up which sample, in which order. It is three arrays (megatron's GPTDataset) in a folder
of their own. The folder's name depends on the content of the corpus, so text that was preprocessed again gets an index
of its own. `seal.json`, written last, holds the size and SHA-256 of each file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import platformdirs

from grok1.config.recipe import Recipe
from grok1.config.refusals import reason_of
from grok1.files import name_beside, one_at_a_time, read_start, write_json

ARRAYS = ("document_index.npy", "sample_index.npy", "shuffle_index.npy")

_FORMAT = 1  # raise it when what an index holds changes; those of other formats are not used
_SEAL = "seal.json"
_SEAL_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 20
_MOST_ENTRIES = 1 << 26  # of a document or a sample index that holds more than one epoch
_LOCK_SECONDS = 600.0
_STALE_SECONDS = 86400.0  # a folder half built that long ago was left by a process that was killed
_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)  # None: numpy's, where it could write a part only

Ints = npt.NDArray[np.integer[npt.NBitBase]]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What decides an index. Not the number of steps: what a step sees must not depend on how many follow."""

    corpus: str  # its digest
    seed: int
    sequence_length: int
    split: str
    samples: int  # how many the schedule of the recipe asks for

    @property
    def name(self) -> str:
        """The name of its folder."""
        content = json.dumps([_FORMAT, asdict(self)], sort_keys=True)
        return f"index-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large an index is."""

    samples: int  # to ask of megatron, which adds those that are left of the last epoch
    bytes: int


def wanted_index(recipe: Recipe, corpus: str) -> Wanted:
    """The index that a recipe wants of the corpus with that digest."""
    training = recipe.training
    return Wanted(
        corpus=corpus,
        seed=training.seed,
        sequence_length=training.sequence_length,
        split=recipe.data.split,
        samples=training.decay_steps * training.global_batch,
    )


def index_folders(prefix: Path, index_cache: Path | None) -> list[Path]:
    """Where indexes may be kept: `index_cache` alone, or beside the corpus and, where that cannot be written, the cache
    of the user."""
    if index_cache is not None:
        return [index_cache]
    return [prefix.parent / "cache", platformdirs.user_cache_path("grok1-bench") / "index"]


def index_size(wanted: Wanted, documents: int, tokens: int) -> Size:
    """How much of it to build, from what an epoch of the training share holds.

    As many epochs as the schedule asks for. A schedule without end over a small corpus gets fewer, as many as 2^26
    entries hold: after the last sample they are read again in another order (grok1.data.order).
    """
    length = wanted.sequence_length
    needed = -(-(wanted.samples * length + 1) // tokens)
    least = -(-(length + 1) // tokens)  # epochs that fill one sample
    epochs = min(needed, max(least, _MOST_ENTRIES // max(documents, tokens // length, 1), 1))
    whole = (epochs * tokens - 1) // length
    samples = wanted.samples if epochs == needed else whole
    width = 4 if max(epochs * documents, tokens) < 1 << 31 else 8
    return Size(samples=samples, bytes=4 * epochs * documents + 2 * width * (whole + 1) + 4 * whole + 4096)


def find_index(wanted: Wanted, folders: Sequence[Path], *, reads_all: bool = False) -> Path | None:
    """The folder of a whole index, None where there is none.

    With `reads_all`, every byte is held against the seal, at 1 to 2 GB/s: for one process a node. Otherwise sizes are.
    """
    for folder in reversed(folders):  # the user's own first: it was made because the other could not be mended
        place = folder / wanted.name
        if place.is_dir() and _damage(place, reads_all) is None:
            return place
    return None


def ensure_index(wanted: Wanted, folders: Sequence[Path], size: Size, build: Callable[[Path], None]) -> Path:
    """The folder of a whole index, made by `build` (which fills the folder it is given) where there is none.

    It appears whole or not at all. Of several processes one builds and the others wait.

    Raises:
        ValueError: one line: no folder can be written, the disk is full, or a damaged index cannot be removed; names
            the path, and the bytes needed.
    """
    if found := find_index(wanted, folders, reads_all=True):
        return found
    with one_at_a_time([folder / f".{wanted.name}.lock" for folder in folders], _LOCK_SECONDS):
        _remove_damaged(wanted, folders)
        if found := find_index(wanted, folders, reads_all=True):  # made while this process waited
            return found
        return _build_somewhere(wanted, folders, size, build)


def read_index(place: Path) -> tuple[Ints, Ints, Ints]:
    """The three arrays, mapped, not read. Never unpickles."""
    try:
        documents, samples, shuffle = (np.load(place / name, mmap_mode="r", allow_pickle=False) for name in ARRAYS)
    except Exception as error:  # a damaged header fails in any way that numpy and Python's tokenizer like
        raise ValueError(f"{place} is not a whole sample index ({reason_of(error)}); remove that folder") from None
    if any(array.dtype.kind not in "iu" for array in (documents, samples, shuffle)):
        raise ValueError(f"{place} holds arrays that are not of integers; remove that folder")
    if documents.ndim != 1 or shuffle.ndim != 1 or samples.shape != (len(shuffle) + 1, 2) or not len(shuffle):
        raise ValueError(f"{place} holds arrays that do not fit together; remove that folder")
    return documents, samples, shuffle


def _damage(place: Path, reads_all: bool) -> str | None:
    """What is wrong with an index; None: nothing."""
    if not place.is_dir():
        return f"{place} is not a folder"
    try:
        files = json.loads(read_start(place / _SEAL, _SEAL_BYTES))["files"]
        sealed = {name: (int(files[name]["bytes"]), str(files[name]["sha256"])) for name in ARRAYS}
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return f"{place / _SEAL} is missing or damaged"
    for name, (size, digest) in sealed.items():
        path = place / name
        try:
            if path.stat().st_size != size or (reads_all and _sha256(path) != digest):
                return f"{path} is damaged"
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"
    return None


def _remove_damaged(wanted: Wanted, folders: Sequence[Path]) -> None:
    """So that no other rank takes it by its sizes. One that cannot be removed is passed over if a later folder can."""
    for folder in folders:
        place = folder / wanted.name
        if not os.path.lexists(place) or (damage := _damage(place, reads_all=True)) is None:
            continue
        print(f"the sample index is built anew: {damage}", file=sys.stderr, flush=True)
        try:
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink()
        except OSError as error:
            if folder == folders[-1]:
                raise ValueError(f"{damage}, and {place} cannot be removed ({error.strerror}); remove it") from error


def _build_somewhere(wanted: Wanted, folders: Sequence[Path], size: Size, build: Callable[[Path], None]) -> Path:
    refusals: list[str] = []
    for folder in folders:
        try:
            place = _build(wanted, folder, size, build)
        except OSError as error:
            if error.errno in _IS_FULL:
                raise ValueError(_no_room(folder, size, error.strerror or str(error))) from error
            refusals.append(f"{folder} cannot be written ({error.strerror})")
            continue
        if refusals:
            remark = f"the sample index is kept in {folder}: {refusals[0]}; --index-cache DIR chooses another place"
            print(remark, file=sys.stderr, flush=True)
        return place
    raise ValueError(
        f"no place for the sample index: {' and '.join(refusals)}; "
        f"give --index-cache DIR, a folder that can be written, with {size.bytes} bytes free"
    )


def _build(wanted: Wanted, folder: Path, size: Size, build: Callable[[Path], None]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder)
    place = folder / wanted.name
    partial = name_beside(place)
    partial.mkdir()
    try:
        if (free := shutil.disk_usage(folder).free) < size.bytes:
            raise ValueError(_no_room(folder, size, f"{free} are free"))
        build(partial)
        _check_written(partial, folder, size)
        _seal(partial, wanted)
        try:
            os.rename(partial, place)
        except OSError:
            if not place.is_dir() or _damage(place, reads_all=True) is not None:
                raise  # else another process has made it, on a disk without locks
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return place


def _check_written(fresh: Path, folder: Path, size: Size) -> None:
    """numpy leaves a file cut short, and says nothing, where the last bytes of its buffer find no room."""
    try:
        read_index(fresh)
    except ValueError as error:
        raise ValueError(_no_room(folder, size, "a file could not be written to its end")) from error


def _seal(fresh: Path, wanted: Wanted) -> None:
    files = {name: {"bytes": (fresh / name).stat().st_size, "sha256": _sha256(fresh / name)} for name in ARRAYS}
    write_json(fresh / _SEAL, {"format": _FORMAT, "index of": asdict(wanted), "files": files})


def _remove_stale(folder: Path) -> None:
    for left in folder.glob(".index-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _no_room(folder: Path, size: Size, reason: str) -> str:
    return (
        f"the sample index needs {size.bytes} bytes in {folder}: {reason}; "
        "free some space, or give --index-cache DIR on another disk"
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
