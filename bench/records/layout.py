"""How a job is split over its ranks, as records and stored figures state it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from bench.records.fields import Positive, Strict

MAX_RANKS = 65_536
_LATE_AXES = ("context", "virtual_pipeline")


class AxisSizes(Strict):
    """Sizes by axis. The two that layouts got last are written where they are above 1: old layouts keep their text."""

    @model_validator(mode="after")
    def _consistent(self) -> AxisSizes:
        _check(dict(self))
        return self

    @model_serializer(mode="wrap")
    def _as_before_there_was_more(self, handler: SerializerFunctionWrapHandler) -> dict[str, int | None]:
        return {name: size for name, size in handler(self).items() if size != 1 or name not in _LATE_AXES}


class Layout(AxisSizes):
    """How many ways the job was split. `expert_tensor` is the tensor split inside one expert."""

    world_size: Annotated[int, Field(ge=1, le=MAX_RANKS)]
    tensor: Positive
    pipeline: Positive
    expert: Positive
    expert_tensor: Positive
    data: Positive
    nodes: Positive
    ranks_per_node: Positive
    context: Positive = 1
    virtual_pipeline: Positive = 1


def _check(size: Mapping[str, Any]) -> None:
    """Refuse sizes whose products are not the world; a size of None is not stated, and not checked."""
    world, data, nodes = size["world_size"], size["data"], size["nodes"]
    replica = size["tensor"] * size["context"] * size["pipeline"]
    if replica * (data or max(1, world // replica)) != world:
        context = f"context {size['context']} x " if size["context"] > 1 else ""
        split = f"tensor {size['tensor']} x {context}pipeline {size['pipeline']}"
        by = f"not {split} x data {data}" if data else f"not a multiple of {split}"
        raise ValueError(f"world_size {world} is {by}")
    if None not in (nodes, size["ranks_per_node"]) and nodes * size["ranks_per_node"] != world:
        raise ValueError(f"world_size {world} is not {nodes} nodes x {size['ranks_per_node']} ranks_per_node")
    if world % (size["expert"] * (size["expert_tensor"] or 1) * size["pipeline"]):
        raise ValueError("world_size is not a multiple of expert x expert_tensor x pipeline")
