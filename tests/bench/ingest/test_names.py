"""Names and units are taken exactly, a refusal states the true cause, and nothing of a log acts on a terminal."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from bench.ingest.make import described, make_record
from bench.ingest.read import read_logs
from bench.ingest.values import parse_number
from tests.bench.ingest.logs import NPU, TITAN, Write, dump, line, lines, nemo, numbers, read, times, titan
from tests.in_process import Command


def test_a_log_that_stands_where_its_record_goes_is_kept(write: Write, bench: Command, tmp_path: Path) -> None:
    """The name of a record's file follows from the log, so one that was moved there would be lost."""
    log = write(dump() + "".join(line(i) + "\n" for i in range(1, 9)))
    words = ["--case", "a", "--device-name", "Ascend910B3"]
    assert bench("ingest", log, *words)[0] == 0
    (path,) = Path("results/records").iterdir()
    path.write_bytes(log.read_bytes())
    code, printed, errors = bench("ingest", path, *words)
    assert (code, printed) == (2, "")
    assert errors.startswith(f"bench: the record {path} is also LOGS {path}, which would be lost; give ")
    assert path.read_bytes() == log.read_bytes()


def test_a_changed_recipe_that_nobody_named_is_refused(write: Write, bench: Command) -> None:
    log = write(dump() + line(1) + "\n")
    code, printed, errors = bench("ingest", log, "--case", "a", "--set", "training.seed=1")
    assert (code, printed) == (2, "")
    assert errors == "bench: --set changes a --recipe, and none is given; add --recipe NAME\n"


FLAGS: dict[str, Any] = {
    **TITAN,
    "global_batch": 16,
    "micro_batch": 1,
    "device_name": "Ascend910B3",
    "sequence_length": 1024,
}
REST = {name: value for name, value in FLAGS.items() if name not in ("world_size", "tensor", "pipeline")}


def first_line(*sizes: str, world: int = 8) -> str:
    return f"using world size: {world}, {', '.join(sizes)}\n"


# As Megatron-LM 0.9 to 0.12 prints it, with a comma missing.
ENCODER = (
    "data-parallel size: 1",
    "context-parallel size: 1",
    "hierarchical context-parallel sizes: Nonetensor-model-parallel size: 4",
    "encoder-tensor-model-parallel size: 0",
    "pipeline-model-parallel size: 2",
    "encoder-pipeline-model-parallel size: 0",
)


@pytest.mark.parametrize(
    "sizes",
    [
        ENCODER,
        (*ENCODER[:2], "hierarchical context-parallel sizes: [2, 2]tensor-model-parallel size: 4", *ENCODER[3:]),
        ("data-parallel-size: 1", "tensor-model-parallel size: 4", "pipeline-model-parallel size: 2 "),
        ("data-parallel size: 1", "tensor-model-parallel size: 4", "virtual-pipeline-model-parallel size: 3",
         "pipeline-model-parallel size: 2"),
    ],
)  # fmt: skip
def test_the_splits_of_the_first_line_are_taken_by_their_exact_names(write: Write, sizes: tuple[str, ...]) -> None:
    layout = read(write(first_line(*sizes) + lines(*range(1, 8))), **REST).layout
    assert (layout.world_size, layout.tensor, layout.pipeline, layout.data) == (8, 4, 2, 1)


def test_the_one_split_of_megatron_1(write: Write) -> None:
    text = "using world size: 8 and model-parallel size: 2 \n" + lines(*range(1, 8))
    assert read(write(text), pipeline=1, **REST).layout.tensor == 2


@pytest.mark.parametrize(
    "name", ["data-parallel size: 2, context-parallel", "data-parallel-size: 2, sequence-parallel"]
)
def test_split_sequences_by_either_name(write: Write, name: str) -> None:
    text = f"using world size: 8, {name} size: 2, tensor-model-parallel size: 2, pipeline-model-parallel size: 1 \n"
    layout = read(write(text + lines(*range(1, 8))), **REST).layout
    assert (layout.tensor, layout.context, layout.data) == (2, 2, 2)


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ((*ENCODER[:3], "encoder-tensor-model-parallel size: 2", *ENCODER[4:]), "no ranks of an encoder"),
        (
            ("data-parallel size: 4", "tensor-model-parallel size: 4"),
            "world size is 8 and the printed sizes multiply to 16",
        ),
    ],
)
def test_splits_that_a_record_cannot_hold_are_refused(write: Write, sizes: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read(write(first_line(*sizes) + lines(*range(1, 8))), **{**REST, "pipeline": 1})


def in_seconds(i: int, unit: str = "s", **changes: object) -> str:
    time = {"elapsed time per iteration (ms)": None, f"elapsed time per iteration ({unit})": 35.8 + i / 100}
    return line(i, **{**time, "throughput per GPU (TFLOP/s/GPU)": None, **changes}) + "\n"


def test_times_in_seconds_are_seconds(write: Write) -> None:
    record = read(write(dump() + "".join(map(in_seconds, range(1, 8)))))
    assert times(record) == pytest.approx([35.8 + i / 100 for i in range(1, 8)])
    assert "times were printed in seconds" in (record.source or "")


def test_a_unit_that_is_not_known_is_named_and_nothing_is_called_cut_short(write: Write) -> None:
    text = dump() + "".join(in_seconds(i, unit="min") for i in range(1, 6))
    with pytest.raises(
        ValueError, match=r"5 without a time .*not known here: 'elapsed time per iteration \(min\)'"
    ) as told:
        read_logs([write(text)])
    assert "cut short" not in str(told.value)


def test_every_line_that_is_left_out_is_left_out_for_its_reason(write: Write) -> None:
    whole = line(4)
    text = (
        dump() + lines(1, 2, 3) + whole[:90] + "\n" + whole[:60] + line(5, ms=1.0) + "\n"
        + line(6) + "grad norm: 77 |\n" + in_seconds(7, unit="min") + "x" * 70_000 + "\n" + lines(8)
    )  # fmt: skip
    made = make_record(read_logs([write(text)]), "a-case", NPU)
    told = described(made)
    assert made.left_out == {
        "cut short": 1, "of two lines mixed up": 1, "without a time in a unit known here": 1, "longer than 64 KiB": 1,
    }  # fmt: skip
    assert "1 lines left out: longer than 64 KiB" in told


@pytest.mark.parametrize("kept", [0.45, 0.55, 0.65, 0.75, 0.85, 0.95])
@pytest.mark.parametrize("end", ["", "\n"])
def test_a_last_line_that_was_cut_is_no_step_without_a_loss(write: Write, kept: float, end: str) -> None:
    """A log that was copied while it was written: the half line was once taken for one whose loss is NaN."""
    last = line(8)
    record = read(write(dump() + lines(*range(1, 8)) + last[: int(kept * len(last))] + end))
    assert record.valid
    assert numbers(record)[:7] == list(range(7))


@pytest.mark.parametrize("cut", [1, 4, 8])
@pytest.mark.parametrize("end", ["\n", "\r", "\x1b[0m\r\n"])
def test_a_line_that_ends_within_its_time_is_left_out(write: Write, cut: int, end: str) -> None:
    """As where another rank begins to write: `tps: 10` of `tps: 10,000` was a step a thousand times as long."""
    rows = [titan(i) for i in range(1, 9)]
    rows[cut - 1] = rows[cut - 1].partition(",000")[0]
    found = make_record(read_logs([write(end.join([*rows, ""]))]), "a-case", TITAN)
    assert times(found.record) == pytest.approx([64 * 2048 / 80_000] * 7)
    assert found.left_out == {"cut short": 1}
    rows = [nemo(i, seconds=6.081) for i in range(1, 9)]
    assert "6.081 |" in rows[0]
    rows[cut - 1] = rows[cut - 1].partition("81 |")[0]
    assert times(read(write(end.join([*rows, ""])), **dict[str, Any](TITAN))) == pytest.approx([6.081] * 7)


def test_a_time_may_stand_last_in_all_lines_or_in_the_first_of_them(write: Write) -> None:
    """NeMo adds the validation's loss to each line once it knows one."""
    rows = [nemo(i, seconds=6.081, rest="" if i < 4 else " | val_loss: 11.9") for i in range(1, 9)]
    for chosen in (rows, rows[:3]):
        assert len(times(read(write("\n".join([*chosen, ""])), **dict[str, Any](TITAN)))) == len(chosen)


def test_other_words_within_a_number_make_no_speed(write: Write) -> None:
    rows = [titan(i) for i in range(1, 9)]
    rows[3] = rows[3].replace("10,000", "10 WARNING of another thread ,000")
    found = make_record(read_logs([write("\n".join([*rows, ""]))]), "a-case", TITAN)
    assert times(found.record) == pytest.approx([64 * 2048 / 80_000] * 7)
    assert found.left_out == {"of two lines mixed up": 1}


@pytest.mark.parametrize("ahead", [1, 100])
def test_two_jobs_whose_lines_take_turns_are_refused(write: Write, ahead: int) -> None:
    """The one that was ahead was once taken for what the other resumed from, and its last line kept."""
    rows = [row for i in range(1, 9) for row in (line(i + ahead, ms=600.0), line(i, ms=900.0))]
    with pytest.raises(ValueError, match="the steps go to and fro, here from .* these are two jobs, or ranks that"):
        read(write(dump() + "\n".join([*rows, ""])))


def test_a_job_that_crashes_after_each_line_is_one_job(write: Write) -> None:
    start = first_line("data-parallel size: 2", "tensor-model-parallel size: 4", "pipeline-model-parallel size: 1")
    text = dump() + "".join(f"{start}{line(i)}\n{line(i + 1)}\n" for i in range(1, 9))
    assert numbers(read(write(text))) == list(range(9))


def test_writers_that_take_turns_without_a_step_in_common_are_two_jobs(write: Write) -> None:
    """Their times were once put together, 0.9 s of the first steps and 0.6 s of the others."""
    rows = [(f"a: [rank0]: {line(i, ms=900.0)}", f"b: [rank0]: {line(i + 100, ms=600.0)}") for i in range(1, 9)]
    with pytest.raises(ValueError, match="the lines of 'a 0' and of 'b 0' take turns, and have no step in common"):
        read(write(dump() + "\n".join([row for pair in rows for row in pair] + [""])))
    one_after_the_other = [row for part in zip(*rows, strict=True) for row in part]
    assert len(times(read(write(dump() + "\n".join([*one_after_the_other, ""]))))) == 16


@pytest.mark.parametrize("behind", ["", "[rank3]: another rank's words", "iteration"])
def test_a_line_that_lacks_the_loss_alone_is_void(write: Write, behind: str) -> None:
    nan = line(8, **{"lm loss": None}) + behind + "\n"
    assert not read(write(dump() + lines(*range(1, 8)) + nan)).valid


def test_a_field_that_is_not_known_is_said_to_be_not_known(write: Write) -> None:
    made = make_record(
        read_logs([write(dump() + lines(*range(1, 8), **{"peak_memory (TB)": 1, "z_loss": 0.1}))]), "c", NPU
    )
    assert "fields not known here, and not used: 'peak_memory (TB)', 'z_loss'" in described(made)
    assert "balancing" not in described(make_record(read_logs([write(dump() + lines(1, 2))]), "c", NPU))


def test_an_auxiliary_loss_is_taken_by_its_name_alone(write: Write) -> None:
    changes = {"load_balancing_loss": None, "expert load balancing ratio": 3.5}
    assert read(write(dump() + lines(*range(1, 8), **changes))).steps[0].aux_loss is None


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (gzip.compress(lines(1).encode()), "gzip: unpack it"),
        (lines(1).encode("utf-16"), "UTF-16: convert it with iconv"),
    ],
    ids=["gzip", "UTF-16"],  # bytes would be the name, and gzip's have the time in them: workers would not agree
)
def test_a_file_of_another_kind_is_named_as_such(write: Write, content: bytes, cause: str) -> None:
    with pytest.raises(ValueError, match=f"this is no plain text but {cause}"):
        read_logs([write(content)])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_line_that_is_named_is_the_line(write: Write, end: str) -> None:
    text = ("nothing\n" * 9 + line(1, ms="nan") + "\n").replace("\n", end)
    with pytest.raises(ValueError, match=r"job.log, line 10: a step of nan ms"):
        read_logs([write(text)])


def test_after_from_step_nothing_is_left(write: Write) -> None:
    with pytest.raises(ValueError, match="no training line .* from step 9 on in"):
        read_logs([write(dump() + lines(1, 2))], from_step=9)


HOSTILE = "\x1b]0;title\x07\u202eexe.\x00\x9b31m\u2028\x85"


def test_nothing_of_a_log_acts_on_a_terminal(write: Write, tmp_path: Path) -> None:
    capacity = f"CUDA capacity: NVIDIA{HOSTILE}H100 with 79.1GiB memory\n"
    shown = described(make_record(read_logs([write(capacity + dump() + lines(1, 2))]), "c", {}))
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert r"\x1b]0;title\x07\u202eexe." in shown
    with pytest.raises(ValueError, match="transformer_impl") as told:
        read_logs([write(dump(transformer_impl="a" + HOSTILE) + dump(transformer_impl="b" + HOSTILE) + lines(1))])
    assert str(told.value).isprintable()
    path = tmp_path / f"a{HOSTILE.replace(chr(0), '')}\udce9.log"
    path.write_text("nothing\n")
    with pytest.raises(ValueError, match="no training line") as told:
        read_logs([path])
    assert str(told.value).isprintable()


@pytest.mark.parametrize("text", ["660,7", "1,23", "1,2345", ",5", "12,345,6"])
def test_a_comma_that_parts_no_thousands_makes_no_number(text: str) -> None:
    """A decimal comma was once dropped: 660,7 ms were 6,607."""
    assert parse_number(text) is None


@pytest.mark.parametrize(("text", "value"), [("1,234", 1234), ("1,234,567.5", 1234567.5), ("-1,234", -1234)])
def test_a_comma_that_parts_thousands_is_left_out(text: str, value: float) -> None:
    assert parse_number(text) == value


def test_a_time_with_a_decimal_comma_is_no_time(write: Write) -> None:
    reason = "3 with a time that is no number"
    with pytest.raises(ValueError, match=reason):
        read(write(dump() + lines(1, 2, 3, ms="660,7")))
    with pytest.raises(ValueError, match=reason):
        read(write("".join(titan(i, tps="9,5") + "\n" for i in range(1, 4))))
    bar = "Epoch 0: :   7%| {}/15 [00:01<00:09, v_num=, reduced_train_loss=11.0, train_step_timing in s=49,50]\r"
    with pytest.raises(ValueError, match=reason):
        read(write("".join(bar.format(i) for i in range(1, 4))))


@pytest.mark.parametrize("time", ["660,700", "  660,700", "660,700/655,100"])
def test_a_comma_before_three_digits_makes_no_time(write: Write, time: str) -> None:
    """It may be a decimal comma: 660,700 ms were once 660.7 s."""
    with pytest.raises(ValueError, match="3 with a time that is no number"):
        read(write(dump() + lines(1, 2, 3, ms=time)))
    with pytest.raises(ValueError, match="3 with a time that is no number"):
        read(write("".join(nemo(i, seconds="6,080") + "\n" for i in range(1, 4))))
    assert times(read(write(dump() + lines(1, 2, 3, ms="1,660.7")))) == pytest.approx([1.6607] * 3)


def test_a_comma_before_three_digits_makes_no_loss_or_norm_or_memory(write: Write) -> None:
    fields = {"lm loss": "11,812", "grad norm": "12,345", "max_memory_allocated(GB)": "50,125"}
    record = read(write(dump() + lines(*range(1, 8), **fields)))
    assert [(step.loss, step.grad_norm) for step in record.steps] == [(None, None)] * 7
    assert not record.valid
    assert record.ranks[0].peak_bytes == 0


def test_a_host_whose_name_has_valid_in_it_trains(write: Write) -> None:
    text = "".join(
        "validation-0: " + titan(i) + "\n" + titan(i, tps="1").replace("step:", "validate step:") + "\n" for i in (1, 2)
    )
    assert set(times(make_record(read_logs([write(text)]), "a-case", TITAN).record)) == {64 * 2048 / 8 / 10_000}


def test_counts_that_nemo_rounded_are_no_counts(write: Write) -> None:
    text = "".join(nemo(i, rest=f" | consumed_samples: {64.0 * i + 0.5:.4}") + "\n" for i in range(9_995, 10_010))
    assert make_record(read_logs([write(text)]), "a-case", TITAN).record.valid
