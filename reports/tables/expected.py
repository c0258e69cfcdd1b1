"""A measured step beside what was expected of it: where it spends more than it should."""

from __future__ import annotations

from bench.judge.alone import Alone
from bench.judge.beside import Beside, Part
from bench.records.expectation import Expectation
from bench.records.record import Record
from reports.formats import Unit, more, percent, seconds_unit, traffic
from reports.markdown import details, table, text

_MAX_NAMES = 40
_NOT_MEASURED = "not measured"


def expected(found: Beside) -> list[str]:
    """What it rests on, the parts with the worst first, and each term and exchange to unfold."""
    of = found.expectation
    parts = [_introduction(of), _parts(found), _HOW if of.low_seconds is not None else _NO_INTERVAL]
    parts.append(details("Each term as it is expected", _terms(of)))
    if of.exchanges:
        parts.append(details("Communication as it is expected", f"{_exchanges(of)}\n\n{_EXCHANGES}"))
    return parts


_HOW = (
    "Over: what was measured beyond what is expected. A part's interval is the step's in proportion: no part was "
    "calibrated alone. Computing: forward and backward without the collectives within. Pipeline and bubble: waiting "
    "for other stages. Seconds of collectives hold the waiting for slower ranks."
)
_NO_INTERVAL = "Over: what was measured beyond what is expected, which has no interval: see above why."
_EXCHANGES = (
    "Of the stage that takes longest: seconds of its calls one after the other, whether other work hides them or not."
)


def told_job(found: Alone, record: Record, of: Expectation) -> str:
    """The measured rank and the predicted communication together."""
    seconds = found.job_seconds(of.terms, record.work.num_micro_batches)
    rate = record.work.tokens_per_step / seconds / found.world_size
    return (
        f"The job, if all its stages are as this one: {seconds:.4g} s a step and {rate:,.5g} tokens/s/p, with the "
        f"communication that shows as {text(of.profile)} predicts it."
    )


def _introduction(of: Expectation) -> str:
    rests = " ".join(f"{text(sentence[:1].upper() + sentence[1:])}." for sentence in of.basis)
    alone = " Of this rank's own work: exchanges and waiting are beside it." if of.lone_rank else ""
    return f"Expected by the device profile {text(of.profile)}.{alone} {rests}".rstrip()


def _parts(found: Beside) -> str:
    unit = seconds_unit([found.step.expected_seconds, found.step.measured_seconds or 0.0])
    rows = [_row(part, found.step, unit) for part in [*found.parts, found.step]]
    headers = ["part", f"expected {unit.name}", "interval", f"measured {unit.name}", "over", "of the step", "where"]
    return table(headers, rows, numbers=range(1, 6))


def _row(part: Part, step: Part, unit: Unit) -> list[str]:
    within = "–" if part.low_seconds is None else f"{unit.of(part.low_seconds)} to {unit.of(part.high_seconds or 0.0)}"
    name = part.name if not part.terms or part.terms == (part.name,) else f"{part.name}: {', '.join(part.terms)}"
    if part.measured_seconds is None or part.excess_seconds is None:
        return [name, unit.of(part.expected_seconds), within, "–", "–", "–", _NOT_MEASURED]
    share = part.measured_seconds / (step.measured_seconds or 1.0)
    where = {None: "", True: "outside its interval", False: "within"}[part.is_outside]
    over = f"{part.excess_seconds / unit.size:+,.{unit.decimals}f}"
    return [
        name, unit.of(part.expected_seconds), within, unit.of(part.measured_seconds), over, percent(share), where,
    ]  # fmt: skip


def _terms(of: Expectation) -> str:
    """The largest first; those that the step of a rank alone does not hold say so."""
    unit = seconds_unit(of.terms.values())
    rows = [
        (name, unit.of(seconds), percent(seconds / of.step_seconds) if of.is_in_step(name) else "beside it")
        for name, seconds in sorted(of.terms.items(), key=lambda item: -item[1])
        if seconds
    ]
    return table(["term", f"expected {unit.name}", "of the step"], rows, numbers=(1, 2))


def _exchanges(of: Expectation) -> str:
    kinds = sorted(of.exchanges, key=lambda each: -each.seconds)
    unit = seconds_unit([each.seconds for each in kinds])
    rows = [(each.name, f"{each.calls:,}", traffic(each.bytes), unit.of(each.seconds)) for each in kinds[:_MAX_NAMES]]
    headers = ["group and operation", "calls a step", "moved a step", f"expected {unit.name}"]
    return table(headers, rows, numbers=(1, 2, 3)) + more(len(kinds), _MAX_NAMES)
