"""Training lines of Megatron and its descendants, of torchtitan and of NeMo.

Every pattern takes time in proportion to the line, whatever the line holds: nothing in them repeats without a bound
at every place where it may begin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bench.ingest import fields as known
from bench.ingest.job import CUT, Log, Sample
from bench.ingest.values import (
    checked_seconds,
    finite_field,
    finite_number,
    parse_measure,
    parse_number,
    positive_measure,
    positive_number,
    stated,
    whole_number,
)

MIXED, TOO_LONG = "of two lines mixed up", "longer than 64 KiB"
NO_TIME = "without a time in a unit known here"
NO_NUMBER = "with a time that is no number here, such as 660,7"
# What launchers put before a line: a rank of the job or of one node, the task's number, the node's name, in any order.
_PREFIX_LENGTH = 200
_RANK = re.compile(
    r"(?:^|(?<=[\s\[(<]))(?:default|rank[-_ ]?|Rank )(\d{1,6})\b(?!:\d)"  # [rank3]: [default0]: [Rank 0 |
    r"|^\W{0,40}(\d{1,6})(?=\]?: )"  # 3: [3]:
    r"|^\[\d{1,6},(\d{1,6})\]<std"  # Open MPI
)
_NODE = re.compile(r"^([A-Za-z][\w.-]{0,60}): ")
# MindSpeed-LLM's plain trainer prints `iteration: 6 |`, the others `iteration 6/ 2000 |`.
HEAD = re.compile(r"iteration(:?)\s{1,40}(\d{1,12})\s{0,40}(?:/\s{0,40}\d{1,12}\s{0,40})?\|")
TITAN = re.compile(r"(?:^|[\s|])step:\s{0,40}(\d{1,12})\s{1,40}loss:\s{0,40}(\S{1,40})\s")
_TITAN_FIELD = re.compile(r"(?<![a-z_])([a-z_]{1,40}):\s{0,40}(\S{1,40})(?!\S)")
_REST_OF_NUMBER = re.compile(r"\s,\d{3}(?!\d)")  # another program's words are within a number
_BAR = re.compile(r"\|\s{0,40}(\d{1,12})/\d{1,12}\s{0,40}\[")
_BAR_FIELD = re.compile(r"(?<![\w ])\s{0,4}([A-Za-z_][\w ]{0,60})=([^\]\s=]{1,40}?)(?=, |\])")


def iteration_line(log: Log, text: str, head: re.Match[str], where: str, ended: bool) -> None:
    """Megatron's and NeMo's lines: `iteration 6/ 2000 | name: value | ...`."""
    skipped = log.take_skips(int(head[2]))
    is_nemo = "train_step_timing" in text
    last_is_whole = ended and (is_nemo or bool(head[1]))  # these put no bar behind the last field
    fields, fault = _fields(text[head.end() :], last_is_whole)
    printed, scale = known.time_of(fields)
    counted = whole_number(fields.get("global_step")) if is_nemo else None
    shown = int(head[2]) if counted is None else counted
    value, step = parse_measure(printed), shown - (not is_nemo)
    if not fault and _is_cut(fields, ended or is_nemo, last_is_whole or text.rstrip().endswith("|")):
        log.leave_out(CUT)
        return
    if fault or value is None or step < 0:
        _no_sample(log, fields, fault, last_is_whole or text.rstrip().endswith("|"))
        return
    if shown < log.from_step:
        return
    log.seconds_printed |= scale == 1.0 and not is_nemo
    seconds = checked_seconds(value * scale, f"{where}: a step of {printed} {'s' if scale == 1.0 else 'ms'}")
    for name in fields:
        if name not in known.KNOWN:
            log.not_known(name)
    sample = _sample(step, seconds, fields, skipped)._replace(**_place(text, printed))
    log.dates[-1].note(text[: head.start()][-_PREFIX_LENGTH:], step)
    log.add(_writer(text[: head.start()]), sample, "NeMo" if is_nemo else "Megatron", where)


def _place(text: str, printed: str | None) -> dict[str, Any]:
    """Whether a line ends with its time, and the digits of that: some may have been cut off."""
    return {"time_is_last": text.rstrip().endswith(f" {printed}"), "time_digits": sum(map(str.isdigit, printed or ""))}


def _fields(text: str, last_is_whole: bool) -> tuple[dict[str, str], str]:
    """What stands between the bars, by name, and what is wrong with it."""
    parts = text.split("|")
    if not last_is_whole:
        parts.pop()  # what no bar follows may be half a number
    fields: dict[str, str] = {}
    for part in parts:
        name, _, content = part.rpartition(":")
        name, content = name.strip(), content.strip()
        if fields.setdefault(name if "  " not in name else " ".join(name.split()), content) != content:
            return fields, MIXED
    fields.pop("", None)
    return fields, ""


def _is_cut(fields: Mapping[str, str], ended: bool, is_closed: bool) -> bool:
    """Whether a line with a time stops before its end, so that what follows the time is not known.

    Of the last line of a log that was copied while it was written half a field may be left; others lack the loss and
    all that stands behind it. A line that lacks the loss alone had one that was NaN.
    """
    if known.time_of(fields)[0] is None:
        return False
    lacks = not any(name in fields for name in (*known.LOSS, *known.BEHIND_THE_LOSS))
    return (lacks and not (ended and is_closed)) or not (ended or is_closed)


def _no_sample(log: Log, fields: Mapping[str, str], fault: str, is_ended: bool) -> None:
    """Say what is true of a line that gives no sample: half a line, two in one, or a time in another unit."""
    is_whole = is_ended and known.time_of(fields)[0] is None and len(fields) > 2
    times = [name for name in fields if "time" in name or "timing" in name]
    if is_whole and not fault:
        for name in times:
            log.not_known(name)
    if not fault and known.time_of(fields)[0] is not None:
        fault = NO_NUMBER
    log.leave_out(fault or (NO_TIME if is_whole else CUT))


def _sample(step: int, seconds: float, fields: dict[str, str], skipped: bool) -> Sample:
    # Backwards, so that the first of several names for one thing counts.
    said = {known.MEANS[name]: fields[name] for name in reversed(fields) if name in known.MEANS}
    loss, broken = finite_field(said, "loss", "loss")
    norm, broken_norm = finite_field(said, "grad norm", "grad_norm")
    rate = finite_number(said.get("learning_rate"))
    if whole_number(said.get("nan")):
        broken = "counted a NaN"
    elif loss == 0 and "lm loss" in fields:
        broken = "the loss is exactly 0, as MindSpeed-LLM prints one that is not finite"
    seen = said.get("samples_seen", "")
    # NeMo rounds a mean that is no whole number to four digits: no count, then.
    counts = "skipped samples" not in fields and seen.isdecimal()
    return Sample(
        step=step,
        seconds=seconds,
        loss=loss,
        aux_loss=finite_number(said.get("aux_loss")),
        grad_norm=norm,
        learning_rate=rate if rate is None or rate >= 0 else None,
        skipped=skipped or bool(whole_number(said.get("skipped"))),
        broken=broken or broken_norm,
        global_batch=whole_number(said.get("global_batch")) or None,
        sequence_length=whole_number(said.get("sequence_length")) or None,
        tokens_seen=whole_number(said.get("tokens_seen")),
        samples_seen=whole_number(seen) if counts else None,
        peak_bytes=known.bytes_of(fields, known.PEAK) if "peak_bytes" in said else 0,
        reserved_bytes=known.bytes_of(fields, known.RESERVED) if "reserved_bytes" in said else 0,
        tokens_per_second=positive_number(said.get("tokens_per_second")),
        job_tokens_per_second=positive_number(said.get("job_tokens_per_second")),
        samples_per_second=positive_number(said.get("samples_per_second")),
        tflops=positive_measure(said.get("tflops")),
        loss_scale=positive_number(said.get("loss_scale")),
    )


def titan_line(log: Log, text: str, found: re.Match[str], where: str, ended: bool) -> None:
    """torchtitan's line: `step: 10  loss: 7.1  memory: 12.3GiB(15.6%)  tps: 1,234  mfu: 12.3%`."""
    rest = text[found.end() :]
    fields = dict(_TITAN_FIELD.findall(rest if ended else rest.rpartition(" ")[0]))
    if _REST_OF_NUMBER.search(rest):
        log.leave_out(MIXED)
        return
    step = int(found[1]) - 1
    speed = parse_number(fields.get("tps", fields.get("wps")))
    own = parse_measure((stated(fields, known.TITAN_TIMES[2:]) or "").removesuffix("s"))
    if text[: found.start()].rstrip().endswith("validate"):
        return
    if step < 0 or (speed is None and own is None):
        has_time = any(name in fields for name in known.TITAN_TIMES)
        log.leave_out(NO_NUMBER if has_time and step >= 0 else NO_TIME if step >= 0 and "mfu" in fields else CUT)
        return
    skipped = log.take_skips(step + 1)
    if step + 1 < log.from_step:
        return
    seconds = None if own is None else checked_seconds(own, f"{where}: a step of {own:g} s")
    if seconds is None and (speed is None or not 0 < speed < 1e12):
        raise ValueError(f"{where}: {speed} tokens/s is no speed; cut that line out or give --from-step")
    for name in fields.keys() - known.TITAN:
        log.not_known(name)
    loss, broken = finite_field({"loss": found[2]}, "loss", "loss")
    norm, broken_norm = finite_field(fields, "grad norm", "grad_norm")
    memory = re.match(r"([\d.]{1,20})GiB", fields.get("memory", ""))
    # A rank without the last pipeline stage prints -1, or the sum of that over the data-parallel ranks.
    has_no_loss = loss is not None and loss < 0
    sample = Sample(
        step=step,
        seconds=seconds,
        tokens_per_second=speed,
        loss=None if has_no_loss else loss,
        has_no_loss=has_no_loss,
        grad_norm=norm,
        skipped=skipped,
        broken=broken or broken_norm,
        tflops=positive_measure(fields.get("tflops")),
        reserved_bytes=0 if memory is None else known.scaled_bytes(memory[1], 2**30),
    )._replace(**_place(text, stated(fields, known.TITAN_TIMES[2:] + known.TITAN_TIMES[:2])))
    log.dates[-1].note(text[: found.start()][-_PREFIX_LENGTH:], step)
    log.add(_writer(text[: found.start()]), sample, "torchtitan", where)


def bar_line(log: Log, text: str, where: str) -> None:
    """Lightning's progress bar of NeMo 1, which rounds to three or four digits."""
    at = text.rfind("train_step_timing in s=")  # the last one drawn
    before = text.rfind("[", 0, at)
    found = next(reversed(list(_BAR.finditer(text, max(0, before - 120), before + 1))), None) if at > 0 else None
    fields = {} if found is None else dict(_BAR_FIELD.findall(text[found.end() :]))
    printed = fields.get("train_step_timing in s")
    value = parse_measure(printed)
    if found is None or value is None or int(found[1]) < 1:
        log.leave_out(CUT if printed is None else NO_NUMBER)
        return
    skipped = log.take_skips(int(found[1]))
    if int(found[1]) < log.from_step:
        return
    seconds = checked_seconds(value, f"{where}: a step of {printed} s")
    for name in fields.keys() - known.BAR:
        log.not_known(name)
    # Counts are rounded too: they are not held against anything.
    kept = {name: value for name, value in fields.items() if name not in known.SAMPLES_SEEN + known.TOKENS_SEEN}
    log.dates[-1].note(text[: found.start()][-_PREFIX_LENGTH:], int(found[1]) - 1)
    log.add(_writer(text), _sample(int(found[1]) - 1, seconds, kept, skipped), "NeMo's progress bar", where)


def _writer(prefix: str) -> str:
    """Who wrote a line, from what stands before it: `[rank3]` of one node is another one than that of the next."""
    if prefix.isspace():
        return ""
    prefix = prefix[:_PREFIX_LENGTH]
    ranks = [next(filter(None, found.groups())) for found in _RANK.finditer(prefix)]
    node = _NODE.match(prefix) if ranks else None
    return " ".join(([node[1]] if node else []) + ranks)
