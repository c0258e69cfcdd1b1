"""Records: what is accepted, what is refused and how, and that files survive the trip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.records import jsonfile
from bench.records.environment import ALLOWED_ENVIRONMENT, allowed_environment
from bench.records.layout import Layout
from bench.records.record import Record

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def changed(record: Record, path: str, value: Any) -> dict[str, Any]:
    """The record as plain data with one value replaced, at a path such as steps.0.loss."""
    content: dict[str, Any] = record.model_dump(mode="json", by_alias=True)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    node: Any = content
    for part in parents:
        node = node[part]
    node[last] = value
    return content


def test_a_record_survives_the_trip_to_disk(synthetic_record, tmp_path: Path) -> None:
    record = synthetic_record()
    record.write(tmp_path / "new" / "record.json")
    assert Record.read(tmp_path / "new" / "record.json") == record
    assert json.loads((tmp_path / "new" / "record.json").read_text())["schema"] == 1


def test_a_layout_is_written_as_before_unless_it_has_what_came_later(synthetic_record) -> None:
    layout = synthetic_record().layout
    assert not {"context", "virtual_pipeline"} & layout.model_dump().keys()
    split = {**layout.model_dump(), "context": 2, "data": 1, "world_size": 2 * layout.world_size // layout.data}
    split |= {"nodes": 1, "ranks_per_node": split["world_size"], "virtual_pipeline": 2}
    assert Layout.model_validate(split).model_dump() == split


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("schema", 2, "schema: Input should be 1"),
        ("id", "../../etc", "id: "),
        ("created_at", "2025-01-31T12:00:00", "not in UTC"),
        ("created_at", "2025-01-31T12:00:00+08:00", "not in UTC"),
        ("created_at", "yesterday", "not an ISO 8601 time"),
        ("valid", False, "void_reasons is empty"),
        ("valid", 1, "valid: Input should be a valid boolean"),
        ("void_reasons", ["slow"], "void_reasons is empty"),
        ("unknown", 1, "unknown: Extra inputs"),
        ("layout.tensor", 8, "world_size 16 is not tensor 8"),
        ("layout.context", 2, "x context 2 x pipeline"),
        ("layout.nodes", 3, "is not 3 nodes"),
        ("layout.expert", 3, "expert x expert_tensor"),
        ("layout.tensor", "4", "layout.tensor: Input should be a valid integer"),
        ("device.kind", "tpu", "device.kind: "),
        ("device.peak_source", None, "stated together"),
        ("device.peak_flops_per_second", 0.0, "greater than or equal to"),
        ("environment", {"HOME": "x"}, "'HOME' is not allow-listed"),
        ("work.tokens_per_step", 7, "sequence_length x global_batch"),
        ("work.parameters_active", 2**60, "larger than parameters_total"),
        ("work.num_micro_batches", 60, "not a multiple of data x num_micro_batches"),
        ("steps.3.loss", None, "step 4 has a loss or grad_norm that is not finite"),
        ("steps.3.grad_norm", None, "step 4 has a loss or grad_norm that is not finite"),
        ("steps.3.step", 2, "increasing order"),
        ("ranks.5.rank", 4, "ranks repeat"),
        ("ranks.5.rank", 16, "ranks repeat or exceed"),
        ("ranks.5.stage", 2, "stage 2 of 2"),
        ("ranks.5.step_seconds", [1.0], "rank 5: step_seconds holds 1 numbers for 20 steps"),
        ("ranks.5.step_seconds.0", -1.0, "ranks.5.step_seconds.0: Input should be greater than or equal to"),
        ("ranks.5.phases_seconds.forward", [1.0], "phases_seconds.forward holds 1"),
        ("ranks.5.communication_calls", [1], "communication_calls holds 1"),
        ("expert_load.0", [1, 2], "same experts"),
        # what is said twice
        ("recipe.resolved.parallel.tensor", 2, "layout.tensor is 4, and parallel.tensor of the recipe that ran 2"),
        ("recipe.resolved.training.sequence_length", 4096, "work.sequence_length is 8192"),
        ("recipe.resolved.training.micro_batch", 2, "is not as many of 2 on 2 replicas"),
        ("work.num_micro_batches", 32, "a global batch of 128 is not as many of 1 on 2 replicas"),
        ("device.dtype", "fp32", "device.dtype is fp32, and training.dtype of the recipe that ran bf16"),
        ("ranks.9.stage", 0, "9 ranks are of stage 0, and a stage has 8"),
        (
            "session",
            {"machine": "a" * 12, "boot": None, "day": "2025-02-01", "job": None},
            "is before session.day 2025",
        ),
        ("session", {"machine": "a" * 12, "boot": None, "day": "2025-01-32", "job": None}, "2025-01-32 is no date"),
    ],
)
def test_an_inconsistent_record_is_refused_in_one_line_naming_file_and_fault(
    synthetic_record, tmp_path: Path, path: str, value: Any, complaint: str
) -> None:
    file = tmp_path / "record.json"
    file.write_text(json.dumps(changed(synthetic_record(), path, value)))
    with pytest.raises(ValueError, match="record.json: ") as raised:
        Record.read(file)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


def test_twice_the_batch_in_two_places_is_not_that_of_the_recipe(synthetic_record) -> None:
    """It would be twice the tokens a second."""
    content = changed(synthetic_record(), "work.global_batch", 256)
    content["work"]["tokens_per_step"] *= 2
    with pytest.raises(ValidationError, match="work.global_batch is 256, and training.global_batch of the recipe"):
        Record.model_validate(content)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("calls", 8401, "rank 3: communication_calls are 8400, and those of collectives 8401"),
        ("bytes", 1, "rank 3: communication_bytes are 20000000000, and those of collectives 1"),
        ("seconds", [0.5] * 20, "communication_seconds at place 0 is "),
    ],
)
def test_all_communication_is_that_of_its_kinds_together(
    synthetic_record, name: str, value: Any, complaint: str
) -> None:
    content = synthetic_record().model_dump(mode="json", by_alias=True)
    rank = content["ranks"][3]
    kind = {"seconds": rank["communication_seconds"], "calls": 8400, "bytes": 20 * 10**9}
    rank["collectives"] = {"tensor all_gather": kind}
    assert Record.model_validate(content)
    kind[name] = value
    with pytest.raises(ValidationError, match=complaint):
        Record.model_validate(content)


def test_a_missing_rank_makes_a_record_void(synthetic_record) -> None:
    content = synthetic_record().model_dump(mode="json", by_alias=True)
    del content["ranks"][7]
    with pytest.raises(ValidationError, match="rank 7 is missing"):
        Record.model_validate(content)
    void = content | {"valid": False, "void_reasons": ["rank 7 died"]}
    assert not Record.model_validate(void).valid


def test_a_loss_that_is_not_finite_may_be_kept_in_a_void_record(synthetic_record) -> None:
    content = changed(synthetic_record(), "steps.3.loss", None)
    void = content | {"valid": False, "void_reasons": ["step 3: loss is not finite"]}
    assert Record.model_validate(void).steps[3].loss is None


def test_a_skipped_step_voids_a_record_and_needs_no_grad_norm(synthetic_record) -> None:
    content = changed(synthetic_record(), "steps.3.grad_norm", None)
    content["steps"][3]["skipped"] = True
    read = Record.model_validate(content)
    assert (read.valid, read.void_reasons) == (False, ["step 4: the optimizer skipped its update"])
    other = content | {"valid": False, "void_reasons": ["step 9: loss is not finite"]}
    assert Record.model_validate(other).void_reasons == ["step 9: loss is not finite"]


def test_communication_may_be_left_unmeasured(synthetic_record) -> None:
    content = changed(synthetic_record(), "ranks.5.communication_seconds", [])
    assert Record.model_validate(content).ranks[5].communication_seconds == []


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "not a usable JSON file"),
        (b"\xff\xfe", "is text in UTF-16: save it as UTF-8"),
        (b'{"schema": NaN}', "NaN is not a JSON number"),
        (b'{"startup_seconds": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"startup_seconds": 1e999}', "not finite"),
        (b'{"id": "a", "id": "b"}', "the key 'id' is repeated"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 100 + b"]" * 100, "nested deeper than 16"),
        (b"[1, 2]", "the file: Input should be an object"),
        (b'{"a\\nb": 1}', "missing"),
        (b"1" * 5000, "not a usable JSON file"),
    ],
)
def test_what_is_not_a_record_is_refused_in_one_line(tmp_path: Path, raw: bytes, complaint: str) -> None:
    file = tmp_path / "record.json"
    file.write_bytes(raw)
    with pytest.raises(ValueError, match="record.json: ") as raised:
        Record.read(file)
    assert "\n" not in str(raised.value)
    assert complaint in str(raised.value) or complaint == "missing"


def test_an_oversized_file_is_refused_before_it_is_parsed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("bench.records.record.MAX_RECORD_BYTES", 2**20)
    file = tmp_path / "record.json"
    file.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(ValueError, match="larger than the 1 MiB allowed"):
        Record.read(file)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone.json: cannot be read: No such file"):
        Record.read(tmp_path / "gone.json")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "report.md"
    jsonfile.write_atomically(file, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(ValueError, match="disk full"):
        jsonfile.write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@given(JSON)
def test_free_form_values_are_accepted_exactly_when_json_can_hold_them(value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
        representable = True
    except ValueError:
        representable = False
    try:
        jsonfile.check_plain_json(value)
        accepted = True
    except ValueError:
        accepted = False
    assert accepted == representable


@given(st.dictionaries(st.text(min_size=1, max_size=12), st.text(max_size=5), max_size=8))
def test_no_unlisted_variable_is_ever_kept(environment: dict[str, str]) -> None:
    kept = allowed_environment(environment)
    assert all(name.startswith(ALLOWED_ENVIRONMENT) for name in kept)
    assert allowed_environment(kept) == kept


def test_variables_that_change_speed_are_kept_and_secrets_are_not() -> None:
    kept = {
        "OMP_NUM_THREADS": "1",
        "HCCL_BUFFSIZE": "200",
        "NCCL_ALGO": "Ring",
        "PYTORCH_NPU_ALLOC_CONF": "x",
    }
    dropped = {"HOME": "x", "AWS_SECRET_ACCESS_KEY": "x", "NCCL_AUTH_TOKEN": "x", "OMP_NUM_THREADS_OLD": "x"}
    assert allowed_environment(kept | dropped) == kept
