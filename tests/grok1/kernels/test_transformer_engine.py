"""What is handed to Transformer Engine's parts, by small ones in their place; tests/transformer_engine runs its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.ledger.count import count
from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.sections import Kernels
from grok1.kernels import transformer_engine
from grok1.megatron.door import TEGroupedMLP
from grok1.model.attention import attention_spec
from grok1.model.model import Grok, transformer_config, with_own_attention
from grok1.model.moe import moe_spec

CHOICES = ["kernels.experts=te_grouped", "kernels.dispatch=te", "kernels.cross_entropy=te", "kernels.attention=te"]


class _ByAddress(torch.autograd.Function):
    """Losses whose gradient is read from one address on, as Transformer Engine 2.9 does."""

    @staticmethod
    def forward(ctx: Any, logits_1NV: Tensor, targets_1N: Tensor) -> Tensor:
        _, rows, columns = logits_1NV.shape
        assert logits_1NV.stride()[1:] == (columns, 1)
        targets_N = targets_1N.as_strided((rows,), (targets_1N.stride(-1),))
        ctx.save_for_backward(F.one_hot(targets_N, columns), logits_1NV[0].softmax(-1))
        return F.cross_entropy(logits_1NV[0], targets_N, reduction="none")[None]

    @staticmethod
    def backward(ctx: Any, upstream_1N: Tensor) -> tuple[Tensor, None]:
        at_targets_NV, weights_NV = ctx.saved_tensors
        upstream_N = upstream_1N.as_strided((len(weights_NV),), (1,))
        return ((weights_NV - at_targets_NV) * upstream_N[:, None])[None], None


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """In place of megatron's wrappers."""
    parts = SimpleNamespace(
        TEColumnParallelGroupedLinear=type("Column", (), {}),
        TERowParallelGroupedLinear=type("Row", (), {}),
        TEDotProductAttention=type("Attention", (), {}),
        te_parallel_cross_entropy=lambda logits, targets, _group: _ByAddress.apply(logits, targets),
    )
    monkeypatch.setattr(transformer_engine, "te", parts)
    return parts


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("weighing", ["mean", "each token's own"])
def test_cross_entropy_hands_over_what_can_be_read_from_one_address(
    batch: int, weighing: str, engine: SimpleNamespace
) -> None:
    """As the model calls it: targets are transposed, and so is the gradient that comes back."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(4, batch, 6, generator=generator).requires_grad_()
    labels_BS = torch.randint(6, (batch, 4), generator=generator)
    weights_BS = torch.rand(batch, 4, generator=generator)

    def gradient(losses_SB: Tensor) -> Tensor:
        losses_BS = losses_SB.t().contiguous()
        (losses_BS.mean() if weighing == "mean" else (losses_BS * weights_BS).sum()).backward()
        assert logits.grad is not None
        found, logits.grad = logits.grad, None
        return found

    group: Any = None
    losses_SB = transformer_engine.cross_entropy(logits, labels_BS.t(), 0.5, group)
    wanted_SB = F.cross_entropy((logits * 0.5).permute(0, 2, 1), labels_BS.t(), reduction="none")
    torch.testing.assert_close(losses_SB, wanted_SB)
    torch.testing.assert_close(gradient(losses_SB), gradient(wanted_SB))


def test_what_comes_back_is_contiguous_even_if_it_is_one_number_expanded(
    engine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward, seen = _ByAddress.backward, []

    def watched(ctx: Any, upstream_1N: Tensor) -> tuple[Tensor, None]:
        seen.append(upstream_1N.stride())
        return backward(ctx, upstream_1N)

    monkeypatch.setattr(_ByAddress, "backward", staticmethod(watched))
    logits = torch.randn(3, 1, 6).requires_grad_()
    group: Any = None
    transformer_engine.cross_entropy(logits, torch.tensor([[1], [2], [3]]), 1.0, group).sum().backward()
    assert seen == [(3, 1)]


def test_logits_without_gradients_have_losses(engine: SimpleNamespace) -> None:
    group: Any = None
    losses = transformer_engine.cross_entropy(torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.long), 1.0, group)
    torch.testing.assert_close(losses, torch.full((2, 1), 4.0).log())


def test_the_choices_reach_megatrons_wrappers(engine: SimpleNamespace) -> None:
    recipe = load_recipe("grok1-nano", CHOICES)
    experts = moe_spec(recipe.model, recipe.kernels, recipe.training).submodules.experts
    assert experts.module is TEGroupedMLP
    layers = experts.submodules
    assert (layers.linear_fc1, layers.linear_fc2) == (
        engine.TEColumnParallelGroupedLinear,
        engine.TERowParallelGroupedLinear,
    )
    assert attention_spec(recipe.model, recipe.kernels).submodules.core_attention is engine.TEDotProductAttention


def test_decoding_keeps_our_own_attention_which_knows_of_a_cache(engine: SimpleNamespace) -> None:
    recipe = with_own_attention(load_recipe("grok1-nano", CHOICES))
    assert recipe.kernels.attention == "torch"
    assert recipe.kernels.experts == "te_grouped"
    assert recipe.model.attention_multiplier == recipe.model.head_dim**-0.5


def test_a_bias_over_keys_is_refused_which_its_causal_attention_would_leave_out() -> None:
    model = Grok.__new__(Grok)
    torch.nn.Module.__init__(model)
    model._kernels = Kernels(attention="te")
    with pytest.raises(ValueError, match="^kernels.attention te with pads .*set kernels.attention=torch$"):
        model(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 1, 1, 2))


@pytest.mark.parametrize("choice", CHOICES)
def test_a_process_without_it_says_so_in_one_line(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer_engine, "te", None)
    with pytest.raises(
        ValueError, match=f"^{choice.replace('=', ' ')}: megatron finds no Transformer Engine "
    ) as caught:
        transformer_config(load_recipe("grok1-nano", [*ONE_RANK, choice]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("choice", CHOICES)
def test_the_ledger_refuses_what_it_cannot_count(choice: str) -> None:
    with pytest.raises(
        ValueError, match=f"^{choice.replace('=', ' ')}: a ledger counts torch's operators, .*; set kern"
    ):
        count(load_recipe("grok1-nano", [choice]))


def test_the_scores_multiplier_reaches_megatrons_attention() -> None:
    plain, scaled = (
        transformer_config(load_recipe("grok1-nano", [*ONE_RANK, f"model.attention_multiplier={multiplier}"]))
        for multiplier in (0.0, 0.3)
    )
    assert (plain.softmax_scale, scaled.softmax_scale) == (None, 0.3)
