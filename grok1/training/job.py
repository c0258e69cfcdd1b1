"""The job: what to train, on what, for how long, as plain data that travels to every rank. No torch.

`prepare` turns a user's words into a Job or refuses them before any process starts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grok1.config.recipe import Recipe
from grok1.config.refusals import quoted
from grok1.data.sample_corpus import cached_sample_corpus
from grok1.distributed.rendezvous import first_rank_here
from grok1.megatron.dataset_helpers import build_dataset_helpers
from grok1.weights.folder import StoredCheckpoint, check_changeable

_TOKENS_LOOKED_AT = 1 << 24


@dataclass(frozen=True)
class ProfileRequest:
    """Which steps, counted from 1, of which ranks to profile, and where their traces go."""

    steps: frozenset[int]
    ranks: frozenset[int]
    folder: Path


@dataclass(frozen=True)
class Job:
    """One training run."""

    recipe: Recipe
    num_steps: int
    data_prefix: Path
    tokenizer_path: Path
    save: Path | None = None
    save_interval: int = 0
    load: Path | None = None
    allowed_changes: tuple[str, ...] = ()  # keys in which the loaded checkpoint's run may differ from this one
    first_step: int = 0  # steps behind the loaded checkpoint
    shared_storage: bool = True
    index_cache: Path | None = None  # where the sample index is kept; None: see grok1.data.sample_index.index_folders
    corpus_digest: str = ""  # of every byte of the corpus; empty: not computed yet
    tokenizer_digest: str = ""  # of its files, the same
    profile: ProfileRequest | None = None
    times_modules: bool = False  # profile the last step once more, outside the measurement, to split its time by module
    planted_percent: float = 0.0  # each step is made so much longer, to see a gate fail
    launched_at: float = 0.0  # seconds since the epoch; the start-up time counts from here

    def terms(self) -> dict[str, str]:
        """What this job does, as far as all its nodes must do the same; folders may lie elsewhere on each."""
        return {
            "--steps": str(self.num_steps),
            "--save": f"every {self.save_interval}" if self.save else "no",
            "--load": f"step {self.first_step}" if self.load else "no",
            "--allow-change": " ".join(self.allowed_changes) or "no",
            "--no-shared-storage": "no" if self.shared_storage else "yes",
            "--profile": "no" if self.profile is None else f"{sorted(self.profile.steps)} {sorted(self.profile.ranks)}",
            "--plant-slowdown": f"{self.planted_percent:g}",
            "data": self.corpus_digest,
            "tokenizer": self.tokenizer_digest,
        }


def profile_request(steps: str, ranks: str, folder: Path, num_steps: int, world_size: int) -> ProfileRequest:
    """The request that `--profile 5,8-9` and `--profile-ranks` make.

    Raises:
        ValueError: not numbers, or outside the job.
    """
    return ProfileRequest(
        frozenset(_numbers("--profile", steps, 1, num_steps)),
        frozenset(_numbers("--profile-ranks", ranks, 0, world_size - 1)),
        folder.absolute(),
    )


def _numbers(option: str, text: str, least: int, most: int) -> set[int]:
    """The numbers of a list like 1,4-6."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not all(each.isdecimal() and len(each) < 10 for each in (first, last or first)):
            raise ValueError(f"{option} {quoted(text)} is not a list of numbers like 5 or 2,8-9")
        low, high = int(first), int(last or first)
        if not least <= low <= high <= most:
            raise ValueError(f"{option} {quoted(text)}: {quoted(part)} is not within {least} to {most}")
        found |= set(range(low, high + 1))
    return found


def prepare(
    recipe: Recipe,
    num_steps: int,
    data: Path | None = None,
    tokenizer: Path | None = None,
    save: Path | None = None,
    save_interval: int = 0,
    load: Path | None = None,
    shared_storage: bool = True,
    index_cache: Path | None = None,
    allowed_changes: Sequence[str] = (),
) -> Job:
    """A job whose corpus exists and is whole. Without `data`: the sample corpus, made on first use.

    Builds megatron's compiled dataset helpers where they are missing, and reads the whole corpus where its digest is
    not known yet, both once a node.

    Raises:
        ValueError: one line that says what is missing or damaged and what to do.
    """
    from grok1.data.identity import corpus_digest
    from grok1.data.indexed import check_indexed
    from grok1.data.sample_index import index_folders
    from grok1.data.split import training_share

    _check_asked(recipe, num_steps, shared_storage, keeps=bool(save or load))
    build_dataset_helpers()
    stored = _loadable(load, recipe, allowed_changes)
    data, tokenizer = _data_and_tokenizer(recipe, data, tokenizer)
    words = _checked_tokenizer(tokenizer, recipe)
    _check_token_ids(data, check_indexed(data).dtype, recipe.model.vocab_size)
    training_share(recipe, data)
    data, index_cache = data.absolute(), index_cache.absolute() if index_cache else None
    corpus = corpus_digest(data, index_folders(data, index_cache))
    if stored is not None:
        stored.check_resumable(recipe, corpus, allowed_changes, tokenizer=words)
        _verify_once_a_node(stored)
    return Job(
        recipe=recipe,
        num_steps=num_steps,
        data_prefix=data,
        tokenizer_path=tokenizer.absolute(),
        save=save.absolute() if save else None,
        save_interval=save_interval,
        load=load.absolute() if load else None,
        allowed_changes=tuple(allowed_changes),
        first_step=stored.step if stored is not None else 0,
        shared_storage=shared_storage,
        index_cache=index_cache,
        corpus_digest=corpus,
        tokenizer_digest=words,
        launched_at=time.time(),
    )


def _check_asked(recipe: Recipe, num_steps: int, shared_storage: bool, keeps: bool) -> None:
    """Refuse a job of no steps, and what does not go with checkpoints, which one that `keeps` saves or loads."""
    if num_steps < 1:
        raise ValueError(f"--steps {num_steps} is not positive; give at least 1")
    if not shared_storage and keeps:
        raise ValueError("--save and --load need a disk that all nodes share; drop --no-shared-storage, or them")
    if recipe.training.reuse_fp32_parameters and keeps:
        raise ValueError(
            "training.reuse_fp32_parameters with --save or --load: a checkpoint would lose the lower halves of the "
            "fp32 weights, and a resumed run drift from the one that never stopped; set it to false, or leave them out"
        )


def _data_and_tokenizer(recipe: Recipe, data: Path | None, tokenizer: Path | None) -> tuple[Path, Path]:
    """(prefix of the corpus, tokenizer), both of the sample corpus where no data are given."""
    if data is None:
        if tokenizer is not None:
            raise ValueError(
                f"--tokenizer {tokenizer} without --data: the sample corpus has its own; give both, or neither"
            )
        if not recipe.data.has_sample_corpus:
            raise ValueError(
                f"recipe {recipe.name} has no sample corpus: give --data PREFIX and --tokenizer PATH, "
                "which `grok1 preprocess --input FILE --output-prefix PREFIX --tokenizer-name-or-path PATH` makes"
            )
        data, tokenizer = cached_sample_corpus(recipe)
    if tokenizer is None:
        raise ValueError(f"--data {data} needs --tokenizer PATH: the tokenizer that made it")
    if not tokenizer.exists():
        raise ValueError(
            f"tokenizer {tokenizer} does not exist; give a tokenizer.model file or a folder that holds one"
        )
    return data, tokenizer


def _loadable(load: Path | None, recipe: Recipe, allowed_changes: Sequence[str]) -> StoredCheckpoint | None:
    """The checkpoint of --load, which the recipe can continue."""
    check_changeable(allowed_changes)
    if load is None:
        if allowed_changes:
            raise ValueError(
                f"--allow-change {allowed_changes[0]} needs --load: what may differ from a checkpoint's run"
            )
        return None
    stored = StoredCheckpoint.open(load)
    stored.check_resumable(recipe, allowed=allowed_changes)  # before a corpus is made
    return stored


def _verify_once_a_node(stored: StoredCheckpoint) -> None:
    """The other ranks of the node, which torchrun or Slurm started, wait for its first one where they meet it."""
    if first_rank_here():
        stored.verify()


def _checked_tokenizer(path: Path, recipe: Recipe) -> str:
    """The digest of a tokenizer that fits the recipe."""
    from grok1.data.identity import tokenizer_digest
    from grok1.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(recipe.data.tokenizer_type, path)
    entries = tokenizer.vocab_size
    if entries > recipe.model.vocab_size:
        raise ValueError(
            f"tokenizer {path} has {entries} entries, more than the recipe's vocab_size {recipe.model.vocab_size}; "
            "set model.vocab_size, or use the tokenizer the recipe was made for"
        )
    return tokenizer_digest(tokenizer)


def _check_token_ids(prefix: Path, dtype: str, vocab_size: int) -> None:
    """Refuse ids that the model has no row for before any rank starts; looks at the first tokens only.

    Ranks look at the others when they cut them into batches (grok1.data.samples).
    """
    path = prefix.with_name(f"{prefix.name}.bin")
    ids = np.fromfile(path, dtype=dtype, count=_TOKENS_LOOKED_AT)
    wrong = next(
        (each for each in (int(ids.min(initial=0)), int(ids.max(initial=0))) if not 0 <= each < vocab_size), None
    )
    if wrong is not None:
        raise ValueError(
            f"{path} holds token id {wrong}, the recipe's vocab_size is {vocab_size}; "
            "preprocess with the recipe's tokenizer, or set model.vocab_size"
        )
