"""Recipes: they count themselves, refuse what cannot run with value and remedy, and never raise anything else."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok1.config import Recipe, RecipeError, load_recipe, recipe_names

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
    (["model.head_dim=5"], "head_dim 5 is odd"),
    (["parallel.sequence_parallel=false"], "set parallel.sequence_parallel=true"),
    (["parallel.expert=1", "parallel.expert_tensor=1"], "set parallel.expert_tensor=4, or expert above 1"),
    (["training.warmup_steps=500"], "warmup_steps 500 is not below decay_steps 200"),
    (["training.min_learning_rate=1.0"], "min_learning_rate 1.0 exceeds learning_rate"),
    (["data.split=1,2"], r"data.split '1,2' is not three weights .*99990,8,2"),
    (["data.split=0,1,1"], "is not three weights"),
    (["model.layers=2"], "model.layers: is no such key"),
    (["parallel.tensor=two"], "parallel.tensor: .*got 'two'"),
    (["parallel.tensor=1.5"], "parallel.tensor: .*got '1.5'"),
    (["parallel.tensor=0"], "parallel.tensor: .*got '0'"),
    (["training.learning_rate=nan"], "training.learning_rate: "),
    (["training.learning_rate=inf"], "training.learning_rate: "),
    (["training.dtype=fp64"], "training.dtype: .*got 'fp64'"),
    (["parallel.tensor"], "override 'parallel.tensor' is not of the form section.key=value"),
    (["name.tensor=1"], "name is a value, not a section"),
]


@pytest.mark.parametrize(("overrides", "complaint"), REFUSALS)
def test_what_cannot_run_is_refused_with_its_value_and_a_remedy(overrides: list[str], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint) as caught:
        load_recipe("grok1-nano", overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_has_grok_1s_ratios(name: str) -> None:
    recipe = load_recipe(name)
    model = recipe.model
    assert recipe.name == name
    assert (model.num_experts, model.experts_per_token) == (8, 2)
    assert model.num_attention_heads == 6 * model.num_query_groups
    assert 3 * model.ffn_hidden_size == 16 * model.hidden_size
    assert model.query_size == model.hidden_size


def test_the_40b_job_counts_what_is_published() -> None:
    recipe = load_recipe("grok1-40b")
    layer = 6144 * (6144 + 2 * 1024 + 6144) + 8 * 3 * 6144 * 32768 + 8 * 6144 + 4 * 6144
    assert recipe.parameters() == 8 * layer + 2 * 131072 * 6144 + 6144
    assert recipe.parameters() == pytest.approx(40.97e9, rel=1e-4)
    assert recipe.flops_per_token() == pytest.approx(69.46e9, rel=1e-4)
    assert recipe.tokens_per_step == 2**20
    assert recipe.tokens_per_step / (1646.633 * 16) == pytest.approx(39.8, rel=1e-5)
    assert (recipe.parallel.data, recipe.parallel.expert_data, recipe.num_micro_batches) == (2, 1, 64)


def test_xais_model_has_its_published_size() -> None:
    assert load_recipe("grok1-314b").parameters() == pytest.approx(314e9, rel=0.01)


@pytest.mark.parametrize("tied", ["true", "false"])
def test_the_parts_of_all_ranks_make_up_the_whole(tied: str) -> None:
    recipe = load_recipe("grok1-nano", ["parallel.pipeline=1", "parallel.world_size=8", f"model.tie_embeddings={tied}"])
    dense, expert = recipe.parameters_per_rank()
    model, parallel = recipe.model, recipe.parallel
    copied = model.num_layers * model.hidden_size * (model.num_experts + 4)  # router and norms are on every rank
    split = (dense - copied) * parallel.tensor + expert * parallel.expert * parallel.expert_tensor
    assert split + copied + model.hidden_size == recipe.parameters()


def test_the_hash_knows_what_decides_the_step_and_nothing_else() -> None:
    base = load_recipe("grok1-nano")
    assert load_recipe("grok1-nano", ["name=other", "description=words"]).hash() == base.hash()
    changes = [
        "training.seed=1",
        "training.global_batch=8",
        "model.num_layers=4",
        "data.split=9,1,0",
        "model.init_std=0.02",
    ]
    hashes = {load_recipe("grok1-nano", [change]).hash() for change in changes}
    assert len(hashes | {base.hash()}) == len(changes) + 1


def test_the_estimate_grows_with_what_it_counts() -> None:
    def size(*changes: str) -> int:
        return load_recipe("grok1-40b", changes).bytes_per_rank()

    assert 40e9 < size() < 64e9  # it ran on 64 GB devices
    assert size("training.recompute=full") < size() < size("model.attention_logit_cap=30.0")
    assert size("training.sequence_length=4096") < size()


def test_a_recipe_file_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    shipped = Path(__file__).parents[2] / "grok1" / "recipes" / "grok1-nano.toml"
    path.write_text(shipped.read_text().replace('name = "grok1-nano"', 'name = "mine"'))
    assert load_recipe(str(path)).hash() == load_recipe("grok1-nano").hash()


@pytest.mark.parametrize("content", [b"\xff", b"name = ", b"# " + b"x" * 70000, b"[" * 5000])
def test_a_damaged_file_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"bad\.toml"):
        load_recipe(str(path))


@pytest.mark.parametrize("name", ["nope", "nope.toml", "", "../grok1-nano"])
def test_an_unknown_recipe_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=r"unknown recipe|does not exist"):
        load_recipe(name)


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
SECTIONS: dict[str, Any] = load_recipe("grok1-nano").resolved()
KEYS = [(section, key) for section in ("model", "parallel", "training", "data") for key in SECTIONS[section]]


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
