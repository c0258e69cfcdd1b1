"""What the ranks of a start are sent. No megatron: a rank reads it before MindSpeed is told of its recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grok1.config.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """Cases to run one after the other in the same ranks, and the corpus that they train on."""

    recipes: dict[str, Recipe]
    num_steps: int
    data_prefix: Path
    tokenizer_path: Path
