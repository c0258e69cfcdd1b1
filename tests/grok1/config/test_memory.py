"""Memory before a job starts: estimate and communicators are the ledger's; too much is refused with what fits."""

from __future__ import annotations

import shlex

import pytest

from bench.ledger.schema import read_ledger
from bench.ledger.store import FOLDER, SHIPPED, path_of
from grok1.config.load import build_recipe, load_recipe
from grok1.config.memory import MARGIN_BYTES, SHOWN_GIB, communicators, need, what_fits
from grok1.device import seam
from grok1.distributed.launch import LaunchError, check_machine
from tests.lines import ONLY_0_12

FORTY = "grok1-40b"
FP32_ROUTER = ("parallel.dispatcher=alltoall", "training.router_dtype=fp32")
FUSED = ("parallel.dispatcher=alltoall", "kernels.experts=fused", "kernels.dispatch=merged")
SPLIT = ("parallel.context=2",)
LONG = ("training.sequence_length=32768", "training.global_batch=8")
WHOLE = ("parallel.expert=8", "parallel.expert_tensor=1")


@pytest.mark.parametrize("name", SHIPPED)
def test_the_estimate_is_within_3_percent_of_the_counted_peak(name: str) -> None:
    counted = max(rank.memory.peak_bytes for rank in read_ledger(path_of(FOLDER, name)).ranks)
    assert load_recipe(name).bytes_per_rank() == pytest.approx(counted, rel=0.03)


@pytest.mark.parametrize(
    ("changes", "counted_gib"),
    [  # each by `python -m bench ledger --recipe grok1-40b --set ...`
        (FP32_ROUTER, 60.656),
        ((*FP32_ROUTER, *FUSED), 55.026),
        ((*FUSED, "training.gradient_dtype=bf16"), 49.734),
        (WHOLE, 59.146),
        ((*FUSED, *WHOLE), 54.600),
        (("model.ffn_hidden_size=16384",), 34.843),
        ((*FP32_ROUTER, *SPLIT), 52.823),
        ((*FP32_ROUTER, *SPLIT, "parallel.context_exchange=a2a"), 52.323),
        ((*FP32_ROUTER, *SPLIT, *LONG, "model.attention_logit_cap=30.0"), 77.066),
        ((*FP32_ROUTER, *SPLIT, *LONG), 84.072),  # with masks; of the second of the two context ranks
        (("parallel.virtual_pipeline=2",), 64.11),
    ],
)
def test_the_estimate_follows_choices_as_the_ledger_does(changes: tuple[str, ...], counted_gib: float) -> None:
    assert load_recipe(FORTY, changes).bytes_per_rank() / 2**30 == pytest.approx(counted_gib, rel=0.03)


@pytest.mark.parametrize("name", SHIPPED)
def test_communicators_are_the_groups_that_the_ledger_counted(name: str) -> None:
    groups = max(len({row.group for row in rank.collectives}) for rank in read_ledger(path_of(FOLDER, name)).ranks)
    assert communicators(load_recipe(name)) == groups


def test_a_rank_alone_has_no_communicator() -> None:
    alone = [f"parallel.{axis}=1" for axis in ("world_size", "tensor", "pipeline", "expert", "expert_tensor")]
    parts = need(load_recipe("grok1-nano", alone))
    assert (parts.communicators, parts.total) == (0, parts.tensors + MARGIN_BYTES)


def test_parts_are_added_and_told_in_words() -> None:
    parts = need(load_recipe("grok1-nano"), tensors=3 * 2**30)
    assert parts.margin == MARGIN_BYTES == 2**30
    assert parts.buffers == parts.communicators * 400_000_000  # one to send and one to receive, of 200 MB
    assert parts.total == 3 * 2**30 + parts.buffers + 2**30
    shown = f"{parts.buffers / 1073741824:.2f} of {parts.communicators}"
    assert parts.told == (
        f"3.00 GiB of tensors, {shown} communicators and 1.00 of margin are {4 + parts.buffers / 1073741824:.2f} GiB"
    )


def test_some_groups_communicate_only_where_a_choice_has_them_do_so() -> None:
    split = ("parallel.context=2", "parallel.tensor=2")
    without = communicators(load_recipe("grok1-nano", [*split, "model.aux_loss_coefficient=0.0"]))
    assert communicators(load_recipe("grok1-nano", split)) == without + 1  # experts' load is summed over both
    eight = ("parallel.world_size=8", "parallel.pipeline=1", "parallel.tensor=2", "parallel.expert_tensor=2")
    # tensor, data, expert-tensor x expert, and all; where experts are split, their replicas are other ranks
    assert communicators(load_recipe("grok1-nano", [*eight, "parallel.expert=1"])) == 4
    assert communicators(load_recipe("grok1-nano", [*eight, "parallel.expert=2"])) == 5


def _on_a_card(monkeypatch: pytest.MonkeyPatch, shown_gib: float) -> None:
    monkeypatch.setattr(seam, "check_available", lambda device, local_ranks: None)
    monkeypatch.setattr(seam, "memory_bytes", lambda device: int(shown_gib * 2**30))


@ONLY_0_12
def test_the_published_job_is_refused_on_a_64_gb_card_with_what_fits_and_the_tuned_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _on_a_card(monkeypatch, SHOWN_GIB)
    monkeypatch.delenv("HCCL_BUFFSIZE", raising=False)
    with pytest.raises(LaunchError, match=r"5 communicators.*of which 61\.0 GiB.*what fits: --set kernels") as caught:
        check_machine(load_recipe(FORTY), "npu", 8)
    assert "\n" not in str(caught.value)
    check_machine(load_recipe("grok1-40b-tuned"), "npu", 8)


@ONLY_0_12
def test_larger_buffers_of_hccl_need_more(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = load_recipe("grok1-40b-tuned")
    _on_a_card(monkeypatch, need(tuned).total / 2**30 + 0.1)
    monkeypatch.delenv("HCCL_BUFFSIZE", raising=False)
    check_machine(tuned, "npu", 8)
    monkeypatch.setenv("HCCL_BUFFSIZE", "400")
    with pytest.raises(LaunchError, match="of 5 communicators"):
        check_machine(tuned, "npu", 8)


def test_each_choice_that_is_said_to_fit_does() -> None:
    recipe, available = load_recipe(FORTY), int(SHOWN_GIB * 2**30)
    offered = what_fits(recipe, available).removeprefix("what fits: ").split("; ")
    assert len(offered) >= 2
    for each in offered:
        changes = [word for word in shlex.split(each.split(" (")[0]) if word != "--set"]
        assert need(build_recipe(FORTY, recipe.resolved(), changes)).total <= available
    assert "split it over more ranks" in what_fits(recipe, 2**30)
