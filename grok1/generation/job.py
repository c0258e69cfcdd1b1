"""The generation job: which checkpoint continues which prompts, and how, as plain data. No torch.

`prepare_generate` turns a user's options into a GenerateJob, or refuses them before any process starts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field

from grok1.config.activations import score_bytes
from grok1.config.load import build_recipe, load_recipe
from grok1.config.recipe import Recipe
from grok1.data.sample_corpus import cached_sample_corpus
from grok1.data.tokenizer import Tokenizer, load_tokenizer
from grok1.distributed.rendezvous import first_rank_here
from grok1.weights.folder import StoredCheckpoint

_MAX_PROMPT_BYTES = 64 << 20


@dataclass(frozen=True)
class Sampling:
    """How each next token is chosen. Temperature 0 takes the likeliest."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"--max-new-tokens {self.max_new_tokens} is not positive; give at least 1")
        if not 0.0 <= self.temperature < math.inf:
            raise ValueError(f"--temperature {self.temperature} is not 0 or a positive number; 0 means greedy")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"--top-p {self.top_p} is not above 0 and at most 1; 1 means all tokens")


class SizedRecipe(Recipe):
    """A recipe whose memory is that of generating: `rows` sequences of `length` tokens on each replica."""

    rows: int = Field(ge=1)
    length: int = Field(ge=1)

    def bytes_per_rank(self) -> int:
        """Estimated peak bytes: weights and cache exactly, the largest layer's prefill, whole logits.

        Every tensor rank hands its copy of the tokens to the experts, so those see `expert_tensor` times as many.
        """
        model, parallel = self.model, self.parallel
        width = 2 if self.training.dtype == "bf16" else 4
        tokens = self.rows * self.length
        cache = 2 * model.num_layers * tokens * model.key_value_size // parallel.tensor
        attention = 4 * tokens * model.query_size // parallel.tensor
        routed = tokens * model.experts_per_token * parallel.expert_tensor
        experts = routed * (2 * model.hidden_size + 3 * model.ffn_hidden_size // parallel.expert_tensor)
        logits = 3 * 4 * self.rows * model.vocab_size
        scores = score_bytes(self, tokens, self.length)
        return width * (sum(self.parameters_per_rank()) + cache + attention + experts) + logits + scores


@dataclass(frozen=True)
class GenerateJob:
    """Prompts to continue with a checkpoint's weights."""

    recipe: Recipe  # its pipeline is 1
    checkpoint: StoredCheckpoint
    tokenizer_path: Path
    prompts: tuple[str, ...]
    prompt_tokens: tuple[tuple[int, ...], ...]
    sampling: Sampling
    vocabulary: int  # the tokenizer's; the model may have more rows
    end_token: int

    @property
    def rows(self) -> int:
        """Prompts that each data-parallel replica continues; some come twice where replicas do not divide them."""
        return -(-len(self.prompts) // self.recipe.parallel.data)

    @property
    def length(self) -> int:
        """Most tokens of a prompt and its continuation together."""
        return max(map(len, self.prompt_tokens)) + self.sampling.max_new_tokens

    @property
    def sized(self) -> SizedRecipe:
        """The recipe by which the launcher should estimate memory."""
        return SizedRecipe(**dict(self.recipe), rows=self.rows, length=self.length)


def prepare_generate(
    load: Path,
    prompts: list[str],
    sampling: Sampling,
    recipe: str | None = None,
    overrides: list[str] | tuple[str, ...] = (),
    tokenizer: Path | None = None,
) -> GenerateJob:
    """A job whose checkpoint, tokenizer and prompts exist and fit each other.

    Raises:
        ValueError: one line that says what is missing or damaged and what to do.
    """
    if not prompts:
        raise ValueError("there is no prompt; give --prompt TEXT or --prompts-file FILE")
    prompts = [_cleaned(prompt) for prompt in prompts]
    for number, prompt in enumerate(prompts, 1):
        if not prompt.strip():
            raise ValueError(f"prompt {number} of {len(prompts)} is empty; give it at least a word")
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise ValueError(f"prompt {number} of {len(prompts)} is not UTF-8 text; convert it")
    checkpoint = StoredCheckpoint.open(load)
    chosen = generation_recipe(_chosen_recipe(checkpoint, recipe, overrides))
    path, words = _tokenizer(chosen, tokenizer)
    tokens = tuple(tuple(words.tokenize_prompt(prompt)) for prompt in prompts)
    _check_lengths(tokens, sampling, chosen)
    if first_rank_here():
        checkpoint.verify()
    return GenerateJob(
        recipe=chosen,
        checkpoint=replace(checkpoint, folder=load.absolute()),
        tokenizer_path=path.absolute(),
        prompts=tuple(prompts),
        prompt_tokens=tokens,
        sampling=sampling,
        vocabulary=words.vocab_size,
        end_token=words.eod,
    )


def read_prompts(path: Path) -> list[str]:
    """One prompt a line. A line ends with a newline alone: form feeds and Unicode's separators are part of a prompt."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_PROMPT_BYTES + 1)
        if len(content) > _MAX_PROMPT_BYTES:
            raise ValueError(f"--prompts-file {path} has more than {_MAX_PROMPT_BYTES >> 20} MiB; split it")
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"--prompts-file {path} is not UTF-8 text; convert it") from None
    except OSError as error:
        raise ValueError(f"--prompts-file {path} cannot be read: {error.strerror}; give a text file") from None
    return [_cleaned(line) for line in text.removesuffix("\n").split("\n")] if text else []


def _cleaned(prompt: str) -> str:
    """Without what editors and Windows put around a text: a byte-order mark, the return before a newline."""
    return prompt.removeprefix("\ufeff").removesuffix("\r")


def generation_recipe(recipe: Recipe) -> Recipe:
    """The recipe on one pipeline stage: tensor and expert parallelism and the number of replicas stay.

    Ranks that split a sequence in training are replicas here: a decoding step is one token long.
    Without MC2, which takes every input to be split along the sequence: a decoding step is one token long.
    """
    fields = recipe.resolved()
    if recipe.kernels.linear == "mc2":
        fields["kernels"]["linear"] = "megatron"
    stages = fields["parallel"]["pipeline"]
    fields["training"]["global_batch"] *= fields["parallel"]["context"]
    undivided = {"context": 1, "pipeline": 1, "virtual_pipeline": 1, "first_stage_layers": 0, "last_stage_layers": 0}
    fields["parallel"].update(undivided, world_size=fields["parallel"]["world_size"] // stages)
    return Recipe.model_validate(fields)


def _chosen_recipe(checkpoint: StoredCheckpoint, named: str | None, overrides: list[str] | tuple[str, ...]) -> Recipe:
    """The checkpoint's own recipe or the named one, in which the model must be the same."""
    if named is None:
        chosen = build_recipe(f"recipe of checkpoint {checkpoint.folder}", checkpoint.recipe.resolved(), overrides)
    else:
        chosen = load_recipe(named, overrides)
    checkpoint.check_model(chosen, "leave the model as it was written, or leave out --recipe")
    return chosen


def _tokenizer(recipe: Recipe, path: Path | None) -> tuple[Path, Tokenizer]:
    if path is None:
        if not recipe.data.has_sample_corpus:
            raise ValueError(f"recipe {recipe.name} has no sample corpus: give --tokenizer PATH, as in its training")
        path = cached_sample_corpus(recipe).tokenizer_path
    tokenizer = load_tokenizer(recipe.data.tokenizer_type, path)
    if tokenizer.vocab_size > recipe.model.vocab_size:
        raise ValueError(
            f"tokenizer {path} has {tokenizer.vocab_size} entries, more than the checkpoint's vocab_size "
            f"{recipe.model.vocab_size}; give the tokenizer that it was trained with"
        )
    return path, tokenizer


def _check_lengths(tokens: tuple[tuple[int, ...], ...], sampling: Sampling, recipe: Recipe) -> None:
    limit = recipe.training.sequence_length
    for number, prompt in enumerate(tokens, 1):
        if not prompt:
            raise ValueError(f"prompt {number} of {len(tokens)} has no token in this tokenizer; give it other words")
        if len(prompt) + sampling.max_new_tokens > limit:
            raise ValueError(
                f"prompt {number} of {len(tokens)} has {len(prompt)} tokens, with --max-new-tokens "
                f"{sampling.max_new_tokens} more than the recipe's sequence_length {limit}; shorten one of them"
            )
