"""Which steps count: skipped updates, ranks without a loss, and two jobs in one file."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bench.ingest.make import make_record
from bench.ingest.read import read_logs
from tests.bench.ingest.logs import TITAN, Write, dump, line, lines, numbers, read, times, titan

OVERFLOW = (
    "[loss_scaler.py:183:update_scale] [deepspeed] OVERFLOW! Rank 0 Skipping step. Attempted loss scale: 4, to 2\n"
)
HYSTERESIS = "[deepspeed] OVERFLOW! Rank 0 Skipping step. Attempted loss scale: 131072, but hysteresis is 2.\n"
APEX = "Gradient overflow.  Skipping step, loss scaler 0 reducing loss scale to 65536.0\n"


def updates(step: int, skipped: int) -> str:
    return f"[logging.py:96:log_dist] [Rank 0] step={step}, skipped={skipped}, lr=[0.0001], mom=[(0.9, 0.999)]\n"


def voided(reasons: Sequence[str]) -> list[str]:
    return [reason.partition(":")[0] for reason in reasons]


@pytest.mark.parametrize(
    "words", [OVERFLOW, HYSTERESIS, APEX, "[deepspeed] fp16 dynamic loss scale overflow! Rank 0 Skipping step.\n"]
)
def test_a_step_that_says_it_is_skipped_is_skipped(write: Write, words: str) -> None:
    text = dump() + lines(1, 2) + words + lines(3, 4) + words + lines(5, 6, 7)
    record = read(write(text))
    assert voided(record.void_reasons) == ["step 3", "step 5"]
    assert "skipped its update" in record.void_reasons[0]
    assert not record.valid
    assert record.steps[2].skipped
    assert read(write(text), from_step=6).valid


def test_the_overflows_and_the_counts_are_of_the_same_steps(write: Write) -> None:
    text = "".join((OVERFLOW if i < 4 else "") + updates(i, min(i, 3)) + line(i) + "\n" for i in range(1, 10))
    assert voided(read(write(dump() + text)).void_reasons) == ["step 1", "step 2", "step 3"]
    assert read(write(dump() + text), from_step=4).valid


def test_counts_alone_void_too(write: Write) -> None:
    text = "".join(updates(i, 0 if i < 5 else 1) + line(i) + "\n" for i in range(1, 10))
    assert voided(read(write(dump() + text)).void_reasons) == ["step 5"]
    every_tenth = "".join((updates(i, 4) if i % 10 == 0 else "") + line(i) + "\n" for i in range(1, 31))
    assert voided(read(write(dump() + every_tenth)).void_reasons) == ["step 10"], "somewhere up to there"


def test_skips_of_before_the_log_are_none_of_it(write: Write) -> None:
    text = "".join(line(i) + "\n" + updates(i + 1, 4) for i in range(199, 210))
    assert read(write(dump() + text)).valid
    resumed = lines(1, 2) + updates(3, 0) + lines(3) + updates(2, 1) + lines(2, 3, 4)
    assert read(write(dump() + resumed)).valid


def test_a_skip_goes_with_the_lines_that_were_replaced(write: Write) -> None:
    text = dump() + lines(1, 2, 3) + OVERFLOW + lines(4, 5) + dump() + lines(3, 4, 5, 6)
    assert read(write(text)).valid


EVALUATION = " validation loss at iteration {} | lm loss value: 1.180000E+01 | lm loss PPL: 1.330000E+05 | \n"


def test_an_evaluation_is_no_step_and_takes_no_skip_away(write: Write) -> None:
    """Megatron evaluates between two training lines, and names the iteration as these do."""
    with_skip = "".join(
        (OVERFLOW + EVALUATION.format(i - 5) if i == 30 else "") + line(i) + "\n" for i in range(10, 90, 10)
    )
    assert voided(read(write(dump() + with_skip)).void_reasons) == ["step 30"]
    without = "".join(line(i) + "\n" + EVALUATION.format(i) for i in range(1, 9))
    log = read_logs([write(dump() + without)])
    assert not log.left_out, "no line is called cut short"
    assert len(log.samples()) == 8


def test_a_loss_scale_that_fell_is_a_skipped_update(write: Write) -> None:
    text = "".join(line(i, **{"loss scale": 4096.0 if i < 5 else 2048.0}) + "\n" for i in range(1, 9))
    assert voided(read(write(dump() + text)).void_reasons) == ["step 5"]
    grows = "".join(line(i, **{"loss scale": 2048.0 if i < 5 else 4096.0}) + "\n" for i in range(1, 9))
    assert read(write(dump() + grows)).valid


@pytest.mark.parametrize("none", ["-1.0000", "-2.0000"])
def test_the_loss_is_that_of_the_rank_that_has_one(write: Write, none: str) -> None:
    """torchtitan's ranks without the last stage print -1, summed over the data-parallel ranks."""
    without = "".join("[rank0]:" + titan(i).replace("7.1234", none) + "\n" for i in range(1, 8))
    both = "".join("[rank4]:" + titan(i) + "\n" for i in range(1, 8))
    flags = TITAN
    for text in (without + both, both + without, without.replace("[rank0]:", "") + both):
        record = make_record(read_logs([write(text)]), "a-case", flags).record
        assert record.valid
        assert {step.loss for step in record.steps} == {7.1234}
    alone = make_record(read_logs([write(without)]), "a-case", flags).record
    assert not alone.valid
    assert "a rank without a loss" in alone.void_reasons[0]


def test_a_job_with_another_batch_is_another_job(write: Write) -> None:
    first, second = lines(*range(1, 9)), lines(*range(1, 9), global_batch_size=32)
    text = dump().replace("global_batch_size", "x_batch_size")
    with pytest.raises(ValueError, match="global batch is 32 here and 16 in a line that this one replaces.*two jobs"):
        read(write(text + first + second))
    second = lines(*range(1, 9), **{"global batch size": None, "consumed samples": 32})
    with pytest.raises(ValueError, match="consumed samples is 32 here and 16 .*two jobs"):
        read(write(text + first + second))


MEMORY = (
    "[Rank 4] (after 1 iterations) memory (MB) | allocated: 10.5 | max allocated: {0} | reserved: 9.0 | "
    "max reserved: {0}\n"
)


def test_the_peak_of_replaced_lines_goes_with_them(write: Write) -> None:
    first = dump() + lines(1) + MEMORY.format("40000.0") + lines(*range(2, 9), max_memory_reserved=50_000 * 2**20)
    alone = read(write(first)).ranks[0]
    assert (alone.peak_bytes, alone.reserved_bytes) == (40_000 * 2**20, 50_000 * 2**20)
    second = lines(1) + MEMORY.format("20000.0") + lines(*range(2, 9))
    rank = read(write(first + dump() + second)).ranks[0]
    assert (rank.peak_bytes, rank.reserved_bytes) == (20_000 * 2**20, 20_000 * 2**20)
    silent = read(write(first + dump() + lines(*range(1, 9)))).ranks[0]
    assert (silent.peak_bytes, silent.reserved_bytes) == (0, None)
    resumed = read(write(first + dump() + lines(*range(5, 9)))).ranks[0]
    assert resumed.peak_bytes == 40_000 * 2**20, "the line after step 1 was not replaced"


def test_ranks_of_a_larger_first_job_go_with_it(write: Write) -> None:
    first = "".join(f"[rank{rank}]:{line(i, ms=900.0)}\n" for i in range(1, 11) for rank in range(4))
    second = "".join(f"[rank{rank}]:{line(i, ms=600.0)}\n" for i in range(4, 9) for rank in range(2))
    record = read(write(dump() + first + second))
    assert numbers(record) == list(range(8))
    assert times(record) == pytest.approx([0.9] * 3 + [0.6] * 5)
    assert "resumed 1 time(s), first at step 4" in (record.source or "")


def test_two_sizes_of_a_model_are_two_jobs(write: Write) -> None:
    sizes = [f"Model llama3 size: {count} total parameters\n" for count in ("8,030,261,248", "70,553,706,496")]
    with pytest.raises(ValueError, match="parameters is 70553706496 here and 8030261248 before"):
        read_logs([write(sizes[0] + titan(1) + "\n"), write(sizes[1] + titan(1) + "\n", "b.log")])
