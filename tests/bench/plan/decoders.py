"""Decoders that megatron-core itself runs, and what the planner takes of the same ones as published jobs. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.plan.architectures import architecture_of, notes_of
from bench.plan.published import PublishedRow
from bench.plan.published_places import published_places, rank_parameters
from bench.plan.published_work import published_work

SEQUENCE, MICRO_BATCH, VOCABULARY = 64, 2, 512
_OPTIONS = {"num_moe_experts": "num-experts"}  # where the option of the command line has another name
_ELSEWHERE = ("num_layers", "rope_type")  # columns of their own, and what costs nothing


@dataclass(frozen=True)
class Decoder:
    """A decoder and the rank of it that is looked at: the first of a stage. `words` are of megatron's own config."""

    words: dict[str, Any]
    tensor: int = 1
    expert: int = 1
    expert_tensor: int = 1
    pipeline: int = 1
    stage: int = 0
    predicting: int = 0

    @property
    def world_size(self) -> int:
        return self.tensor * self.expert * self.pipeline

    @property
    def is_first(self) -> bool:
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        return self.stage == self.pipeline - 1


@dataclass
class Counted:
    """What a rank does in a micro-batch, forward and backward, and what it holds."""

    products: Counter[tuple[str, str, tuple[int, ...]]]  # calls by component, phase and sizes, smallest first
    attention: Counter[str]  # FLOPs by phase
    calls: Counter[tuple[str, str, str, str]]  # of collectives, by phase, group, operation and type
    bytes: Counter[tuple[str, str, str, str]]
    parameters: tuple[int, int]  # of matrices: dense ones and experts


def counted_by_megatron(decoders: Sequence[Decoder]) -> list[Counted]:
    """Each of them run on one rank, for a process of their own."""
    from grok1.distributed.rank_process import prepare_process

    prepare_process()
    from tests.bench.plan import decoder_entries

    return [decoder_entries.counted(decoder) for decoder in decoders]


def planned(decoder: Decoder) -> Counted:
    """The same of the published job."""
    row = _row(decoder)
    work = published_work([row])
    place = work.stage.tolist().index(decoder.stage)
    found = Counted(Counter(), Counter(), Counter(), Counter(), (0, 0))
    for product in work.products:
        sizes = tuple(sorted(int(each[place]) for each in (product.rows, product.columns, product.depth)))
        found.products[product.component, product.phase, sizes] += int(product.calls[place])
    for core in work.attention:
        found.attention[core.phase] += int(core.flops[place])
    for each in work.exchanges:
        if each.per == "micro_batch" and each.phase != "pipeline":
            found.calls[each.phase, each.group, each.operation, each.dtype] += int(each.calls[place])
            found.bytes[each.phase, each.group, each.operation, each.dtype] += int(each.bytes[place])
    dense, experts = rank_parameters(published_places([row]))
    found.parameters = int(dense[place]), int(experts[place])
    return found


def left_out(decoder: Decoder) -> Iterator[tuple[tuple[str, str, str, str], int, int]]:
    """What the planner leaves out of a published job: (phase, group, operation and type), calls, bytes of a call.

    Tokens' probabilities, and who chose which expert. And a fault of 0.12, which later lines do not have: it sums the
    gradient of what a predicting layer projects over tensor ranks.
    """
    words, tokens = decoder.words, SEQUENCE * MICRO_BATCH // decoder.tensor
    layers = int(published_places([_row(decoder)]).mixtures[-1 if decoder.is_last else 0])
    experts, everywhere = words.get("num_moe_experts", 0), decoder.expert * decoder.expert_tensor
    passes = "forward", "recompute" if "recompute_granularity" in words else "forward"
    for phase in dict.fromkeys((*passes, "backward")):
        is_there = phase != "backward"
        way = "all_gather_into_tensor" if is_there else "reduce_scatter_tensor"
        of_all = phase, "expert-tensor x expert", way
        if words.get("moe_token_dispatcher_type") == "allgather":
            yield (*of_all, "bfloat16"), layers, 2 * tokens * experts * everywhere
            yield (*of_all, "bool"), layers * is_there, tokens * experts * everywhere
        elif experts:
            rows = int(tokens * words["moe_router_topk"] * words.get("moe_expert_capacity_factor", 1))
            is_counted = is_there and "moe_expert_capacity_factor" not in words
            yield (*of_all, "int64"), layers * is_counted, 8 * experts * everywhere
            yield (phase, "expert", "all_to_all_single", "bfloat16"), layers, 2 * rows
            yield (phase, "expert-tensor", way, "bfloat16"), layers, 2 * rows * decoder.expert_tensor
    whole = 2 * SEQUENCE * MICRO_BATCH * words["hidden_size"]
    yield ("backward", "tensor", "reduce_scatter_tensor", "bfloat16"), decoder.predicting * decoder.is_last, whole


def _row(decoder: Decoder) -> PublishedRow:
    """The job as a source would state it, by the names of megatron's options; attention is not fused."""
    stated = {_OPTIONS.get(name, name.replace("_", "-")): value for name, value in decoder.words.items()}
    for name in _ELSEWHERE:
        stated.pop(name.replace("_", "-"), None)
    frequency = decoder.words.get("moe_layer_freq")
    if isinstance(frequency, list):
        stated["moe-layer-freq"] = f"([0]*{frequency.count(0)}+[1]*{frequency.count(1)})"
    if decoder.words.get("multi_latent_attention"):
        del stated["num-query-groups"], stated["kv-channels"]
    stated |= {"vocab-size": VOCABULARY} | ({"mtp-num-layers": decoder.predicting} if decoder.predicting else {})
    notes = "; ".join(
        name if value is True else f"{name}={value}" for name, value in stated.items() if value is not None
    )
    return PublishedRow(
        line=2, source="MindSpeed", model="a model", chip="a chip", world_size=decoder.world_size,
        tensor=decoder.tensor, pipeline=decoder.pipeline, virtual_pipeline=1, context=1, expert=decoder.expert,
        expert_tensor=decoder.expert_tensor, sequence_length=SEQUENCE, global_batch=MICRO_BATCH * decoder.expert,
        micro_batch=MICRO_BATCH, layers=decoder.words["num_layers"], precision="bf16",
        architecture=architecture_of("a model", notes), metric="s/step", value=1.0, flags=notes_of(notes), evidence="",
    )  # fmt: skip
