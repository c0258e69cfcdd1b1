"""Sizes of published models: the shipped table against their makers' parameter counts, and what notes may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.plan.architectures import Architecture, architecture_of, notes_of
from bench.plan.published import PublishedRow
from bench.plan.published_places import published_places, rank_parameters
from bench.plan.published_work import model_flops
from tests.bench.plan.test_published import read

# Layers, and billions of parameters in all, as the maker's model card or paper states them
TOTALS = {
    "Llama2 7B": (32, 6.74),
    "Llama2 13B": (40, 13.0),
    "Llama2 70B": (80, 69.0),
    "Llama3.1 8B": (32, 8.03),
    "Llama3.1 70B": (80, 70.6),
    "Llama3.1 405B": (126, 405.9),
    "Mistral 7B": (32, 7.24),
    "GPT3 175B": (96, 175.0),
    "Nemotron4 15B": (32, 15.6),
    "Nemotron4 340B": (96, 341.0),
    "Qwen2.5 7B": (28, 7.61),
    "Qwen2.5 14B": (48, 14.7),
    "Qwen2.5 32B": (64, 32.5),
    "Qwen2.5 72B": (80, 72.7),
    "Qwen3 8B": (36, 8.2),
    "Qwen3 14B": (40, 14.8),
    "Qwen3 32B": (64, 32.8),
    "Grok1 314B": (64, 314.0),
    "Mixtral 8x7B": (32, 46.7),
    "Mixtral 8x22B": (56, 141.0),
    "DBRX": (40, 132.0),
    "Phi3.5 MoE": (32, 41.9),
    "Llama4 Scout": (48, 109.0),
    "Llama4 Maverick": (48, 400.0),
    "GPT-OSS 20B": (24, 20.9),
    "GPT-OSS 120B": (36, 116.8),
    "Qwen2 57B A14B": (28, 57.4),
    "Qwen3 30B A3B": (48, 30.5),
    "Qwen3 235B A22B": (94, 235.0),
    "DeepSeek-V2": (60, 236.0),
    "DeepSeek-V2-Lite": (27, 15.7),
    "DeepSeek-V3": (61, 671.0),
}
# Billions of parameters that a token meets, as stated
ACTIVE = {
    "Mixtral 8x7B": 12.9,
    "Mixtral 8x22B": 39.0,
    "Qwen3 30B A3B": 3.3,
    "Qwen3 235B A22B": 22.0,
    "DeepSeek-V2": 21.0,
    "DeepSeek-V3": 37.0,
    "DBRX": 36.0,
}


def of_one_rank(folder: Path, model: str, **cells: str) -> PublishedRow:
    layers = str(TOTALS.get(model, (8, 0))[0])
    job = {"model": model, "n_chips": "1", "tp": "1", "pp": "1", "seq": "4096", "gbs": "1", "layers": layers}
    published = read(folder, job | cells)
    return published.rows[0]


@pytest.mark.parametrize("model", TOTALS)
def test_a_model_of_the_table_has_as_many_parameters_as_its_maker_says(tmp_path: Path, model: str) -> None:
    dense, experts = rank_parameters(published_places([of_one_rank(tmp_path, model)]))
    assert (dense.sum() + experts.sum()) / 1e9 == pytest.approx(TOTALS[model][1], rel=0.02)


@pytest.mark.parametrize("model", ACTIVE)
def test_a_token_meets_as_many_parameters_as_is_said(tmp_path: Path, model: str) -> None:
    row = of_one_rank(tmp_path, model)
    sizes = row.architecture
    scores = row.layers * sizes.num_attention_heads * (sizes.head_dim + sizes.value_width) * row.sequence_length / 2
    met = model_flops(row) / (6 * row.sequence_length) - scores + sizes.hidden_size * sizes.vocab_size
    assert met / 1e9 == pytest.approx(ACTIVE[model], rel=0.035)


@pytest.mark.parametrize(
    "name", ["Grok-1 314B", "GROK1_314B", "grok1-314b", "Grok 1 314B", "grok_1", "xai-org/grok-1", "xAI Grok-1"]
)
def test_a_name_is_known_however_it_is_spelled(name: str) -> None:
    assert architecture_of(name, "") == architecture_of("Grok1 314B", "")


@pytest.mark.parametrize("name", ["Grok-1.5", "Grok-10", "DeepSeek-R1-Distill-Llama-70B", "Qwen3 30BX"])
def test_another_model_whose_name_begins_alike_is_not_known(name: str) -> None:
    with pytest.raises(ValueError, match="lack hidden_size"):
        architecture_of(name, "")


@pytest.mark.parametrize("notes", ["256 experts, top 8", "256 Experts, Top-8", "num-experts=256; 256 experts"])
def test_words_that_name_no_width_leave_the_experts_as_wide_as_they_are(notes: str) -> None:
    assert architecture_of("DeepSeek V3", notes) == architecture_of("DeepSeek-V3", "")


@pytest.mark.parametrize(
    "notes",
    [
        "--num-experts 16 --moe-router-topk 4 --swiglu", "num_experts: 16; moe_router_topk: 4",
        "Num-Experts = 16; moe-router-topk=4; num-experts=16",
    ],
)  # fmt: skip
def test_options_may_be_written_in_other_ways(notes: str) -> None:
    assert architecture_of("Mixtral 8x7B", notes) == architecture_of(
        "Mixtral 8x7B", "num-experts=16; moe-router-topk=4"
    )


def test_an_option_that_is_false_is_not_given() -> None:
    assert notes_of("moe-tp-extend-ep=False; use-mc2; noop-layers=1") == {"use-mc2": "", "noop-layers": "1"}


OPTIONS = (
    "hidden-size=5120; ffn-hidden-size=12288; num-attention-heads=128; vocab-size=102400; num-experts=160; "
    "moe-router-topk=6; moe-intermediate-size=1536; n-shared-experts=2; first-k-dense-replace=1; moe-layer-freq=1; "
    "multi-head-latent-attention; q-lora-rank=1536; kv-lora-rank=512; qk-rope-head-dim=64; qk-nope-head-dim=128; "
    "v-head-dim=128"
)
RENAMED = (
    ("moe-intermediate-size", "moe-ffn-hidden-size"),
    ("n-shared-experts=2", "moe-shared-expert-intermediate-size=3072"),
    ("first-k-dense-replace=1; moe-layer-freq=1", "moe-layer-freq=([0]*1+[1]*59)"),
    ("multi-head-latent-attention", "multi-latent-attention"),
    ("qk-rope-head-dim", "qk-pos-emb-head-dim"),
    ("qk-nope-head-dim", "qk-head-dim"),
)


@pytest.mark.parametrize(("old", "new"), [("", ""), *RENAMED])
def test_options_of_a_job_say_its_sizes(old: str, new: str) -> None:
    assert architecture_of("a model", OPTIONS.replace(old, new)) == architecture_of("DeepSeek-V2", "")


def test_what_is_stated_wins_over_the_table() -> None:
    stated = architecture_of("DeepSeek-V2", "first-k-dense-replace=-1; moe-layer-freq=-1; num-experts=8")
    assert (stated.dense_layers, stated.num_experts, stated.expert_width) == (0, 8, 1536)


def test_the_width_in_words_is_an_expert_s() -> None:
    notes = "hidden 7168, ffn 1024, 32 experts, top 8"
    assert architecture_of("DeepSeek-V3 proxy", notes).expert_width == 1024


@pytest.mark.parametrize(
    ("dense", "between", "layers"),
    [(0, 0, [0, 1, 2, 3]), (2, 0, [2, 3]), (0, 1, [0, 2]), (1, 1, [2]), (9, 0, [])],
)
def test_which_layers_have_experts(dense: int, between: int, layers: list[int]) -> None:
    sizes = architecture_of("Mixtral 8x7B", f"first-k-dense-replace={dense}; moe-layer-freq={between + 1}")
    assert [layer for layer in range(4) if sizes.has_experts(layer)] == layers


def test_options_of_experts_count_for_nothing_without_experts() -> None:
    sizes = architecture_of("Llama3.1 8B", "n-shared-experts=2; moe-intermediate-size=64; first-k-dense-replace=1")
    assert sizes == architecture_of("Llama3.1 8B", "")
    assert isinstance(sizes, Architecture)


@pytest.mark.parametrize(
    ("notes", "fault"),
    [
        (OPTIONS.replace("kv-lora-rank=512; ", ""), "lack latent_rank"),
        (OPTIONS.replace("; v-head-dim=128", ""), "lack value_dim"),
        (OPTIONS.replace("moe-layer-freq=1", "moe-layer-freq=[0,1]*30"), "moe-layer-freq='[0,1]*30'"),
        (OPTIONS.replace("first-k-dense-replace=1", "first-k-dense-replace=-2"), "first-k-dense-replace='-2'"),
    ],
)
def test_options_that_say_too_little_or_nonsense_are_named(notes: str, fault: str) -> None:
    with pytest.raises(ValueError, match="^[^\n]*" + fault.replace("[", r"\[").replace("*", r"\*")):
        architecture_of("a model", notes)
