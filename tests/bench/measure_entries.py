"""A run that drops tokens, as an entry for the launcher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from grok1 import model
from grok1.job import Job
from grok1.parallel import Rendezvous
from grok1.train import run_rank


def drop_tokens(job: Job, where: Rendezvous, emit: Any) -> dict[str, Any] | None:
    """Trains with experts that take half of an even share at most: fast, and not the model that was asked for."""
    whole = model.transformer_config
    model.transformer_config = lambda recipe: replace(whole(recipe), moe_expert_capacity_factor=0.5)
    return run_rank(job, where, emit)
