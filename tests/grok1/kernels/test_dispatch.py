"""Our dispatcher, experts and dense layers in real layouts: one rank's numbers with megatron's own parts."""

from __future__ import annotations

import pytest

from grok1.config.load import ONE_RANK
from grok1.training.result import RunResult
from tests.conftest import MEGATRONS_PARTS
from tests.grok1.conftest import Train, column

SAME = 1e-5  # relative; fp32 sums in another order
OURS = ("kernels.experts=fused", "kernels.dispatch=merged", "kernels.cross_entropy=fused", "kernels.linear=fused")
XAIS = (
    "model.activation=geglu",
    "model.attention_logit_cap=30.0",
    "model.tie_embeddings=true",
    "model.router=softmax_then_topk",
    "model.aux_loss_coefficient=0.0",
)


@pytest.fixture(scope="module")
def megatrons(train: Train) -> RunResult:
    """Ten steps on one rank."""
    return train(10, *ONE_RANK, *MEGATRONS_PARTS)


@pytest.fixture(scope="module")
def ours(train: Train) -> RunResult:
    return train(10, *OURS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loss", "grad_norm", "aux_loss"])
def test_sixteen_ranks_give_the_numbers_of_one(name: str, megatrons: RunResult, ours: RunResult) -> None:
    assert column(ours, name) == pytest.approx(column(megatrons, name), rel=SAME)


@pytest.mark.slow
def test_each_expert_gets_the_tokens_it_did(megatrons: RunResult, ours: RunResult) -> None:
    assert ours.expert_load == megatrons.expert_load


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize(
    "choices",
    [
        ("parallel.world_size=1", "parallel.tensor=1", "parallel.pipeline=1", "parallel.expert=1", *OURS),
        (
            "parallel.world_size=1",
            "parallel.tensor=1",
            "parallel.pipeline=1",
            "parallel.expert=1",
            *MEGATRONS_PARTS[:1],
            *OURS[1:],
        ),
        ("parallel.world_size=2", "parallel.tensor=2", "parallel.pipeline=1", "parallel.expert=1")
        + ("parallel.expert_tensor=2", *OURS),
        ("parallel.world_size=2", "parallel.tensor=1", "parallel.pipeline=1", "parallel.expert=2", *OURS),
        ("parallel.world_size=8", "parallel.tensor=4", "parallel.pipeline=1", "parallel.expert=8", *OURS),
        ("parallel.world_size=4", "parallel.tensor=2", "parallel.expert=2", "parallel.pipeline=1")
        + ("parallel.dispatcher=allgather", *OURS[:1], *MEGATRONS_PARTS[1:]),
        ("parallel.world_size=4", "parallel.tensor=2", "parallel.expert=2", "parallel.pipeline=1")
        + ("parallel.expert_tensor=2", "training.recompute=full", *OURS),
    ],
    ids=["alone", "alone, sequential", "tensor", "expert", "expert 8 unsplit", "allgather", "recompute"],
)
def test_each_layout_gives_the_numbers_of_one(choices: tuple[str, ...], train: Train, megatrons: RunResult) -> None:
    result = train(4, "parallel.expert_tensor=1", *choices)
    for name in ("loss", "grad_norm"):
        assert column(result, name) == pytest.approx(column(megatrons, name)[:4], rel=SAME)


@pytest.mark.slow
def test_xais_model_gives_the_same_numbers(train: Train) -> None:
    """Its head is the embedding: one parameter on one rank, two that are kept alike on two stages."""
    plain = train(3, *XAIS, *ONE_RANK, *MEGATRONS_PARTS)
    for ours in (train(3, *XAIS, *ONE_RANK, *OURS), train(3, *XAIS, *OURS)):
        for name in ("loss", "grad_norm"):
            assert column(ours, name) == pytest.approx(column(plain, name), rel=SAME)


@pytest.mark.slow
def test_bfloat16_trains_near_the_float32_losses(train: Train, megatrons: RunResult) -> None:
    layout = ("parallel.world_size=4", "parallel.tensor=2", "parallel.pipeline=1", "parallel.expert=2")
    result = train(4, "training.dtype=bf16", *layout, "parallel.expert_tensor=2", *OURS)
    assert column(result, "loss") == pytest.approx(column(megatrons, "loss")[:4], rel=0.02)
