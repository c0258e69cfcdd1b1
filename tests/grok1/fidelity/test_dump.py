"""Reading reference dumps: what is not whole is refused by name, and nothing in one is unpickled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grok1.config.load import load_recipe
from grok1.fidelity.dump import Dump, OracleConfig, OracleError, check_dump, place_of
from grok1.fidelity.dump_recipe import oracle_recipe
from grok1.weights.names import published_shapes
from tests.grok1.conftest import FIXTURES

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """A copy of D with its arrays, or those of its gradients, changed."""

    def make(change: Change = lambda arrays: None, gradients: Change = lambda arrays: None) -> Path:
        for name, edit in (("D.npz", change), ("D.grads.npz", gradients)):
            with np.load(FIXTURES / name) as archive:
                arrays: dict[str, Any] = dict(archive)
            edit(arrays)
            np.savez(tmp_path / name, **arrays)
        return tmp_path / "D.npz"

    return make


def test_a_whole_dump_is_read(changed: Callable[..., Path]) -> None:
    dump = check_dump(changed())
    assert dump.array("tokens").shape == (2, 16)
    assert len(list(dump.gradients())) == 26
    assert not dump.has_pads()


def test_gradients_may_lie_in_several_shards(changed: Callable[..., Path]) -> None:
    path = changed()
    with np.load(FIXTURES / "D.grads.npz") as archive:
        arrays: dict[str, Any] = dict(archive)
    (path.parent / "D.grads.npz").unlink()
    names = sorted(arrays)
    for shard in range(3):
        np.savez(path.parent / f"D.grads{shard}.npz", **{name: arrays[name] for name in names[shard::3]})
    assert len(list(check_dump(path).gradients())) == 26
    (path.parent / "D.grads1.npz").unlink()
    with pytest.raises(OracleError, match="is in no shard"):
        check_dump(path)


def test_a_gradient_in_two_shards_is_refused(changed: Callable[..., Path]) -> None:
    path = changed()
    shutil.copy(path.parent / "D.grads.npz", path.parent / "D.grads1.npz")
    with pytest.raises(OracleError, match=r"D\.grads1\.npz: grad\.\S+: is in another shard too"):
        check_dump(path)


def _with(name: str, value: Any) -> Change:
    return lambda arrays: arrays.__setitem__(name, value)


def _without(name: str) -> Change:
    return lambda arrays: arrays.__delitem__(name)


def _nan(name: str) -> Change:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name].flat[-1] = np.nan

    return change


def _config(**changes: Any) -> Change:
    def change(arrays: dict[str, Any]) -> None:
        config = {**json.loads(arrays["config_json"].item()), **changes}
        arrays["config_json"] = np.array(json.dumps({key: each for key, each in config.items() if each is not None}))

    return change


WEIGHT = "param.layers.1.moe.linear_v.w"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_without(WEIGHT), rf"{WEIGHT}: is missing"),
        (_without("logits"), "logits: is missing"),
        (_without("config_json"), "config_json: is missing"),
        (_with(WEIGHT, np.zeros((8, 32, 47), np.float32)), r"has shape \[8, 32, 47\], the config says \[8, 32, 48\]"),
        (_with(WEIGHT, np.zeros((8, 32, 48), np.int32)), "is int32, not floats"),
        (_with(WEIGHT, np.array([{}], dtype=object)), "holds pickled objects, which are never loaded"),
        (_with("config_json", np.array({}, dtype=object)), "config_json: is not one short string"),
        (_with("config_json", np.array("{")), "config_json: "),
        (_nan(WEIGHT), rf"{WEIGHT}: holds a value that is not finite"),
        (_nan("logits"), "logits: holds a value that is not finite"),
        (_with("tokens", np.full((2, 16), 128, np.int32)), "tokens: holds ids outside 0 to 127"),
        (_with("targets", np.full((2, 16), -1, np.int32)), "targets: holds ids outside 0 to 127"),
        (_config(num_layers=3), r"param\.layers\.2\.rms_norm\.scale: is missing.*and \d+ more"),
        (_config(num_layers=None), "num_layers"),
        (_config(num_layers=10**9), "num_layers"),
        (_config(softcap=-1.0), "softcap"),
        (_config(vocab_size=10**30), "vocab_size"),
    ],
)
def test_what_is_wrong_with_a_dump_is_named(changed: Callable[..., Path], change: Change, complaint: str) -> None:
    with pytest.raises(OracleError, match=complaint) as raised:
        check_dump(changed(change))
    assert "\n" not in str(raised.value)
    assert "D.npz" in str(raised.value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_without("grad.final_norm.scale"), r"grad\.final_norm\.scale: is in no shard"),
        (_with("grad.router", np.zeros(1, np.float32)), r"grad\.router: no such weight"),
        (_nan("grad.final_norm.scale"), r"D\.grads\.npz: grad\.final_norm\.scale: holds a value that is not finite"),
        (_with("grad.final_norm.scale", np.array([None] * 32)), "holds pickled objects"),
    ],
)
def test_what_is_wrong_with_gradients_is_named(changed: Callable[..., Path], change: Change, complaint: str) -> None:
    with pytest.raises(OracleError, match=complaint):
        check_dump(changed(gradients=change))


def test_gradients_are_required(changed: Callable[..., Path]) -> None:
    path = changed()
    (path.parent / "D.grads.npz").unlink()
    with pytest.raises(OracleError, match=r"D\.grads\.npz: is not in the same folder"):
        check_dump(path)


@given(cut=st.integers(min_value=0, max_value=len((FIXTURES / "D.npz").read_bytes()) - 1))
@settings(max_examples=20)
def test_a_truncated_dump_is_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    (folder / "D.npz").write_bytes((FIXTURES / "D.npz").read_bytes()[:cut])
    with pytest.raises(OracleError) as raised:
        check_dump(folder / "D.npz")
    assert "\n" not in str(raised.value)


@given(position=st.integers(min_value=0, max_value=220_000), byte=st.integers(min_value=0, max_value=255))
@settings(max_examples=50)
def test_a_damaged_dump_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, position: int, byte: int) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray((FIXTURES / "D.npz").read_bytes())
    content[-position - 1] = byte  # the end holds the archive's index
    (folder / "D.npz").write_bytes(content)
    shutil.copy(FIXTURES / "D.grads.npz", folder)
    try:
        check_dump(folder / "D.npz")
    except OracleError as error:
        assert "\n" not in str(error)  # noqa: PT017  both outcomes are right


def test_every_published_weight_has_its_place() -> None:
    """The names and shapes of the two namings agree, for both kinds of embedding."""
    recipe = oracle_recipe(Dump(FIXTURES / "D.npz"))
    config = OracleConfig.model_validate_json(Dump(FIXTURES / "D.npz").array("config_json").item())
    theirs = config.shapes()
    elements = dict.fromkeys(theirs, 0)
    for key, shape in published_shapes(recipe.model).items():
        place = place_of(key)
        whole = theirs[place.array]
        expected = whole if place.expert is None else whole[1:]
        assert shape == (expected[::-1] if place.transposed else expected), key
        elements[place.array] += int(np.prod(shape))
    assert elements == {name: int(np.prod(shape)) for name, shape in theirs.items()}


@pytest.mark.parametrize("name", ["grok1-40b", "grok1-314b", "grok1-tiny"])
def test_published_weights_are_all_of_the_models_parameters(name: str) -> None:
    recipe = load_recipe(name)
    assert sum(int(np.prod(shape)) for shape in published_shapes(recipe.model).values()) == recipe.parameters()


def test_the_recipe_is_xais_maths_at_the_dumps_sizes() -> None:
    recipe = oracle_recipe(Dump(FIXTURES / "D.npz"), ["parallel.tensor=2", "parallel.pipeline=2", "parallel.expert=2"])
    assert recipe.model.attention_logit_cap == 30.0
    assert (recipe.model.activation, recipe.model.router) == ("geglu", "softmax_then_topk")
    assert recipe.model.tie_embeddings
    assert (recipe.parallel.world_size, recipe.parallel.expert_tensor, recipe.parallel.data) == (8, 2, 2)
    assert (recipe.training.global_batch, recipe.num_micro_batches) == (2, 1)
