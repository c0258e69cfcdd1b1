"""The pipeline stages of published jobs as columns: their work is computed for all of them at once. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.plan.layouts import Floats, Ints
from bench.plan.published import PublishedRow

# Programs that state whether attention is fused and optimizer states are sharded; the others always do both
_STATING_PROGRAMS = ("ModelLink", "MindSpeed")


@dataclass(frozen=True)
class PublishedPlaces:
    """One rank of one stage of one job, a row each; jobs in the order of their rows, stages from first to last.

    A job has places for the stages that differ: the first, the second, which stands for the middle, and the last. Where
    stages between them differ too, as stated lists of layers may have it, each is a place.
    """

    job: Ints
    stage: Ints
    layers: Ints  # of the stage
    mixtures: Ints  # layers of them that have experts
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
    ffn: Ints  # of dense layers
    heads: Ints
    groups: Ints
    head_dim: Ints
    value_dim: Ints
    query_rank: Ints  # 0: queries are not compressed
    latent_rank: Ints  # 0: no latent attention
    rope_dim: Ints
    vocab: Ints
    logits: Ints  # times that the stage computes them: once where it is the last, and once more a layer that predicts
    predicting: Ints  # layers of the stage that predict later tokens
    first_products: Ints  # matrices before the activation: 2 where it is gated
    experts: Ints
    chosen: Ints  # experts of a token
    expert_ffn: Ints  # of one expert
    shared: Ints
    padding: Floats  # rows of experts over those that tokens choose; 1 where none are padded
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
    def attended(self) -> Ints:
        """Width of what a tensor rank's heads attended to."""
        return self.heads // self.tensor * self.value_dim

    @property
    def keys_and_values(self) -> Ints:
        """Width of a tensor rank's keys and values together, of at least one group."""
        return np.maximum(1, self.groups // self.tensor) * (self.head_dim + self.value_dim)

    @property
    def dense(self) -> Ints:
        """Layers of the stage without experts."""
        return self.layers - self.mixtures

    @property
    def routed(self) -> Ints:
        """Rows that a rank's experts get of a micro-batch, those that pad them included."""
        rows = self.tokens * self.chosen * self.expert_tensor // self.tensor
        return (rows * self.padding).astype(np.int64)

    def of_mixtures(self, layers: Ints) -> Ints:
        """So many of the stage's layers, as far as they have experts."""
        return layers * self.mixtures // np.maximum(1, self.layers)


def published_places(rows: Sequence[PublishedRow]) -> PublishedPlaces:
    """The stages of the jobs of these rows that differ, a job a row."""
    indices = [stage_layers(row) for row in rows]
    shown = [_stages_that_differ(row, stages) for row, stages in zip(rows, indices, strict=True)]
    jobs = np.array([job for job, of_row in enumerate(shown) for _ in of_row], np.int64)
    stage = np.array([each for of_row in shown for each in of_row], np.int64)

    def column(figure: Callable[[PublishedRow], int]) -> Ints:
        return np.array([figure(row) for row in rows], np.int64)[jobs]

    def of_stage(figures: list[list[int]]) -> Ints:
        return np.array([figures[job][at] for job, at in zip(jobs, stage, strict=True)], np.int64)

    last = stage == np.array([row.pipeline - 1 for row in rows], np.int64)[jobs]
    predicting = last * column(lambda row: row.predicting_layers)
    layers = of_stage([[len(of) for of in stages] for stages in indices]) + predicting
    mixtures = of_stage([[_mixtures(row, of) for of in stages] for row, stages in zip(rows, indices, strict=True)])
    return PublishedPlaces(
        job=jobs,
        stage=stage,
        layers=layers,
        mixtures=mixtures + predicting * column(predicts_by_experts),
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
        value_dim=column(lambda row: row.architecture.value_width),
        query_rank=column(lambda row: row.architecture.query_rank),
        latent_rank=column(lambda row: row.architecture.latent_rank),
        rope_dim=column(lambda row: row.architecture.rope_dim),
        vocab=column(lambda row: row.architecture.vocab_size),
        logits=(last + predicting) * column(lambda row: not row.is_layer_alone),
        predicting=predicting,
        first_products=column(lambda row: 1 + row.architecture.is_gated),
        experts=column(lambda row: row.architecture.num_experts),
        chosen=column(lambda row: row.architecture.experts_per_token),
        expert_ffn=column(lambda row: row.architecture.expert_width),
        shared=column(lambda row: row.architecture.shared_hidden_size),
        padding=np.array([row.expert_padding for row in rows])[jobs],
        has_attention=column(lambda row: not row.is_layer_alone),
        has_fused_attention=column(lambda row: _does(row, "use-flash-attn")),
        is_causal=column(lambda row: row.is_causal),
        fuses_ring_update=column(lambda row: row.has("use-fused-ring-attention-update")),
        shards_optimizer=column(lambda row: _does(row, "use-distributed-optimizer")),
        gathers_tokens=column(lambda row: row.flags.get("moe-token-dispatcher-type") == "allgather"),
        runs_forward=column(lambda row: not row.metric.startswith("ms backward")),
        runs_backward=column(lambda row: not row.metric.startswith("ms forward")),
    )


def _stages_that_differ(row: PublishedRow, stages: list[list[int]]) -> list[int]:
    """The first, the second and the last; all of them where those between are not alike."""
    between = {(len(layers), _mixtures(row, layers)) for layers in stages[1:-1]}
    if len(between) > 1:
        return list(range(row.pipeline))
    return sorted({0, min(1, row.pipeline - 1), row.pipeline - 1})


def _mixtures(row: PublishedRow, layers: list[int]) -> int:
    """Those of the layers that have experts."""
    return sum(row.architecture.has_experts(layer) for layer in layers)


def rank_parameters(at: PublishedPlaces) -> tuple[Ints, Ints]:
    """Parameters that a rank of each place holds: dense ones with embedding and head, and experts."""
    matrices = 1 + at.first_products
    dense = at.layers * _attention_parameters(at) + at.hidden * matrices * at.dense * at.ffn // at.tensor
    sharing = at.hidden * matrices * at.shared // at.tensor + at.hidden * at.experts
    embeddings = np.maximum(at.is_first, at.predicting > 0)  # a stage that predicts later tokens has one of its own
    vocabulary = at.hidden * at.vocab // at.tensor * (embeddings + at.is_last)
    projections = 2 * at.hidden * at.hidden // at.tensor * at.predicting
    expert = at.experts // at.expert * matrices * at.hidden * at.expert_ffn // at.expert_tensor
    return dense + at.mixtures * sharing + vocabulary + projections, expert * at.mixtures


def _attention_parameters(at: PublishedPlaces) -> Ints:
    """Of a layer on a tensor rank; what compresses to a latent width is whole on each."""
    out = at.hidden * at.heads * at.value_dim // at.tensor
    plain = at.hidden * (at.heads * at.head_dim + at.groups * (at.head_dim + at.value_dim)) // at.tensor
    from_latent = at.latent_rank * at.heads * (at.head_dim - at.rope_dim + at.value_dim) // at.tensor
    wide = at.heads * at.head_dim // at.tensor
    queries = np.where(at.query_rank > 0, at.query_rank * (at.hidden + wide), at.hidden * wide)
    latent = at.hidden * (at.latent_rank + at.rope_dim) + from_latent + queries
    return out + np.where(at.latent_rank > 0, latent, plain)


def predicts_by_experts(row: PublishedRow) -> bool:
    """Layers that predict later tokens are as the last layer before them is."""
    return row.architecture.has_experts(row.layers + len(row.idle_layers) - 1)


def stage_layers(row: PublishedRow) -> list[list[int]]:
    """The layers of each stage, from 0, those left out that a job counts and does not run.

    Chunks follow each other from stage to stage. Where layers do not divide among them, embedding and head may each
    stand for a layer, as in Llama 3.1 405B: the first chunk and the last have one fewer. Where that does not divide
    either, the first stages have more.
    """
    counted = row.layers + len(row.idle_layers)
    chunks = _chunks(counted, row.pipeline, row.virtual_pipeline, row.stated_layers)
    found: list[list[int]] = [[] for _ in range(row.pipeline)]
    layer = 0
    for stage, size in zip(itertools.cycle(range(row.pipeline)), chunks, strict=False):
        found[stage] += [each for each in range(layer, layer + size) if each not in row.idle_layers]
        layer += size
    return found


def _chunks(layers: int, stages: int, of_stage: int, stated: tuple[int, ...]) -> list[int]:
    """Layers of each chunk, in the order in which a token passes them."""
    chunks = stages * of_stage
    if stated:
        return list(stated)
    if layers % chunks and stages > 1 and (layers + 2) % chunks == 0:
        each = (layers + 2) // chunks
        return [each - 1, *[each] * (chunks - 2), each - 1]
    each, more = divmod(layers, stages)
    totals = [each + (stage < more) for stage in range(stages)]
    return [
        totals[stage] // of_stage + (chunk < totals[stage] % of_stage)
        for chunk in range(of_stage)
        for stage in range(stages)
    ]


def _does(row: PublishedRow, flag: str) -> bool:
    return row.has(flag) or not row.source.startswith(_STATING_PROGRAMS)


def _recomputed(row: PublishedRow) -> int:
    """Layers of a stage that full recompute runs again."""
    if row.flags.get("recompute-granularity") != "full":
        return 0
    if row.flags.get("recompute-method", "uniform") != "block":
        return row.layers + row.predicting_layers
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
