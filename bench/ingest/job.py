"""What was understood of a foreign job's logs so far."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

from bench.ingest.apart import LINES_OF_A_TURN, MOST_TURNS, why_apart
from bench.ingest.dates import Dates
from bench.records.record import MAX_STEPS

CUT = "cut short"  # why a line was left out
MAX_SAMPLES = 400_000  # of all ranks together
_MAX_NAMES = 100  # of fields that are not known
Value = int | str
Facts = Mapping[str, Value]


class Sample(NamedTuple):
    """One training line. Where it gives a speed instead of a time, `seconds` waits for the job's size.

    Speeds are as printed: tokens/s of one processor, tokens/s and samples/s of the whole job, TFLOP/s of one processor.
    `tokens_seen` and `samples_seen` are the log's own counts since the job began.
    """

    step: int
    seconds: float | None = None
    tokens_per_second: float | None = None
    loss: float | None = None
    aux_loss: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    skipped: bool = False
    broken: str = ""
    has_no_loss: bool = False  # of a rank that computes none
    loss_scale: float | None = None
    global_batch: int | None = None
    sequence_length: int | None = None
    tokens_seen: int | None = None
    samples_seen: int | None = None
    job_tokens_per_second: float | None = None
    samples_per_second: float | None = None
    tflops: float | None = None
    peak_bytes: int = 0
    reserved_bytes: int = 0
    time_is_last: bool = False  # in its line
    time_digits: int = 0  # as printed

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
    streams: dict[str, list[Sample]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    lines: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # why lines were left out
    unknown: Counter[str] = field(default_factory=Counter)  # fields whose meaning is not known
    seconds_printed: bool = False  # times in seconds, which are coarser than milliseconds
    resumes: list[int] = field(default_factory=list)
    kept: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    fresh: set[str] = field(default_factory=set)
    overflows: int = 0  # updates that DeepSpeed skipped since the last training line
    updates: tuple[int, int] | None = None  # DeepSpeed's own counts: steps, and skipped ones among them
    told: int = 0  # overflows since those counts
    first: int | None = None  # the number of the first training line, used or not
    ages: dict[str, int] = field(default_factory=dict)  # how often a rank's lines went back
    cuts: list[tuple[int, int]] = field(default_factory=list)  # (order, step): lines before it replaced from there on
    last: list[Sample] | None = None  # the stream whose line came last
    waiting: tuple[int, int] = (0, 0)  # memory stated before the line it belongs to
    order: int = 0  # of all lines that were kept
    since: dict[str, int] = field(default_factory=dict)  # a rank's lines since it went back
    turns: dict[str, int] = field(default_factory=dict)  # how often it went back at once after it had
    orders: dict[str, list[int]] = field(default_factory=dict)  # of the lines in `streams`
    dates: list[Dates] = field(default_factory=lambda: [Dates()])  # of the training lines of each file, and of none

    @property
    def unusable(self) -> int:
        return sum(self.left_out.values())

    def state(self, name: str, value: Value, where: str) -> None:
        """Note a fact; two that differ are of two jobs."""
        if self.facts.setdefault(name, value) != value:
            raise ValueError(
                f"{where}: {name} is {value} here and {self.facts[name]} before: give the logs of one job only"
            )

    def is_of(self, form: str, where: str) -> None:
        """Refuse a line of another program than that of the training lines before."""
        if self.form not in ("", form):
            raise ValueError(f"{where}: a line of {form} in a log of {self.form}: give the logs of one job only")

    def number(self, step: int) -> int:
        """A step as the log numbers it: NeMo from 0, the others from 1."""
        return step if self.form == "NeMo" else step + 1

    def leave_out(self, why: str) -> None:
        """Count a line that cannot be used."""
        self.left_out[why] += 1

    def not_known(self, name: str) -> None:
        """Count a field whose meaning is not known; it is named, not guessed."""
        if name in self.unknown or len(self.unknown) < _MAX_NAMES:
            self.unknown[name] += 1

    def starts(self) -> None:
        """The job started or resumed here: every rank's next line may go back."""
        self.fresh = set(self.streams)
        self.waiting = (0, 0)

    def memory(self, peak_bytes: int, reserved_bytes: int) -> None:
        """Memory that a line of its own states belongs to the last training line, and goes with it."""
        self.waiting = (max(self.waiting[0], peak_bytes), max(self.waiting[1], reserved_bytes))
        if self.last and not self.fresh:
            self.last[-1] = self._with_waiting(self.last[-1])

    def _with_waiting(self, sample: Sample) -> Sample:
        (peak, reserved), self.waiting = self.waiting, (0, 0)
        if not (peak or reserved):
            return sample
        peak, reserved = max(peak, sample.peak_bytes), max(reserved, sample.reserved_bytes)
        return sample._replace(peak_bytes=peak, reserved_bytes=reserved)

    def overflowed(self) -> None:
        """DeepSpeed, or apex, says that it skips the update of the step whose training line comes next."""
        self.overflows += 1
        self.told += 1

    def counted(self, steps: int, skipped: int) -> None:
        """DeepSpeed's counts since the job began; what they say beyond the overflows told belongs to the next line."""
        if self.updates is None:
            interval = self.arguments.get("log_interval", ("1", ""))[0]
            from_the_start = self.first is None or self.first <= (int(interval) if interval.isdecimal() else 1)
            new = skipped if from_the_start else 0
        elif steps <= self.updates[0]:  # resumed, with the count of the checkpoint
            new = skipped if steps == skipped else 0
        else:
            new = skipped - self.updates[1]
        self.overflows += max(0, new - self.told)
        self.updates, self.told = (steps, skipped), 0

    def take_skips(self, number: int) -> bool:
        """Whether updates were skipped since the training line before; asked once a line, used or not."""
        self.first = number if self.first is None else self.first
        skipped = self.overflows > 0
        self.overflows = 0
        return skipped

    def add(self, rank: str, sample: Sample, form: str, where: str) -> None:
        """Take one training line. Going back in steps is a resume, which replaces what it repeats."""
        self.is_of(form, where)
        self.form = form
        stream = self.streams.setdefault(rank, [])
        resumes = rank in self.fresh
        self.fresh.discard(rank)
        if stream and sample.step == stream[-1].step and not resumes:
            # Another rank without a prefix, or a progress bar drawn again: every rank waits for the slowest.
            stream[-1] = _together([stream[-1], sample])
            self.last = stream
            return
        self.since[rank] = self.since.get(rank, 0) + 1
        if stream and sample.step <= stream[-1].step:
            self._take_turn(rank, stream[-1], sample, resumes, where)
            self._go_back(rank, stream, sample, where)
        self.order += 1
        self.orders.setdefault(rank, []).append(self.order)
        stream.append(self._with_waiting(sample))
        self.last = stream
        self.kept += 1
        if len(stream) > MAX_STEPS or self.kept > MAX_SAMPLES:
            raise ValueError(f"{where}: more than {MAX_STEPS:,} steps or {MAX_SAMPLES:,} lines; give --from-step")

    def _take_turn(self, rank: str, before: Sample, sample: Sample, resumes: bool, where: str) -> None:
        """Refuse steps that go to and fro without a start of the job between."""
        is_soon = not resumes and self.since[rank] <= LINES_OF_A_TURN
        self.turns[rank] = self.turns.get(rank, 0) + 1 if is_soon else 0
        self.since[rank] = 0
        if self.turns[rank] >= MOST_TURNS:
            raise ValueError(
                f"{where}: the steps go to and fro, here from {self.number(before.step)} to "
                f"{self.number(sample.step)}: these are two jobs, or ranks that no prefix tells apart; "
                "give the log of one"
            )

    def _go_back(self, rank: str, stream: list[Sample], sample: Sample, where: str) -> None:
        """The job resumed: what it does again, and what those lines stated, is dropped, of every rank."""
        age = self.ages[rank] = self.ages.get(rank, 0) + 1
        if age > len(self.resumes):
            self.resumes.append(sample.step)
        self.cuts.append((self.order, sample.step))
        while stream and stream[-1].step >= sample.step:
            _of_one_job(stream.pop(), sample, where)
            self.orders[rank].pop()
            self.kept -= 1

    def samples(self) -> list[Sample]:
        """One sample a step in increasing order: the slowest rank's where several wrote one."""
        steps_of = {rank: [each.step for each in stream] for rank, stream in self.streams.items()}
        if why := why_apart(steps_of, self.orders):
            raise ValueError(f"{', '.join(self.names)}: {why}")
        # A rank that is silent since another one went back loses what that one does again, too.
        orders = [order for order, _ in self.cuts]
        ends = list(accumulate((step for _, step in reversed(self.cuts)), min))[::-1]
        steps: dict[int, list[Sample]] = {}
        for rank in sorted(self.streams):
            whole = _whole(self.streams[rank])
            for sample, order, is_whole in zip(self.streams[rank], self.orders[rank], whole, strict=True):
                if not is_whole:
                    self.leave_out(CUT)
                    continue
                cut = bisect_left(orders, order)
                if cut == len(ends) or sample.step < ends[cut]:
                    steps.setdefault(sample.step, []).append(sample)
        return [_together(steps[step]) for step in sorted(steps)]


def _whole(stream: list[Sample]) -> list[bool]:
    """Of the lines of a rank, which were not cut within their time.

    One that was ends with fewer digits than the time has in the line before or after it, and both of these go on.
    """
    around = [stream[max(at - 1, 0) : at] + stream[at + 1 : at + 2] for at in range(len(stream))]
    return [
        not own.time_is_last
        or any(each.time_is_last for each in others)
        or own.time_digits >= max((each.time_digits for each in others), default=0)
        or own.skipped
        or bool(own.broken)
        for own, others in zip(stream, around, strict=True)
    ]


def _of_one_job(replaced: Sample, sample: Sample, where: str) -> None:
    """A resume has the batch of what it replaces, and counts on from the same samples."""
    pairs = [("global batch", replaced.global_batch, sample.global_batch)]
    if replaced.step == sample.step:
        pairs.append(("number of consumed samples", replaced.samples_seen, sample.samples_seen))
    for what, before, here in pairs:
        if before is not None and here is not None and before != here:
            raise ValueError(
                f"{where}: the {what} is {here} here and {before} in a line that this one replaces: these are two "
                "jobs; give the logs of one job only"
            )


def _together(samples: list[Sample]) -> Sample:
    if len(samples) == 1:
        return samples[0]
    slowest = max(samples, key=lambda each: (not each.time_is_last, each.slowness))
    losses = [each.loss for each in samples if each.loss is not None]
    return slowest._replace(
        loss=losses[0] if losses else None,
        broken=next((each.broken for each in samples if each.broken), ""),
        skipped=any(each.skipped for each in samples),
        peak_bytes=max(each.peak_bytes for each in samples),
        reserved_bytes=max(each.reserved_bytes for each in samples),
    )
