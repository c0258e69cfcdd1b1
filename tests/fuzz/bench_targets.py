"""The parsers of what the harness reads: records, baselines, ledgers, histories, recorded noise and foreign logs."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from tests.fuzz import mutate
from tests.fuzz.targets import Target, as_file, as_words

if TYPE_CHECKING:
    from bench.ingest.job import Value
    from bench.records.record import Record

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def _record() -> Record:
    from bench.synthetic import build_synthetic_record

    return build_synthetic_record(steps=7)


@functools.cache
def _records() -> list[bytes]:
    from bench.synthetic import build_synthetic_record

    layout = {"world_size": 1, "tensor": 1, "pipeline": 1, "expert": 1, "expert_tensor": 1, "data": 1, "nodes": 1,
              "ranks_per_node": 1}  # fmt: skip
    work = {"num_micro_batches": 128}
    content = build_synthetic_record(steps=5).model_dump(mode="json", by_alias=True)
    content["ranks"] = content["ranks"][:1]
    content["layout"], content["work"] = layout, content["work"] | work
    content["recipe"]["resolved"]["parallel"] |= layout
    seconds = content["ranks"][0]["communication_seconds"]
    whole = {"seconds": seconds, "calls": 5 * 420, "bytes": 5 * 10**9}
    content["ranks"][0]["collectives"] = {"tensor all_gather": whole}
    content["ranks"][0]["timeline"] = [{"phase": "forward", "start_seconds": 0.0, "end_seconds": 0.5}]
    content["ranks"][0]["modules_seconds"] = {"attention": {"forward": 0.1, "backward": 0.2}}
    return [json.dumps(content).encode()]


@functools.cache
def _lone_records() -> list[bytes]:
    content = json.loads(_records()[0])
    content["lone_rank"] = {"rank": 0, "routing_shares": [0.5, 0.5]}
    content["ranks"][0] |= {"operators_seconds": 1.5, "operator_calls": 4128}
    content["steps"] = [step | {"loss": None, "grad_norm": None} for step in content["steps"]]
    return [json.dumps(content).encode()]


@functools.cache
def _expectations() -> list[bytes]:
    record = _record()
    terms = {"products": 20.0, "tensor": 4.0, "host": 1.0, "bubble": 1.5}
    content = {
        "recipe_hash": record.recipe.hash, "device_name": record.device.name, "lone_rank": None, "profile": "a-chip",
        "step_seconds": 26.5, "low_seconds": 20.0, "high_seconds": 30.0, "level": 0.9, "terms": terms,
        "basis": ["ten rows"],
        "exchanges": [{"name": "tensor all_gather", "calls": 4, "bytes": 10, "seconds": 0.1}],
    }  # fmt: skip
    return [json.dumps({"schema": 1, "expectations": [content]}).encode()]


def _read_expectations(raw: bytes, folder: Path) -> str:
    """Shown in a terminal and in a report of the run that it is of."""
    from bench.commands.expected import told
    from bench.judge.beside import median_beside
    from bench.records.expectation import read_expectations
    from reports.body import body
    from reports.case import assess

    found = read_expectations(as_file(folder, "expected.json", raw))
    shown = [told([_record()], median_beside([_record()], each)) for each in found]
    return "\n".join([*shown, body(assess([_record()], [], expectations=found), None, [], [])])


def _read_record(raw: bytes, folder: Path) -> str:
    """Judged, reported without its pictures, put into a history and made a baseline."""
    from bench.baselines.store import unfit
    from bench.history.store import append
    from bench.judge.gate import judge_suite
    from bench.judge.groups import grouped
    from bench.judge.junit import as_junit
    from bench.records.files import read_records
    from bench.records.terminal import plain
    from reports.body import body
    from reports.case import assess
    from reports.comment import comment
    from reports.data import as_json

    as_file(folder, "record.json", raw)
    found = read_records([folder])
    records = [record for _, record in found]
    verdicts = judge_suite(grouped(records), [])
    cases = assess(records, [])
    unfit(found)
    append(folder / "history.jsonl", records)
    shown = [as_junit(verdicts, True).decode(), as_json(cases).decode(), body(cases, [()] * len(cases), [], [])]
    shown += [comment(cases)] if cases else []
    return "\n".join([*shown, *(plain(verdict.sentence) for verdict in verdicts)])


@functools.cache
def _baselines() -> list[bytes]:
    from bench.judge.baseline import BaselineFile, recorded_baseline
    from bench.synthetic import build_synthetic_record

    runs = [build_synthetic_record(steps=5, seed=seed) for seed in range(5)]
    recorded = BaselineFile(baselines=[recorded_baseline(runs, "for a test")]).model_dump_json(by_alias=True)
    published = sorted((ROOT / "baselines" / "npu-910b").glob("*.json"))
    return [recorded.encode(), published[0].read_bytes()]


def _read_baselines(raw: bytes, folder: Path) -> str:
    from bench.baselines.store import read_candidate
    from bench.commands.baseline_text import compared, described
    from bench.judge.baseline import stored_baselines
    from bench.judge.gate import judge_suite, missing
    from bench.judge.groups import grouped
    from bench.records.terminal import plain

    path = as_file(folder, "baseline.json", raw)
    stored = [baseline for _, baseline in stored_baselines(folder)]
    verdicts = judge_suite(grouped([_record()]), stored)
    verdicts += missing([_record()], stored, None)
    shown = [described(each) for each in stored]
    if len(stored) == 1 and stored[0].kind == "recorded":
        shown.append(compared(read_candidate(path), stored))
    return "\n".join([*shown, *(plain(verdict.sentence) for verdict in verdicts)])


@functools.cache
def _ledgers() -> list[bytes]:
    content = json.loads((ROOT / "baselines" / "ledger" / "grok1-nano.json").read_bytes())
    content["ranks"] = content["ranks"][:1]
    content["ranks"][0]["costs"] = content["ranks"][0]["costs"][:6]
    content["ranks"][0]["timeline"] = [{"phase": "forward", "component": "attention", "bytes": 5}]
    return [json.dumps(content).encode()]


def _read_ledger(raw: bytes, folder: Path) -> str:
    from bench.ledger.schema import Ledger, differences, incomparable, read_ledger
    from bench.ledger.text import as_markdown, complaint, summary
    from bench.records.jsonfile import parse_model
    from grok1.config.load import load_recipe
    from reports.ledger import section_of

    ledger = read_ledger(as_file(folder, "ledger.json", raw))
    other = parse_model(_ledgers()[0], Ledger)
    incomparable(other, ledger)
    differences(other, ledger)
    shown = [as_markdown(other, ledger, ("one", "two")), complaint(other, ledger)]
    shown += [summary(ledger, load_recipe("grok1-nano"), 60.0), *section_of(ledger, (), 0)]
    return "\n".join(shown)


@functools.cache
def _histories() -> list[bytes]:
    from bench.history.store import entry_of
    from bench.synthetic import build_synthetic_record

    entries = [entry_of(build_synthetic_record(steps=5, seed=seed), "pass") for seed in range(12)]
    return ["".join(entry.model_dump_json(by_alias=True) + "\n" for entry in entries).encode()]


def _read_history(raw: bytes, folder: Path) -> str:
    from bench.commands.history import _row
    from bench.history.change_points import change_points
    from bench.history.store import append, read, series_of
    from bench.history.words import described, title, warnings
    from reports.history.build import site_of

    path = as_file(folder, "history.jsonl", raw)
    shown = []
    for series in series_of(read(path)):
        shown += [title(series), *(" ".join(_row(entry)) for entry in series)]
        points = change_points(series)
        shown += [*(described(series, point) for point in points), *warnings(series, points)]
    for content in site_of(series_of(read(path)), lambda entry: None).values():
        shown += content.decode().splitlines()
    append(path, [_record()])
    return "\n".join(shown)


def _series() -> list[bytes]:
    return [(ROOT / "baselines" / "noise" / "one-rank-many-jobs-memory.json").read_bytes()]


def _read_series(raw: bytes, folder: Path) -> str:
    from bench.selftest.series import read_series

    return str(len(read_series(as_file(folder, "series.json", raw)).runs))


_MEGATRON = (
    """using world size: 8, data-parallel size: 2, tensor-model-parallel size: 4, pipeline-model-parallel size: 1
------------------------ arguments ------------------------
  bf16 ............................................ True
  expert_model_parallel_size ...................... 2
  global_batch_size ............................... 16
  seq_length ...................................... 1024
  tensor_model_parallel_size ...................... 4
[Rank 0] (after 2 iterations) memory (MB) | allocated: 1.0 | max allocated: 2.0 | reserved: 3.0 | max reserved: 4.0
 iteration        1/    2000 | consumed samples:           16 | elapsed time per iteration (ms): 660.7 | """
    """learning rate: 1.0E-06 | global batch size:    16 | lm loss: 1.18E+01 | loss scale: 1.0 | grad norm: 12.3 | """
    """number of skipped iterations:   0 | number of nan iterations:   0 |
 iteration        2/    2000 | consumed samples:           32 | elapsed time per iteration (ms): 661.7 | """
    """learning rate: 1.0E-06 | global batch size:    16 | lm loss: 1.17E+01 | loss scale: 1.0 | grad norm: 12.3 | """
    """number of skipped iterations:   0 | number of nan iterations:   0 |
"""
)
_TITAN = (
    """[titan] 2025-06-16 22:30:50,322 - root - INFO - CUDA capacity: NVIDIA H100 80GB HBM3 with 79.10GiB memory
[titan] 2025-06-16 22:30:50,322 - root - INFO - step:  1  loss:  7.1234  grad_norm:  1.2500  """
    """memory: 12.50GiB(15.60%)  tps: 10,000  tflops: 56.78  mfu: 12.30%
[titan] 2025-06-16 22:30:51,322 - root - INFO - step:  2  loss:  7.0234  grad_norm:  1.2500  """
    """memory: 12.50GiB(15.60%)  tps: 10,100  tflops: 56.78  mfu: 12.30%
"""
)
_NEMO = (
    """Training epoch 0, iteration 0/99 | lr: 6.897e-06 | global_batch_size: 64 | global_step: 0 | """
    """max_memory_reserved: 127785762816 | max_memory_allocated: 115792977920 | reduced_train_loss: 11.96 | """
    """train_step_timing in s: 6.08 | consumed_samples: 64
Training epoch 0, iteration 1/99 | lr: 6.897e-06 | global_batch_size: 64 | global_step: 1 | """
    """max_memory_reserved: 127785762816 | max_memory_allocated: 115792977920 | reduced_train_loss: 11.90 | """
    """train_step_timing in s: 6.01 | consumed_samples: 128
"""
)
_STATED: dict[str, Value] = {
    "world_size": 8, "tensor": 4, "pipeline": 1, "expert": 2, "expert_tensor": 4, "nodes": 1, "dtype": "bf16",
    "sequence_length": 1024, "micro_batch": 1, "parameters": 8_000_000, "active_parameters": 8_000_000,
}  # fmt: skip


def _read_log(raw: bytes, folder: Path) -> str:
    from bench.ingest.make import described, make_record
    from bench.ingest.read import read_logs

    log = read_logs([as_file(folder, "job.log", raw)])
    name: dict[str, Value] = {} if "device_name" in log.facts else {"device_name": "Ascend910B3"}
    batch: dict[str, Value] = {"global_batch": 16 if log.form == "Megatron" else 64}
    given = {key: value for key, value in (_STATED | name | batch).items() if key not in log.facts}
    return described(make_record(log, "a-case", given))


def _bend_log(raw: bytes, random: Random) -> bytes:
    """Lines moved, words replaced, and sometimes one piece repeated until the line is very long."""
    how = random.randrange(6)
    if how == 0:
        lines = raw.splitlines(keepends=True) or [b""]
        lines[random.randrange(len(lines)) :] = lines[:50]
        return b"".join(lines)
    if how == 1:
        start = random.randrange(len(raw) + 1)
        piece = raw[start : start + random.choice((1, 2, 5, 20))]
        return raw[:start] + piece * (random.choice((1_000, 20_000, 64_000)) // max(1, len(piece))) + raw[start:]
    return mutate.bend_words(raw, random)


def _read_key_values(raw: bytes, folder: Path) -> str:
    from bench.ingest.make import key_values

    key_values(as_words(raw).split(" "))
    return ""


BENCH = [
    Target("record", _records, mutate.bend_json, _read_record, cost=4),
    Target("baseline", _baselines, mutate.bend_json, _read_baselines, cost=8),
    Target("lone-rank", _lone_records, mutate.bend_json, _read_record, cost=4),
    Target("expectation", _expectations, mutate.bend_json, _read_expectations, cost=2),
    Target("ledger", _ledgers, mutate.bend_json, _read_ledger, cost=2),
    Target("history", _histories, mutate.bend_json_lines, _read_history, cost=8),
    Target("series", _series, mutate.bend_json, _read_series),
    Target("log", lambda: [_MEGATRON.encode(), _TITAN.encode(), _NEMO.encode()], _bend_log, _read_log, cost=2),
    Target("key-values", lambda: [b"torch=2.7.1 cann=8.0"], mutate.bend_words, _read_key_values),
]
