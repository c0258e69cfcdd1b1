"""Training lines of Megatron and its descendants, of torchtitan and of NeMo."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bench.ingest.job import Log, Sample
from bench.ingest.values import checked_seconds, finite_field, finite_number, parse_number, whole_number

_RANK = re.compile(
    r"^\W*(?:default|rank[-_ ]?|Rank |(?=\d+\]?: ))(\d{1,6})\b(?!:\d)"  # [rank3]: [default0]: [Rank 0 | 3: [3]:
    r"|^\[\d+,(\d{1,6})\]<std"  # Open MPI
)
HEAD = re.compile(r"iteration\s+(\d{1,12})\s*/\s*\d{1,12}\s*\|")
TITAN = re.compile(r"(?:^|[\s|])step:\s*(\d{1,12})\s+loss:\s*(\S+)\s+(.*)$")
_TITAN_FIELD = re.compile(r"([a-z_]+):\s*(\S+)")
_BAR = re.compile(r"\|\s*(\d{1,12})/\d{1,12}\s*\[.*?train_step_timing in s=([^,\]\s]+)(?=[,\]])")
_BAR_FIELD = re.compile(r"(reduced_train_loss|lr)=([^,\]\s]+)(?=[,\]])")
MEMORY = re.compile(r"memory \(MB\) \| allocated: .*?max allocated: ([\d.]+) (?:.*max reserved: ([\d.]+)$)?")


def bytes_of_megabytes(text: str) -> int:
    value = parse_number(text)
    return int(value * 2**20) if value is not None and 0 <= value < 1e9 else 0


def iteration_line(log: Log, text: str, head: re.Match[str], where: str, ended: bool) -> None:
    """Megatron's and NeMo's lines: `iteration 6/ 2000 | name: value | ...`."""
    parts = text[head.end() :].split("|")
    is_nemo = "train_step_timing" in text
    if not (is_nemo and ended):
        parts.pop()  # what no bar follows may be half a number
    fields: dict[str, str] = {}
    for part in parts:
        name, _, content = part.strip().rpartition(":")
        if fields.setdefault(" ".join(name.split()), content.strip()) != content.strip():
            log.unusable += 1  # two ranks wrote into one line
            return
    if is_nemo:
        printed, scale = fields.get("train_step_timing in s"), 1.0
        counted = whole_number(fields.get("global_step"))
        shown = int(head[1]) if counted is None else counted
    else:
        printed, scale, shown = fields.get("elapsed time per iteration (ms)"), 1e-3, int(head[1])
    value, step = parse_number(printed), shown - (not is_nemo)
    if value is None or step < 0:
        log.unusable += 1
        return
    if shown < log.from_step:
        return
    seconds = checked_seconds(value * scale, f"{where}: a step of {printed} {'s' if is_nemo else 'ms'}")
    log.add(_rank(text), _sample(step, seconds, fields), "NeMo" if is_nemo else "Megatron", where)


def _sample(step: int, seconds: float, fields: Mapping[str, str]) -> Sample:
    loss, broken = finite_field(fields, "loss", "lm loss", "loss", "reduced_train_loss")
    norm, broken_norm = finite_field(fields, "grad norm", "grad norm")
    aux = next((value for name, value in fields.items() if "balancing" in name or "aux_loss" in name), None)
    rate = finite_number(fields.get("learning rate", fields.get("lr")))
    tflops = finite_number(
        fields.get("throughput per GPU (TFLOP/s/GPU)", fields.get("TFLOPS_per_GPU", fields.get("TFLOPs")))
    )
    if whole_number(fields.get("number of nan iterations")):
        broken = "counted a NaN"
    return Sample(
        step=step,
        seconds=seconds,
        loss=loss,
        aux_loss=finite_number(aux),
        grad_norm=norm,
        learning_rate=rate if rate is None or rate >= 0 else None,
        skipped=bool(whole_number(fields.get("number of skipped iterations"))),
        broken=broken or broken_norm,
        global_batch=whole_number(
            fields.get("global batch size", fields.get("gloabl batch size", fields.get("global_batch_size")))
        ),
        tflops=tflops if tflops and tflops > 0 else None,
        peak_bytes=min(whole_number(fields.get("max_memory_allocated")) or 0, 2**50),
        reserved_bytes=min(whole_number(fields.get("max_memory_reserved")) or 0, 2**50),
    )


def titan_line(log: Log, text: str, found: re.Match[str], where: str, ended: bool) -> None:
    """torchtitan's line: `step: 10  loss: 7.1  memory: 12.3GiB(15.6%)  tps: 1,234  mfu: 12.3%`."""
    fields = dict(_TITAN_FIELD.findall(found[3] if ended else found[3].rpartition(" ")[0]))
    step = int(found[1]) - 1
    speed = parse_number(fields.get("tps", fields.get("wps")))
    own = parse_number(str(fields.get("elapsed_time_per_step", fields.get("step_time", ""))).removesuffix("s"))
    if "valid" in text[: found.start()] or "context: val" in text:
        return
    if step < 0 or (speed is None and own is None):
        log.unusable += 1
        return
    if step + 1 < log.from_step:
        return
    seconds = None if own is None else checked_seconds(own, f"{where}: a step of {own:g} s")
    if seconds is None and (speed is None or not 0 < speed < 1e12):
        raise ValueError(f"{where}: {speed} tokens/s is no speed; cut that line out or give --from-step")
    loss, broken = finite_field({"loss": found[2]}, "loss", "loss")
    norm, broken_norm = finite_field(fields, "grad norm", "grad_norm")
    memory = re.match(r"([\d.]+)GiB", fields.get("memory", ""))
    sample = Sample(
        step=step,
        seconds=seconds,
        tokens_per_second=speed,
        loss=loss,
        grad_norm=norm,
        broken=broken or broken_norm,
        tflops=finite_number(fields.get("tflops")) or None,
        reserved_bytes=0 if memory is None else 1024 * bytes_of_megabytes(memory[1]),
    )
    log.add(_rank(text), sample, "torchtitan", where)


def bar_line(log: Log, text: str, where: str) -> None:
    """Lightning's progress bar of NeMo 1, which rounds to three or four digits."""
    found = next(reversed(list(_BAR.finditer(text))), None)  # the last one drawn
    value = None if found is None else parse_number(found[2])
    if found is None or value is None or int(found[1]) < 1:
        log.unusable += 1
        return
    if int(found[1]) < log.from_step:
        return
    seconds = checked_seconds(value, f"{where}: a step of {found[2]} s")
    fields = dict(_BAR_FIELD.findall(found[0] + text[found.end() :]))
    log.add(_rank(text), _sample(int(found[1]) - 1, seconds, fields), "NeMo's progress bar", where)


def _rank(text: str) -> int:
    found = _RANK.match(text)
    return -1 if found is None else int(found[1] or found[2])
