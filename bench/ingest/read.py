"""Read logs of training jobs that others started, and make a record of them: text in, a Record out.

Understood are the training lines of Megatron-LM and what builds on it (ModelLink, MindSpeed-LLM, Primus, FlagScale,
Megatron-DeepSpeed), of torchtitan, and of NeMo. Such a log holds less than a run of ours: one time a line for the whole
job, often a mean over several steps, and nothing of the host. The record says so in `source`; nothing is invented.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.ingest.blocks import Blocks, words_of
from bench.ingest.dates import Dates
from bench.ingest.facts import ARGUMENTS, SIZES
from bench.ingest.job import Log
from bench.ingest.lines import HEAD, TITAN, TOO_LONG, bar_line, iteration_line, titan_line
from bench.ingest.mentions import fact_line, memory_line, skip_line
from bench.ingest.values import printable

# A longer line holds no training line: the longest known has some 1,500 characters after its prefix.
_COLOURS = re.compile(r"\x1b\[[0-9;?]{0,40}[ -/]{0,4}[@-~]|\[(?:\d{1,3}(?:;\d{1,3}){0,9})?m")
_OTHER_FORMS = {b"\x1f\x8b": "gzip: unpack it first", b"\xff\xfe": "UTF-16: convert it with iconv",
                b"\xfe\xff": "UTF-16: convert it with iconv", b"PK\x03\x04": "zip: unpack it first",
                b"\x28\xb5\x2f\xfd": "zstd: unpack it first", b"\xfd7zXZ\x00": "xz: unpack it first"}  # fmt: skip


_EVALUATION = " loss at "  # Megatron's lines of validation and test


def read_logs(paths: Sequence[Path], from_step: int = 0, advanced: Callable[[int], None] = lambda _: None) -> Log:
    """Read the logs of one job, in the order given; a ValueError of one line names the file and the fault.

    `advanced` is told the number of bytes of every block that was read.
    """
    log = Log(from_step=from_step)
    for path in paths:
        log.names.append(printable(path.name))
        log.starts()
        log.dates.append(Dates())
        try:
            _read(log, path, advanced)
        except OSError as error:
            raise ValueError(f"{printable(str(path))}: cannot be read: {error.strerror or error}") from None
    if not log.streams:
        raise ValueError(_nothing_found(log, paths))
    for name, choices in SIZES.items():
        for argument in choices:
            text, where = log.arguments.get(argument, ("", ""))
            if re.fullmatch(r"\d{1,15}", text):
                log.state(name, int(text), where)
                break
    return log


def _nothing_found(log: Log, paths: Sequence[Path]) -> str:
    why = ", ".join(f"{count:,} {reason}" for reason, count in log.left_out.most_common())
    units = ", ".join(repr(name[:60]) for name in list(log.unknown)[:3])
    if units:
        why += f": not known here: {units}"
    steps = f" from step {log.from_step} on" if log.from_step else ""
    return (
        f"{', '.join(printable(str(path)) for path in paths)}: no training line of Megatron, torchtitan or NeMo{steps} "
        f"in {log.lines:,} lines{f' ({why})' if why else ''}; docs/ingest.md shows what is understood"
    )


def _read(log: Log, path: Path, advanced: Callable[[int], None]) -> None:
    name = printable(str(path))
    with path.open("rb") as stream:
        start = stream.read(8)
        for magic, remedy in _OTHER_FORMS.items():
            if start.startswith(magic):
                raise ValueError(f"{name}: this is no plain text but {remedy}")
        stream.seek(0)
        blocks = Blocks(stream, log.digest, advanced, lambda: words_of(log.form))
        for line in blocks.worth_a_look():
            text = line.raw.decode("utf-8", "replace")
            if "[" in text:
                text = _COLOURS.sub("", text)
            _understand(log, printable(text), f"{name}, line {line.number}", line.ended)
    log.lines += blocks.lines
    if blocks.too_long:
        log.left_out[TOO_LONG] += blocks.too_long


def _understand(log: Log, text: str, where: str, ended: bool) -> None:
    heads = list(HEAD.finditer(text)) if "iteration" in text else []
    if heads and text[: heads[-1].start()].endswith(_EVALUATION):
        return  # "validation loss at iteration 10 | lm loss value: ...": no step, and nothing of a step
    if heads:
        iteration_line(log, text, heads[-1], where, ended)
    elif "step:" in text and (titan := TITAN.search(text)):
        titan_line(log, text, titan, where, ended)
    elif "step_timing" in text:
        bar_line(log, text, where)
    elif not (memory_line(log, text) or skip_line(log, text)):
        fact_line(log, text, where, ARGUMENTS)
