"""The parts of a step, timed alone with pytest-benchmark at a recipe's sizes, on one rank in this process.

Forward and backward together wherever there is a backward. For finding what moved, not for judging: the gate
looks at whole steps. Legend: S sequence, B micro-batch, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.session import BenchSession
from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.recipe import Recipe
from grok1.device.kind import Kind, set_kind
from grok1.distributed.launch import LaunchError, check_machine
from grok1.training.job import Job, prepare

if TYPE_CHECKING:  # torch and the engine come in once the device is known
    from torch import Tensor

    from grok1.distributed.groups import Ranks

_XAI_LOGIT_CAP = 30.0
_OPTIMIZER_ROUNDS = 30


@dataclass(frozen=True)
class Parts:
    """A one-rank model and what it takes to feed its parts."""

    job: Job
    ranks: Ranks
    wrapped: Any  # the model in its data-parallel wrapper

    @property
    def recipe(self) -> Recipe:
        return self.job.recipe

    @property
    def model(self) -> Any:
        from grok1.model.model import unwrapped

        return unwrapped(self.wrapped)

    @property
    def layer(self) -> Any:
        return self.model.decoder.layers[0]

    def random(self, *shape: int) -> Tensor:
        """A leaf on the device in the recipe's dtype."""
        import torch

        dtype = torch.bfloat16 if self.recipe.training.dtype == "bf16" else torch.float32
        return torch.randn(*shape, dtype=dtype, device=torch.cuda.current_device(), requires_grad=True)

    def hidden(self) -> Tensor:
        """A leaf [S, B, hidden]."""
        training = self.recipe.training
        return self.random(training.sequence_length, training.micro_batch, self.recipe.model.hidden_size)


@pytest.fixture(scope="module")
def parts(session: BenchSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """The recipe's whole model on one rank."""
    option = session.config.getoption
    if (option("--data") or option("--tokenizer")) and not option("--recipe"):
        pytest.skip("parts are those of grok1-tiny on its own corpus; with --data and --tokenizer, give --recipe too")
    name, overrides = option("--recipe") or "grok1-tiny", [*option("--set")]
    if load_recipe(name, overrides).kernels.linear == "mc2":  # which one rank has nothing to exchange for
        overrides.append("kernels.linear=megatron")
    recipe = load_recipe(name, [*overrides, *ONE_RANK])
    try:
        check_machine(recipe, session.device, 1)
    except LaunchError as error:  # a recipe meant for many ranks; its case is still run
        pytest.skip(f"parts are timed on one rank: {error}")
    data, tokenizer = (Path(given) if given else None for given in (option("--data"), option("--tokenizer")))
    job = prepare(recipe, recipe.training.decay_steps, data, tokenizer, index_cache=session.index_cache)
    with _one_rank_job(session.device, recipe, tmp_path_factory.mktemp("ranks")) as ranks:
        from grok1.model.model import build_model

        yield Parts(job, ranks, build_model(recipe, ranks))


@contextmanager
def _one_rank_job(device: Kind, recipe: Recipe, folder: Path) -> Iterator[Ranks]:
    """This process as the only rank, as the launcher would have started it."""
    set_kind(device)  # read when the engine is imported, which is below
    from grok1.distributed.groups import joined
    from grok1.distributed.rank_process import prepare_process
    from grok1.distributed.rendezvous import Rendezvous

    prepare_process()
    with joined(Rendezvous(f"file://{folder}/rendezvous", 0, 1, 0, 1), recipe.parallel, recipe.training.seed) as ranks:
        yield ranks
    if device != "cpu":  # other tests' ranks want the memory
        import torch

        torch.cuda.empty_cache()


@pytest.fixture
def time_it(parts: Parts, benchmark: Any) -> Callable[..., Any]:
    """Times a function until the device is done with it, and says what it ran on."""
    from grok1.device import measuring
    from grok1.device.kind import device_kind

    def done(function: Callable[[], Any]) -> Callable[[], None]:
        def call() -> None:
            function()
            measuring.synchronize()

        return call

    def run(function: Callable[[], Any], setup: Callable[[], None] | None = None, rounds: int = 0) -> None:
        benchmark.extra_info.update(recipe=parts.recipe.name, recipe_hash=parts.recipe.hash(), device=device_kind())
        if setup is None:
            benchmark(done(function))
        else:
            benchmark.pedantic(done(function), setup=done(setup), rounds=rounds, warmup_rounds=3)

    return run


def forward_backward(forward: Callable[[], Tensor], *leaves: Tensor) -> Callable[[], None]:
    """`forward` and the gradients of its output, which reach the weights and these leaves."""
    import torch

    upstream = torch.randn_like(forward())

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None  # a gradient added to an older one is work that a step does not do
        forward().backward(upstream)
        assert all(leaf.grad is not None for leaf in leaves)

    return run


def test_router(parts: Parts, time_it: Callable[..., None]) -> None:
    hidden = parts.hidden()
    time_it(forward_backward(lambda: parts.layer.mlp.router(hidden)[0], hidden))


def test_permute_and_unpermute(parts: Parts, time_it: Callable[..., None]) -> None:
    hidden, moe = parts.hidden(), parts.layer.mlp
    probabilities, routing_map = (output.detach() for output in moe.router(hidden))

    def there_and_back() -> Tensor:
        tokens, _, _ = moe.token_dispatcher.token_permutation(hidden, probabilities, routing_map)
        output: Tensor = moe.token_dispatcher.token_unpermutation(tokens, None)[0]
        return output

    time_it(forward_backward(there_and_back, hidden))


def test_experts(parts: Parts, time_it: Callable[..., None]) -> None:
    hidden, moe = parts.hidden(), parts.layer.mlp
    tokens, tokens_per_expert, probabilities = moe.token_dispatcher.token_permutation(hidden, *moe.router(hidden))
    tokens, probabilities = (leaf.detach().requires_grad_() for leaf in (tokens, probabilities))
    time_it(forward_backward(lambda: moe.experts(tokens, tokens_per_expert, probabilities)[0], tokens, probabilities))


@pytest.mark.parametrize("logit_cap", [0.0, _XAI_LOGIT_CAP], ids=["uncapped", "capped"])
def test_attention(parts: Parts, logit_cap: float, time_it: Callable[..., None]) -> None:
    from grok1.model.model import build_model, unwrapped

    # a model of its own, because the cap decides which kernel a device gets
    sizes = parts.recipe.model.model_copy(update={"attention_logit_cap": logit_cap, "num_layers": 1})
    model = unwrapped(build_model(parts.recipe.model_copy(update={"model": sizes}), parts.ranks))
    hidden, attention = parts.hidden(), model.decoder.layers[0].self_attention
    rotary = model.rotary_pos_emb(parts.recipe.training.sequence_length)
    time_it(forward_backward(lambda: attention(hidden, attention_mask=None, rotary_pos_emb=rotary)[0], hidden))


def test_rms_norm(parts: Parts, time_it: Callable[..., None]) -> None:
    hidden = parts.hidden()
    time_it(forward_backward(lambda: parts.layer.input_layernorm(hidden), hidden))


def test_vocabulary_cross_entropy(parts: Parts, time_it: Callable[..., None]) -> None:
    import torch

    training, vocab_size = parts.recipe.training, parts.recipe.model.vocab_size
    logits_SBV = parts.random(training.sequence_length, training.micro_batch, vocab_size)
    labels_BS = torch.randint(vocab_size, (training.micro_batch, training.sequence_length), device=logits_SBV.device)
    time_it(forward_backward(lambda: parts.model.compute_language_model_loss(labels_BS, logits_SBV), logits_SBV))


# torch 2.13 deprecates the collective with which megatron-core 0.12 spreads the updated weights
@pytest.mark.filterwarnings("ignore:.torch.distributed.all_gather_into_tensor. is deprecated:FutureWarning")
def test_optimizer_step(parts: Parts, time_it: Callable[..., None]) -> None:
    """Clipping and AdamW over the whole model."""
    from grok1.training.optimizer import build_optimizer

    optimizer, _ = build_optimizer(parts.wrapped, parts.recipe.training)

    def fill_gradients() -> None:  # each step clips them in place, so only fresh ones are clipped again
        for parameter in parts.wrapped.parameters():
            parameter.main_grad.fill_(1.0)

    time_it(optimizer.step, setup=fill_gradients, rounds=_OPTIMIZER_ROUNDS)


def test_data_loading(parts: Parts, time_it: Callable[..., None]) -> None:
    """All micro-batches of one step, from the indexed file to the device."""
    from grok1.data.batches import Batches
    from grok1.data.samples import training_samples

    job = parts.job
    dataset = training_samples(job.recipe, job.data_prefix, job.tokenizer_path, job.index_cache, job.corpus_digest)
    batches, steps = Batches(job.recipe, parts.ranks, dataset), itertools.cycle(range(job.num_steps))
    time_it(lambda: batches.step(next(steps)))
