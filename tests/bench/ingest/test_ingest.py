"""Foreign logs: every form that was seen, what they leave out, and whatever else a file may hold.

The lines are written here in the forms of the public logs that docs/ingest.md names; no number is anybody's.
"""

from __future__ import annotations

import math
import random
import statistics
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.ingest import job
from bench.ingest.make import described, make_record
from bench.ingest.read import read_logs
from bench.ingest.values import MAX_SECONDS
from bench.judge.baseline import recorded_baseline
from bench.judge.gate import judge
from bench.judge.metrics import STEP
from bench.judge.sessions import ASSUMED_PERCENT
from bench.judge.stats import summarise
from bench.records.record import Record
from grok1.config.load import load_recipe
from tests.bench.ingest.logs import NPU, TITAN, Write, after, dump, line, lines, nemo, numbers, read, times, titan
from tests.limits import HANG_SECONDS

# ---- Megatron and its kin --------------------------------------------------------------------------------


def test_a_log_with_its_arguments_makes_a_record_that_is_judged_and_becomes_a_baseline(write: Write) -> None:
    log = write(dump() + "".join(line(i, ms=700 + i) + "\n" for i in range(1, 21)))
    made = make_record(read_logs([log]), "a-case", NPU)
    record = made.record
    assert record.valid
    assert numbers(record) == list(range(20))
    assert times(record) == pytest.approx([0.7 + i / 1000 for i in range(1, 21)])
    assert record.layout.model_dump() == {
        "world_size": 8, "tensor": 4, "pipeline": 1, "expert": 2, "expert_tensor": 4, "data": 2,
        "nodes": 1, "ranks_per_node": 8,
    }  # fmt: skip
    assert (record.device.kind, record.device.dtype, record.host) == ("npu", "bf16", None)
    assert record.steps[0].aux_loss == pytest.approx(1.019746)
    assert record.work.num_micro_batches == 8
    assert "ingested from job.log (Megatron)" in (record.source or "")
    assert "a-secret" not in record.model_dump_json()
    assert made.origins["world_size"] == "the log"
    assert "assumed" in made.origins["nodes"]
    assert "median" in described(made)
    baseline = recorded_baseline([record], "a try")
    assert judge(record, [baseline]).state == "pass"


def test_the_sizes_of_a_log_count_as_the_recipe_counts_them(write: Write) -> None:
    recipe = load_recipe("grok1-40b-2layer")
    log = read_logs([write(dump() + lines(*range(1, 9)))])
    own = make_record(log, "a-case", NPU).record
    named = make_record(log, "a-case", NPU, recipe).record
    assert own.work.parameters_total == pytest.approx(recipe.parameters(), rel=1e-4)
    assert own.work.parameters_active == recipe.active_parameters()
    assert own.work.model_flops_per_step == pytest.approx(recipe.flops_per_step())
    assert (named.recipe.name, named.recipe.hash) == (recipe.name, recipe.hash())


@pytest.mark.parametrize(
    "before",
    [
        " [2024-04-06 02:59:36]",
        "[2026-09-11 12:06:52.987995]",
        "[default0]: [2025-05-27 15:23:07]",
        "[rank7]:",
        "3: ",
        "[Rank 0 | Local Rank 0] 2026-01-01 INFO [train_engine:48] => ",
        "[[32m20251202 06:56:28[0m][[36mrank-7/8[0m][[1mINFO [0m] : ",
        "[1,7]<stdout>:",
        "samples/sec: 12.345 |",
        "\x1b[32m\x1b[1m",
        "(WorkerDict pid=295552) ",
        "\x00\xff junk ",
    ],
)
def test_what_stands_before_a_line_does_not_matter(write: Write, before: str) -> None:
    record = read(write(after(before)))
    assert times(record) == pytest.approx([0.6607] * 7)


@pytest.mark.parametrize(
    "changes",
    [
        {"load_balancing_loss": None, "throughput per GPU (TFLOP/s/GPU)": None},
        {
            "samples per second": 24.217,
            "tokens per gpu per second (tgs)": 3099.742,
            "TFLOPs": 63.4,
            "actual seqlen": " 1024",
        },
        {"elapsed time per iteration (ms)": "660.7/655.1", "hip mem usage/free/total/usage_ratio": "1GB/2GB/3GB/60%"},
        {"iteration time: 270.125 s samples/sec": 3.8},
        {"lm loss": None, "loss": 11.8},
        {"elapsed time per iteration (ms)": "  660.7"},
        {"num zeros": 0.0, "params norm": 238.33, "mtp_1 loss": "1.1E+00"},
        {"global batch size": None, "gloabl batch size": "  16"},
    ],
)
def test_fields_differ_between_versions(write: Write, changes: dict[str, Any]) -> None:
    record = read(write(dump() + "".join(line(i, **changes) + "\n" for i in range(1, 8))))
    assert record.valid
    assert times(record) == pytest.approx([0.6607] * 7)


@pytest.mark.parametrize(
    "before",
    [
        "[2024-03-18 12:23:{:02d}]",
        "0: [2024-03-18 12:23:{:02d}.123] ",
        "2020-01-01 00:00:00 [default0]: [2024-03-18 12:23:{:02d}]",
        "[[32m20240318 12:23:{:02d}[0m][[36mrank-7/8[0m][[1mINFO [0m] : ",
        "[NeMo I 2024/03/18 12:23:{:02d} log:1] ",
    ],
)
def test_a_record_is_dated_as_its_last_line(write: Write, before: str) -> None:
    record = read(write(after(before)))
    assert (record.created_at, record.is_dated) == ("2024-03-18T12:23:07+00:00", True)
    assert "dated as its last line, whose time zone is not known" in str(record.source)


@pytest.mark.parametrize(
    "before",
    [
        "2024-03-18T04:23:{:02d}Z ",
        "2024-03-18T04:23:{:02d}.123456789Z [2024-03-18 12:23:{:02d}]",
        "[2024-03-18 12:23:{:02d}] 2024-03-18T12:23:{:02d}.5+08:00 ",
        "2024-03-18 12:23:{:02d},123+0800 ",
        "2024-03-18 12:23:{:02d}+08 ",
        "2024-03-17T22:23:{:02d}-06:00 ",
    ],
)
def test_a_time_zone_that_is_stated_counts(write: Write, before: str) -> None:
    record = read(write(after(before)))
    assert record.created_at == "2024-03-18T04:23:07+00:00"
    assert "time zone" not in str(record.source)


def test_the_last_line_dates_and_not_the_latest(write: Write) -> None:
    """A resumed job's clock may be behind, and a garbled date is none."""
    days = ["2025-01-02", "9999-01-01", "0001-01-01", "2025-01-01"]
    text = "".join(f"[{day} 10:00:00]{line(i)}\n" for i, day in enumerate(days, 1))
    assert read(write(dump() + text)).created_at == "2025-01-01T10:00:00+00:00"
    undated = "".join(f"[{day} 10:00:00]{line(i)}\n" for i, day in enumerate(days[1:3], 1))
    assert not read(write(dump() + undated)).is_dated


@pytest.mark.parametrize("before", ["", "[2024-13-45 99:00:00]", "12024-03-18 12:23:00 ", "[12:23:00] "])
def test_a_log_without_dates_says_so(write: Write, before: str) -> None:
    record = read(write(after(before)))
    assert not record.is_dated
    assert "its lines have no dates" in str(record.source)


@pytest.mark.parametrize(
    "before",
    [
        "runs/2024-03-18T12:23:25/rank0.log: ",
        "/logs/2024-03-18 12:23:25Z/rank0.log:",
        "job-2024-03-18T12:23:25: ",
        "train_20240318T12:23:25.log:",
        "2024-03-18T12:23:25+08:00-rank0.log: ",
    ],
)
def test_a_date_in_a_path_is_not_the_lines(write: Write, before: str) -> None:
    """Whether one line has it or all have, and another beside it counts although that one has a time zone."""
    assert "its lines have no dates" in str(read(write(after(before, iterations=1))).source)
    own = "[2024-03-19 12:23:{:02d}]"
    assert read(write(after(before + own))).created_at == "2024-03-19T12:23:07+00:00"


@pytest.mark.parametrize("before", ["job 2024-03-18 12:23:25 ", "2024-03-18T12:23:25Z [pod] "])
def test_a_date_that_stands_still_is_none_of_the_lines(write: Write, before: str) -> None:
    """Seven steps of 0.66 s take longer than the second that a date is read to; a date that moves beside it counts."""
    still = read(write(after(before)))
    assert not still.is_dated
    assert "its lines all have one date, which is none of theirs" in str(still.source)
    moving = read(write(after(before + "[2024-03-19 12:23:{:02d}]")))
    assert moving.created_at == "2024-03-19T12:23:07+00:00"
    assert read(write(after(before, iterations=4))).is_dated, "four such lines may be of one second and the next"


def test_of_several_files_each_has_its_own_dates(write: Write) -> None:
    """Each file's path may have a date of its own, so that it seems to move."""
    logs = [write(after(f"of {day} 12:00:00 ", 7), f"{day}.log") for day in ("2024-03-18", "2024-03-19")]
    assert not read(*logs).is_dated


def test_the_log_of_another_day_is_of_another_session(write: Write) -> None:
    """As far as its lines say when it ran; without a date it is never taken for the baseline's."""

    def judged(ours: str, theirs: str) -> float | None:
        stored, new = (
            [
                read(
                    write(
                        "".join(
                            [dump(), *(f"{day.format(i)}{line(i, ms=600.0 + i % 3 + of / 9)}\n" for i in range(1, 12))]
                        )
                    )
                )
                for of in range(first, first + 5)
            ]
            for day, first in ((theirs, 0), (ours, 5))
        )
        verdict = judge(new, [recorded_baseline(stored, "a try")])
        [row] = [row for row in verdict.rows if row.metric == STEP]
        assert row.evidence is not None
        return row.evidence.session_percent

    assert judged("[2024-03-18 12:23:{:02d}]", "[2024-03-18 12:20:{:02d}]") is None
    assert judged("[2024-03-19 12:23:{:02d}]", "[2024-03-18 12:20:{:02d}]") == pytest.approx(ASSUMED_PERCENT["npu"])
    assert judged("", "") == pytest.approx(ASSUMED_PERCENT["npu"])


def test_colours_and_carriage_returns(write: Write) -> None:
    coloured = "".join(
        f"\r12%|###   |\r\x1b[36m{line(i).replace('lm loss', chr(27) + '[0mlm loss')}\r" for i in range(1, 8)
    )
    assert numbers(read(write(dump() + coloured))) == list(range(7))


def test_an_old_log_without_expert_arguments_is_dense(write: Write) -> None:
    gone = ("expert_model_parallel_size", "num_experts", "moe_router_topk", "context_parallel_size")
    text = "\n".join(row for row in dump().splitlines() if not row.strip().startswith(gone))
    record = read(write(text + "\n" + lines(*range(1, 8), **{"throughput per GPU (TFLOP/s/GPU)": 41.0})))
    assert record.layout.expert == 1
    assert record.work.parameters_active < record.work.parameters_total


def test_experts_over_the_tensor_ranks_too(write: Write) -> None:
    record = read(write(dump(moe_tp_extend_ep=True) + lines(*range(1, 8))))
    assert (record.layout.expert, record.layout.expert_tensor) == (8, 1)


def test_memory_lines_are_kept(write: Write) -> None:
    memory = (
        "[Rank 4] (after 1 iterations) memory (MB) | allocated: 10.5 | max allocated: 21687.5 | reserved: 9.0 | "
        "max reserved: 22000.0\n"
    )
    rank = read(write(dump() + lines(1) + memory + lines(*range(2, 8)))).ranks[0]
    assert (rank.peak_bytes, rank.reserved_bytes) == (int(21687.5 * 2**20), 22000 * 2**20)


def test_means_over_an_interval_stay_one_sample_a_line(write: Write) -> None:
    record = read(write(dump(log_interval=10) + lines(*range(10, 101, 10))))
    assert numbers(record) == list(range(9, 100, 10))
    assert "mean over about 10 steps" in (record.source or "")
    alone = read(write(dump() + lines(*range(1, 11))))
    assert "mean" not in (alone.source or "")


# ---- ranks, resumes, several files -----------------------------------------------------------------------


def test_the_slowest_of_several_ranks_counts(write: Write) -> None:
    text = "".join(f"[rank{rank}]:{line(i, ms=600 + 10 * rank)}\n" for i in range(1, 8) for rank in (2, 0, 1))
    assert times(read(write(dump() + text))) == pytest.approx([0.62] * 7)
    shifted = "".join(f"[rank1]:{line(i + 1)}\n[rank0]:{line(i)}\n" for i in range(1, 8))
    assert numbers(read(write(dump() + shifted))) == list(range(8))


@pytest.mark.parametrize(
    "before", ["0: [rank{}]:", "node-3: [default{}]:", "2025-05-27T15:23:07Z [rank{}]: ", "[15:23:07][rank-{}/8]"]
)
def test_a_rank_behind_another_resumes_nothing(write: Write, before: str) -> None:
    """Ranks of one task or node do not write in step; what tells them apart may stand behind other words."""
    pairs = [
        before.format(0) + line(i + 1) + "\n" + before.format(1) + line(i, ms=700.0 - i) + "\n" for i in range(1, 8)
    ]
    record = read(write(dump() + before.format(0) + line(1, ms=900.0) + "\n" + "".join(pairs)))
    assert times(record) == pytest.approx([0.9, *(0.7 - i / 1000 for i in range(2, 8)), 0.6607])
    assert "resumed" not in (record.source or "")


def test_a_rank_of_each_node_is_another_one(write: Write) -> None:
    text = "".join(f"node-0: [default0]:{line(i + 1)}\nnode-1: [default0]:{line(i, ms=700.0)}\n" for i in range(1, 8))
    assert "resumed" not in (read(write(dump() + text)).source or "")


def test_a_resumed_run_replaces_what_it_repeats(write: Write) -> None:
    record = read(write(dump() + lines(*range(1, 11), ms=600.0) + dump() + lines(*range(6, 9), ms=700.0)))
    assert numbers(record) == list(range(8))
    assert times(record) == pytest.approx([0.6] * 5 + [0.7] * 3)
    assert "resumed 1 time(s), first at step 6" in (record.source or "")
    faster = read(write(dump() + lines(*range(1, 11), ms=600.0) + dump() + lines(*range(6, 9), ms=500.0)))
    assert times(faster) == pytest.approx([0.6] * 5 + [0.5] * 3)
    assert faster.id != record.id


def test_a_second_log_continues_or_replaces(write: Write) -> None:
    first = write(dump() + lines(*range(1, 6), ms=600.0), "a.log")
    second = write(lines(*range(5, 9), ms=700.0), "b.log")
    assert times(read(first, second)) == pytest.approx([0.6] * 4 + [0.7] * 4)


def test_logs_of_two_jobs_are_refused(write: Write) -> None:
    first, second = write(dump() + lines(1), "a.log"), write(dump(world_size=16) + lines(2), "b.log")
    with pytest.raises(ValueError, match=r"b.log, line \d+: world_size is 16 here and 8 before"):
        read(first, second)
    with pytest.raises(ValueError, match="a line of torchtitan in a log of Megatron"):
        read(write(dump() + lines(1) + titan(2) + "\n"))


# ---- torchtitan and NeMo ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"grad_norm": "", "tflops": ""},
        {"grad_norm": "", "tflops": "", "tps": "", "wps": "10,000"},
        {"mfu": "N/A"},
        {"elapsed_time_per_step": "1.638s"},
    ],
)
def test_torchtitan(write: Write, changes: dict[str, str]) -> None:
    record = make_record(
        read_logs([write("".join(titan(i, **changes) + "\n" for i in range(1, 11)))]), "a-case", TITAN
    ).record
    assert record.valid
    assert numbers(record) == list(range(10))
    assert times(record) == pytest.approx([64 * 2048 / 10_000 / 8] * 10, rel=1e-3)
    assert record.ranks[0].reserved_bytes == int(12.5 * 2**30)
    assert record.steps[0].learning_rate is None


def test_torchtitan_says_its_batch_and_device(write: Write) -> None:
    text = (
        "[titan] INFO - CUDA capacity: NVIDIA H100 80GB HBM3 with 79.10GiB memory\n"
        "[titan] Training starts at step 1, with local batch size 8, global batch size 64, sequence length 2048\n"
        + "".join("\x1b[31m" + titan(i).replace("loss", "\x1b[32mloss") + "\x1b[39m\n" for i in (1, *range(10, 60, 10)))
        + titan(50, tps="1").replace("step:", "validate step:") + "\n"
    )  # fmt: skip
    said = ("sequence_length", "global_batch", "micro_batch", "device_name")
    rest = {name: value for name, value in TITAN.items() if name not in said}
    made = make_record(read_logs([write(text)]), "a-case", rest)
    assert made.record.device.kind == "cuda"
    assert numbers(made.record) == [0, 9, 19, 29, 39, 49]
    assert max(times(made.record)) < 2, "a validation is no step"
    assert "mean over about 10" in (made.record.source or "")
    with pytest.raises(ValueError, match="--sequence-length 4096 contradicts 2048 of the log"):
        make_record(read_logs([write(text)]), "a-case", rest | {"sequence_length": 4096})


def test_torchtitan_ranks_without_prefix(write: Write) -> None:
    text = "".join(titan(i, tps=tps) + "\n" for i in range(1, 8) for tps in ("10,050", "10,000", "10,049"))
    record = make_record(read_logs([write(text)]), "a-case", TITAN).record
    assert times(record) == pytest.approx([64 * 2048 / 10_000 / 8] * 7)


def test_nemo(write: Write) -> None:
    text = "".join(
        f"[2025-10-17T11:32:59+08:00] {nemo(i, rest='' if i % 2 else ' | val_loss: 3.6')}\n" for i in range(9)
    )
    record = make_record(read_logs([write(text)]), "a-case", TITAN).record
    assert record.valid
    assert numbers(record) == list(range(9))
    assert times(record) == [6.08] * 9
    assert record.ranks[0].peak_bytes == 115792977920


def test_nemo_progress_bar(write: Write) -> None:
    bars = [
        f"Epoch 0: :  {i}%|▋    | {i}/15 [06:19<07:13, v_num=0, reduced_train_loss=11.50, global_step={i - 1}.00, "
        f"consumed_samples=12288.0, train_step_timing in s=49.5{i % 10}]"
        for i in range(1, 16)
    ]
    log = read_logs([write("\r".join(bars + bars[-1:]) + "\r")])
    record = make_record(log, "a-case", TITAN).record
    assert numbers(record) == list(range(15))
    assert times(record)[3] == 49.54
    assert "rounded" in (record.source or "")


# ---- what makes a record void, and what is refused -------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lm loss": "nan"}, "step 4: loss is not finite"),
        ({"lm loss": None}, "step 4: the line has no loss"),
        ({"grad norm": "inf"}, "step 4: grad norm is not finite"),
        ({"number of nan iterations": "  1"}, "step 4: counted a NaN"),
        ({"number of skipped iterations": "  1"}, "step 4: the optimizer skipped its update"),
    ],
)
def test_a_wrong_step_voids_the_record(write: Write, changes: dict[str, Any], reason: str) -> None:
    text = dump() + "".join(line(i, **(changes if i == 4 else {})) + "\n" for i in range(1, 8))
    record = read(write(text))
    assert not record.valid
    assert record.void_reasons[0].startswith(reason)
    assert judge(record, []).state == "void"
    assert read(write(text), from_step=5).valid


@pytest.mark.parametrize("ms", ["0.0", "-5.0", "nan", "NaN", "inf", "-inf", "1e99", "99999999999.9"])
def test_a_time_that_is_none_is_refused(write: Write, ms: str) -> None:
    text = dump() + lines(1, 2) + line(3, ms=ms) + "\n" + lines(*range(4, 9))
    with pytest.raises(ValueError, match=r"job.log, line \d+: a step of .* is none.*--from-step"):
        read(write(text))
    assert numbers(read(write(text), from_step=4)) == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("tps", ["0", "-3", "nan", "inf"])
def test_a_speed_that_is_none_is_refused(write: Write, tps: str) -> None:
    with pytest.raises(ValueError, match="is no speed"):
        read_logs([write(titan(1, tps=tps) + "\n")])


def test_the_step_from_which_a_growing_batch_stays_is_named(write: Write) -> None:
    """The arguments name the last batch, the first lines a smaller one."""
    grown = {"consumed samples": None, "throughput per GPU (TFLOP/s/GPU)": None}
    text = "".join(lines(i, global_batch_size=16 if i < 5 else 32 if i < 9 else 64, **grown) for i in range(1, 13))
    path = write(dump(global_batch_size=64) + text)
    with pytest.raises(ValueError, match="is 64 of the arguments and at step 1 16: .*give --from-step 9 if"):
        read(path)
    assert read(path, from_step=9).work.global_batch == 64
    still_grows = write(dump(global_batch_size=128) + text)
    with pytest.raises(
        ValueError, match="is 128 of the arguments and at step 1 16: .*compared; give the logs of one job"
    ):
        read(still_grows)
    means = "".join(lines(i, global_batch_size=16 if i < 30 else 64, **grown) for i in range(10, 80, 10))
    with pytest.raises(ValueError, match="give --from-step 40"):  # the line of 30 has steps of both
        read(write(dump(global_batch_size=64) + means))


def test_a_growing_batch_is_refused(write: Write) -> None:
    text = dump().replace("global_batch_size", "x_batch_size") + lines(1, 2) + lines(3, 4, 5, global_batch_size="32")
    with pytest.raises(ValueError, match="global batch is 16 and at step 3 32.*--from-step 3"):
        read(write(text))
    assert read(write(text), from_step=3).work.global_batch == 32


@pytest.mark.parametrize(
    ("change", "stated", "complaint"),
    [
        ({}, {"world_size": 16}, "--world-size 16 contradicts 8 of the log: leave the flag out"),
        ({}, {"parameters": 7}, "parameters 7 of a flag contradicts"),
        ({"fp8": "hybrid"}, {}, "ran in fp8"),
        ({"moe_router_topk": 99}, {}, "moe_router_topk 99 is not between 1 and num_experts 8: no such model ran"),
        ({"moe_router_topk": 0}, {}, "moe_router_topk 0 is not between 1 and num_experts 8"),
        ({"num_query_groups": 96}, {}, "num_query_groups 96 is not between 1 and num_attention_heads 48"),
        ({"expert_model_parallel_size": 16}, {}, "expert_model_parallel_size 16 is not between 1 and num_experts 8"),
        ({"context_parallel_size": 3}, {}, "job.log: makes no record"),
        ({"multi_latent_attention": True}, {}, "give --parameters, --active-parameters"),
        ({"micro_batch_size": 3}, {}, "not whole micro-batches of 3"),
        ({"tensor_model_parallel_size": 3}, {}, "job.log: makes no record"),
        ({"world_size": 64}, {}, "does not say nodes: give --nodes, or --recipe"),
        ({}, {"device_name": "Mystery"}, "give --device-kind"),
        ({"world_size": 10**14}, {"nodes": 1}, "not whole micro-batches"),
    ],
)
def test_a_job_that_a_record_cannot_hold_is_refused(
    write: Write, change: dict[str, Any], stated: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        read(write(dump(**change) + lines(*range(1, 8))), **stated)


def test_split_sequences_and_interleaved_stages_are_axes_of_the_layout(write: Write) -> None:
    change = {"tensor_model_parallel_size": 2, "context_parallel_size": 2, "pipeline_model_parallel_size": 2}
    chunks = {"virtual_pipeline_model_parallel_size": 2}
    record = read(write(dump(**change, **chunks) + lines(*range(1, 8))))
    layout = record.layout
    assert (layout.tensor, layout.context, layout.pipeline, layout.virtual_pipeline, layout.data) == (2, 2, 2, 2, 1)
    assert record.work.num_micro_batches == 16
    plain = read(write(dump(virtual_pipeline_model_parallel_size=None) + lines(*range(1, 8)))).layout
    assert (plain.context, plain.virtual_pipeline, plain.data) == (1, 1, 2)


def test_a_recipe_that_contradicts_the_log_is_refused(write: Write) -> None:
    log = read_logs([write(dump() + lines(*range(1, 8)))])
    with pytest.raises(ValueError, match="the recipe's .* contradicts .* of the log: choose another --recipe"):
        make_record(log, "a-case", NPU, load_recipe("grok1-40b"))


def test_lines_that_were_cut_or_mixed_up_are_counted_and_left_out(write: Write) -> None:
    whole = line(3)
    cut = whole[: whole.index("660.7") + 2]
    mixed = whole[:60] + line(4, ms=1.0)
    log = read_logs([write(dump() + lines(1, 2) + cut + "\n" + cut + "[rank3]: 5 |\n" + mixed + "\n" + cut)])
    record = make_record(log, "a-case", NPU).record
    assert numbers(record) == [0, 1, 3]
    assert log.unusable == 3
    doubled = write(dump() + line(1) + "elapsed time per iteration (ms): 7.0 |\n" + lines(2))
    assert numbers(read(doubled)) == [1]


def test_a_very_long_line_is_left_out_in_bounded_memory(write: Write) -> None:
    path = write(dump() + lines(1) + "iteration" * 4 * 2**20 + "\n" + lines(2, 3))
    tracemalloc.start()
    log = read_logs([path])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 16 * 2**20
    assert (len(log.samples()), log.unusable) == (3, 1)


@pytest.mark.parametrize("content", [b"", b"\n" * 9, bytes(range(256)) * 99, b"iteration step: ....\r", b"\x00" * 9000])
def test_a_file_without_a_training_line_is_refused(write: Write, content: bytes) -> None:
    with pytest.raises(ValueError, match="job.log: no training line of Megatron, torchtitan or NeMo"):
        read_logs([write(content)])


def test_a_log_of_a_hundred_megabytes_is_read(write: Write) -> None:
    row = b"rank 3 says something of no interest about iteration speed, at great length, as some jobs do ......\n"
    middle = row * 10_000
    text = b"".join(middle + line(i).encode() + b"\n" for i in range(1, 101))
    record = read(write(dump().encode() + text))
    assert len(record.steps) == 100
    assert len(text) > 100e6


def test_too_many_steps_are_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "MAX_STEPS", 50)
    with pytest.raises(ValueError, match="give --from-step"):
        read(write(dump() + lines(*range(1, 60))))


# ---- whatever else ---------------------------------------------------------------------------------------


def sound(record: Record) -> bool:
    return all(math.isfinite(each) and 0 < each <= MAX_SECONDS for each in times(record))


def taken(content: bytes, stated: dict[str, Any]) -> Record | None:
    """The record of a log in a fresh file, or None where it was refused in one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.log"
        path.write_bytes(content)
        try:
            return make_record(read_logs([path]), "a-case", stated).record
        except ValueError as error:
            if "\n" in str(error):
                raise AssertionError(f"more than one line: {error}") from error
            return None


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 40_000), st.integers(1, 4))
def test_interleaved_and_truncated_logs_never_give_a_wrong_time(seed: int, end: int, ranks: int) -> None:
    shuffle = random.Random(seed)
    queues = [[f"[rank{rank}]:{line(i, ms=500 + i)}\n" for i in range(1, 20)] for rank in range(ranks)]
    pieces = [dump()]
    while any(queues):
        queue = shuffle.choice([each for each in queues if each])
        head = queue.pop(0)
        cut = shuffle.choice([len(head), len(head), shuffle.randrange(len(head))])
        pieces.append(head[:cut] if shuffle.random() < 0.2 else head)
    record = taken("".join(pieces).encode()[:end], NPU)
    if record is not None:
        allowed = {round((500 + i) / 1000, 6) for i in range(1, 20)}
        assert {round(each, 6) for each in times(record)} <= allowed
        assert all(a < b for a, b in zip(numbers(record), numbers(record)[1:], strict=False))


PIECES = [
    *"0123456789.:|/,\r\n -=eE[]",
    *("nan", "-", "step: ", "loss: ", "tps: ", "iteration ", "elapsed time per iteration (ms): ", "\x1b[3", "m"),
    *(line(1), line(2), titan(1), nemo(3), "train_step_timing in s=", "  seq_length ...... ", "  num_layers .. 0\n"),
]


@settings(max_examples=100)
@given(st.lists(st.sampled_from(PIECES), max_size=40), st.binary(max_size=30))
def test_no_file_makes_it_crash(parts: list[str], junk: bytes) -> None:
    record = taken(dump().encode() + "".join(parts).encode() + junk, NPU | {"parameters": 1, "active_parameters": 1})
    assert record is None or sound(record)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 10**8), min_size=1, max_size=50), st.integers(0, 10**6))
def test_generated_lines_come_back(tenths: list[int], first: int) -> None:
    text = "".join(line(first + i, ms=f"{tenth / 10:.1f}") + "\n" for i, tenth in enumerate(tenths, 1))
    record = taken((dump() + text).encode(), NPU)
    assert record is not None
    assert times(record) == pytest.approx([tenth / 10_000 for tenth in tenths])
    assert numbers(record) == list(range(first, first + len(tenths)))
    again = Record.model_validate_json(record.model_dump_json(by_alias=True))
    assert again == record


# ---- the command -----------------------------------------------------------------------------------------


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", "ingest", *arguments],
        cwd=cwd, env={"PYTHONPATH": str(Path(__file__).parents[3])}, capture_output=True, text=True,
        timeout=HANG_SECONDS,
    )  # fmt: skip


def test_the_command_writes_a_record_and_says_what_it_understood(write: Write, tmp_path: Path) -> None:
    log = write(dump() + "".join(line(i, ms=600 + i) + "\n" for i in range(1, 12)))
    stated = ("--case", "a/../case", "--device-name", "Ascend910B3", "--software", "torch=2.7.1")
    done = command(str(log), *stated, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "results/records").iterdir()
    record = Record.read(path)
    assert record.software == {"torch": "2.7.1"}
    assert f"median {summarise(record).median_step_seconds:.4g} s/step" in done.stdout
    assert "world_size: 8 (the log)" in done.stdout
    assert statistics.median(times(record)) == pytest.approx(0.606)
    again = command(str(log), *stated, "--output", "again.json", cwd=tmp_path)
    assert again.returncode == 0
    assert Record.read(tmp_path / "again.json").id == record.id, "one run is one piece of evidence"


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize(
    ("text", "arguments", "complaint"),
    [
        (None, (), "cannot be read"),
        ("nothing\n", (), "no training line"),
        (dump() + line(1, ms="nan") + "\n", (), "is none"),
        (dump() + lines(1), ("--world-size", "3"), "contradicts"),
        (dump() + lines(1), ("--software", "torch"), "is not name=version"),
    ],
)
def test_the_command_refuses_in_one_line_and_writes_nothing(
    write: Write, tmp_path: Path, text: str | None, arguments: tuple[str, ...], complaint: str
) -> None:
    log = tmp_path / "gone.log" if text is None else write(text)
    done = command(str(log), "--case", "c", "--device-name", "Ascend910B", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "results").exists()
