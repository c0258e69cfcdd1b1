"""Published rows that cannot be used, and why: contradictions, options that cannot be, layouts that do not divide."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from grok1.config.refusals import quoted

if TYPE_CHECKING:
    from bench.plan.published import PublishedRow

_MOST_PADDING = 100.0
_MOST_LAYERS = 1000  # of any model; each is looked at
_MOST_FLOPS = 1 << 62  # integers of 64 bits hold them
_SAME_STEP = 0.02  # what rounding of a stated s/step or tokens/s explains
_STATED_STEP = re.compile(r"source also states ([0-9.]{1,12}) s/step")
# Words of notes by which a source contradicts itself or leaves out what its figure is of
_UNUSABLE = (
    ("script says NNODES", "its script and its table state different numbers of nodes"),
    ("swap-attention", "activations are swapped to the host, which the model of a step does not know"),
)
# Options that change the work, and what they may say
_CHOICES = {
    "recompute-granularity": ("full", "selective"),
    "recompute-method": ("uniform", "block"),
    "moe-token-dispatcher-type": ("alltoall", "alltoall_seq", "allgather", "flex"),
    "attention-mask-type": ("causal", "general"),
}
_COUNTS = ("recompute-num-layers", "recompute-activation-function-num-layers")


def check_row(row: PublishedRow, assume_layouts: bool, *, has_value: bool) -> None:
    """Refuse a row that contradicts itself, leaves out what its figure is of, or is of a layout that cannot be.

    Args:
        row: as it was read.
        assume_layouts: take rows whose source does not state the layout of their run.
        has_value: its value was read.

    Raises:
        ValueError: it is such a row.
    """
    if row.is_layout_assumed and not assume_layouts:
        raise ValueError("the layout of its run is not stated")
    for words, reason in _UNUSABLE:
        if any(words in flag for flag in row.flags):
            raise ValueError(reason)
    _check_options(row)
    _check_layout(row)
    _check_stages(row)
    if not row.expert_padding <= _MOST_PADDING:
        raise ValueError(f"moe-expert-capacity-factor is {row.expert_padding:g}, above {_MOST_PADDING:g}")
    if _flops(row) > _MOST_FLOPS:
        raise ValueError("its sizes make a micro-batch that is larger than any job's")
    is_of_this_run = has_value and not row.is_layout_assumed  # else what is stated is of the run beside it
    if row.is_throughput and is_of_this_run:
        _check_stated_step(row)


def _check_options(row: PublishedRow) -> None:
    for name, known in _CHOICES.items():
        if row.has(name) and row.flags[name] not in known:
            raise ValueError(f"{name} is {quoted(row.flags[name], 40)}, none of {', '.join(known)}")
    for name in _COUNTS:
        if row.has(name) and not re.fullmatch(r"[0-9]{1,9}", row.flags[name]):
            raise ValueError(f"{name} is {quoted(row.flags[name], 40)}, not a whole number")


def _check_layout(row: PublishedRow) -> None:
    replica = row.tensor * row.pipeline * row.context
    _divides("n_chips", row.world_size, "TP x PP x CP", replica)
    _divides("n_chips", row.world_size, "ETP x EP x PP", row.expert_tensor * row.expert * row.pipeline)
    _divides("seq", row.sequence_length, "CP", row.context)
    _divides("CP", row.context, "ulysses-degree-in-cp", row.ulysses_degree)
    if not row.is_layer_alone:
        _divides("gbs", row.global_batch, "mbs x DP", row.micro_batch * row.data)
    sizes = row.architecture
    _divides("attention heads", sizes.num_attention_heads, "TP", row.tensor)
    _divides("ffn", sizes.ffn_hidden_size, "TP", row.tensor)
    _divides("tokens of a micro-batch", row.sequence_length * row.micro_batch, "TP x CP", row.tensor * row.context)
    if sizes.num_experts:
        _divides("experts", sizes.num_experts, "EP", row.expert)
        _divides("the width of an expert", sizes.expert_width, "ETP", row.expert_tensor)
    elif row.expert > 1:
        raise ValueError(f"EP {row.expert} without experts: state them in the notes, or make ep 1")


def _check_stages(row: PublishedRow) -> None:
    chunks = row.pipeline * row.virtual_pipeline
    if row.virtual_pipeline > 1 and row.pipeline == 1:
        raise ValueError(f"vp {row.virtual_pipeline} with pp 1: chunks take turns with those of other stages")
    in_all = row.layers + len(row.idle_layers) + row.predicting_layers
    if in_all > _MOST_LAYERS:
        raise ValueError(f"{in_all:,} layers are more than the {_MOST_LAYERS:,} of any model")
    if row.layers < max(1, chunks - 2):
        raise ValueError(f"{row.layers} layers leave some of {chunks} chunks of a pipeline empty")
    counted, stated = row.layers + len(row.idle_layers), row.stated_layers
    if any(layer >= counted for layer in row.idle_layers):
        raise ValueError(f"noop-layers names layer {max(row.idle_layers)} of {counted}")
    if stated and (len(stated), sum(stated)) != (chunks, counted):
        raise ValueError(
            f"num-layer-list has {len(stated)} entries with {sum(stated)} layers, not {chunks} with {counted}"
        )


def _flops(row: PublishedRow) -> int:
    """More than the FLOPs, and the bytes, of a micro-batch on all ranks of a replica."""
    sizes = row.architecture
    copies = max(1, sizes.experts_per_token) * int(1 + row.expert_padding)  # of a token
    width = sizes.hidden_size + sizes.ffn_hidden_size + sizes.expert_width * copies + sizes.shared_hidden_size
    width += sizes.num_attention_heads * (sizes.head_dim + sizes.value_width) * 4 + sizes.vocab_size
    width += row.sequence_length + sizes.query_rank + sizes.latent_rank
    width += 8 * row.expert_tensor * max(copies, row.expert)  # exchanged
    layers = row.layers + row.predicting_layers
    of_tokens = row.sequence_length * row.micro_batch * width + sizes.num_experts * sizes.expert_width
    return 32 * of_tokens * (sizes.hidden_size + sizes.head_dim) * layers


def _divides(name: str, whole: int, by: str, part: int) -> None:
    if whole % part:
        raise ValueError(f"the layout does not divide: {name} {whole} by {by} {part}")


def _check_stated_step(row: PublishedRow) -> None:
    for flag in row.flags:
        stated = _STATED_STEP.fullmatch(flag)
        if not stated or stated[1].count(".") > 1:
            continue
        seconds = float(stated[1])
        if not abs(row.seconds / seconds - 1) <= _SAME_STEP if seconds > 0 else True:
            raise ValueError(
                f"contradicts itself: {row.value:g} tokens/s/chip take {row.seconds:.4g} s a step, not the "
                f"{stated[1]} s that it states too"
            )
