"""What a log counts itself, held against what follows from the job's sizes: one of the two counts, or neither."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

from bench.ingest.job import Facts, Log, Sample

_SAME = 0.03  # printed figures are rounded, and some exclude a moment between two steps
# Other programs count FLOPs with all of attention's square, with what recomputing repeats, or with one expert for all.
_FEWEST_FLOPS, _MOST_FLOPS = 0.6, 1.1 * 4 / 3


def same_batch(log: Log, samples: Sequence[Sample]) -> None:
    """The global batch of every line; where none states it, the growth of the consumed samples."""
    batches = [(each.step, each.global_batch) for each in samples if each.global_batch]
    stated = log.facts.get("global_batch")
    for step, batch in batches:
        known = log.facts.setdefault("global_batch", batch)
        if known != batch:
            settled = _settled(log, batches, stated)
            remedy = f"give --from-step {settled} if it grows to stay, else " if settled else "give "
            raise ValueError(
                f"the global batch is {known}{' of the arguments' if known == stated else ''} and at step "
                f"{log.number(step)} {batch}: such steps cannot be compared; {remedy}the logs of one job only"
            )
    grown = {count for _, count in _growth(log, samples, lambda each: each.samples_seen)}
    if len(grown) == 1 and (count := grown.pop()).is_integer():
        log.facts.setdefault("global_batch", int(count))


def same_length(log: Log, samples: Sequence[Sample]) -> None:
    """The sequence length that the lines state, which counts before that of the arguments: it may grow to that."""
    lengths = [(each.step, each.sequence_length) for each in samples if each.sequence_length]
    if not lengths:
        return
    first = lengths[0][1]
    for step, length in lengths:
        if length != first:
            raise ValueError(
                f"the sequence length is {first} and at step {log.number(step)} {length}: such steps cannot be "
                f"compared; give --from-step {_settled(log, lengths, None)} if it grows to stay"
            )
    log.facts["sequence_length"] = int(first or 0)


def _settled(log: Log, values: Sequence[tuple[int, int]], stated: object) -> int | None:
    """The number of the first line from which a value stays what it is at the end; None if another one is stated.

    Of several steps a line, the one that has the change in it is left out: its time is a mean of both.
    """
    last = values[-1][1]
    if stated not in (None, last):
        return None
    at = next(at for at in range(len(values), 0, -1) if at == 1 or values[at - 2][1] != last) - 1
    if 0 < at < len(values) - 1 and values[at][0] - values[at - 1][0] > 1:
        at += 1
    return log.number(values[at][0])


def tokens_per_step(
    log: Log, facts: Facts, origins: dict[str, str], samples: Sequence[Sample], seconds: Sequence[float]
) -> int:
    """Tokens of one step: those that the log counts, else global batch x sequence length.

    Raises ValueError with both numbers where the log's own counts or speeds contradict that.
    """
    batch, length, world = (int(facts[name]) for name in ("global_batch", "sequence_length", "world_size"))
    _hold_samples(log, batch, samples, origins)
    counted = dict(_growth(log, samples, lambda each: each.tokens_seen))
    tokens = _counted_tokens(counted, batch, length, origins)
    tokens_of = [counted.get(each.step, 0.0 if counted else float(tokens)) for each in samples]
    rows = list(zip(samples, seconds, tokens_of, strict=True))
    coarse = 0.005 if log.seconds_printed else 5e-5
    per_sample = "the counted tokens" if counted else f"--sequence-length {length}"
    of_all = [(each.samples_per_second, batch / time, time) for each, time, _ in rows]
    _hold_rate("samples/s", of_all, coarse, f"--global-batch {batch}")
    of_all = [(each.job_tokens_per_second, own / time, time) for each, time, own in rows]
    _hold_rate("tokens/s", of_all, coarse, f"--global-batch {batch} and {per_sample}")
    of_one = [(each.tokens_per_second, own / time / world, time) for each, time, own in rows if each.seconds]
    _hold_rate("tokens/s a processor", of_one, coarse, f"--global-batch {batch}, {per_sample} and {world} ranks")
    return tokens


def _growth(log: Log, samples: Sequence[Sample], count: Callable[[Sample], int | None]) -> Iterator[tuple[int, float]]:
    """By step, how much a count of the log grew a step since the line before."""
    resumed = set(log.resumes)
    for before, after in zip(samples, samples[1:], strict=False):
        first, last = count(before), count(after)
        if first is not None and last is not None and last > first and after.step not in resumed:
            yield after.step, (last - first) / (after.step - before.step)


def _hold_samples(log: Log, batch: int, samples: Sequence[Sample], origins: dict[str, str]) -> None:
    for step, grown in _growth(log, samples, lambda each: each.samples_seen):
        if grown != batch:
            raise ValueError(
                f"the global batch is {batch} of {origins.get('global_batch', 'the log')}, and at step "
                f"{log.number(step)} the log counts {grown:g} consumed samples a step: correct --global-batch, "
                "or give the logs of one job only"
            )


def _counted_tokens(counted: dict[int, float], batch: int, length: int, origins: dict[str, str]) -> int:
    if not counted:
        return batch * length
    fewest, most = min(counted.values()), max(counted.values())
    if fewest == most == batch * length:
        return batch * length
    both = f"the log counts {most:g} tokens a step, and {batch} samples of {length} are {batch * length}"
    if most > batch * length:
        raise ValueError(f"{both}: correct --sequence-length, --global-batch or --recipe")
    who = origins.get("sequence_length", "")
    if fewest == most and most % batch == 0 and who != "the log":
        remedy = f"give --sequence-length {most / batch:g}" if who == "a flag" else "choose another --recipe"
        raise ValueError(f"{both}: {remedy}")
    origins["tokens a step"] = f"counted by the log, {fewest:g} to {most:g}, as samples differ in length; here the mean"
    return max(1, round(statistics.fmean(counted.values())))


def _hold_rate(unit: str, rows: Sequence[tuple[float | None, float, float]], coarse: float, of_what: str) -> None:
    """The median of printed / computed is near one."""
    known = [(printed, own, time) for printed, own, time in rows if printed and own > 0]
    if not known:
        return
    ratio = statistics.median(printed / own for printed, own, _ in known)
    allowed = _SAME + coarse / statistics.median(time for _, _, time in known)
    if abs(ratio - 1) > allowed:
        printed, own, _ = min(known, key=lambda row: abs(row[0] / row[1] - ratio))
        raise ValueError(
            f"the log prints {printed:g} {unit}, and {own:g} follow from its time of a step, {of_what}: "
            "correct what of these is not so, by a flag or by --recipe"
        )


def hold_flops(
    facts: Facts, flops: float, tokens: int, rates: Sequence[float], world: int, seconds: Sequence[float]
) -> None:
    """The printed TFLOP/s against the counted FLOPs of a step; `rates` are the FLOPs a step that it makes."""
    if not rates:
        return
    printed = statistics.median(rates)
    layers, hidden, heads, ffn = (
        int(facts.get(name, 0)) for name in ("num_layers", "hidden_size", "num_attention_heads", "ffn_hidden_size")
    )
    query = heads * int(facts.get("head_dim", hidden // heads if heads else 0))
    attention = 6.0 * layers * query * int(facts["sequence_length"]) * tokens
    others = max(0, int(facts.get("experts_per_token", 2)) - 1) if facts.get("num_experts") else 0
    fewest = max(0.0, flops - 6.0 * layers * others * 3 * hidden * ffn * tokens) * _FEWEST_FLOPS
    if not fewest <= printed <= (flops + attention) * _MOST_FLOPS:
        second = statistics.median(seconds) * world * 1e12
        raise ValueError(
            f"the log prints {printed / second:.4g} TFLOP/s a processor, and {flops / second:.4g} follow from its "
            "time of a step and the model's sizes: correct --recipe, --sequence-length, --global-batch or --world-size"
        )
