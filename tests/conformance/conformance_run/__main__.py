"""Runs the cases of one world size on one device in a process of its own, and writes their figures as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from conformance_run.cases import CASES, STEPS, Case
from conformance_run.plan import Plan
from grok1.config.load import load_recipe
from grok1.config.recipe import Recipe
from grok1.device.kind import Kind
from grok1.device.mindspeed_options import mindspeed_flags
from grok1.distributed.launch import launch, preload_in_ranks
from grok1.megatron.dataset_helpers import build_dataset_helpers

_HANG_SECONDS = 120.0


def _recipe_changes(case: Case, device: Kind) -> tuple[str, ...]:
    return case.changes + (case.on_the_cpu if device == "cpu" else ())


def _starts(recipes: dict[str, Recipe]) -> list[dict[str, Recipe]]:
    """The recipes in groups that give MindSpeed the same options."""
    groups: dict[str, dict[str, Recipe]] = {}
    for name, recipe in recipes.items():
        groups.setdefault(json.dumps(mindspeed_flags(recipe)), {})[name] = recipe
    return list(groups.values())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=["cpu", "npu"], required=True)
    parser.add_argument("--ranks", choices=[*CASES], required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="MindSpeed writes to stdout")
    parser.add_argument("--only", action="append")
    options = parser.parse_args()
    cases = [case for case in CASES[options.ranks] if not options.only or case.name in options.only]
    recipes = {case.name: load_recipe(case.recipe, _recipe_changes(case, options.device)) for case in cases}
    build_dataset_helpers()  # as `prepare` does for the jobs of commands: a fresh checkout has none
    if options.device == "cpu":
        preload_in_ranks("conformance_run.ranks")
    figures: dict[str, object] = {}
    for together in _starts(recipes):
        plan = Plan(together, STEPS, options.data, options.tokenizer)
        figures |= launch(
            plan,
            next(iter(together.values())),
            options.device,
            on_event=lambda said: print(said, file=sys.stderr),
            entry="conformance_run.ranks:run_plan",
            timeout_seconds=_HANG_SECONDS,
        )
    options.output.write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
