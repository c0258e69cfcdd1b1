"""Training that goes on in another layout than the one that wrote the checkpoint, as if it had never stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from grok1.config.load import ONE_RANK, load_recipe
from grok1.training.result import RunResult
from grok1.weights.folder import check_changeable
from tests.grok1.conftest import TWO_RANKS, Train, column
from tests.grok1.weights.sealing import seal_again
from tests.grok1.weights.test_folder import stored
from tests.lines import WITH_OTHER_LAYOUTS

SAME = 1e-5  # relative; fp32 sums in another order
SAVED, STEPS = 2, 6
LAYOUTS = {
    "one rank": ONE_RANK,
    "data 2": TWO_RANKS,
    "pipeline 2": (*ONE_RANK, "parallel.world_size=2", "parallel.pipeline=2"),
    "tensor 2, expert 2": ("parallel.world_size=4", "parallel.tensor=2", "parallel.pipeline=1")
    + ("parallel.expert=2", "parallel.expert_tensor=1"),
    "pipeline 2, expert 2": ("parallel.world_size=4", "parallel.tensor=1", "parallel.pipeline=2")
    + ("parallel.expert=2", "parallel.expert_tensor=1"),
    "tensor 2, expert 2 x tensor 2": ("parallel.world_size=4", "parallel.tensor=2", "parallel.pipeline=1")
    + ("parallel.expert=2", "parallel.expert_tensor=2"),
}
EXPERTS_APART, EXPERTS_TOGETHER = "tensor 2, expert 2", "data 2"  # in an optimizer of their own, or that of the rest


@pytest.fixture(scope="module")
def written(train: Train, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoint that each layout wrote."""
    folders = {name: tmp_path_factory.mktemp("written") for name in (EXPERTS_APART, EXPERTS_TOGETHER)}
    for name, folder in folders.items():
        train(SAVED, *LAYOUTS[name], save=folder)
    return folders


@pytest.mark.matrix(keep=1)
@WITH_OTHER_LAYOUTS
@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        (EXPERTS_APART, "pipeline 2, expert 2"),
        (EXPERTS_APART, "one rank"),
        (EXPERTS_TOGETHER, "pipeline 2"),
        (EXPERTS_TOGETHER, "tensor 2, expert 2 x tensor 2"),
    ],
)
def test_another_layout_goes_on_as_if_nothing_had_stopped(
    writer: str, reader: str, written: dict[str, Path], train: Train, one_rank: RunResult
) -> None:
    resumed = train(STEPS, *LAYOUTS[reader], load=written[writer], allowed_changes=("parallel",))
    assert column(resumed, "step") == list(range(SAVED, STEPS))
    for name in ("loss", "grad_norm", "aux_loss", "learning_rate"):
        assert column(resumed, name) == pytest.approx(column(one_rank, name)[SAVED:STEPS], rel=SAME)


@pytest.mark.slow
@WITH_OTHER_LAYOUTS
def test_a_state_that_does_not_say_its_steps_is_refused(written: dict[str, Path], train: Train, tmp_path: Path) -> None:
    """Adam's step count would be 0 without a word, or the run would go on at another step."""
    forgeries = {
        "another step": lambda state: state.update(step=77),
        "no count": lambda state: [group.pop("step") for group in state["optimizer"]["optimizer"]["param_groups"]],
    }
    for name, forge in forgeries.items():
        shutil.copytree(written[EXPERTS_TOGETHER], tmp_path / name)
        step_folder = tmp_path / name / f"iter_{SAVED:07d}"
        state = torch.load(step_folder / "common.pt", weights_only=True)
        forge(state)
        torch.save(state, step_folder / "common.pt")
        seal_again(step_folder)
    entry = "tests.grok1.weights.weights_entries:refusals_of_loading"
    refusals = train(STEPS, *ONE_RANK, load=tmp_path, allowed_changes=("parallel",), entry=entry)
    assert refusals.keys() == forgeries.keys()
    assert "does not load: its files are of step 77; it is damaged" in refusals["another step"]
    assert "does not load: it lacks 'step'; it is damaged" in refusals["no count"]


# ---- refusals, before a rank starts --------------------------------------------------------------------


@WITH_OTHER_LAYOUTS
def test_another_layout_names_what_differs_and_the_switch(tmp_path: Path) -> None:
    checkpoint, other = stored(tmp_path, 1), load_recipe("grok1-nano", ["parallel.world_size=8", "parallel.pipeline=1"])
    expected = (
        r"written with parallel\.world_size=16, now 8, parallel\.pipeline=2, now 1; use the layout it was written "
        r"with, or say that you mean it: --allow-change parallel$"
    )
    with pytest.raises(ValueError, match=expected):
        checkpoint.check_resumable(other, allowed=["training.seed"])
    check_changeable(["parallel"])
    checkpoint.check_resumable(other, allowed=["parallel"])


@pytest.mark.parametrize("line", ["0.16", "0.19"])
def test_later_lines_of_megatron_have_no_other_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    for module in (f"{__name__.rpartition('.')[0]}.test_folder", "grok1.weights.folder"):
        monkeypatch.setattr(f"{module}.megatron_line", lambda: line)
    checkpoint, other = stored(tmp_path, 1), load_recipe("grok1-nano", ["parallel.world_size=32"])
    expected = (
        rf"world_size=16, now 32; megatron-core {line} stores the optimizer's state as each rank has it, which fits no "
        r"other layout; use the layout it was written with, or go on from its weights: `grok1 convert \S+ SAFETENSORS`$"
    )
    with pytest.raises(ValueError, match=expected):
        checkpoint.check_resumable(other, allowed=["parallel"])
    checkpoint.check_resumable(checkpoint.recipe, allowed=["parallel"])


@WITH_OTHER_LAYOUTS
def test_grouped_experts_have_no_other_layout(tmp_path: Path) -> None:
    checkpoint = stored(tmp_path, 1, "kernels.experts=te_grouped")
    other = load_recipe("grok1-nano", ["kernels.experts=te_grouped", "parallel.world_size=32"])
    with pytest.raises(ValueError, match=r"kernels\.experts=te_grouped is read in the layout that wrote it alone; use"):
        checkpoint.check_resumable(other, allowed=["parallel"])
