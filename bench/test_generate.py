"""How fast a checkpoint generates: decoding steps of four prompts on one rank. A figure to read, not a gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.session import BenchSession, show_in_benchmark_table
from grok1.config.load import ONE_RANK, load_recipe
from grok1.distributed.launch import launch
from grok1.generation.job import Sampling, prepare_generate
from grok1.generation.result import GenerationResult
from grok1.training.job import prepare

_PROMPTS = [
    "Below is an instruction that describes a task.",
    "The function returns",
    "A class is",
    "Write a response that completes",
]
_NEW_TOKENS = 32


def test_decode_speed(session: BenchSession, benchmark: Any, tmp_path: Path) -> None:
    """Seconds a decoding step and tokens a second, from a checkpoint of one training step."""
    recipe = load_recipe("grok1-tiny", ONE_RANK)
    launch(prepare(recipe, 1, save=tmp_path), recipe, session.device, entry="grok1.training.run:run_rank")
    job = prepare_generate(tmp_path, _PROMPTS, Sampling(max_new_tokens=_NEW_TOKENS))
    endless = replace(job, end_token=-1)  # every run then decodes as many tokens
    result: GenerationResult = launch(endless, job.sized, session.device, entry="grok1.generation.decode:run_rank")
    seconds = result.decode_step_seconds
    assert all(len(each.tokens) == _NEW_TOKENS for each in result.completions)
    assert len(seconds) >= _NEW_TOKENS - 1
    assert result.decode_tokens_per_second is not None
    print(
        f"decode: {result.decode_tokens_per_second:.1f} tokens/s, {median(seconds) * 1e3:.3f} ms a step "
        f"of {len(_PROMPTS)} prompts (n={len(seconds)}); prefill {result.prefill_seconds * 1e3:.3f} ms"
    )
    show_in_benchmark_table(benchmark, list(seconds))
    benchmark.extra_info.update(
        tokens_per_second=result.decode_tokens_per_second,
        step_median_seconds=median(seconds),
        prefill_seconds=result.prefill_seconds,
        prompts=len(_PROMPTS),
        n=len(seconds),
        recipe=recipe.name,
        recipe_hash=recipe.hash(),
    )
