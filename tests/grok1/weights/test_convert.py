"""Weights in and out: bitwise round trips, any layout, published names, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tests.grok1.weights.weights_entries as entries
from grok1.config.load import ONE_RANK, load_recipe
from grok1.config.recipe import Recipe
from grok1.distributed.launch import launch
from grok1.fidelity.dump import Dump
from grok1.fidelity.dump_recipe import oracle_recipe
from grok1.training.job import Job
from grok1.weights.blocks import blocks
from grok1.weights.exporting import export_weights
from grok1.weights.folder import StoredCheckpoint
from grok1.weights.importing import check_published, import_weights
from grok1.weights.names import EMBEDDING, HEAD, published_shapes
from tests.grok1.conftest import FIXTURES, MakeJob, Train, as_options, run_grok1
from tests.grok1.weights.sealing import seal_again
from tests.limits import HANG_SECONDS

XAI = ("model.tie_embeddings=true", "model.attention_logit_cap=30.0", "model.activation=geglu")
LAYOUTS = {
    "1 rank": ONE_RANK,
    "TP4 PP2 EP2": (),
    "TP2 EP4": ("parallel.world_size=8", "parallel.tensor=2", "parallel.pipeline=1", "parallel.expert=4")
    + ("parallel.expert_tensor=2",),
}


def random_published(recipe: Recipe, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        key: torch.randn(shape, generator=generator).to(dtype) for key, shape in published_shapes(recipe.model).items()
    }


def write_published(folder: Path, weights: dict[str, Tensor], num_shards: int = 2) -> Path:
    folder.mkdir(exist_ok=True)
    keys = sorted(weights)
    for shard in range(num_shards):
        save_file({key: weights[key] for key in keys[shard::num_shards]}, folder / f"part{shard}.safetensors")
    return folder


def read_published(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for path in folder.glob("*.safetensors"):
        weights |= load_file(path)
    return weights


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, weight in theirs.items():
        assert ours[key].dtype == weight.dtype, key
        assert torch.equal(ours[key], weight), key


def loaded(job: Job) -> dict[str, Tensor]:
    entry = f"{entries.__name__}:loaded_weights"
    result = launch(job, job.recipe, "cpu", entry=entry, timeout_seconds=HANG_SECONDS)
    return {key: torch.from_numpy(weight) for key, weight in result.items()}


# ---- round trips ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("changes", [(), XAI], ids=["Ascend", "xAI"])
def test_round_trip_is_bitwise(tmp_path: Path, changes: tuple[str, ...], dtype: torch.dtype) -> None:
    recipe = load_recipe("grok1-nano", changes)
    weights = random_published(recipe, dtype)
    import_weights(write_published(tmp_path / "in", weights), tmp_path / "checkpoint", recipe)
    export_weights(tmp_path / "checkpoint", tmp_path / "out", max_shard_bytes=300_000)
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert_same(read_published(tmp_path / "out"), weights)


def test_the_index_and_config_say_what_was_written(tmp_path: Path) -> None:
    recipe = load_recipe("grok1-nano", XAI)
    weights = random_published(recipe)
    import_weights(write_published(tmp_path / "in", weights), tmp_path / "checkpoint", recipe)
    export_weights(tmp_path / "checkpoint", tmp_path / "out", max_shard_bytes=300_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in weights.values())
    assert index["weight_map"].keys() == weights.keys()
    for key, name in index["weight_map"].items():
        assert key in load_file(tmp_path / "out" / name)
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1  # nothing is its owner's alone
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_key_value_heads"], config["num_experts"], config["tie_word_embeddings"]) == (4, 8, True)
    # what was written is read through its index
    assert check_published(tmp_path / "out", recipe).places.keys() == weights.keys()


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_imported_weights_load_in_any_layout(tmp_path: Path, make_job: MakeJob, layout: str) -> None:
    job = make_job(10, *LAYOUTS[layout], load=tmp_path / "checkpoint")
    weights = random_published(job.recipe)
    import_weights(write_published(tmp_path / "in", weights), tmp_path / "checkpoint", load_recipe("grok1-nano"))
    assert_same(loaded(job), {key: weight.float() for key, weight in weights.items()})


@pytest.mark.slow
def test_a_trained_checkpoint_goes_out_and_comes_back(tmp_path: Path, train: Train, make_job: MakeJob) -> None:
    """Sixteen ranks save; one rank resumes from what came back, and trains on as from the checkpoint's weights."""
    train(2, save=tmp_path / "trained")
    export_weights(tmp_path / "trained", tmp_path / "published")
    import_weights(tmp_path / "published", tmp_path / "back", load_recipe("grok1-nano"))
    before, after = (loaded(make_job(10, *ONE_RANK, load=tmp_path / each)) for each in ("trained", "back"))
    assert_same(after, before)
    assert_same(read_published(tmp_path / "published"), before)
    # weights alone start a training at its first step, in another layout than theirs
    result = train(2, *ONE_RANK, load=tmp_path / "back")
    assert [step.step for step in result.steps] == [0, 1]
    fresh = train(1, *ONE_RANK)
    assert result.steps[0].loss < fresh.steps[0].loss


@pytest.mark.slow
def test_bf16_training_starts_from_imported_weights(tmp_path: Path, train: Train) -> None:
    """The optimizer's float32 copy must follow: else the first step would undo the load."""
    bf16 = "training.dtype=bf16"
    recipe = load_recipe("grok1-nano", [bf16])
    train(4, *ONE_RANK, bf16, save=tmp_path / "trained")
    export_weights(tmp_path / "trained", tmp_path / "published")
    assert {weight.dtype for weight in read_published(tmp_path / "published").values()} == {torch.bfloat16}
    import_weights(tmp_path / "published", tmp_path / "back", recipe)
    first, second = train(2, *ONE_RANK, bf16, load=tmp_path / "back").steps
    fresh = train(1, *ONE_RANK, bf16).steps[0]
    assert first.loss < fresh.loss
    assert second.loss < fresh.loss


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize("layout", [(), ("parallel.tensor=2", "parallel.pipeline=2", "parallel.expert=2")])
def test_published_names_mean_what_xais_arrays_do(
    tmp_path: Path, corpus: tuple[Path, Path], layout: tuple[str, ...]
) -> None:
    """xAI's arrays under published names, through a checkpoint, are what verification loads from the dump."""
    dump = Dump(FIXTURES / "D.npz")
    recipe = oracle_recipe(dump, layout)
    weights = {key: torch.tensor(dump.weight(key)).contiguous() for key in published_shapes(recipe.model)}
    import_weights(write_published(tmp_path / "in", weights), tmp_path / "checkpoint", recipe)
    assert_same(loaded(Job(recipe, 1, *corpus, load=tmp_path / "checkpoint")), weights)


@pytest.mark.parametrize("name", ["grok1-40b", "grok1-314b", "grok1-nano"])
def test_blocks_tile_every_tensor_of_a_checkpoint(name: str) -> None:
    """No element twice, none left out: the blocks of a tensor add up to its size, and no two overlap."""
    recipe = load_recipe(name)
    seen: dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    keys: list[str] = []
    for block in blocks(recipe.model):
        seen.setdefault(block.tensor, []).append((block.offsets, block.sizes))
        shapes[block.tensor] = block.shape
        keys += block.keys
    assert sorted(keys) == sorted(published_shapes(recipe.model))
    for tensor, pieces in seen.items():
        assert sum(torch.Size(sizes).numel() for _, sizes in pieces) == torch.Size(shapes[tensor]).numel()
        assert len({offsets for offsets, _ in pieces}) == len(pieces)


# ---- what is refused -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nano() -> Recipe:
    return load_recipe("grok1-nano", XAI)


def test_norms_may_be_called_scale(tmp_path: Path, nano: Recipe) -> None:
    weights = random_published(nano)
    renamed = {key.replace("norm.weight", "norm.scale"): weight for key, weight in weights.items()}
    assert renamed.keys() != weights.keys()
    import_weights(write_published(tmp_path / "in", renamed), tmp_path / "checkpoint", nano)
    export_weights(tmp_path / "checkpoint", tmp_path / "out")
    assert_same(read_published(tmp_path / "out"), weights)


def test_a_tied_head_may_be_written_out_if_it_is_the_embedding(tmp_path: Path, nano: Recipe) -> None:
    weights = random_published(nano)
    check_published(write_published(tmp_path / "same", {**weights, HEAD: weights[EMBEDDING].clone()}), nano)
    with pytest.raises(ValueError, match=r"lm_head\.weight: differs from model\.embed_tokens\.weight"):
        check_published(write_published(tmp_path / "other", {**weights, HEAD: weights[EMBEDDING] + 1}), nano)


WRONG = (
    "model.layers.2.attn.q_proj.weight: is not a weight of this model",
    "model.layers.0.attn.k_proj.weight: has shape [3, 4], the recipe says [16, 96]",
    "model.layers.1.moe_block.experts.7.linear_v.weight: has dtype I8, not one of",
    "model.norm.weight: is missing",
)


def test_three_things_that_are_wrong_are_told_and_how_many_more(tmp_path: Path, nano: Recipe) -> None:
    weights = random_published(nano)
    del weights["model.norm.weight"]
    weights["model.layers.2.attn.q_proj.weight"] = torch.zeros(2)
    weights["model.layers.0.attn.k_proj.weight"] = torch.zeros(3, 4)
    weights["model.layers.1.moe_block.experts.7.linear_v.weight"] = torch.zeros(512, 96, dtype=torch.int8)
    with pytest.raises(ValueError, match="does not hold the weights of grok1-nano") as raised:
        import_weights(write_published(tmp_path / "in", weights), tmp_path / "checkpoint", nano)
    message = str(raised.value)
    assert "\n" not in message
    assert sum(complaint in message for complaint in WRONG) == 3
    assert "; and 1 more; they fit no shipped recipe: " in message
    assert not (tmp_path / "checkpoint").exists()


def test_a_shipped_recipe_that_fits_is_named(tmp_path: Path) -> None:
    folder = write_published(tmp_path / "in", random_published(load_recipe("grok1-nano")))
    with pytest.raises(
        ValueError, match=r"of grok1-314b: .*; and [\d,]+ more; they fit --recipe grok1-nano$"
    ) as raised:
        check_published(folder, load_recipe("grok1-314b"))
    assert len(str(raised.value)) < 1000


def test_a_weight_in_two_files_is_refused(tmp_path: Path, nano: Recipe) -> None:
    folder = write_published(tmp_path / "in", random_published(nano))
    save_file({"model.norm.weight": torch.zeros(96)}, folder / "extra.safetensors")
    with pytest.raises(ValueError, match=r"model\.norm\.weight: is in extra\.safetensors and part"):
        check_published(folder, nano)


@pytest.mark.parametrize(
    ("index", "complaint"),
    [
        ("{", "is not an index of safetensors"),
        ("[]", "is not an index of safetensors"),
        (json.dumps({"weight_map": {"a": "../part0.safetensors"}}), "which is not the name of a file in this folder"),
        (json.dumps({"weight_map": {"a": 3}}), "is not an index of safetensors"),
        (json.dumps({"weight_map": {"a": "part9.safetensors"}}), r"lacks part9\.safetensors"),
    ],
)
def test_a_bad_index_is_refused(tmp_path: Path, nano: Recipe, index: str, complaint: str) -> None:
    folder = write_published(tmp_path / "in", random_published(nano))
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=complaint):
        check_published(folder, nano)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_cut_file_is_refused(tmp_path: Path, nano: Recipe, length: int) -> None:
    folder = write_published(tmp_path / "in", random_published(nano))
    content = (folder / "part1.safetensors").read_bytes()
    (folder / "part1.safetensors").write_bytes(content[:length])
    with pytest.raises(ValueError, match=r"part1\.safetensors is not a whole safetensors file"):
        check_published(folder, nano)


def test_an_empty_folder_is_refused(tmp_path: Path, nano: Recipe) -> None:
    with pytest.raises(ValueError, match=r"holds no \.safetensors files"):
        check_published(tmp_path, nano)


def test_nothing_is_overwritten(tmp_path: Path, nano: Recipe) -> None:
    folder = write_published(tmp_path / "in", random_published(nano))
    import_weights(folder, tmp_path / "checkpoint", nano)
    with pytest.raises(ValueError, match="holds a checkpoint already"):
        import_weights(folder, tmp_path / "checkpoint", nano)
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        export_weights(tmp_path / "checkpoint", folder)
    assert StoredCheckpoint.open(tmp_path / "checkpoint").step == 0


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, nano: Recipe) -> None:
    def stop(done: int, _total: int) -> None:
        if done > 3:
            raise KeyboardInterrupt

    folder = write_published(tmp_path / "in", random_published(nano))
    with pytest.raises(KeyboardInterrupt):
        import_weights(folder, tmp_path / "checkpoint", nano, stop)
    assert list((tmp_path / "checkpoint").iterdir()) == []
    import_weights(folder, tmp_path / "checkpoint", nano)
    with pytest.raises(KeyboardInterrupt):
        export_weights(tmp_path / "checkpoint", tmp_path / "out", progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "in"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, nano: Recipe) -> None:
    folder = write_published(tmp_path / "in", random_published(nano))
    import_weights(folder, tmp_path / "checkpoint", nano)
    path = tmp_path / "checkpoint" / "iter_0000000" / "recipe.json"
    stored = json.loads(path.read_text())
    stored["model"]["num_layers"] = 4
    path.write_text(json.dumps(stored))
    seal_again(path.parent)
    with pytest.raises(ValueError, match=r"is \[2, 96\], its recipe says \[4, 96\]"):
        export_weights(tmp_path / "checkpoint", tmp_path / "out")
    path.write_text("{" * 100_000)
    seal_again(path.parent)
    with pytest.raises(ValueError, match="is not a recipe in JSON"):
        export_weights(tmp_path / "checkpoint", tmp_path / "out")


def test_a_weights_only_checkpoint_of_another_model_does_not_load(
    tmp_path: Path, nano: Recipe, make_job: MakeJob
) -> None:
    import_weights(write_published(tmp_path / "in", random_published(nano)), tmp_path / "checkpoint", nano)
    job = make_job(10, *ONE_RANK, load=tmp_path / "checkpoint")
    with pytest.raises(ValueError, match=r"was written with model\.activation=geglu, the recipe says swiglu"):
        loaded(dataclasses.replace(job))


# ---- the command ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_command_goes_both_ways(tmp_path: Path, nano: Recipe) -> None:
    weights = random_published(nano)
    folder = write_published(tmp_path / "in", weights)
    done = run_grok1("convert", folder, tmp_path / "checkpoint", "--recipe", "grok1-nano", *as_options(XAI))
    assert (done.returncode, done.stderr) == (0, "")
    done = run_grok1("convert", tmp_path / "checkpoint", tmp_path / "out", "--json", "-")
    assert (done.returncode, done.stderr) == (0, f"wrote {tmp_path / 'out'}\n")
    assert json.loads(done.stdout)["made"] == "safetensors"
    assert_same(read_published(tmp_path / "out"), weights)
    for source, words, complaint in (
        ("checkpoint", ["--recipe", "grok1-nano"], f"{tmp_path / 'checkpoint'} is a checkpoint with its own recipe"),
        ("checkpoint", ["--set", "training.seed=2"], "--recipe and --set are of safetensors"),
        ("in", ["--shard-gib", "1", "--recipe", "grok1-nano"], "--shard-gib is the size of written safetensors"),
    ):
        done = run_grok1("convert", tmp_path / source, tmp_path / "not", *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert complaint in done.stderr
        assert not (tmp_path / "not").exists()


def test_command_refuses_in_one_line(tmp_path: Path) -> None:
    done = run_grok1("convert", tmp_path / "none", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
