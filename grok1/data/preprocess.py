"""Text in, megatron's indexed `.bin/.idx` out: the `grok1 preprocess` command.

The files are byte for byte those that Megatron-LM's own preprocessing writes for the same tokenizer and text. This
process reads and writes rows, in order; worker processes tokenize. Neither torch nor megatron is imported: reading
starts at once, and a process that later forks ranks has run no torch operator.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Optional

import typer

from grok1.config.refusals import printable
from grok1.data.documents import Row, count_rows, find_inputs, read_rows
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


def preprocess_command(
    inputs: Annotated[
        list[str], typer.Option("--input", help="A .parquet, .jsonl, .json or .txt file, or a quoted glob. Repeatable.")
    ],
    output_prefix: Annotated[Path, typer.Option(help="Writes PREFIX_text_document.bin and .idx.")],
    tokenizer_name_or_path: Annotated[Path, typer.Option(help="A Hugging Face folder, or a tokenizer.model file.")],
    tokenizer_type: Annotated[str, typer.Option(help="PretrainedFromHF or SentencePiece.")] = "PretrainedFromHF",
    workers: Annotated[int, typer.Option(help="Processes that tokenize.", min=1)] = 1,
    log_interval: Annotated[int, typer.Option(help="Documents between two log lines.", min=1)] = 1000,
    text_column: Annotated[str, typer.Option(help="Column or JSON key that holds the text.")] = "text",
    append_eod: Annotated[bool, typer.Option(help="End each document with the end-of-document token.")] = True,
    sample: Annotated[Optional[int], typer.Option(help="Read only the first N rows.", min=1)] = None,  # noqa: UP045
    json_path: Annotated[Optional[Path], typer.Option("--json", help="Write the counts here.")] = None,  # noqa: UP045
) -> None:
    """Turn text into the indexed tokens that `grok1 train --data` reads."""
    files = find_inputs(inputs)
    with _reporting(files, sample, log_interval) as progress:
        done = preprocess(
            files,
            output_prefix,
            tokenizer_type,  # type: ignore[arg-type]  # load_tokenizer refuses other names, in our words
            tokenizer_name_or_path,
            text_column=text_column,
            append_eod=append_eod,
            workers=workers,
            max_rows=sample,
            progress=progress,
        )
    where = printable(str(done.prefix))
    print(f"{where}.bin/.idx: {done.documents} documents, {done.tokens} tokens in {done.seconds:.1f} s")
    if json_path is not None:
        from grok1.files import write_json

        counts = {"documents": done.documents, "tokens": done.tokens, "seconds": done.seconds}
        write_json(json_path, {"schema": 1, "prefix": str(done.prefix), **counts})


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


def _reporting(files: Sequence[Path], max_rows: int | None, log_interval: int) -> AbstractContextManager[Progress]:
    """A bar on a terminal; elsewhere a log line every `log_interval` documents."""
    from rich.console import Console

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        return nullcontext(_log_lines(log_interval))
    rows = sum(map(count_rows, files))
    return _bar(console, rows if max_rows is None else min(max_rows, rows))


def _log_lines(log_interval: int) -> Progress:
    start = time.perf_counter()

    def progress(documents: int, text_bytes: int) -> None:
        if documents % log_interval == 0:
            print(_speed(documents, text_bytes, time.perf_counter() - start), file=sys.stderr, flush=True)

    return progress


@contextmanager
def _bar(console: object, total: int) -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    start = time.perf_counter()
    columns = (
        TextColumn("preprocess"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
    )
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:  # type: ignore[arg-type]
        task = bar.add_task("preprocess", total=total, speed="")

        def progress(documents: int, text_bytes: int) -> None:
            speed = _speed(documents, text_bytes, time.perf_counter() - start)
            bar.update(task, completed=documents, speed=speed.partition("(")[2].rstrip(")"))

        yield progress


def _speed(documents: int, text_bytes: int, seconds: float) -> str:
    seconds = max(seconds, 1e-9)
    rates = f"{documents / seconds:.1f} documents/s, {text_bytes / seconds / 1e6:.2f} MB/s"
    return f"processed {documents} documents ({rates})"
