"""Which text a corpus holds, and by which tokenizer: digests of every byte. A corpus's is computed once and kept.

What is remembered lies where sample indexes do, in a file that ends in `.identity.json`: the digest, with size, inode
and times of both files. The kernel sets the time of the last change (ctime), which no copying tool can put back, so
files that were written again are read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from grok1.data.indexed import indexed_path
from grok1.data.tokenizer import Tokenizer
from grok1.files import one_at_a_time, read_start, write_json

_CHUNK_BYTES = 1 << 26
_BLOCK_BYTES = 1 << 20
_MOST_THREADS = 8
_SETTLED_SECONDS = 2.0  # a file changed twice within a tick of the clock may show one time
_MEMO_BYTES = 1 << 16
_LOCK_SECONDS = 600.0  # then a process that is stuck while it reads is waited for no longer


def corpus_digest(prefix: Path, memo_folders: Sequence[Path] = ()) -> str:
    """16 hex digits over every byte of PREFIX.bin and PREFIX.idx: the same wherever the same files lie.

    Costs one reading of both files, at the speed of the disk or of SHA-256 in up to 8 threads (about 1.5 GB/s each). It
    is remembered in the first of the folders that can be written, and costs two calls of stat from then on. Of several
    processes that call this at once, one reads and the others wait for it.

    Raises:
        ValueError: a file cannot be read.
    """
    try:
        if (known := _remembered(prefix, memo_folders)) is not None:
            return known
        with one_at_a_time([_memo(prefix, folder).with_suffix(".lock") for folder in memo_folders], _LOCK_SECONDS):
            if (known := _remembered(prefix, memo_folders)) is not None:
                return known
            before = _state(prefix)
            digest = _digest(prefix)
            _remember(prefix, memo_folders, digest, before)
            return digest
    except OSError as error:
        raise ValueError(f"cannot read {prefix}.bin and .idx: {error.strerror}; check the disk") from error


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """16 hex digits over what the tokenizer's files hold: the same wherever they lie."""
    return tokenizer.unique_identifiers["sha256"][:16]


def _digest(prefix: Path) -> str:
    """A hash of the hashes of 64 MiB chunks, which threads compute side by side: hashlib lets go of the interpreter."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
        for path in _files(prefix):
            size = path.stat().st_size
            digest.update(f"{path.suffix} {size}\n".encode())
            for chunk in threads.map(lambda start, path=path: _chunk(path, start), range(0, size, _CHUNK_BYTES)):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def _chunk(path: Path, start: int) -> bytes:
    digest = hashlib.sha256()
    left = _CHUNK_BYTES
    with path.open("rb") as stream:
        stream.seek(start)
        while left and (block := stream.read(min(left, _BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
    return digest.digest()


def _files(prefix: Path) -> tuple[Path, Path]:
    return indexed_path(prefix, ".bin"), indexed_path(prefix, ".idx")


def _state(prefix: Path) -> list[list[int]]:
    """What changes when a file is written again; its device is left out, since nodes number a shared disk each."""
    return [[now.st_size, now.st_ino, now.st_mtime_ns, now.st_ctime_ns] for now in map(os.stat, _files(prefix))]


def _memo(prefix: Path, folder: Path) -> Path:
    """Named by the whole path: one folder may serve several corpora of the same name."""
    where = hashlib.sha256(os.fsencode(prefix.absolute())).hexdigest()[:8]
    return folder / f"{prefix.name}-{where}.identity.json"


def _remembered(prefix: Path, folders: Sequence[Path]) -> str | None:
    """The digest that one of the folders holds for the files as they are now; a memo that is damaged is no memo."""
    state = _state(prefix)
    for folder in folders:
        with contextlib.suppress(OSError, ValueError, RecursionError):
            memo = json.loads(read_start(_memo(prefix, folder), _MEMO_BYTES))
            digest = memo.get("digest") if isinstance(memo, dict) and memo.get("state") == state else None
            if isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{16}", digest):
                return digest
    return None


def _remember(prefix: Path, folders: Sequence[Path], digest: str, before: list[list[int]]) -> None:
    """Write the memo, if the files did not change meanwhile and are old enough that a later change must show."""
    newest = max(changed for *_, changed in before) / 1e9
    if _state(prefix) != before or not 0 <= newest < time.time() - _SETTLED_SECONDS:
        return
    for folder in folders:
        with contextlib.suppress(OSError, ValueError):  # no room, or no right to: it is read again next time
            write_json(_memo(prefix, folder), {"digest": digest, "state": before})
            return
