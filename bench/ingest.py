"""Read logs of training jobs that others started, and make a record of them: text in, a Record out.

Understood are the training lines of Megatron-LM and what builds on it (ModelLink, MindSpeed-LLM, Primus, FlagScale),
of torchtitan, and of NeMo. Such a log holds less than a run of ours: one time a line for the whole job, often a mean
over several steps, and nothing of the host. The record says so in `source`; nothing is invented to fill it up.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.jsonfile import first_fault
from bench.record import MAX_STEPS, Record
from bench.stats import summarise
from grok1.config import Recipe

MAX_LINE_BYTES = 64 * 2**10
MAX_SAMPLES = 400_000  # of all ranks together
MAX_SECONDS = 1e7  # as the record's schema has it
_CHUNK = 2**20
_MAX_REASONS = 20
_SAME_COUNT = 0.005

Value = int | str
Facts = Mapping[str, Value]

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\[(?:\d{1,3}(?:;\d{1,3})*)?m")
_RANK = re.compile(
    r"^\W*(?:default|rank[-_ ]?|Rank |(?=\d+\]?: ))(\d{1,6})\b(?!:\d)"  # [rank3]: [default0]: [Rank 0 | 3: [3]:
    r"|^\[\d+,(\d{1,6})\]<std"  # Open MPI
)
_HEAD = re.compile(r"iteration\s+(\d{1,12})\s*/\s*\d{1,12}\s*\|")
_TITAN = re.compile(r"(?:^|[\s|])step:\s*(\d{1,12})\s+loss:\s*(\S+)\s+(.*)$")
_TITAN_FIELD = re.compile(r"([a-z_]+):\s*(\S+)")
_BAR = re.compile(r"\|\s*(\d{1,12})/\d{1,12}\s*\[.*?train_step_timing in s=([^,\]\s]+)(?=[,\]])")
_BAR_FIELD = re.compile(r"(reduced_train_loss|lr)=([^,\]\s]+)(?=[,\]])")
_NUMBER = re.compile(r"[-+]?(?:(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)", re.IGNORECASE)
_ARGUMENT = re.compile(r"\b([A-Za-z_]\w*) \.{2,} (\S.*?)\s*$")
_WORLD = re.compile(r"using world size: (\d+), data-parallel")
_PARALLEL = re.compile(r"(tensor|pipeline)-model-parallel size: (\d+)")
_VOCABULARY = re.compile(r"padded vocab \(size: \d+\) with \d+ dummy tokens \(new size: (\d+)\)")
_STARTS = re.compile(
    r"local batch size (\d+), global batch size (\d+)(?:, gradient accumulation steps \d+)?(?:, sequence length (\d+))?"
)
_CAPACITY = re.compile(r"(?:GPU|CUDA|NPU) capacity: (\S.*?)(?: \(\d+\))? with [\d.]+GiB")
_TOTAL = re.compile(r"size: ([\d,]+) total parameters")
_MEMORY = re.compile(r"memory \(MB\) \| allocated: .*?max allocated: ([\d.]+) (?:.*max reserved: ([\d.]+)$)?")
# What a line must hold to be looked at: almost none of a long log does.
_WORTH = re.compile(
    rb"iteration|step:|step_timing|\.\. |memory \(MB\)|world size|padded vocab|batch size|capacity|total parameters"
)

# Arguments of Megatron's dump by the names used here; the first that is stated counts.
_SIZES = {
    "world_size": ("world_size",),
    "tensor": ("tensor_model_parallel_size",),
    "pipeline": ("pipeline_model_parallel_size",),
    "expert": ("expert_model_parallel_size",),
    "expert_tensor": ("expert_tensor_parallel_size",),
    "context": ("context_parallel_size",),
    "sequence_length": ("seq_length",),
    "global_batch": ("global_batch_size",),
    "micro_batch": ("micro_batch_size",),
    "num_layers": ("num_layers",),
    "hidden_size": ("hidden_size",),
    "ffn_hidden_size": ("moe_ffn_hidden_size", "ffn_hidden_size"),
    "num_attention_heads": ("num_attention_heads",),
    "num_query_groups": ("num_query_groups",),
    "head_dim": ("kv_channels",),
    "vocab_size": ("padded_vocab_size",),
    "num_experts": ("num_experts", "num_moe_experts"),
    "experts_per_token": ("moe_router_topk",),
    "log_interval": ("log_interval",),
}
# Choices that change the speed or the size of a job. All other arguments, paths and keys among them, are not kept.
# fmt: off
_CHOICES = (
    "bf16", "fp16", "fp8", "swiglu", "group_query_attention", "untie_embeddings_and_output_weights",
    "moe_tp_extend_ep", "multi_latent_attention", "moe_layer_freq", "moe_shared_expert_intermediate_size",
    "first_k_dense_replace", "n_shared_experts", "mtp_num_layers", "sequence_parallel", "recompute_granularity",
    "recompute_method", "recompute_num_layers", "moe_token_dispatcher_type", "moe_grouped_gemm",
    "moe_expert_capacity_factor", "num_layers_per_virtual_pipeline_stage", "use_distributed_optimizer",
    "overlap_grad_reduce", "overlap_param_gather", "use_flash_attn", "transformer_impl",
)
# fmt: on
# fmt: off
_UNCOUNTED = (
    "multi_latent_attention", "moe_layer_freq", "moe_shared_expert_intermediate_size", "first_k_dense_replace",
    "n_shared_experts", "mtp_num_layers",
)
# fmt: on
_ARGUMENTS = {name for names in _SIZES.values() for name in names} | set(_CHOICES)
# fmt: off
NEEDED = (
    "world_size", "tensor", "pipeline", "expert", "expert_tensor", "nodes", "sequence_length", "global_batch",
    "micro_batch", "dtype", "device_name",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Sample:
    """One training line. Where it gives a speed instead of a time, `seconds` waits for the job's size."""

    step: int
    seconds: float | None = None
    tokens_per_second: float | None = None
    loss: float | None = None
    aux_loss: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    skipped: bool = False
    broken: str = ""
    global_batch: int | None = None
    tflops: float | None = None
    peak_bytes: int = 0
    reserved_bytes: int = 0

    @property
    def slowness(self) -> float:
        """Orders the lines that several ranks wrote about one step."""
        return self.seconds if self.seconds is not None else 1.0 / (self.tokens_per_second or 1.0)


@dataclass
class Log:
    """What was understood of the files so far."""

    from_step: int = 0
    form: str = ""
    facts: dict[str, Value] = field(default_factory=dict)
    arguments: dict[str, tuple[str, str]] = field(default_factory=dict)
    streams: dict[int, list[Sample]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    reserved_bytes: int = 0
    lines: int = 0
    unusable: int = 0
    resumes: list[int] = field(default_factory=list)
    kept: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    fresh: set[int] = field(default_factory=set)

    def state(self, name: str, value: Value, where: str) -> None:
        """Note a fact; two that differ are of two jobs."""
        if self.facts.setdefault(name, value) != value:
            raise ValueError(
                f"{where}: {name} is {value} here and {self.facts[name]} before: give the logs of one job only"
            )

    def number(self, step: int) -> int:
        """A step as the log numbers it: NeMo from 0, the others from 1."""
        return step if self.form == "NeMo" else step + 1

    def starts(self) -> None:
        """The job started or resumed here: every rank's next line may go back."""
        self.fresh = set(self.streams)

    def add(self, rank: int, sample: Sample, form: str, where: str) -> None:
        """Take one training line. Going back in steps is a resume, which replaces what it repeats."""
        if self.form not in ("", form):
            raise ValueError(f"{where}: a line of {form} in a log of {self.form}: give the logs of one job only")
        self.form = form
        stream = self.streams.setdefault(rank, [])
        resumes = rank in self.fresh
        self.fresh.discard(rank)
        if stream and sample.step == stream[-1].step and not resumes:
            # Another rank without a prefix, or a progress bar drawn again: every rank waits for the slowest.
            stream[-1] = _together([stream[-1], sample])
            return
        if stream and sample.step <= stream[-1].step:
            self.resumes.append(sample.step)
            while stream and stream[-1].step >= sample.step:
                stream.pop()
                self.kept -= 1
        stream.append(sample)
        self.kept += 1
        if len(stream) > MAX_STEPS or self.kept > MAX_SAMPLES:
            raise ValueError(f"{where}: more than {MAX_STEPS:,} steps or {MAX_SAMPLES:,} lines; give --from-step")

    def samples(self) -> list[Sample]:
        """One sample a step in increasing order: the slowest rank's where several wrote one."""
        steps: dict[int, list[Sample]] = {}
        for rank in sorted(self.streams):
            for sample in self.streams[rank]:
                steps.setdefault(sample.step, []).append(sample)
        return [_together(steps[step]) for step in sorted(steps)]


def _together(samples: list[Sample]) -> Sample:
    if len(samples) == 1:
        return samples[0]
    slowest = max(samples, key=lambda each: each.slowness)
    return replace(
        slowest,
        loss=next((each.loss for each in samples if each.loss is not None), None),
        broken=next((each.broken for each in samples if each.broken), ""),
        skipped=any(each.skipped for each in samples),
        peak_bytes=max(each.peak_bytes for each in samples),
        reserved_bytes=max(each.reserved_bytes for each in samples),
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
    for name, choices in _SIZES.items():
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
    if heads := list(_HEAD.finditer(text)):
        _iteration_line(log, text, heads[-1], where, ended)
    elif "step:" in text and (titan := _TITAN.search(text)):
        _titan_line(log, text, titan, where, ended)
    elif "step_timing" in text:
        _bar_line(log, text, where)
    elif "memory (MB)" in text and (memory := _MEMORY.search(text)):
        log.peak_bytes = max(log.peak_bytes, _megabytes(memory[1]))
        log.reserved_bytes = max(log.reserved_bytes, _megabytes(memory[2] or "0"))
    else:
        _fact_line(log, text, where)


def _megabytes(text: str) -> int:
    value = _number(text)
    return int(value * 2**20) if value is not None and 0 <= value < 1e9 else 0


def _fact_line(log: Log, text: str, where: str) -> None:
    """A line about the job as a whole."""
    if argument := _ARGUMENT.search(text):
        name, value = argument[1], argument[2][:200]
        if name in _ARGUMENTS and log.arguments.setdefault(name, (value, where))[0] != value and name != "log_interval":
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


def _iteration_line(log: Log, text: str, head: re.Match[str], where: str, ended: bool) -> None:
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
        counted = _whole(fields.get("global_step"))
        shown = int(head[1]) if counted is None else counted
    else:
        printed, scale, shown = fields.get("elapsed time per iteration (ms)"), 1e-3, int(head[1])
    value, step = _number(printed), shown - (not is_nemo)
    if value is None or step < 0:
        log.unusable += 1
        return
    if shown < log.from_step:
        return
    seconds = _checked(value * scale, f"{where}: a step of {printed} {'s' if is_nemo else 'ms'}")
    log.add(_rank(text), _sample(step, seconds, fields), "NeMo" if is_nemo else "Megatron", where)


def _sample(step: int, seconds: float, fields: Mapping[str, str]) -> Sample:
    loss, broken = _finite(fields, "loss", "lm loss", "loss", "reduced_train_loss")
    norm, broken_norm = _finite(fields, "grad norm", "grad norm")
    aux = next((value for name, value in fields.items() if "balancing" in name or "aux_loss" in name), None)
    rate = _plain(fields.get("learning rate", fields.get("lr")))
    tflops = _plain(fields.get("throughput per GPU (TFLOP/s/GPU)", fields.get("TFLOPS_per_GPU", fields.get("TFLOPs"))))
    if _whole(fields.get("number of nan iterations")):
        broken = "counted a NaN"
    return Sample(
        step=step,
        seconds=seconds,
        loss=loss,
        aux_loss=_plain(aux),
        grad_norm=norm,
        learning_rate=rate if rate is None or rate >= 0 else None,
        skipped=bool(_whole(fields.get("number of skipped iterations"))),
        broken=broken or broken_norm,
        global_batch=_whole(
            fields.get("global batch size", fields.get("gloabl batch size", fields.get("global_batch_size")))
        ),
        tflops=tflops if tflops and tflops > 0 else None,
        peak_bytes=min(_whole(fields.get("max_memory_allocated")) or 0, 2**50),
        reserved_bytes=min(_whole(fields.get("max_memory_reserved")) or 0, 2**50),
    )


def _titan_line(log: Log, text: str, found: re.Match[str], where: str, ended: bool) -> None:
    """torchtitan's line: `step: 10  loss: 7.1  memory: 12.3GiB(15.6%)  tps: 1,234  mfu: 12.3%`."""
    fields = dict(_TITAN_FIELD.findall(found[3] if ended else found[3].rpartition(" ")[0]))
    step = int(found[1]) - 1
    speed = _number(fields.get("tps", fields.get("wps")))
    own = _number(str(fields.get("elapsed_time_per_step", fields.get("step_time", ""))).removesuffix("s"))
    if "valid" in text[: found.start()] or "context: val" in text:
        return
    if step < 0 or (speed is None and own is None):
        log.unusable += 1
        return
    if step + 1 < log.from_step:
        return
    seconds = None if own is None else _checked(own, f"{where}: a step of {own:g} s")
    if seconds is None and (speed is None or not 0 < speed < 1e12):
        raise ValueError(f"{where}: {speed} tokens/s is no speed; cut that line out or give --from-step")
    loss, broken = _finite({"loss": found[2]}, "loss", "loss")
    norm, broken_norm = _finite(fields, "grad norm", "grad_norm")
    memory = re.match(r"([\d.]+)GiB", fields.get("memory", ""))
    sample = Sample(
        step=step,
        seconds=seconds,
        tokens_per_second=speed,
        loss=loss,
        grad_norm=norm,
        broken=broken or broken_norm,
        tflops=_plain(fields.get("tflops")) or None,
        reserved_bytes=0 if memory is None else 1024 * _megabytes(memory[1]),
    )
    log.add(_rank(text), sample, "torchtitan", where)


def _bar_line(log: Log, text: str, where: str) -> None:
    """Lightning's progress bar of NeMo 1, which rounds to three or four digits."""
    found = next(reversed(list(_BAR.finditer(text))), None)  # the last one drawn
    value = None if found is None else _number(found[2])
    if found is None or value is None or int(found[1]) < 1:
        log.unusable += 1
        return
    if int(found[1]) < log.from_step:
        return
    seconds = _checked(value, f"{where}: a step of {found[2]} s")
    fields = dict(_BAR_FIELD.findall(found[0] + text[found.end() :]))
    log.add(_rank(text), _sample(int(found[1]) - 1, seconds, fields), "NeMo's progress bar", where)


def _rank(text: str) -> int:
    found = _RANK.match(text)
    return -1 if found is None else int(found[1] or found[2])


def _number(text: str | None) -> float | None:
    """The number a field holds, NaN and infinities too; of `now/mean` the first; None if it holds another thing."""
    first = (text or "").split("/")[0].strip()
    return float(first.replace(",", "")) if len(first) < 40 and _NUMBER.fullmatch(first) else None


def _plain(text: str | None) -> float | None:
    value = _number(text)
    return value if value is not None and math.isfinite(value) else None


def _whole(text: str | None) -> int | None:
    value = _plain(text)
    return int(value) if value is not None and 0 <= value < 1e15 else None


def _finite(fields: Mapping[str, str], what: str, *names: str) -> tuple[float | None, str]:
    """A field's value and, where it is there but not finite, what is wrong."""
    stated = next((fields[name] for name in names if name in fields), None)
    value = _number(stated)
    if value is not None and not math.isfinite(value):
        return None, f"{what} is not finite"
    return value, ""


def _checked(seconds: float, what: str) -> float:
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(
            f"{what} is none: it takes more than 0 s, at most 1e7 s; cut that line out or give --from-step"
        )
    return seconds


# ---- from a log to a record ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Ingested:
    """A record and, in words, where each of its facts came from."""

    record: Record
    facts: Facts
    origins: dict[str, str]
    interval: int
    unusable: int


def make_record(
    log: Log, case: str, given: Facts, recipe: Recipe | None = None, software: Mapping[str, str] | None = None
) -> Ingested:
    """The record of one foreign job. `given` are the command line's facts; one that contradicts the log is refused."""
    samples = log.samples()
    _same_batch(log, samples)
    facts, origins = _settled(log, given, recipe)
    if missing := [name for name in NEEDED if name not in facts]:
        flags = ", ".join("--" + name.replace("_", "-") for name in missing)
        raise ValueError(
            f"the log does not say {', '.join(missing)}: give {flags}" + ("" if recipe else ", or --recipe")
        )
    seconds = [_seconds(sample, facts) for sample in samples]
    interval = _interval(log, samples)
    reasons = _void_reasons(samples)
    content = {
        "schema": 1,
        "id": log.digest.hexdigest()[:32],
        "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "case": case,
        "valid": not reasons,
        "void_reasons": reasons,
        "recipe": _recipe(log, facts, recipe, case),
        "layout": _layout(facts),
        "device": _device(facts),
        "software": dict(software or {}),
        "commit": {"sha": None, "dirty": None},
        "environment": {},
        "host": None,
        "work": _work(log, facts, samples, seconds, recipe, origins),
        "startup_seconds": None,
        "steps": [_step(sample) for sample in samples],
        "ranks": [_the_rank(log, samples, seconds)],
        "expert_load": [],
        "source": _source(log, interval, len(samples)),
    }
    try:
        return Ingested(Record.model_validate(content), facts, origins, interval, log.unusable)
    except ValidationError as error:
        raise ValueError(f"{', '.join(log.names)}: makes no record: {first_fault(error)}") from None


def _same_batch(log: Log, samples: Sequence[Sample]) -> None:
    for sample in samples:
        if sample.global_batch:
            known = log.facts.setdefault("global_batch", sample.global_batch)
            if known != sample.global_batch:
                number = log.number(sample.step)
                raise ValueError(
                    f"the global batch is {known} and at step {number} {sample.global_batch}: such steps cannot be "
                    f"compared; give --from-step {number} if it grows to stay, else the logs of one job only"
                )


def _settled(log: Log, given: Facts, recipe: Recipe | None) -> tuple[dict[str, Value], dict[str, str]]:
    """One value a fact, and who said it: the log, else a flag, else the recipe; they must agree."""
    _stated_in_words(log)
    facts: dict[str, Value] = dict(log.facts)
    origins = dict.fromkeys(facts, "the log")
    for who, said in (("flag", given), ("recipe", _facts_of(recipe))):
        for name, value in said.items():
            if facts.setdefault(name, value) != value:
                option = f"--{name.replace('_', '-')} {value}" if who == "flag" else f"the recipe's {name} {value}"
                remedy = "leave the flag out" if who == "flag" else "choose another --recipe, or change it with --set"
                raise ValueError(f"{option} contradicts {facts[name]} of {origins[name]}: {remedy}")
            origins.setdefault(name, f"a {who}")
    _follow(log, facts, origins)
    return facts, origins


def _stated_in_words(log: Log) -> None:
    chosen = {name: text for name, (text, _) in log.arguments.items()}
    if chosen.get("fp8", "None") not in ("None", "False"):
        raise ValueError(f"the job ran in fp8 ({chosen['fp8']}), which a record cannot say: it is not taken as bf16")
    if chosen.get("bf16") == "True" or chosen.get("fp16") == "True":
        log.facts.setdefault("dtype", "bf16" if chosen.get("bf16") == "True" else "fp16")
    elif "bf16" in chosen and "fp16" in chosen:
        log.facts.setdefault("dtype", "fp32")
    if int(log.facts.get("context", 1)) > 1:
        raise ValueError(f"context parallelism of {log.facts['context']} ways: a record's layout has no such axis")


def _follow(log: Log, facts: dict[str, Value], origins: dict[str, str]) -> None:
    """Facts that follow from others, each with the reason in its origin."""
    has_dump = "tensor_model_parallel_size" in log.arguments
    world = int(facts.get("world_size", 0))
    if world == 1 or has_dump:
        for name in ("tensor", "pipeline", "expert"):
            _assume(facts, origins, name, 1, "one rank" if world == 1 else "the arguments have no such split")
    if "tensor" in facts and log.arguments.get("moe_tp_extend_ep", ("", ""))[0] == "True":
        facts["expert"] = int(facts.get("expert", 1)) * int(facts["tensor"])
        _assume(facts, origins, "expert_tensor", 1, "moe_tp_extend_ep")
    if "tensor" in facts and (has_dump or world == 1):
        _assume(facts, origins, "expert_tensor", facts["tensor"], "Megatron's default: that of tensor")
    if 1 <= world <= 8:
        _assume(facts, origins, "nodes", 1, "assumed, as there are no more than 8 ranks")


def _assume(facts: dict[str, Value], origins: dict[str, str], name: str, value: Value, why: str) -> None:
    if name not in facts:
        facts[name] = value
        origins[name] = why


def _facts_of(recipe: Recipe | None) -> dict[str, Value]:
    if recipe is None:
        return {}
    model, parallel, training = recipe.model, recipe.parallel, recipe.training
    facts: dict[str, Value] = {
        name: getattr(parallel, name) for name in ("world_size", "tensor", "pipeline", "expert", "expert_tensor")
    }
    facts |= {name: getattr(training, name) for name in ("sequence_length", "global_batch", "micro_batch", "dtype")}
    names = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_experts", "experts_per_token")
    return facts | {name: getattr(model, name) for name in names}


def _seconds(sample: Sample, facts: Facts) -> float:
    if sample.seconds is not None:
        return sample.seconds
    tokens = int(facts["global_batch"]) * int(facts["sequence_length"])
    what = f"step {sample.step}: {sample.tokens_per_second} tokens/s a processor make a step that"
    return _checked(tokens / ((sample.tokens_per_second or math.nan) * int(facts["world_size"])), what)


def _interval(log: Log, samples: Sequence[Sample]) -> int:
    """How many steps apart the lines are: Megatron's and torchtitan's numbers are means over them."""
    gaps = Counter(later.step - earlier.step for earlier, later in zip(samples, samples[1:], strict=False))
    # Of a single line only the arguments can tell.
    return gaps.most_common(1)[0][0] if gaps else int(log.facts.get("log_interval", 1))


def _source(log: Log, interval: int, count: int) -> str:
    names = ", ".join(log.names)[:500]
    words = [f"ingested from {names} ({log.form})", "one time a line for the whole job, no rank's own"]
    if interval > 1 and log.form in ("Megatron", "torchtitan"):
        words.append(f"each of the {count} samples is a mean over about {interval} steps, so they vary less than steps")
    elif interval > 1:
        words.append(f"one of every {interval} steps was logged")
    if log.form == "torchtitan":
        words.append("times follow from the printed tokens/s, which are whole numbers")
    if log.form == "NeMo's progress bar":
        words.append("times were rounded to three or four digits")
    if log.resumes:
        first = log.number(log.resumes[0])
        words.append(f"resumed {len(log.resumes)} time(s), first at step {first}: later lines replaced earlier")
    if log.from_step:
        words.append(f"steps before {log.from_step} were left out")
    return "; ".join(words)[:1000]


def _void_reasons(samples: Sequence[Sample]) -> list[str]:
    reasons = []
    for sample in samples:
        if sample.broken:
            reasons.append(f"step {sample.step + 1}: {sample.broken}")
        elif sample.skipped:
            reasons.append(f"step {sample.step + 1}: the optimizer skipped its update")
        elif sample.loss is None:
            reasons.append(f"step {sample.step + 1}: the line has no loss, as Megatron prints a loss that is NaN")
    more = len(reasons) - _MAX_REASONS
    return reasons[:_MAX_REASONS] + ([f"{more} more steps like these"] if more > 0 else [])


def _step(sample: Sample) -> dict[str, Any]:
    names = ("step", "loss", "aux_loss", "grad_norm", "learning_rate", "skipped")
    return {name: getattr(sample, name) for name in names}


def _the_rank(log: Log, samples: Sequence[Sample], seconds: list[float]) -> dict[str, Any]:
    reserved = max(log.reserved_bytes, *(sample.reserved_bytes for sample in samples))
    return {
        "rank": 0,
        "stage": 0,
        "step_seconds": seconds,
        "phases_seconds": {},
        "communication_seconds": [],
        "communication_calls": [],
        "communication_bytes": [],
        "peak_bytes": max(log.peak_bytes, *(sample.peak_bytes for sample in samples)),
        "reserved_bytes": reserved or None,
        "host_bytes": 0,
    }


def _recipe(log: Log, facts: Facts, recipe: Recipe | None, case: str) -> dict[str, Any]:
    """The recipe named, or what the log says of the job: the same facts have the same hash."""
    if recipe is not None:
        return {"name": recipe.name, "hash": recipe.hash(), "resolved": recipe.resolved()}
    kept = {name: value for name, value in facts.items() if name not in ("device_name", "device_kind", "log_interval")}
    kept |= {name: log.arguments[name][0] for name in _CHOICES if name in log.arguments}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]
    return {"name": case, "hash": digest, "resolved": kept}


def _layout(facts: Facts) -> dict[str, Any]:
    world, nodes = int(facts["world_size"]), int(facts["nodes"])
    return {
        **{name: facts[name] for name in ("world_size", "tensor", "pipeline", "expert", "expert_tensor", "nodes")},
        "data": max(1, world // max(1, int(facts["tensor"]) * int(facts["pipeline"]))),
        "ranks_per_node": max(1, world // max(1, nodes)),
    }


def _device(facts: Facts) -> dict[str, Any]:
    name = str(facts["device_name"])
    kind = facts.get("device_kind")
    if kind is None and re.search(r"ascend|\bnpu|910", name, re.IGNORECASE):
        kind = "npu"
    if kind is None and re.search(r"nvidia|geforce|tesla|amd|instinct", name, re.IGNORECASE):
        kind = "cuda"
    if kind is None:
        raise ValueError(f"--device-name {name!r} is of no kind known here: give --device-kind npu, cuda or cpu")
    return {
        "kind": kind,
        "name": name,
        "memory_bytes": None,
        "peak_flops_per_second": None,
        "peak_source": None,
        "dtype": facts["dtype"],
    }


def _work(
    log: Log,
    facts: Facts,
    samples: Sequence[Sample],
    seconds: Sequence[float],
    recipe: Recipe | None,
    origins: dict[str, str],
) -> dict[str, Any]:
    world, batch = int(facts["world_size"]), int(facts["global_batch"])
    length, micro = int(facts["sequence_length"]), int(facts["micro_batch"])
    replicas = max(1, world // max(1, int(facts["tensor"]) * int(facts["pipeline"])))
    if micro < 1 or batch % (micro * replicas):
        raise ValueError(
            f"a global batch of {batch} is not whole micro-batches of {micro} on {replicas} data-parallel replicas"
        )
    total, active, flops = _counts(log, facts, recipe, origins)
    if flops is None:
        rates = [each.tflops * 1e12 * time * world for each, time in zip(samples, seconds, strict=True) if each.tflops]
        flops = statistics.median(rates) if rates else (6.0 * active + 0.0) * batch * length
        origins["FLOPs a step"] = "the log's own TFLOP/s" if rates else "6 FLOP an active parameter and token"
    return {
        "tokens_per_step": batch * length,
        "model_flops_per_step": flops,
        "num_micro_batches": batch // (micro * replicas),
        "sequence_length": length,
        "global_batch": batch,
        "parameters_total": total,
        "parameters_active": active,
    }


def _counts(log: Log, facts: Facts, recipe: Recipe | None, origins: dict[str, str]) -> tuple[int, int, float | None]:
    """Parameters in all and for one token, and FLOPs a step where they can be counted."""
    if recipe is not None:
        origins["parameters"] = origins["FLOPs a step"] = "counted by the recipe"
        return recipe.parameters(), recipe.active_parameters(), recipe.flops_per_step()
    counted = _counted(log, facts)
    if counted is None:
        missing = [name for name in ("parameters", "active_parameters") if name not in facts]
        if missing:
            flags = ", ".join("--" + name.replace("_", "-") for name in missing)
            raise ValueError(f"the log does not give all sizes of a model that can be counted here: give {flags}")
        return int(facts["parameters"]), int(facts["active_parameters"]), None
    for name, own in (("parameters", counted[0]), ("active_parameters", counted[1])):
        if name in facts and abs(int(facts[name]) / own - 1) > _SAME_COUNT:
            raise ValueError(f"{name} {facts[name]} of {origins[name]} contradicts {own}, counted from the log's sizes")
    origins["parameters"] = origins["FLOPs a step"] = "counted from the log's sizes"
    return counted


def _counted(log: Log, facts: Facts) -> tuple[int, int, float] | None:
    """Counts of a plain transformer, dense or all of whose layers have experts, as recipes count them."""
    needed = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "vocab_size")
    odd = any(log.arguments.get(name, ("None", ""))[0] not in ("None", "False", "0", "1") for name in _UNCOUNTED)
    if odd or any(int(facts.get(name, 0)) < 1 for name in needed):
        return None
    layers, hidden, ffn, heads, vocabulary = (int(facts[name]) for name in needed)
    chosen = {name: text for name, (text, _) in log.arguments.items()}
    query = heads * int(facts.get("head_dim", hidden // heads))
    is_grouped = chosen.get("group_query_attention") == "True"
    groups = int(facts.get("num_query_groups", heads)) if is_grouped else heads
    attention = hidden * (2 * query + 2 * (query // heads) * groups)
    expert = (3 if chosen.get("swiglu") == "True" else 2) * hidden * ffn
    experts = int(facts.get("num_experts", 0))
    active_experts = int(facts.get("experts_per_token", 2)) if experts else 1
    active = layers * (attention + active_experts * expert + hidden * experts) + vocabulary * hidden
    tables = 2 if chosen.get("untie_embeddings_and_output_weights") == "True" else 1
    total = layers * (attention + max(1, experts) * expert + hidden * experts + 2 * hidden)
    total += tables * vocabulary * hidden + hidden
    length = int(facts["sequence_length"])
    flops = 6.0 * (active + layers * query * length) * length * int(facts["global_batch"])
    return max(total, active), active, flops


def key_values(pairs: Sequence[str]) -> dict[str, str]:
    """`--software torch=2.7.1` and the like."""
    for pair in pairs:
        if not all(pair.partition("=")[::2]):
            raise ValueError(f"--software {pair!r} is not name=version, like torch=2.7.1")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def file_name(record: Record) -> str:
    """A name for the record's file that no case can turn into a path elsewhere."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", record.case).strip(".-")[:100] + f"-{record.id}.json"


def described(ingested: Ingested) -> str:
    """What was understood, for a person to check before the record is used."""
    record, summary = ingested.record, summarise(ingested.record)
    first, last = record.steps[0].step, record.steps[-1].step
    lines = [
        record.source or "",
        f"{len(record.steps)} samples of steps {first} to {last} (from 0), {summary.steady_steps} steady: "
        f"median {summary.median_step_seconds:.4g} s/step, {summary.tokens_per_second_per_processor:,.5g} tokens/s/p",
    ]
    if ingested.unusable:
        lines.append(f"{ingested.unusable} lines were cut short, mixed up or too long and were left out")
    for name, origin in sorted(ingested.origins.items()):
        lines.append(
            f"  {name}: {ingested.facts[name]} ({origin})" if name in ingested.facts else f"  {name}: {origin}"
        )
    lines += [f"VOID: {reason}" for reason in record.void_reasons]
    return "\n".join(lines)
