"""Generation the slow way, sampling on known distributions, and spoilt weights, as entries for the launcher."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

import torch

from grok1.distributed.groups import joined
from grok1.distributed.rendezvous import Rendezvous
from grok1.generation import decode
from grok1.generation.job import GenerateJob, Sampling
from grok1.model.model import build_for_inference
from grok1.weights import checkpoint

_DRAWS = 1000


def recompute(job: GenerateJob, where: Rendezvous, _emit: Any) -> list[list[int]]:
    """Greedy tokens of each prompt on one rank, alone and without a cache: the whole sequence anew for each token."""
    with joined(where, job.recipe.parallel, job.recipe.training.seed) as ranks:
        model = build_for_inference(job.recipe, ranks)
        checkpoint.load_weights(job.checkpoint, model)
        return [_continued(model, job, list(prompt)) for prompt in job.prompt_tokens]


def _continued(model: Any, job: GenerateJob, tokens: list[int]) -> list[int]:
    start = len(tokens)
    while len(tokens) - start < job.sampling.max_new_tokens:
        with torch.no_grad():
            logits = model(torch.tensor([tokens]), None, attention_mask=None)[0, -1, : job.vocabulary]
        token = int(logits.argmax())
        if token == job.end_token:
            break
        tokens.append(token)
    return tokens[start:]


def frequencies(_job: None, _where: Rendezvous, _emit: Any) -> dict[str, list[float]]:
    """How often each of three tokens of probability 0.5, 0.2 and 0.3 is drawn."""
    logits = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
    draws = (torch.arange(_DRAWS, dtype=torch.float64) + 0.5) / _DRAWS
    settings = {
        "plain": Sampling(temperature=1.0),
        "cold": Sampling(temperature=0.5),
        "coldest": Sampling(temperature=math.ulp(0.0)),
        "two likeliest": Sampling(temperature=1.0, top_p=0.7),
        "likeliest": Sampling(temperature=1.0, top_p=0.4),
    }
    return {
        name: (
            torch.bincount(decode.sample_tokens(logits.expand(_DRAWS, 3), draws, sampling), minlength=3) / _DRAWS
        ).tolist()
        for name, sampling in settings.items()
    }


def spoilt(job: GenerateJob, where: Rendezvous, emit: Any) -> Any:
    """Generation with a weight that is not a number."""
    original = checkpoint.load_weights

    def load(stored: Any, model: Any) -> None:
        original(stored, model)
        next(model.parameters()).fill_(math.nan)

    with patch.object(checkpoint, "load_weights", load):
        return decode.run_rank(job, where, emit)
