"""Lines that state something of the job beside its steps: sizes, memory, skipped updates."""

from __future__ import annotations

import re
from collections.abc import Collection

from bench.ingest.fields import scaled_bytes
from bench.ingest.job import Log

_ARGUMENT = re.compile(r"(?<![\w.])([A-Za-z_]\w{0,60}) \.{2,60} (?=\S)")
# Megatron 1.0 knew one split; 0.9 to 0.12 print encoder's sizes beside the model's, and "None" runs into the next name.
_WORLD = re.compile(r"using world size: (\d{1,15})(?:, data-parallel[ -]size: (\d{1,15})| and model-parallel size: )")
_SPLITS = re.compile(
    r"(?:(?<=[\s,\]])|(?<=None))"
    r"((?:encoder-)?(?:tensor-|pipeline-|context-|sequence-)?(?:model-)?parallel) size: (\d{1,15})"
)
_NAMES = {
    "tensor-model-parallel": "tensor",
    "pipeline-model-parallel": "pipeline",
    "context-parallel": "context",
    "sequence-parallel": "context",  # DeepSpeed's Ulysses
    "model-parallel": "tensor",
}
_VOCABULARY = re.compile(r"padded vocab \(size: \d{1,15}\) with \d{1,15} dummy tokens \(new size: (\d{1,15})\)")
_STARTS = re.compile(
    r"starts at step \d{1,15}, with local batch size (\d{1,15}), global batch size (\d{1,15})"
    r"(?:, gradient accumulation steps \d{1,15})?(?:, sequence length (\d{1,15}))?"
)
_CAPACITY = re.compile(r"(?:GPU|CUDA|NPU) capacity: (\S.{0,200}?)(?: \(\d{1,3}\))? with [\d.]{1,20}GiB")
_TOTAL = re.compile(r"size: (\d[\d,]{0,20}) total parameters")
_MEMORY = {
    "max allocated: ": "peak",
    "max reserved: ": "reserved",
    "mem-max-allocated-gigabytes: ": "peak",
    "mem-max-reserved-gigabytes: ": "reserved",
}
_MEMORY_UNITS = {" memory (MB) |": 2**20, " memory (GB) |": 10**9}
_DEEPSPEED = re.compile(r"(?:(?<=[ ,])MaxMemAllocated=|(?<= )(Max_MA|Max_CA) )([\d.]{1,20}) ?GB")
_UPDATES = re.compile(r"\[Rank 0\] step=(\d{1,12}), skipped=(\d{1,12}),")


def memory_line(log: Log, text: str) -> bool:
    """Memory of Megatron's, Megatron Bridge's and DeepSpeed's own lines; whether the line is one."""
    peak = reserved = 0
    unit = next((unit for words, unit in _MEMORY_UNITS.items() if words in text), None)
    if unit is not None:
        for words, kind in _MEMORY.items():
            _, found, rest = text.partition(f"| {words}")
            amount = scaled_bytes(rest.split("|")[0].strip(), unit) if found else 0
            peak, reserved = (max(peak, amount), reserved) if kind == "peak" else (peak, max(reserved, amount))
    for which, amount_text in _DEEPSPEED.findall(text):
        amount = scaled_bytes(amount_text, 2**30)
        peak, reserved = (peak, max(reserved, amount)) if which == "Max_CA" else (max(peak, amount), reserved)
    if peak or reserved:
        log.memory(peak, reserved)
    return unit is not None or bool(peak or reserved)


def skip_line(log: Log, text: str) -> bool:
    """DeepSpeed's and apex's own words and counts of skipped updates; whether the line is one."""
    if "kipping step" in text and "overflow" in text.lower():
        log.overflowed()
        return True
    if updates := _UPDATES.search(text):
        log.counted(int(updates[1]), int(updates[2]))
        return True
    return False


def fact_line(log: Log, text: str, where: str, kept: Collection[str]) -> None:
    """A line about the job as a whole; of Megatron's arguments those in `kept`."""
    if argument := _ARGUMENT.search(text):
        name, value = argument[1], text[argument.end() :].rstrip()[:200]
        if name in kept and log.arguments.setdefault(name, (value, where))[0] != value and name != "log_interval":
            raise ValueError(
                f"{where}: {name} is {value} here and {log.arguments[name][0]} before: give the logs of one job only"
            )
    elif world := _WORLD.search(text):
        _world_line(log, text, world, where)
    elif starts := _STARTS.search(text):
        log.is_of("torchtitan", where)
        log.starts()
        for name, value in zip(("micro_batch", "global_batch", "sequence_length"), starts.groups(), strict=True):
            if value:
                log.state(name, int(value), where)
    elif vocabulary := _VOCABULARY.search(text):
        log.state("vocab_size", int(vocabulary[1]), where)
    elif capacity := _CAPACITY.search(text):
        log.state("device_name", capacity[1][:200], where)
    elif total := _TOTAL.search(text):
        log.state("parameters", int(total[1].replace(",", "")[:15]), where)


def _world_line(log: Log, text: str, world: re.Match[str], where: str) -> None:
    """Megatron's first line: the ranks, and how they are split."""
    log.starts()
    sizes = {name: int(size) for name, size in _SPLITS.findall(text)}
    for name, size in sizes.items():
        if name.startswith("encoder-") and size > 0:
            raise ValueError(f"{where}: an {name} size of {size}: a record's layout has no ranks of an encoder")
    log.state("world_size", int(world[1]), where)
    split = {_NAMES[name]: size for name, size in sizes.items() if name in _NAMES}
    for name, size in split.items():
        log.state(name, size, where)
    product = int(world[2] or 0) * split.get("tensor", 1) * split.get("pipeline", 1) * split.get("context", 1)
    if world[2] and product != int(world[1]):
        raise ValueError(
            f"{where}: the world size is {world[1]} and the printed sizes multiply to {product}: the line "
            "is damaged, or names a split that is not known here"
        )
