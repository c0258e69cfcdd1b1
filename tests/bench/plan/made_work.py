"""Work of jobs that nobody trains: stages that differ by the rows of their products."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.plan.work import Attention, Exchange, Product, Traffic, Work


def column(values: Any, places: int) -> Any:
    return np.broadcast_to(np.asarray(values, np.int64), (places,)).copy()


def work_of_stages(
    rows: list[int], *, pipeline: int, chunks: int = 1, micro_batches: int = 4, world: int = 0, group: int = 1,
    stages: list[int] | None = None, layout: list[int] | None = None, message: int = 2**20,
) -> Work:  # fmt: skip
    """Work whose places differ by the rows of their products alone."""
    count = len(rows)

    def of(value: Any) -> Any:
        return column(value, count)

    def called(operation: str, on: str, per: Any, phase: str = "forward") -> Exchange:
        return Exchange(phase, on, operation, "bfloat16", per, of(2), of(2 * message), of(group), of(1))

    return Work(
        layout=of(layout or 0), stage=of(stages or list(range(count))), layers=of(2), pipeline=of(pipeline),
        virtual_pipeline=of(chunks), micro_batches=of(micro_batches), world_size=of(world or pipeline * group),
        tokens_per_step=of(4096), model_flops=of(10**15), width=2,
        products=(Product("experts", "forward", of(rows), of(1024), of(2048), of(3)),),
        attention=(Attention("forward", of(rows) * 10**6, of(2)),),
        traffic=(
            Traffic("norms", "forward", "micro_batch", of(rows) * 8192, of(4)),
            Traffic("optimizer", "optimizer", "step", of(10**9), of(1)),
        ),
        exchanges=(
            called("all_gather_into_tensor", "tensor", "micro_batch"),
            called("all_to_all_single", "expert-tensor x expert", "micro_batch"),
            called("reduce_scatter_tensor", "data", "step", "gradients"),
        ),
    )  # fmt: skip
