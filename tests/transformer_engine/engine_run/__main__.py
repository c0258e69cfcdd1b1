"""Runs the cases of one layout in a process of its own, and writes their figures as JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from engine_run.cases import CASES, LAYOUTS
from engine_run.ranks import Plan
from grok1.distributed.launch import launch, preload_in_ranks

_HANG_SECONDS = 120.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layout", choices=[*LAYOUTS], required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", action="append")
    parser.add_argument("--plain", action="store_true", help="without Transformer Engine's parts on both sides")
    parser.add_argument("--checkpoints", action="store_true", help="of the experts, in place of the cases")
    options = parser.parse_args()
    cases = [case for case in CASES if not options.only or case.name in options.only]
    pairs = {case.name: case.recipes(options.layout) for case in cases}
    if options.plain:
        pairs = {name: (plain, plain) for name, (plain, _) in pairs.items()}
    plan = Plan(pairs, options.data, options.tokenizer, options.output.parent)
    preload_in_ranks("engine_run.ranks")
    plain, _ = next(iter(plan.pairs.values()))  # the launcher refuses Transformer Engine's parts on a CPU
    entry = "engine_run.checkpoints:run_checkpoints" if options.checkpoints else "engine_run.ranks:run_plan"
    figures = launch(plan, plain, "cpu", entry=entry, timeout_seconds=_HANG_SECONDS)
    options.output.write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
