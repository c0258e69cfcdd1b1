"""Read logs of training jobs that others started, and make a record of them: text in, a Record out.

Understood are the training lines of Megatron-LM and what builds on it (ModelLink, MindSpeed-LLM, Primus, FlagScale),
of torchtitan, and of NeMo. Such a log holds less than a run of ours: one time a line for the whole job, often a mean
over several steps, and nothing of the host. The record says so in `source`; nothing is invented to fill it up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.ingest.facts import ARGUMENTS, SIZES
from bench.ingest.job import Log
from bench.ingest.lines import HEAD, MEMORY, TITAN, bar_line, bytes_of_megabytes, iteration_line, titan_line

MAX_LINE_BYTES = 64 * 2**10
_CHUNK = 2**20
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\[(?:\d{1,3}(?:;\d{1,3})*)?m")
_ARGUMENT = re.compile(r"\b([A-Za-z_]\w*) \.{2,} (\S.*?)\s*$")
_WORLD = re.compile(r"using world size: (\d+), data-parallel")
_PARALLEL = re.compile(r"(tensor|pipeline)-model-parallel size: (\d+)")
_VOCABULARY = re.compile(r"padded vocab \(size: \d+\) with \d+ dummy tokens \(new size: (\d+)\)")
_STARTS = re.compile(
    r"local batch size (\d+), global batch size (\d+)(?:, gradient accumulation steps \d+)?(?:, sequence length (\d+))?"
)
_CAPACITY = re.compile(r"(?:GPU|CUDA|NPU) capacity: (\S.*?)(?: \(\d+\))? with [\d.]+GiB")
_TOTAL = re.compile(r"size: ([\d,]+) total parameters")
# What a line must hold to be looked at: almost none of a long log does.
_WORTH = re.compile(
    rb"iteration|step:|step_timing|\.\. |memory \(MB\)|world size|padded vocab|batch size|capacity|total parameters"
)


def read_logs(paths: Sequence[Path], from_step: int = 0) -> Log:
    """Read the logs of one job, in the order given; a ValueError of one line names the file and the fault."""
    log = Log(from_step=from_step)
    for path in paths:
        log.names.append(path.name)
        log.starts()
        try:
            with path.open("rb") as stream:
                _read(log, path, stream)
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not log.streams:
        raise ValueError(
            f"{', '.join(map(str, paths))}: no training line of Megatron, torchtitan or NeMo in {log.lines:,} lines "
            f"({log.unusable:,} cut short or too long); docs/ingest.md shows what is understood"
        )
    for name, choices in SIZES.items():
        for argument in choices:
            text, where = log.arguments.get(argument, ("", ""))
            if re.fullmatch(r"\d{1,15}", text):
                log.state(name, int(text), where)
                break
    return log


def _read(log: Log, path: Path, stream: Any) -> None:
    for number, (raw, ended) in enumerate(_lines(stream, log), 1):
        log.lines += 1
        if _WORTH.search(raw) is None:
            continue
        text = _ANSI.sub("", raw.decode("utf-8", "replace"))
        _understand(log, text, f"{path}, line {number}", ended)


def _lines(stream: Any, log: Log) -> Iterator[tuple[bytes, bool]]:
    """Lines of bounded length, each with whether it was ended; carriage returns end a line too."""
    carry, oversized = b"", False
    while chunk := stream.read(_CHUNK):
        log.digest.update(chunk)
        *whole, last = (carry + chunk).replace(b"\r", b"\n").split(b"\n")
        for line in whole:
            if oversized or len(line) > MAX_LINE_BYTES:
                oversized = False
                log.unusable += 1
            else:
                yield line, True
        if len(last) > MAX_LINE_BYTES:
            oversized, last = True, b""
        carry = last
    if carry and not oversized:
        yield carry, False


def _understand(log: Log, text: str, where: str, ended: bool) -> None:
    if heads := list(HEAD.finditer(text)):
        iteration_line(log, text, heads[-1], where, ended)
    elif "step:" in text and (titan := TITAN.search(text)):
        titan_line(log, text, titan, where, ended)
    elif "step_timing" in text:
        bar_line(log, text, where)
    elif "memory (MB)" in text and (memory := MEMORY.search(text)):
        log.peak_bytes = max(log.peak_bytes, bytes_of_megabytes(memory[1]))
        log.reserved_bytes = max(log.reserved_bytes, bytes_of_megabytes(memory[2] or "0"))
    else:
        _fact_line(log, text, where)


def _fact_line(log: Log, text: str, where: str) -> None:
    """A line about the job as a whole."""
    if argument := _ARGUMENT.search(text):
        name, value = argument[1], argument[2][:200]
        if name in ARGUMENTS and log.arguments.setdefault(name, (value, where))[0] != value and name != "log_interval":
            raise ValueError(
                f"{where}: {name} is {value} here and {log.arguments[name][0]} before: give the logs of one job only"
            )
    elif world := _WORLD.search(text):
        log.starts()
        log.state("world_size", int(world[1]), where)
        for found in _PARALLEL.finditer(text):
            log.state(found[1], int(found[2]), where)
    elif starts := _STARTS.search(text):
        log.starts()
        for name, value in zip(("micro_batch", "global_batch", "sequence_length"), starts.groups(), strict=True):
            if value:
                log.state(name, int(value[:15]), where)
    else:
        _rarer_fact_line(log, text, where)


def _rarer_fact_line(log: Log, text: str, where: str) -> None:
    if vocabulary := _VOCABULARY.search(text):
        log.state("vocab_size", int(vocabulary[1][:15]), where)
    elif capacity := _CAPACITY.search(text):
        log.state("device_name", capacity[1][:200], where)
    elif total := _TOTAL.search(text):
        log.facts.setdefault("parameters", int(total[1].replace(",", "")[:15]))
