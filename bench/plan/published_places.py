"""The pipeline stages of published jobs as columns: their work is computed for all of them at once. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.plan.layouts import Ints
from bench.plan.published import PublishedRow

# Programs that state whether attention is fused and optimizer states are sharded; the others always do both
_STATING_PROGRAMS = ("ModelLink", "MindSpeed")


@dataclass(frozen=True)
class PublishedPlaces:
    """One rank of one stage of one job, a row each; jobs in the order of their rows, stages from first to last.

    A job has places for the stages that differ: the first, the second, which stands for the middle, and the last.
    """

    job: Ints
    stage: Ints
    layers: Ints  # of the stage
    recomputed: Ints  # layers of them whose forward runs again
    reactivated: Ints  # layers of them of which only the activation function does
    tokens: Ints  # of a micro-batch on a rank, before tensor ranks split them
    sequence: Ints
    tensor: Ints
    context: Ints
    ring: Ints  # steps in which attention meets the context ranks' keys; 1: all at once
    pipeline: Ints
    virtual_pipeline: Ints
    expert: Ints
    expert_tensor: Ints
    data: Ints
    expert_data: Ints
    world: Ints
    micro_batches: Ints
    hidden: Ints
    ffn: Ints
    heads: Ints
    groups: Ints
    head_dim: Ints
    vocab: Ints
    first_products: Ints  # matrices before the activation: 2 where it is gated
    experts: Ints
    chosen: Ints  # experts of a token
    shared: Ints
    has_attention: Ints  # 0 of a layer of experts alone
    has_fused_attention: Ints
    is_causal: Ints
    fuses_ring_update: Ints  # a kernel merges what a ring's step attended to
    shards_optimizer: Ints
    gathers_tokens: Ints  # the dispatcher gathers all tokens, where others exchange each token's copies
    runs_forward: Ints  # 0 where the backward of a layer alone was timed
    runs_backward: Ints

    @property
    def is_first(self) -> Ints:
        """1 where the stage has the embedding."""
        return ((self.stage == 0) & (self.has_attention == 1)).astype(np.int64)

    @property
    def is_last(self) -> Ints:
        """1 where the stage has the head."""
        return ((self.stage == self.pipeline - 1) & (self.has_attention == 1)).astype(np.int64)

    @property
    def queries(self) -> Ints:
        """Width of a tensor rank's queries."""
        return self.heads // self.tensor * self.head_dim

    @property
    def keys(self) -> Ints:
        """Width of a tensor rank's keys, of at least one group."""
        return np.maximum(1, self.groups // self.tensor) * self.head_dim

    @property
    def is_mixture(self) -> Ints:
        """1 where the layers have experts."""
        return (self.experts > 0).astype(np.int64)


def published_places(rows: Sequence[PublishedRow]) -> PublishedPlaces:
    """The stages of the jobs of these rows that differ, a job a row."""
    stages = [sorted({0, min(1, row.pipeline - 1), row.pipeline - 1}) for row in rows]
    jobs = np.array([job for job, of_row in enumerate(stages) for _ in of_row], np.int64)
    stage = np.array([each for of_row in stages for each in of_row], np.int64)

    def column(figure: Callable[[PublishedRow], int]) -> Ints:
        return np.array([figure(row) for row in rows], np.int64)[jobs]

    per_stage = [stage_layers(row) for row in rows]
    layers = np.array([per_stage[job][at] for job, at in zip(jobs, stage, strict=True)], np.int64)
    return PublishedPlaces(
        job=jobs,
        stage=stage,
        layers=layers,
        recomputed=np.minimum(layers, column(_recomputed)),
        reactivated=np.minimum(layers, column(_reactivated)),
        tokens=column(lambda row: row.sequence_length * row.micro_batch // row.context),
        sequence=column(lambda row: row.sequence_length),
        tensor=column(lambda row: row.tensor),
        context=column(lambda row: row.context),
        ring=column(lambda row: row.ring),
        pipeline=column(lambda row: row.pipeline),
        virtual_pipeline=column(lambda row: row.virtual_pipeline),
        expert=column(lambda row: row.expert),
        expert_tensor=column(lambda row: row.expert_tensor),
        data=column(lambda row: row.data),
        expert_data=column(lambda row: row.world_size // (row.expert_tensor * row.expert * row.pipeline)),
        world=column(lambda row: row.world_size),
        micro_batches=column(lambda row: row.micro_batches),
        hidden=column(lambda row: row.architecture.hidden_size),
        ffn=column(lambda row: row.architecture.ffn_hidden_size),
        heads=column(lambda row: row.architecture.num_attention_heads),
        groups=column(lambda row: row.architecture.num_query_groups),
        head_dim=column(lambda row: row.architecture.head_dim),
        vocab=column(lambda row: row.architecture.vocab_size),
        first_products=column(lambda row: 1 + row.architecture.is_gated),
        experts=column(lambda row: row.architecture.num_experts),
        chosen=column(lambda row: row.architecture.experts_per_token),
        shared=column(lambda row: row.architecture.shared_hidden_size),
        has_attention=column(lambda row: not row.is_layer_alone),
        has_fused_attention=column(lambda row: _does(row, "use-flash-attn")),
        is_causal=column(lambda row: row.is_causal),
        fuses_ring_update=column(lambda row: row.has("use-fused-ring-attention-update")),
        shards_optimizer=column(lambda row: _does(row, "use-distributed-optimizer")),
        gathers_tokens=column(lambda row: row.flags.get("moe-token-dispatcher-type") == "allgather"),
        runs_forward=column(lambda row: not row.metric.startswith("ms backward")),
        runs_backward=column(lambda row: not row.metric.startswith("ms forward")),
    )


def rank_parameters(at: PublishedPlaces) -> tuple[Ints, Ints]:
    """Parameters that a rank of each place holds: dense ones with embedding and head, and experts."""
    matrices = 1 + at.first_products
    queries, keys = at.heads * at.head_dim, at.groups * at.head_dim
    ffn = np.where(at.is_mixture == 1, at.shared, at.ffn)
    layer = at.hidden * (2 * queries + 2 * keys + matrices * ffn) // at.tensor + at.hidden * at.experts
    vocabulary = at.hidden * at.vocab // at.tensor * (at.is_first + at.is_last)
    expert = at.experts // at.expert * matrices * at.hidden * at.ffn // at.expert_tensor
    return layer * at.layers + vocabulary, expert * at.layers


def stage_layers(row: PublishedRow) -> list[int]:
    """Layers of each stage. Where they do not divide, embedding and head may each stand for a layer, as in Llama 3.1
    405B: the first stage and the last have one fewer. Where that does not divide either, the first stages have more.
    """
    stages, chunks = row.pipeline, row.pipeline * row.virtual_pipeline
    if row.layers % chunks and stages > 1 and (row.layers + 2) % chunks == 0:
        each = (row.layers + 2) // stages
        return [each - 1, *[each] * (stages - 2), each - 1]
    each, more = divmod(row.layers, stages)
    return [each + (stage < more) for stage in range(stages)]


def _does(row: PublishedRow, flag: str) -> bool:
    return row.has(flag) or not row.source.startswith(_STATING_PROGRAMS)


def _recomputed(row: PublishedRow) -> int:
    """Layers of a stage that full recompute runs again."""
    if row.flags.get("recompute-granularity") != "full":
        return 0
    if row.flags.get("recompute-method", "uniform") != "block":
        return row.layers
    return _of_chunks(row, "recompute-num-layers")


def _reactivated(row: PublishedRow) -> int:
    if not row.has("recompute-activation-function"):
        return 0
    return _of_chunks(row, "recompute-activation-function-num-layers")


def _of_chunks(row: PublishedRow, flag: str) -> int:
    """Layers of a stage, of a number that counts in each chunk, or in all of them where MindSpeed is told so."""
    chunks = 1 if row.has("enable-recompute-layers-per-pp-rank") else row.virtual_pipeline
    return _number(row.flags.get(flag, ""), row.layers) * chunks


def _number(digits: str, most: int) -> int:
    return min(int(digits), most) if digits.isascii() and digits.isdigit() and len(digits) < 10 else most
