"""What the ranks of a job do in a step, whatever model it is: products, attention, memory traffic, exchanges. No torch.

Every figure is a column with a row a place (bench.plan.layouts.Places, or a published job that stands for one): the
time model computes all of them at once. What is absent at a place has zero calls there. `per` says of what a figure
is: one micro-batch of the place, over all its layers and chunks, or the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.plan.groups import Group
from bench.plan.layouts import Floats, Ints

Per = Literal["micro_batch", "step"]


@dataclass(frozen=True)
class Product:
    """Matrix products [rows, depth] x [depth, columns] of one shape."""

    component: str  # as the ledger names them: "attention projections", "experts", "router", "head"
    phase: str  # "forward", "backward", "recompute"
    rows: Ints
    columns: Ints
    depth: Ints
    calls: Ints  # in a micro-batch


@dataclass(frozen=True)
class Attention:
    """Causal attention cores of one shape."""

    phase: str
    flops: Ints  # of a micro-batch, all calls together, as the ledger counts them
    calls: Ints  # in a micro-batch


@dataclass(frozen=True)
class Traffic:
    """Operators that are bound by memory: norms, activations, routing, permutation, residuals, loss, optimizer."""

    component: str
    phase: str
    per: Per
    bytes: Ints  # read and written, all calls together
    calls: Ints  # kernels


@dataclass(frozen=True)
class Exchange:
    """Calls of one collective on one kind of group. Bytes are of a call's larger side, together, as the ledger's."""

    phase: str  # as the ledger's: forward, backward, recompute, gradients, optimizer, pipeline, report
    group: str  # as the ledger's: tensor, expert, expert-tensor, data, ...
    operation: str  # as the ledger's: all_gather_into_tensor, all_to_all_single, ...
    dtype: str
    per: Per
    calls: Ints
    bytes: Ints
    ranks: Ints  # of the group, at least 1
    spacing: Ints | Group  # between neighbours in it, in ranks of the job; or the job's groups, whose worst counts


@dataclass(frozen=True)
class Work:
    """A step, place by place."""

    layout: Ints  # which job a place is of; all places of a job are together
    stage: Ints
    layers: Ints  # of the place, over its chunks
    pipeline: Ints
    virtual_pipeline: Ints
    micro_batches: Ints
    world_size: Ints
    tokens_per_step: Ints
    model_flops: Ints | Floats  # of the step over all ranks, without recompute: what MFU counts
    width: int  # bytes of an activation: 2 in bf16
    products: tuple[Product, ...]
    attention: tuple[Attention, ...]
    traffic: tuple[Traffic, ...]
    exchanges: tuple[Exchange, ...]
    hides_data: bool = True  # its exchanges of a step run while the device computes, whatever their phase
    shown_transfers: Floats | float = 1.0  # share of what stages send each other that no computing hides
    fuses_tensor: bool = False  # tensor ranks exchange within the products, as MC2 does
