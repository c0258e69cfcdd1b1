"""Recipes: they count themselves, refuse what cannot run with value and remedy, and never raise anything else."""

from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok1.config.load import load_recipe, recipe_names
from grok1.config.recipe import Recipe
from grok1.config.refusals import RecipeError

RECIPES = Path(__file__).parents[3] / "grok1" / "recipes"

REFUSALS = [
    (["parallel.tensor=8"], "num_query_groups 4 is not a multiple of parallel.tensor 8"),
    (["model.num_attention_heads=6", "model.num_query_groups=2"], "num_attention_heads 6 .* parallel.tensor 4"),
    (["model.num_query_groups=5"], "num_attention_heads 24 is not a multiple of model.num_query_groups 5"),
    (["model.num_experts=7"], "model.num_experts 7 is not a multiple of parallel.expert 2"),
    (["model.num_layers=3"], "model.num_layers 3 is not a multiple of parallel.pipeline 2; .* nearest multiple is 4"),
    (["parallel.world_size=12"], "world_size 12 is not a multiple of tensor x pipeline 8"),
    (["parallel.expert=8"], "world_size 16 is not a multiple of expert_tensor x expert x pipeline 64"),
    (["model.vocab_size=511"], "model.vocab_size 511 is not a multiple of parallel.tensor 4"),
    (["training.sequence_length=33"], "training.sequence_length 33 is not a multiple of parallel.tensor 4"),
    (["model.ffn_hidden_size=510"], "model.ffn_hidden_size 510 is not a multiple of parallel.expert_tensor 4"),
    (["training.global_batch=3"], "training.global_batch 3 is not a multiple of micro_batch x data parallel 2"),
    (["model.experts_per_token=9"], "experts_per_token 9 exceeds num_experts 8"),
    (["model.experts_per_token=1"], "set model.router=softmax_then_topk"),
    (["model.head_dim=5"], "head_dim 5 is odd"),
    (["parallel.sequence_parallel=false"], "set parallel.sequence_parallel=true"),
    (["parallel.expert=1", "parallel.expert_tensor=1"], "set parallel.expert_tensor=4, or expert above 1"),
    (["parallel.dispatcher=allgather"], "set parallel.dispatcher=alltoall, or kernels.dispatch=megatron"),
    (["kernels.experts=grouped_gemm"], "kernels.experts: .*got 'grouped_gemm'"),
    (["kernels.experts=grouped"], "grouped with training.dtype fp32.*set training.dtype=bf16"),
    (
        ["kernels.experts=grouped", "training.dtype=bf16", "model.activation=geglu"],
        "grouped with model.activation geglu.*set model.activation=swiglu",
    ),
    (
        ["kernels.attention=te", "model.attention_logit_cap=30.0"],
        "kernels.attention te with model.attention_logit_cap 30: .*has no cap.*set kernels.attention=torch",
    ),
    (
        ["kernels.linear=mc2", "parallel.tensor=1", "parallel.expert_tensor=1"],
        "mc2 with parallel.tensor 1.*set parallel.tensor above 1, or kernels.linear=megatron",
    ),
    (["training.gradient_dtype=bf16"], "training.gradient_dtype=bf16 with dtype fp32: .*leave it out"),
    (["training.reuse_fp32_parameters=true"], "training.reuse_fp32_parameters=true with dtype fp32: .*leave it out"),
    (["training.router_dtype=bf16"], "training.router_dtype: .*got 'bf16'"),
    (["kernels.linear=merged"], "kernels.linear: .*got 'merged'"),
    (["training.warmup_steps=500"], "warmup_steps 500 is not below decay_steps 200"),
    (["training.min_learning_rate=1.0"], "min_learning_rate 1.0 exceeds learning_rate"),
    (["data.split=1,2"], r"data.split '1,2' is not three weights .*99990,8,2"),
    (["data.split=0,1,1"], "is not three weights"),
    (["model.layers=2"], "model.layers: unknown key"),
    (["parallel.tensor=two"], "parallel.tensor: .*got 'two'"),
    (["parallel.tensor=1.5"], "parallel.tensor: .*got '1.5'"),
    (["parallel.tensor=0"], "parallel.tensor: .*got '0'"),
    (["training.learning_rate=nan"], "training.learning_rate: "),
    (["training.learning_rate=inf"], "training.learning_rate: "),
    (["training.dtype=fp64"], "training.dtype: .*got 'fp64'"),
    (["parallel.tensor"], "override 'parallel.tensor' is not of the form section.key=value"),
    (["parallel..tensor=2"], "is not of the form section.key=value"),
    (["name.tensor=1"], "name is a value, not a section"),
    (["parallel.world_size=true"], "parallel.world_size: .*got 'True'"),
    (
        ["parallel.context=3", "parallel.world_size=48"],
        "training.sequence_length 32 is not a multiple of 2 x parallel.context 6",
    ),
    (
        ["parallel.context=2", "parallel.tensor=1", "parallel.pipeline=1", "training.sequence_length=66"],
        "training.sequence_length 66 is not a multiple of 2 x parallel.context 4",
    ),
    (["parallel.context=32"], "parallel.world_size 16 is not a multiple of tensor x context x pipeline 256"),
    (
        ["parallel.context=2", "parallel.tensor=2", "parallel.context_exchange=a2a", "model.num_query_groups=2"],
        "parallel.context 2 with context_exchange a2a: the 1 key/value heads .*context_exchange=all_gather",
    ),
    (
        ["parallel.context=2", "kernels.attention=te"],
        "kernels.attention te with parallel.context 2: .*set kernels.attention=torch, or parallel.context=1",
    ),
    (["data.split=nan,1,1"], "is not three weights"),
    (["data.split=1,-1,1"], "is not three weights"),
    (["training.weight_decay=-inf"], "training.weight_decay: "),
]

# Each of these once ended in something else than one line: a traceback, two lines, or a page of digits.
HOSTILE = {
    "an integer of 5000 digits": "training.seed=" + "9" * 5000,
    "a hexadecimal integer of 9000 digits": "model.rope_base=0x" + "f" * 9000,
    "a schedule without end": "training.decay_steps=0x" + "f" * 9000,
    "a split into 2^36000 ways": "parallel.tensor=0x" + "f" * 9000,
    "a batch of 400 digits": "training.micro_batch=" + "9" * 400,
    "lists in lists": "training.seed=" + "[" * 5000,
    "sections in sections": "model.rope_base." + "a." * 3000 + "a=1",
    "a key with a line break": "data.a\nPASSED=1",
    "a key that clears the screen": "data.\x1b[2J=1",
    "a long key": "data." + "k" * 50000 + "=1",
}


@pytest.mark.parametrize(("overrides", "complaint"), REFUSALS)
def test_what_cannot_run_is_refused_with_its_value_and_a_remedy(overrides: list[str], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint) as caught:
        load_recipe("grok1-nano", overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_override_is_refused_in_one_short_printable_line(override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("grok1-nano", [override])
    assert str(caught.value).isprintable()
    assert override.partition(".")[0] + "." in str(caught.value)  # it names the key, or at least its section
    assert len(str(caught.value)) < 500


def test_overrides_are_read_as_toml_or_else_as_text_and_the_last_one_wins() -> None:
    recipe = load_recipe(
        "grok1-nano",
        [
            "training.seed=5",
            " training.seed = 7 ",
            "training.dtype=bf16",
            'training.recompute="full"',
            "model.rope_base=5",
        ],
    )
    training = recipe.training
    assert (training.seed, training.dtype, training.recompute, recipe.model.rope_base) == (7, "bf16", "full", 5)
    assert load_recipe("grok1-nano").training.seed == 1234


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_has_grok_1s_ratios(name: str) -> None:
    recipe = load_recipe(name)
    model = recipe.model
    assert recipe.name == name
    # a GPU has no room for eight
    assert (model.num_experts, model.experts_per_token) == (4 if name == "grok1-1gpu" else 8, 2)
    assert model.num_attention_heads == 6 * model.num_query_groups
    assert 3 * model.ffn_hidden_size == 16 * model.hidden_size
    assert model.query_size == model.hidden_size


def test_the_40b_job_counts_what_is_published() -> None:
    recipe = load_recipe("grok1-40b")
    layer = 6144 * (6144 + 2 * 1024 + 6144) + 8 * 3 * 6144 * 32768 + 8 * 6144 + 4 * 6144
    assert recipe.parameters() == 8 * layer + 2 * 131072 * 6144 + 6144
    assert recipe.parameters() == pytest.approx(40.97e9, rel=1e-4)
    active = 8 * (6144 * (6144 + 2 * 1024 + 6144) + 2 * 3 * 6144 * 32768 + 8 * 6144) + 131072 * 6144
    assert recipe.active_parameters() == active
    assert recipe.flops_per_token() == 6 * active + 6 * 8 * 6144 * 8192  # matrices, and half of each score matrix
    assert recipe.flops_per_token() == pytest.approx(69.46e9, rel=1e-4)
    assert recipe.flops_per_step() == recipe.flops_per_token() * 2**20
    assert recipe.tokens_per_step == 2**20
    assert recipe.tokens_per_step / (1646.633 * 16) == pytest.approx(39.8, rel=1e-5)
    assert (recipe.parallel.data, recipe.parallel.expert_data, recipe.num_micro_batches) == (2, 1, 64)


def test_xais_model_has_its_published_size() -> None:
    parameters = load_recipe("grok1-314b").parameters()
    layer = 6144 * (6144 + 2 * 1024 + 6144) + 8 * 3 * 6144 * 32768 + 8 * 6144 + 4 * 6144
    assert parameters == 64 * layer + 131072 * 6144 + 6144  # one matrix for input and output
    assert parameters == pytest.approx(314e9, rel=0.01)


@pytest.mark.parametrize("tied", ["true", "false"])
@pytest.mark.parametrize("pipeline", [1, 2])
def test_the_parts_of_all_ranks_make_up_the_whole(pipeline: int, tied: str) -> None:
    layout = [f"parallel.pipeline={pipeline}", f"parallel.world_size={8 * pipeline}"]
    recipe = load_recipe("grok1-nano", [*layout, f"model.tie_embeddings={tied}"])
    dense, expert = recipe.parameters_per_rank()
    copied = (2 // pipeline) * (8 + 4) * 96  # router and norms are on every tensor rank
    whole = pipeline * ((dense - copied) * 4 + copied + expert * 2 * 4)
    if pipeline == 2 and tied == "true":
        whole -= 512 * 96  # the first and the last stage each hold the one embedding
    assert whole == recipe.parameters() - recipe.model.hidden_size  # the final norm, too small to count


OTHER = {
    "swiglu": "geglu",
    "topk_then_softmax": "softmax_then_topk",
    "alltoall": "allgather",
    "all_gather": "a2a",
    "fp32": "bf16",
    "none": "full",
    "SentencePiece": "PretrainedFromHF",
    "99990,8,2": "9,1,0",
    "fused": "sequential",
    "merged": "megatron",
    "at_end": "overlapped",
    "torch": "npu",
    "tp-cp-ep-dp-pp": "tp-cp-ep-pp-dp",
    "uniform": "block",
    "probs": "position",
    "learned": "random",
}
SECTIONS: dict[str, Any] = load_recipe("grok1-nano").resolved()
KEYS = [(section, key) for section in ("model", "parallel", "training", "data", "kernels") for key in SECTIONS[section]]


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_the_hash_changes_with_every_value_that_decides_the_step(section: str, key: str) -> None:
    base = load_recipe("grok1-nano")
    part = getattr(base, section)
    value = getattr(part, key)
    # copied, not loaded: no single size can change without another in a recipe that is checked
    changed = base.model_copy(update={section: part.model_copy(update={key: _other(value)})})
    assert changed.hash() != base.hash()


def _other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, str):
        return OTHER[value]
    if isinstance(value, list):
        return []
    return not value if isinstance(value, bool) else value + 1


def test_the_hash_does_not_know_the_name_or_how_a_number_is_written() -> None:
    base = load_recipe("grok1-nano")
    same = ["name=other", "description=words", "training.weight_decay=1e-1", "model.attention_logit_cap=0"]
    assert load_recipe("grok1-nano", [*same, "training.seed=1_234"]).hash() == base.hash()
    assert len(base.hash()) == 12


def test_kernels_left_at_their_defaults_are_not_in_the_hash() -> None:
    """So that records and baselines from before there was a choice still fit."""
    assert load_recipe("grok1-40b").hash() == "e8b7e064e7b2"
    assert load_recipe("grok1-40b", ["kernels.experts=sequential"]).hash() == "e8b7e064e7b2"
    assert load_recipe("grok1-40b", ["kernels.experts=fused"]).hash() != "e8b7e064e7b2"


@pytest.mark.parametrize("key", ["gradient_dtype=bf16", "router_dtype=model", "reuse_fp32_parameters=true"])
def test_a_late_training_key_is_in_the_hash_only_where_it_is_not_left_at_its_default(key: str) -> None:
    bf16 = ["training.dtype=bf16"]
    assert load_recipe("grok1-nano").hash() == "625301f7769a"
    assert load_recipe("grok1-nano", [*bf16, f"training.{key}"]).hash() != load_recipe("grok1-nano", bf16).hash()


def test_the_estimate_grows_with_what_it_counts() -> None:
    def size(*changes: str) -> int:
        return load_recipe("grok1-40b", changes).bytes_per_rank()

    assert 40e9 < size() < 64 * 2**30  # it ran on devices sold as 64 GB
    assert size("training.recompute=full") < size()
    assert size("training.sequence_length=4096") < size()


def test_the_estimate_with_a_cap_is_linear_in_the_sequence() -> None:
    """A block of 256 queries: 12 heads a rank, 256 x T scores each, three times, in fp32; no more layers than one."""

    def scores(length: int, *changes: str) -> int:
        changes = (f"training.sequence_length={length}", *changes)
        capped = load_recipe("grok1-40b", ["model.attention_logit_cap=30.0", *changes])
        return capped.bytes_per_rank() - load_recipe("grok1-40b", changes).bytes_per_rank()

    assert [scores(length) for length in (4096, 8192)] == [12 * 256 * length * 3 * 4 for length in (4096, 8192)]
    assert scores(8192, "training.recompute=full") == scores(8192)
    assert scores(128) == 12 * 128 * 128 * 3 * 4


def test_a_recipe_file_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((RECIPES / "grok1-nano.toml").read_text().replace('name = "grok1-nano"', 'name = "mine"'))
    assert load_recipe(str(path)).hash() == load_recipe("grok1-nano").hash()


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path: Path) -> None:
    path, text = tmp_path / "mine.toml", (RECIPES / "grok1-nano.toml").read_text()
    path.write_text(text, encoding="utf-8-sig")
    assert load_recipe(str(path)) == load_recipe("grok1-nano")
    path.write_text(text, encoding="utf-16")
    with pytest.raises(RecipeError, match=r"mine\.toml is no text in UTF-8: save it as UTF-8"):
        load_recipe(str(path))


@pytest.mark.parametrize("content", [b"\xff", b"name = ", b"# " + b"x" * 70000, b"[" * 5000])
def test_a_damaged_file_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"bad\.toml"):
        load_recipe(str(path))


def test_an_oversized_file_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    path = tmp_path / "big.toml"
    with path.open("wb") as file:
        file.truncate(64 * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(RecipeError, match="is larger than [0-9]+ bytes"):
            load_recipe(str(path))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2**20


@pytest.mark.parametrize("name", ["nope", "nope.toml", "", "../grok1-nano", "a\0.toml", "a" * 5000 + ".toml"])
def test_an_unknown_recipe_is_refused_with_the_names_to_choose_from(name: str) -> None:
    with pytest.raises(RecipeError, match=r"(unknown recipe|does not exist|cannot be read).*grok1-40b"):
        load_recipe(name)


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)


@given(st.lists(st.tuples(st.sampled_from(KEYS), leaves), min_size=1, max_size=4))
def test_any_values_make_a_recipe_or_a_recipe_error(changes: list[tuple[tuple[str, str], Any]]) -> None:
    overrides = [f"{section}.{key}={value}" for (section, key), value in changes]
    try:
        recipe = load_recipe("grok1-nano", overrides)
    except RecipeError:
        return
    assert isinstance(recipe, Recipe)
    assert recipe.bytes_per_rank() > 0
    assert recipe.flops_per_step() > 0


@given(st.text(max_size=40))
def test_any_override_text_makes_a_recipe_or_a_recipe_error(text: str) -> None:
    with contextlib.suppress(RecipeError):
        assert isinstance(load_recipe("grok1-nano", [text]), Recipe)


NANO = (RECIPES / "grok1-nano.toml").read_bytes()
damaged = st.builds(
    lambda start, length, patch: NANO[:start] + patch + NANO[start + length :],
    st.integers(0, len(NANO)),
    st.integers(0, 40),
    st.binary(max_size=20) | st.text(max_size=10).map(lambda text: text.encode("utf-8", "surrogatepass")),
)


@given(content=st.binary(max_size=200) | damaged)
def test_any_recipe_text_makes_a_recipe_or_a_recipe_error(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content)
    try:
        recipe = load_recipe(str(path))
    except RecipeError:
        return
    assert len(recipe.hash()) == 12
    assert recipe.bytes_per_rank() > 0
