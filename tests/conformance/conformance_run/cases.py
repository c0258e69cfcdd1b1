"""What is run on both devices: a list of cases a world size, so that its ranks start once.

A case is a recipe with changes. Ranks of one start share what MindSpeed was told: a case whose recipe gives MindSpeed
other options is another start.
"""

from __future__ import annotations

from dataclasses import dataclass

from grok1.config.load import ONE_RANK

STEPS = 3  # the first has no learning rate; the third shows what the second did to the weights

# as in tests/conftest.py, which cannot be imported beside Megatron-LM's own package `tests`
MEGATRONS_PARTS = (
    "kernels.experts=sequential",
    "kernels.dispatch=megatron",
    "kernels.cross_entropy=megatron",
    "kernels.linear=megatron",
)
_BF16 = "training.dtype=bf16"
_SELECTIVE = "training.recompute=selective"
_MODULES = 'training.recompute_modules=["{}"]'
_STAGES_FIRST = "parallel.order=tp-cp-ep-pp-dp"
_CAPACITY = ("training.expert_capacity_factor=1.0",)
_OVERLAPPED = ("kernels.gradient_reduction=overlapped", "kernels.param_gather=overlapped")
_NOT_SPLIT = ONE_RANK[1:]  # but for replicas


@dataclass(frozen=True)
class Case:
    """A recipe with changes, and what its losses may differ by: fp32 sums in another order, bf16 rounds differently."""

    name: str
    changes: tuple[str, ...] = ()
    recipe: str = "grok1-nano"
    on_the_cpu: tuple[str, ...] = ()  # other changes for the CPU, in place of what only an NPU has
    kernels: frozenset[str] = frozenset()  # of the stand-in, beside those of every case
    attends_by_operators: bool = False  # torch's, where the fused kernel has no place
    pads_buffers: bool = False  # to an even number of elements a rank, which the CPU does not
    joins_exchanges: bool = False  # collectives of tensor ranks run inside products, where nobody counts them

    @property
    def loss_tolerance(self) -> float:
        """Relative: fp32 rounds in the seventh digit, bf16 in the third."""
        return 1e-4 if self.is_bf16 else 1e-6

    @property
    def aux_tolerance(self) -> float:
        """Relative, of the routers' loss: in bf16 a token whose two best experts are nearly tied may go elsewhere."""
        return 1e-3 if self.is_bf16 else 1e-6

    @property
    def norm_tolerance(self) -> float:
        """Relative, of the norm of all gradients."""
        return 1e-2 if self.is_bf16 else 1e-5

    @property
    def is_bf16(self) -> bool:
        """Whether activations are bf16: the Ascend recipe's are."""
        return _BF16 in self.changes or self.recipe != "grok1-nano"


# the recipe of the Ascend job, cut small: its dtype, dispatcher, router, products and parts, at nano's sizes
_ASCEND = tuple(
    f"{key}={value}"
    for key, value in {
        "model.num_layers": 2,
        "model.hidden_size": 96,
        "model.ffn_hidden_size": 512,
        "model.num_attention_heads": 24,
        "model.num_query_groups": 4,
        "model.head_dim": 4,
        "model.vocab_size": 512,
        "training.sequence_length": 32,
        "training.global_batch": 4,
        "data.tokenizer_type": "SentencePiece",
    }.items()
)

_MC2 = frozenset({"npu_all_gather_base_mm", "npu_mm_reduce_scatter_base"})
_MEGATRONS_LINEAR = ("kernels.linear=megatron",)

TWO_RANKS = (
    Case("replicas", ("parallel.world_size=2", *_NOT_SPLIT, *MEGATRONS_PARTS)),
    Case("replicas-fused", ("parallel.world_size=2", *_NOT_SPLIT)),
    Case("pipeline", ("parallel.world_size=2", *_NOT_SPLIT, "parallel.pipeline=2", *MEGATRONS_PARTS)),
    Case("experts", ("parallel.world_size=2", *_NOT_SPLIT, "parallel.expert=2", *MEGATRONS_PARTS)),
    Case(
        "npu-norm",
        ("parallel.world_size=2", *_NOT_SPLIT, "kernels.norm=npu"),
        on_the_cpu=("kernels.norm=torch",),
        kernels=frozenset({"npu_rms_norm"}),
    ),
)
_TWO_TENSOR = ("parallel.tensor=2", "parallel.expert_tensor=2")
_TENSOR_AND_REPLICAS = ("parallel.world_size=4", *_NOT_SPLIT, *_TWO_TENSOR)
_TWO_STAGES = (*_TENSOR_AND_REPLICAS, "parallel.pipeline=2")
_STAGES_AND_REPLICAS = ("parallel.world_size=4", *_NOT_SPLIT, "parallel.pipeline=2", "parallel.expert=2")
_TENSOR_STAGES = ("parallel.world_size=4", *_NOT_SPLIT, "parallel.pipeline=2", *_TWO_TENSOR)
_CONTEXT = (*_TENSOR_AND_REPLICAS, "parallel.context=2")
_EXPERTS_AND_REPLICAS = ("parallel.world_size=4", *_NOT_SPLIT, "parallel.expert=2")
FOUR_RANKS = (
    Case("tensor", ("parallel.world_size=4", *_NOT_SPLIT, "parallel.tensor=4", "parallel.expert_tensor=4")),
    Case("tensor-replicas", (*_TENSOR_AND_REPLICAS, *MEGATRONS_PARTS)),
    Case("experts-replicas", ("parallel.world_size=4", *_NOT_SPLIT, "parallel.expert=2", _BF16, *MEGATRONS_PARTS)),
    Case("gradients-in-bf16", (*_TENSOR_AND_REPLICAS, _BF16, "training.gradient_dtype=bf16", *MEGATRONS_PARTS)),
    Case("router-in-bf16", (*_TENSOR_AND_REPLICAS, _BF16, "training.router_dtype=model", *MEGATRONS_PARTS)),
    Case(
        "mc2",
        (*_TENSOR_AND_REPLICAS, *MEGATRONS_PARTS, "kernels.linear=mc2"),
        on_the_cpu=_MEGATRONS_LINEAR,
        kernels=_MC2,
        joins_exchanges=True,
    ),
    Case(
        "mc2-fused-experts",
        (*_TENSOR_AND_REPLICAS, "kernels.cross_entropy=fused", "kernels.linear=mc2"),
        on_the_cpu=_MEGATRONS_LINEAR,
        kernels=_MC2,
        joins_exchanges=True,
    ),
    Case(
        "mc2-pipeline",
        (*_TWO_STAGES, *MEGATRONS_PARTS, "kernels.linear=mc2"),
        on_the_cpu=_MEGATRONS_LINEAR,
        kernels=_MC2,
        joins_exchanges=True,
    ),
    Case(
        "fp32-reused",
        (*_TENSOR_AND_REPLICAS, _BF16, *MEGATRONS_PARTS, "training.reuse_fp32_parameters=true"),
        on_the_cpu=("training.reuse_fp32_parameters=false",),
        pads_buffers=True,
    ),
    Case("interleaved", (*_STAGES_AND_REPLICAS, "model.num_layers=4", "parallel.virtual_pipeline=2")),
    Case("uneven-stages", (*_TENSOR_STAGES, "model.num_layers=3", "parallel.first_stage_layers=1", _STAGES_FIRST)),
    Case("context", _CONTEXT, attends_by_operators=True),
    Case("context-of-heads", (*_CONTEXT, "parallel.context_exchange=a2a", *MEGATRONS_PARTS), attends_by_operators=True),
    Case("context-capped", (*_CONTEXT, "model.attention_logit_cap=30"), attends_by_operators=True),
    Case("recompute-parts", (*_TENSOR_AND_REPLICAS, _SELECTIVE, _MODULES.format('core_attn", "layernorm'))),
    Case("recompute-experts", (*_TENSOR_AND_REPLICAS, _SELECTIVE, _MODULES.format("moe"))),
    Case(
        "recompute-activation",
        (
            *_EXPERTS_AND_REPLICAS,
            _BF16,
            *MEGATRONS_PARTS,
            "kernels.experts=grouped",
            _SELECTIVE,
            _MODULES.format("moe_act"),
        ),
        on_the_cpu=("kernels.experts=sequential", _MODULES.format("core_attn")),
        kernels=frozenset({"npu_gmm", "npu_gmm_backward"}),
    ),
    Case("recompute-block", (*_TENSOR_AND_REPLICAS, "training.recompute=full", "training.recompute_method=block")),
    Case("dropping", (*_EXPERTS_AND_REPLICAS, *_CAPACITY, *MEGATRONS_PARTS)),
    Case("dropping-padded", (*_EXPERTS_AND_REPLICAS, *_CAPACITY, "training.pad_to_capacity=true", *MEGATRONS_PARTS)),
    Case("z-loss", (*_EXPERTS_AND_REPLICAS, "model.z_loss_coefficient=0.001")),
    Case("drawn-routes", (*_EXPERTS_AND_REPLICAS, "training.routing=random")),
    Case("overlapped-gather", (*_EXPERTS_AND_REPLICAS, *_OVERLAPPED)),
)
SIXTEEN_RANKS = (
    Case("nano"),
    Case("megatrons-parts", MEGATRONS_PARTS),
    Case("merged", (*MEGATRONS_PARTS, "kernels.dispatch=merged")),
    Case("allgather", (*MEGATRONS_PARTS, "parallel.dispatcher=allgather")),
    Case("bf16", (_BF16, *MEGATRONS_PARTS)),
    Case(
        "grouped",
        (_BF16, *MEGATRONS_PARTS, "kernels.experts=grouped"),
        on_the_cpu=("kernels.experts=sequential",),
        kernels=frozenset({"npu_gmm", "npu_gmm_backward"}),
    ),
    Case("recompute", ("training.recompute=full",)),
    Case("overlapped", ("kernels.gradient_reduction=overlapped",)),
    Case("tuned", _ASCEND, recipe="grok1-40b-tuned"),
    Case(
        "ascend",
        _ASCEND,
        recipe="grok1-40b",
        on_the_cpu=_MEGATRONS_LINEAR,
        kernels=_MC2,
        joins_exchanges=True,
    ),
)
CASES = {"2": TWO_RANKS, "4": FOUR_RANKS, "16": SIXTEEN_RANKS}
