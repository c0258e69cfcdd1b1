"""`grok1 preprocess`: its options, and what is said while it runs."""

from __future__ import annotations

import glob
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grok1.cli.json_option import Json, write_json
from grok1.cli.outputs import Filled
from grok1.config.refusals import printable
from grok1.data.documents import count_rows, find_inputs
from grok1.data.preprocess import Progress, preprocess

if TYPE_CHECKING:
    from rich.console import Console


def own_corpus(values: Mapping[str, Any]) -> Iterator[Filled]:
    """Both files of the corpus."""
    prefix = values["output_prefix"]
    names = (glob.escape(f"{prefix.name}_{values['text_column']}_document{end}") for end in (".bin", ".idx"))
    yield Filled("--output-prefix", prefix.parent, tuple(names))


def preprocess_command(
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input", metavar="FILE", help="A .parquet, .jsonl, .json or .txt file, or a quoted glob. Repeatable."
        ),
    ],
    output_prefix: Annotated[Path, typer.Option(metavar="PREFIX", help="Writes PREFIX_text_document.bin and .idx.")],
    tokenizer_name_or_path: Annotated[
        Path, typer.Option(metavar="PATH", help="A Hugging Face folder, or a tokenizer.model file.")
    ],
    tokenizer_type: Annotated[
        str, typer.Option(metavar="TYPE", help="PretrainedFromHF or SentencePiece.")
    ] = "PretrainedFromHF",
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that tokenize.", min=1)] = 1,
    log_interval: Annotated[int, typer.Option(metavar="N", help="Documents between two log lines.", min=1)] = 1000,
    text_column: Annotated[str, typer.Option(metavar="NAME", help="Column or JSON key that holds the text.")] = "text",
    append_eod: Annotated[bool, typer.Option(help="End each document with the end-of-document token.")] = True,
    sample: Annotated[int | None, typer.Option(metavar="N", help="Read only the first N rows.", min=1)] = None,
    json_path: Json = None,
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
    counts = {"documents": done.documents, "tokens": done.tokens, "seconds": done.seconds}
    write_json(json_path, {"schema": 1, "prefix": str(done.prefix), **counts})


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
def _bar(console: Console, total: int) -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    start = time.perf_counter()
    columns = (
        TextColumn("preprocess"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
    )
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("preprocess", total=total, speed="")

        def progress(documents: int, text_bytes: int) -> None:
            speed = _speed(documents, text_bytes, time.perf_counter() - start)
            bar.update(task, completed=documents, speed=speed.partition("(")[2].rstrip(")"))

        yield progress


def _speed(documents: int, text_bytes: int, seconds: float) -> str:
    seconds = max(seconds, 1e-9)
    rates = f"{documents / seconds:.1f} documents/s, {text_bytes / seconds / 1e6:.2f} MB/s"
    return f"processed {documents} documents ({rates})"
