"""Text in, megatron's indexed `.bin/.idx` out: what `grok1 preprocess` does.

The files are byte for byte those that Megatron-LM's own preprocessing writes for the same tokenizer and text. This
process reads and writes rows, in order; worker processes tokenize. Neither torch nor megatron is imported: reading
starts at once, and a process that later forks ranks has run no torch operator.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing.connection import Connection
from pathlib import Path

from grok1.data.documents import Row, read_rows
from grok1.data.indexed import IndexedWriter
from grok1.data.tokenizer import Tokenizer, TokenizerKind, load_tokenizer

_CHUNK = 64  # documents that a worker gets at once: enough to hide the pipe's latency, few enough to stop quickly

Progress = Callable[[int, int], None]  # (documents, bytes of text) so far


@dataclass(frozen=True, kw_only=True)
class Preprocessed:
    """What `preprocess` wrote."""

    prefix: Path  # what `--data` takes: .bin and .idx follow it
    documents: int
    tokens: int
    seconds: float


def preprocess(
    inputs: Sequence[Path],
    output_prefix: Path,
    kind: TokenizerKind,
    tokenizer_path: Path,
    *,
    text_column: str = "text",
    append_eod: bool = True,
    workers: int = 1,
    max_rows: int | None = None,
    progress: Progress = lambda documents, text_bytes: None,
) -> Preprocessed:
    """Tokenize every row of the inputs into OUTPUT_PREFIX_<column>_document.bin/.idx, whole or not at all.

    Raises:
        ValueError: one line that names the bad file, row and column, or the bad argument.
    """
    start = time.perf_counter()
    tokenizer = load_tokenizer(kind, tokenizer_path)
    prefix = output_prefix.with_name(f"{output_prefix.name}_{text_column}_document")
    rows = islice(chain.from_iterable(read_rows(path, text_column) for path in inputs), max_rows)
    documents = text_bytes = 0
    # closing: worker processes end here, not when an error's traceback is freed
    with (
        IndexedWriter(prefix, tokenizer.vocab_size) as writer,
        closing(_encode_all(rows, tokenizer, append_eod, workers)) as encoded,
    ):
        for ids, size in encoded:
            writer.add_document(ids)
            documents, text_bytes = documents + 1, text_bytes + size
            progress(documents, text_bytes)
        if not writer.tokens:
            raise ValueError(f"no text in {', '.join(map(str, inputs))}: nothing to train on")
    return Preprocessed(prefix=prefix, documents=documents, tokens=writer.tokens, seconds=time.perf_counter() - start)


def _encode(tokenizer: Tokenizer, append_eod: bool, texts: Sequence[str]) -> list[array[int]]:
    """The ids of each text. An empty text stays empty: Megatron-LM ends no document that has no tokens.

    A document that its tokenizer ends gets no second end, which Megatron-LM would append.
    """
    encoded = []
    for text in texts:
        ids = array("i", tokenizer.tokenize(text))
        if ids and append_eod and ids[-1] != tokenizer.eod:
            ids.append(tokenizer.eod)
        encoded.append(ids)
    return encoded


def _encode_all(
    rows: Iterable[Row], tokenizer: Tokenizer, append_eod: bool, workers: int
) -> Generator[tuple[array[int], int], None, None]:
    """(ids, bytes of text) of every row, in the order of the rows."""
    if workers == 1:
        for row in rows:
            yield _encode(tokenizer, append_eod, [row.text])[0], row.text_bytes
        return
    with _workers(tokenizer, append_eod, workers) as pipes:
        for chunk, encoded in _in_turn(pipes, iter(rows)):
            yield from zip(encoded, (row.text_bytes for row in chunk), strict=True)


def _in_turn(pipes: Sequence[Connection], rows: Iterator[Row]) -> Iterator[tuple[list[Row], list[array[int]]]]:
    """Chunks with their ids: dealt to the workers in turn and collected in the same turn, so they stay in order.

    A worker has one chunk at a time. So the two ends of a pipe never wait for each other with both buffers full, and
    at most one chunk for each worker is in memory here.
    """
    dealt: deque[tuple[Connection, list[Row]]] = deque()
    try:
        for pipe in pipes:
            _deal(dealt, pipe, rows)
        while dealt:
            pipe, chunk = dealt.popleft()
            encoded = pipe.recv()
            _deal(dealt, pipe, rows)  # before the caller writes, so that the worker does not wait for that
            yield chunk, encoded
    except (EOFError, ConnectionError) as error:
        raise RuntimeError("a tokenizing process died (out of memory?); try fewer --workers") from error


def _deal(dealt: deque[tuple[Connection, list[Row]]], pipe: Connection, rows: Iterator[Row]) -> None:
    if chunk := list(islice(rows, _CHUNK)):
        pipe.send([row.text for row in chunk])
        dealt.append((pipe, chunk))


@contextmanager
def _workers(tokenizer: Tokenizer, append_eod: bool, count: int) -> Iterator[list[Connection]]:
    """Pipes to that many worker processes, which end with the block, and with this process however it ends.

    Not a pool of multiprocessing's: its workers share a result pipe, and one killed while it writes hangs the rest.
    """
    context = multiprocessing.get_context("spawn")  # forking a process that has threads can deadlock
    pipes: list[Connection] = []
    processes = []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            pipes.append(ours)
            process = context.Process(target=_work, args=(theirs, tokenizer, append_eod), daemon=True)
            process.start()
            theirs.close()  # only the worker holds this end, so its death is the pipe's end
            processes.append(process)
        yield pipes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _work(pipe: Connection, tokenizer: Tokenizer, append_eod: bool) -> None:
    """A worker: ids for texts, until the parent closes the pipe or dies. The parent handles Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, ConnectionError):
        while True:
            pipe.send(_encode(tokenizer, append_eod, pipe.recv()))
