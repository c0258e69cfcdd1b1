"""Our step beside stock parts', Mixtral's and the machine's products. Figures to read, not a gate: the README has them.

pytest bench/test_peers.py --benchmark --peers -s
"""

from __future__ import annotations

from statistics import median
from typing import Any

import pytest
from tabulate import tabulate

from bench.session import BenchSession, show_in_benchmark_table
from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.recipe import Recipe
from grok1.distributed.launch import launch
from grok1.training.job import prepare

_ROUNDS = 7
_LAUNCHES = 5  # a side, of all ranks
_STEPS = 8  # of each, after a warm-up; oneDNN compiles kernels for new shapes in the first few
_RUN_SECONDS = 1500
_CORES = 2  # that the sixteen ranks' figure is about


@pytest.fixture(autouse=True)
def _on_a_cpu(session: BenchSession) -> None:
    if session.device != "cpu":
        pytest.skip("the peers' figures are a CPU's")


@pytest.mark.timeout(_RUN_SECONDS)
@pytest.mark.parametrize("micro_batch", [1, 8])
def test_one_rank(session: BenchSession, benchmark: Any, micro_batch: int) -> None:
    """One thread, the whole step, with the global batch of 8 in micro-batches of one and as one."""
    recipe = load_recipe("grok1-small", [*ONE_RANK, f"training.micro_batch={micro_batch}"])
    found = launch(
        prepare(recipe, 1 + _ROUNDS), recipe, session.device, entry="bench.peers:one_rank", timeout_seconds=_RUN_SECONDS
    )
    limit = max(median(found["torch"]), median(found["onednn"]))
    names = {"ours": "ours", "stock": "megatron-core's parts", "mixtral": "Hugging Face Mixtral"}
    print(f"\ngrok1-small, one rank on one thread, micro-batch {micro_batch}, medians of {_ROUNDS} rounds\n")
    print(_table(recipe, {names[side]: found[side] for side in names}, limit))
    print(f"\nmatrix products: torch.mm {_giga(found['torch'])}, oneDNN {_giga(found['onednn'])} GFLOP/s")
    show_in_benchmark_table(benchmark, found["ours"])
    benchmark.extra_info.update(found)


@pytest.mark.timeout(_RUN_SECONDS)
def test_sixteen_ranks(session: BenchSession, benchmark: Any) -> None:
    """TP4 x PP2 x EP2, launched anew for each side in turns."""
    recipe = load_recipe("grok1-small")
    sides = {
        "ours": "ours",
        "ours, over connections": "over_connections",
        "megatron-core's parts": "stock_parts",
        "the same, default scheduling, torch's gloo": "stock_alone",
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, list[float]] = {name: [] for name in seconds}
    products: list[float] = []
    single = load_recipe("grok1-small", ONE_RANK)
    for _ in range(_LAUNCHES):
        for name, entry in sides.items():
            found = launch(
                prepare(recipe, 1 + _STEPS), recipe, session.device, entry=f"bench.peers:{entry}", timeout_seconds=300.0
            )
            seconds[name].append(median(found["seconds"]))
            peaks[name].append(max(found["peak_bytes"]))
        products += launch(prepare(single, 1), single, session.device, entry="bench.peers:products")
    print(f"\ngrok1-small, 16 ranks TP4 x PP2 x EP2, medians of {_LAUNCHES} launches a side, in turns\n")
    print(_table(recipe, seconds, _CORES * median(products)))
    print("\n" + ", ".join(f"{name}: peak {median(peaks[name]) / 2**20:.0f} MiB a rank" for name in seconds))
    print(f"limit: {_CORES} cores of {_giga(products)} GFLOP/s each in matrix products")
    show_in_benchmark_table(benchmark, seconds["ours"])
    benchmark.extra_info.update(seconds=seconds, peak_bytes=peaks, products=products)


@pytest.mark.timeout(_RUN_SECONDS)
@pytest.mark.parametrize("name", ["grok1-tiny", "grok1-nano"])
def test_sixteen_ranks_beside_one(session: BenchSession, benchmark: Any, name: str) -> None:
    """What a layout costs on the cores of one machine: the same global batch on sixteen ranks and on one."""
    seconds: dict[str, list[float]] = {"16 ranks": [], "one rank": []}
    for _ in range(_LAUNCHES):
        for side, changes in zip(seconds, ((), ONE_RANK), strict=True):
            recipe = load_recipe(name, changes)
            found = launch(prepare(recipe, 12), recipe, session.device, entry="bench.peers:ours")
            seconds[side].append(median(found["seconds"]))
    many, one = (median(seconds[side]) for side in seconds)
    print(f"\n{name}: 16 ranks {many:.4f} s, one rank {one:.4f} s a step, {many / one:.2f} times; {_LAUNCHES} launches")
    show_in_benchmark_table(benchmark, seconds["16 ranks"])
    benchmark.extra_info.update(seconds)


@pytest.mark.timeout(_RUN_SECONDS)
def test_interleaving(session: BenchSession, benchmark: Any) -> None:
    """Eight layers and eight micro-batches on two stages of one rank each: one, two and four chunks a stage."""
    layout = (*ONE_RANK, "parallel.world_size=2", "parallel.pipeline=2")
    sizes = ("model.num_layers=8", "training.global_batch=8")
    seconds: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for _ in range(_LAUNCHES):
        for chunks, taken in seconds.items():
            recipe = load_recipe("grok1-tiny", [*layout, *sizes, f"parallel.virtual_pipeline={chunks}"])
            found = launch(prepare(recipe, 1 + _STEPS), recipe, session.device, entry="bench.peers:ours")
            taken.append(median(found["seconds"]))
    plain = median(seconds[1])
    rows = [
        [str(chunks), f"{median(taken):.4f}", f"{min(taken):.4f} to {max(taken):.4f}", f"{median(taken) / plain:.3f}"]
        + [f"{1 / (8 * chunks):.1%}"]
        for chunks, taken in seconds.items()
    ]
    headers = ["chunks a stage", "s/step", "min to max", "x one chunk", "bubble by formula, of the work"]
    print(f"\ngrok1-tiny of 8 layers, PP2, 8 micro-batches, medians of {_LAUNCHES} launches a side, in turns\n")
    print(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True))
    show_in_benchmark_table(benchmark, seconds[2])
    benchmark.extra_info.update({f"{chunks} chunks": taken for chunks, taken in seconds.items()})


@pytest.mark.timeout(_RUN_SECONDS)
def test_experts_alone(session: BenchSession, benchmark: Any) -> None:
    """One layer's experts by ours, by megatron's SequentialMLP, by grouped_mm, at each size and two micro-batches."""
    rows = []
    for name in ("grok1-nano", "grok1-tiny", "grok1-small"):
        for micro_batch in (1, 4):
            recipe = load_recipe(name, [*ONE_RANK, f"training.micro_batch={micro_batch}"])
            found = launch(prepare(recipe, 21), recipe, session.device, entry="bench.peers:experts_alone")
            each = {side: median(seconds) for side, seconds in found.items()}
            ratios = [f"{each[side] / each['ours']:.2f}" for side in ("megatron", "grouped_mm")]
            rows.append([name, str(micro_batch), f"{1e3 * each['ours']:.2f}", *ratios])
    headers = ["recipe", "micro-batch", "ours, ms", "SequentialMLP over ours", "grouped_mm over ours"]
    print("\n" + tabulate(rows, headers, tablefmt="pipe", disable_numparse=True))
    show_in_benchmark_table(benchmark, found["ours"])


def _table(recipe: Recipe, seconds: dict[str, list[float]], limit: float) -> str:
    ours, flops = median(seconds["ours"]), recipe.flops_per_step()
    rows = [
        [name, f"{median(each):.3f}", f"{min(each):.3f} to {max(each):.3f}", f"{median(each) / ours:.2f}"]
        + [f"{flops / median(each) / 1e9:.0f}", f"{flops / median(each) / limit:.0%}"]
        for name, each in seconds.items()
    ]
    headers = ["step", "s/step", "min to max", "x ours", "model GFLOP/s", "of GEMM peak"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def _giga(rates: list[float]) -> str:
    return f"{median(rates) / 1e9:.0f}"
