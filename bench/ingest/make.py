"""From what was understood of a log to a record."""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from pydantic import ValidationError

from bench.ingest.counts import hold_flops, same_batch, same_length, tokens_per_step
from bench.ingest.dates import dated
from bench.ingest.facts import CHOICES, NEEDED, model_counts, replicas, settle_facts
from bench.ingest.job import Facts, Log, Sample
from bench.ingest.values import checked_seconds
from bench.judge.stats import summarise
from bench.records.jsonfile import first_fault
from bench.records.record import Record
from bench.records.terminal import plain
from grok1.config.recipe import Recipe

_MAX_REASONS = 20


@dataclass(frozen=True)
class Ingested:
    """A record and, in words, where each of its facts came from."""

    record: Record
    facts: Facts
    origins: dict[str, str]
    interval: int
    left_out: Mapping[str, int]  # lines that cannot be used, by the reason
    unknown: Mapping[str, int]  # fields whose meaning is not known, with their lines


def make_record(
    log: Log, case: str, given: Facts, recipe: Recipe | None = None, software: Mapping[str, str] | None = None
) -> Ingested:
    """The record of one foreign job. `given` are the command line's facts; one that contradicts the log is refused."""
    samples = log.samples()
    if not samples:
        raise ValueError(f"{', '.join(log.names)}: no training line is left after the resumes")
    same_batch(log, samples)
    same_length(log, samples)
    facts, origins = settle_facts(log, given, recipe)
    if missing := [name for name in NEEDED if name not in facts]:
        flags = ", ".join("--" + name.replace("_", "-") for name in missing)
        raise ValueError(
            f"the log does not say {', '.join(missing)}: give {flags}" + ("" if recipe else ", or --recipe")
        )
    seconds = [_seconds(sample, facts) for sample in samples]
    tokens = tokens_per_step(log, facts, origins, samples, seconds)
    interval = _interval(log, samples)
    reasons = _void_reasons(log, samples)
    steps = [(sample.step, time) for sample, time in zip(samples, seconds, strict=True)]
    moment, has_zone, stands = dated(log.dates, steps)
    content = {
        "schema": 1,
        "id": log.digest.hexdigest()[:32],
        "created_at": (moment or datetime.now(timezone.utc)).isoformat(timespec="seconds"),
        "is_dated": moment is not None,
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
        "work": _work(log, facts, samples, seconds, recipe, origins, tokens),
        "startup_seconds": None,
        "steps": [_step(sample) for sample in samples],
        "ranks": [_the_rank(samples, seconds)],
        "expert_load": [],
        "source": _source(
            log, interval, len(samples), "tokens a step" in origins, _told_date(moment, has_zone, stands)
        ),
    }
    try:
        return Ingested(Record.model_validate(content), facts, origins, interval, log.left_out, log.unknown)
    except ValidationError as error:
        raise ValueError(f"{', '.join(log.names)}: makes no record: {first_fault(error)}") from None


def _seconds(sample: Sample, facts: Facts) -> float:
    if sample.seconds is not None:
        return sample.seconds
    tokens = int(facts["global_batch"]) * int(facts["sequence_length"])
    what = f"step {sample.step + 1}: {sample.tokens_per_second} tokens/s a processor make a step that"
    return checked_seconds(tokens / ((sample.tokens_per_second or math.nan) * int(facts["world_size"])), what)


def _interval(log: Log, samples: Sequence[Sample]) -> int:
    """How many steps apart the lines are: Megatron's and torchtitan's numbers are means over them."""
    gaps = Counter(later.step - earlier.step for earlier, later in zip(samples, samples[1:], strict=False))
    # Of a single line only the arguments can tell.
    return gaps.most_common(1)[0][0] if gaps else int(log.facts.get("log_interval", 1))


def _source(log: Log, interval: int, count: int, tokens_vary: bool, date: str) -> str:
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
    if tokens_vary:
        words.append("samples differ in length: the tokens of a step are the mean of what the log counts")
    if log.seconds_printed:
        words.append("times were printed in seconds, rounded to two digits or so after the point")
    if log.resumes:
        first = log.number(log.resumes[0])
        words.append(f"resumed {len(log.resumes)} time(s), first at step {first}: later lines replaced earlier")
    words.append(date)
    if log.from_step:
        words.append(f"steps before {log.from_step} were left out")
    return "; ".join(words)[:1000]


def _told_date(moment: datetime | None, has_zone: bool, stands: bool) -> str:
    if moment is not None:
        return "dated as its last line" + ", whose time zone is not known" * (not has_zone)
    return "its lines all have one date, which is none of theirs" if stands else "its lines have no dates"


def _void_reasons(log: Log, samples: Sequence[Sample]) -> list[str]:
    reasons, resumed = [], set(log.resumes)
    for before, sample in zip((None, *samples), samples, strict=False):
        fell = bool(
            before and before.loss_scale and sample.loss_scale and sample.step not in resumed
            and sample.loss_scale < before.loss_scale
        )  # fmt: skip
        if why := _void_reason(sample, fell):
            reasons.append(f"step {sample.step + 1}: {why}")
    more = len(reasons) - _MAX_REASONS
    return reasons[:_MAX_REASONS] + ([f"{more} more steps like these"] if more > 0 else [])


def _void_reason(sample: Sample, scale_fell: bool) -> str:
    if sample.broken:
        return sample.broken
    if sample.skipped:
        return "the optimizer skipped its update"
    if scale_fell:
        return "the optimizer skipped its update, as the loss scale fell"
    if sample.loss is None and sample.has_no_loss:
        return "the line is of a rank without a loss (torchtitan prints a negative one); give the last stage's log too"
    return "the line has no loss, as Megatron prints a loss that is NaN" if sample.loss is None else ""


def _step(sample: Sample) -> dict[str, Any]:
    names = ("step", "loss", "aux_loss", "grad_norm", "learning_rate", "skipped")
    return {name: getattr(sample, name) for name in names}


def _the_rank(samples: Sequence[Sample], seconds: list[float]) -> dict[str, Any]:
    reserved = max(sample.reserved_bytes for sample in samples)
    return {
        "rank": 0,
        "stage": 0,
        "step_seconds": seconds,
        "phases_seconds": {},
        "communication_seconds": [],
        "communication_calls": [],
        "communication_bytes": [],
        "peak_bytes": max(sample.peak_bytes for sample in samples),
        "reserved_bytes": reserved or None,
        "host_bytes": 0,
    }


def _recipe(log: Log, facts: Facts, recipe: Recipe | None, case: str) -> dict[str, Any]:
    """The recipe named, or what the log says of the job: the same facts have the same hash."""
    if recipe is not None:
        return {"name": recipe.name, "hash": recipe.hash(), "resolved": recipe.resolved()}
    kept = {name: value for name, value in facts.items() if name not in ("device_name", "device_kind", "log_interval")}
    kept |= {name: log.arguments[name][0] for name in CHOICES if name in log.arguments}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]
    return {"name": case, "hash": digest, "resolved": kept}


def _layout(facts: Facts) -> dict[str, Any]:
    world, nodes = int(facts["world_size"]), int(facts["nodes"])
    return {
        **{name: facts[name] for name in ("world_size", "tensor", "pipeline", "expert", "expert_tensor", "nodes")},
        **{name: facts[name] for name in ("context", "virtual_pipeline") if name in facts},
        "data": replicas(facts),
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
    tokens: int,
) -> dict[str, Any]:
    world, batch = int(facts["world_size"]), int(facts["global_batch"])
    length, micro = int(facts["sequence_length"]), int(facts["micro_batch"])
    copies = replicas(facts)
    if micro < 1 or batch % (micro * copies):
        raise ValueError(
            f"a global batch of {batch} is not whole micro-batches of {micro} on {copies} data-parallel replicas"
        )
    total, active, flops = model_counts(log, facts, recipe, origins)
    rates = [each.tflops * 1e12 * time * world for each, time in zip(samples, seconds, strict=True) if each.tflops]
    if flops is not None and tokens == batch * length:
        hold_flops(facts, flops, tokens, rates, world, seconds)
    elif flops is not None:
        flops *= tokens / (batch * length)
    if flops is None:
        flops = statistics.median(rates) if rates else 6.0 * active * tokens
        origins["FLOPs a step"] = "the log's own TFLOP/s" if rates else "6 FLOP an active parameter and token"
    return {
        "tokens_per_step": tokens,
        "model_flops_per_step": flops,
        "num_micro_batches": batch // (micro * copies),
        "sequence_length": length,
        "global_batch": batch,
        "parameters_total": total,
        "parameters_active": active,
    }


def key_values(pairs: Sequence[str]) -> dict[str, str]:
    """`--software torch=2.7.1` and the like."""
    for pair in pairs:
        if not all(pair.partition("=")[::2]):
            raise ValueError(f"--software {plain(repr(pair))} is not name=version, like torch=2.7.1")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def described(ingested: Ingested) -> str:
    """What was understood, for a person to check before the record is used."""
    record, summary = ingested.record, summarise(ingested.record)
    first, last = record.steps[0].number, record.steps[-1].number
    lines = [
        record.source or "",
        f"{len(record.steps)} samples of steps {first} to {last}, {summary.steady_steps} steady: "
        f"median {summary.median_step_seconds:.4g} s/step, {summary.tokens_per_second_per_processor:,.5g} tokens/s/p",
    ]
    lines += [f"{count:,} lines left out: {why}" for why, count in sorted(ingested.left_out.items())]
    if ingested.unknown:
        named = ", ".join(repr(name[:60]) for name in sorted(ingested.unknown)[:_MAX_REASONS])
        lines.append(f"fields not known here, and not used: {named}")
    for name, origin in sorted(ingested.origins.items()):
        lines.append(
            f"  {name}: {ingested.facts[name]} ({origin})" if name in ingested.facts else f"  {name}: {origin}"
        )
    lines += [f"VOID: {reason}" for reason in record.void_reasons]
    return "\n".join(plain(line, 2000) if not line.startswith("  ") else f"  {plain(line, 2000)}" for line in lines)
