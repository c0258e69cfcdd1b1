"""What a log counts itself is used, or held against what is computed and refused with both numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.ingest.make import described, make_record
from bench.ingest.read import read_logs
from bench.judge.stats import summarise
from bench.records.record import Record
from tests.bench.ingest.logs import TITAN, Write, dump, line, lines, read, titan

FLAGS: dict[str, Any] = {**TITAN, "sequence_length": 4096, "micro_batch": 1, "device_name": "Ascend910B3"}
del FLAGS["global_batch"]


def tuning(i: int, tokens: int, **changes: object) -> str:
    """A fine-tuning line of MindSpeed-LLM, which counts the tokens of samples that differ in length."""
    fields: dict[str, object] = {
        "consumed samples": f"{8 * i:10d}",
        "consumed tokens": f"{tokens:10d}",
        "elapsed time per iteration (ms)": "1000.00",
        "learning rate": "1.000000E-06",
        "global batch size": "    8",
        "lm loss": "2.500000E+00",
        "mtp loss": "0.000000E+00",
        "grad norm": "9.000",
        "max_memory_allocated(GB)": "19.07",
        "max_memory_reserved(GB)": "22.43",
    }
    middle = " | ".join(f"{name}: {value}" for name, value in (fields | changes).items() if value is not None)
    return f"INFO [2026-01-02 10:00:01] >>  iteration {i:8d}/    2000 | {middle} |\n"


def tuned(lengths: Callable[[int], int], **changes: object) -> str:
    seen, text = 0, ""
    for i in range(1, 13):
        seen += lengths(i)
        text += tuning(i, seen, **changes)
    return text


def tokens_rate(record: Record) -> float:
    return summarise(record).tokens_per_second_per_processor


def test_tokens_that_the_log_counts_are_the_tokens_of_a_step(write: Write) -> None:
    made = make_record(read_logs([write(tuned(lambda i: 790 + 2 * i))]), "a-case", FLAGS)
    assert made.record.work.tokens_per_step == 804  # the mean of 794 to 814
    assert tokens_rate(made.record) == pytest.approx(100, rel=0.01)
    assert made.record.work.sequence_length == 4096
    assert "samples differ in length" in (made.record.source or "")
    assert "counted by the log, 794 to 814" in described(made)
    assert made.record.work.model_flops_per_step == 6.0 * 8_000_000 * 804


def test_counts_over_an_interval_and_after_a_resume(write: Write) -> None:
    text = "".join(tuning(i, seen) for i, seen in ((10, 8000), (20, 16_000), (30, 99_000), (25, 1), (35, 8501)))
    record = read(write(text), **FLAGS)
    assert [step.step for step in record.steps] == [9, 19, 24, 34]
    assert record.work.tokens_per_step == 825  # of 800 and 850; the step back is no growth


@pytest.mark.parametrize(
    ("lengths", "both"),
    [
        (lambda _: 800, "counts 800 tokens a step, and 8 samples of 4096 are 32768: give --sequence-length 100"),
        (lambda i: 40_000 + i, "counts 40012 tokens a step, and 8 samples of 4096 are 32768"),
    ],
)
def test_a_count_of_tokens_that_contradicts_the_length_is_refused(
    write: Write, lengths: Callable[[int], int], both: str
) -> None:
    with pytest.raises(ValueError, match=both):
        read(write(tuned(lengths)), **FLAGS)


def test_the_length_that_the_count_names_is_accepted(write: Write) -> None:
    record = read(write(tuned(lambda _: 800)), **(FLAGS | {"sequence_length": 100}))
    assert (record.work.tokens_per_step, record.work.sequence_length) == (800, 100)


@pytest.mark.parametrize(
    ("name", "right", "wrong", "complaint"),
    [
        ("tokens per gpu per second (tgs)", 3099.742, 775.0, r"prints 775 tokens/s a processor, and 3099\.\d+ follow"),
        ("tokens per GPU (tokens/s/GPU)", "3099.7/3000.0", "750.1/3099.7", r"prints 750\.1 tokens/s a processor"),
        ("tokens/s/GPU inst/harmonic mean", "3099.7/3000.0", "6199.5/6199.5", r"prints 6199\.5 tokens/s a processor"),
        ("tokens/s", 24797.94, 3099.7, r"prints 3099\.7 tokens/s, and 24797\.\d+ follow"),
        ("samples per second", 24.217, 0.024, r"prints 0\.024 samples/s, and 24\.\d+ follow"),
        ("throughput(samples/s)", 24.2, 48.4, r"prints 48\.4 samples/s, and 24\.\d+ follow"),
        ("TFLOPs", 84.0, 126.0, r"prints 126 TFLOP/s a processor, and 63\.\d+ follow"),
        ("compute per GPU (TFLOP/s/GPU)", "63.4 (avg 63.0)", "20.0 (avg 63.0)", r"prints 20 TFLOP/s a processor"),
    ],
)
def test_a_speed_that_the_log_prints_agrees_or_is_refused(
    write: Write, name: str, right: object, wrong: object, complaint: str
) -> None:
    def log(value: object) -> Path:
        changes: dict[str, Any] = {"throughput per GPU (TFLOP/s/GPU)": None, name: value}
        return write(dump() + lines(*range(1, 8), **changes))

    assert read(log(right)).valid
    with pytest.raises(ValueError, match=complaint):
        read(log(wrong))


def test_times_in_seconds_are_as_coarse_as_they_are_printed(write: Write) -> None:
    """0.07 s stands for 0.065 to 0.075 s: the printed speed may differ by that much."""
    changes = {
        "elapsed time per iteration (ms)": None,
        "elapsed time per iteration (s)": 0.07,
        "samples per second": 215,
    }
    assert read(write(dump() + lines(*range(1, 8), **changes, **{"throughput per GPU (TFLOP/s/GPU)": None}))).valid


def test_consumed_samples_are_the_global_batch(write: Write) -> None:
    text = dump().replace("global_batch_size", "x_batch_size")
    log = write(text + lines(*range(1, 8), **{"global batch size": None}))
    assert read(log).work.global_batch == 16
    with pytest.raises(ValueError, match="--global-batch 32 contradicts 16 of the log"):
        read(log, global_batch=32)
    text = "".join(line(i, **{"consumed samples": 32 * i}) + "\n" for i in range(1, 8))
    with pytest.raises(ValueError, match="global batch is 16 of the log, and at step 2 the log counts 32 consumed"):
        read(write(dump() + text))


def test_a_sequence_length_that_grows_is_refused(write: Write) -> None:
    text = dump() + "".join(line(i, **{"actual seqlen": 512 if i < 4 else 1024}) + "\n" for i in range(1, 9))
    with pytest.raises(ValueError, match="sequence length is 512 and at step 4 1024.*--from-step 4"):
        read(write(text))
    assert read(write(text), from_step=4).work.sequence_length == 1024


def test_the_length_of_the_steps_counts_before_that_of_the_arguments(write: Write) -> None:
    rest = {"throughput per GPU (TFLOP/s/GPU)": None}
    log = write(dump() + lines(*range(1, 8), **{"curriculum seqlen": 256}, **rest))
    assert read(log).work.tokens_per_step == 16 * 256
    with pytest.raises(ValueError, match="--sequence-length 1024 contradicts 256 of the log"):
        read(log, sequence_length=1024)


@pytest.mark.parametrize(
    ("field", "peak", "reserved"),
    [
        ({"max_memory_allocated(GB)": 19.07, "max_memory_reserved(GB)": 22.5}, int(19.07 * 2**30), int(22.5 * 2**30)),
        ({"max_memory_allocated": 5_000_000_000}, 5_000_000_000, None),
        ({"peak_memory_usage": 7_000_000_000}, 0, 7_000_000_000),
        ({"mem-max-allocated-gigabytes": 18.157, "mem-max-reserved-gigabytes": 19.5}, 18_157_000_000, 19_500_000_000),
        ({"max_memory_allocated(TB)": 1.0, "peak_memory": 3}, 0, None),
    ],
)
def test_memory_under_its_names_and_units(
    write: Write, field: dict[str, object], peak: int, reserved: int | None
) -> None:
    rank = read(write(dump() + lines(*range(1, 8), **field))).ranks[0]
    assert rank.peak_bytes == pytest.approx(peak)
    assert rank.reserved_bytes == (None if reserved is None else pytest.approx(reserved))


@pytest.mark.parametrize(
    ("stated", "peak", "reserved"),
    [
        ("[Rank 1] (after 2 iterations) memory (GB) | mem-allocated-gigabytes: 6 | mem-max-allocated-gigabytes: 18.5 | "
         "mem-max-reserved-gigabytes: 19.5 | mem-alloc-retires: 0", int(18.5e9), int(19.5e9)),
        ("[timer.py:260:stop] micro_step=9, MemAllocated=6.01GB, MaxMemAllocated=19.5GB", int(19.5 * 2**30), None),
        ("MA 1.5 GB         Max_MA 2.5 GB         CA 3 GB         Max_CA 4 GB ", int(2.5 * 2**30), 4 * 2**30),
    ],
)  # fmt: skip
def test_memory_in_lines_of_its_own(write: Write, stated: str, peak: int, reserved: int | None) -> None:
    rank = read(write(dump() + lines(1) + stated + "\n" + lines(*range(2, 8)))).ranks[0]
    assert (rank.peak_bytes, rank.reserved_bytes) == (peak, reserved)


def test_the_peak_of_a_progress_bar(write: Write) -> None:
    bars = "".join(
        f"Epoch 0:  {i}%|▋    | {i}/15 [06:19<07:13, v_num=0, reduced_train_loss=11.50, peak_memory_usage=5.1e+10, "
        f"train_step_timing in s=49.5{i % 10}]\r"
        for i in range(1, 16)
    )
    record = make_record(read_logs([write(bars)]), "a-case", TITAN).record
    assert record.ranks[0].reserved_bytes == 51_000_000_000


def test_torchtitans_own_time_is_held_against_its_speed(write: Write) -> None:
    text = "".join(titan(i, elapsed_time_per_step="0.819s") + "\n" for i in range(1, 8))
    with pytest.raises(ValueError, match="prints 10000 tokens/s a processor, and 20004"):
        make_record(read_logs([write(text)]), "a-case", TITAN)


def test_the_plain_lines_of_mindspeed_llm(write: Write) -> None:
    text = "".join(
        f"iteration: {i} | consumed samples: {8 * i} | elapsed time per iteration (ms): 500.0 | throughput(samples/s): "
        f"16.0 | learning rate: 1.000000E-06 | global batch size:    8 | lm loss: 2.5000 | grad norm: 1.5000\n"
        for i in range(1, 8)
    )
    record = read(write(text), **FLAGS)
    assert record.ranks[0].step_seconds == [0.5] * 7
    assert record.steps[0].grad_norm == 1.5


def test_a_loss_of_exactly_zero_voids_the_record(write: Write) -> None:
    record = read(write(tuned(lambda i: 790 + i, **{"lm loss": "0.000000E+00"})), **FLAGS)
    assert record.void_reasons[0].startswith("step 1: the loss is exactly 0")


def test_a_record_counts_no_more_than_whole_sequences(write: Write) -> None:
    record = read(write(dump() + lines(*range(1, 8)))).model_dump(mode="json", by_alias=True)
    record["work"]["tokens_per_step"] -= 1
    assert Record.model_validate(record).source
    record["work"]["tokens_per_step"] += 2
    with pytest.raises(ValueError, match="more than sequence_length x global_batch"):
        Record.model_validate(record)
