"""Gradients reduced while the backward goes on: the same weights, bit by bit, as when they are reduced at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grok1.distributed.launch import launch
from tests.conftest import MEGATRONS_PARTS
from tests.grok1.conftest import TWO_RANKS, MakeJob, Train, column
from tests.limits import HANG_SECONDS
from tests.lines import STEPS_BEFORE_OVERLAP

CASES = {
    "two replicas, tied": (*TWO_RANKS, "model.tie_embeddings=true"),
    "two replicas, megatron's parts": (*TWO_RANKS, *MEGATRONS_PARTS),
    "the recipe": (),
}


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize("case", CASES)
def test_overlapped_reduction_gives_the_same_weights(case: str, make_job: MakeJob) -> None:
    # unclipped, as the norm is summed over the replicas' shares, which are cut otherwise; and two ranks' sum, as the
    # order of more would be another
    at_end, overlapped = (
        _trained(make_job, *CASES[case], "training.clip_grad=1e9", f"kernels.gradient_reduction={when}")
        for when in ("at_end", "overlapped")
    )
    assert at_end["weights"] == overlapped["weights"]
    assert at_end["losses"] == overlapped["losses"]
    assert len(set(at_end["losses"])) == len(at_end["losses"]) == 3
    assert all(list(starts) == ["after the backward"] for starts in at_end["starts"].values())
    for starts in overlapped["starts"].values():
        each_step, rest = divmod(sum(starts.values()), 3)
        assert rest == 0
        assert starts.get("after the backward", 0) == STEPS_BEFORE_OVERLAP * each_step
    assert sum(overlapped["starts"][0].values()) >= 3 * at_end["starts"][0]["after the backward"]


def _trained(make_job: MakeJob, *overrides: str) -> dict[str, Any]:
    job = make_job(3, *overrides)
    said: list[Any] = []
    entry = "tests.grok1.distributed.rank_entries:train_in_small_buckets"
    result = launch(job, job.recipe, "cpu", on_event=said.append, entry=entry, timeout_seconds=HANG_SECONDS)
    return {
        "losses": column(result, "loss"),
        "weights": {each["rank"]: each["weights"] for each in said if isinstance(each, dict) and "weights" in each},
        "starts": {each["rank"]: each["starts"] for each in said if isinstance(each, dict) and "starts" in each},
    }


@pytest.mark.slow
def test_a_checkpoint_right_after_steps_holds_the_whole_weights(make_job: MakeJob, tmp_path: Path) -> None:
    """A rank has its share alone of the last update until the weights are gathered."""
    when = [f"kernels.{key}=overlapped" for key in ("gradient_reduction", "param_gather")]
    loaded = []
    for name, changes in (("at the end", []), ("overlapped", when)):
        job = make_job(2, *TWO_RANKS, "training.clip_grad=1e9", *changes, save=tmp_path / name)
        launch(job, job.recipe, "cpu", entry="grok1.training.run:run_rank", timeout_seconds=HANG_SECONDS)
        job = make_job(2, *TWO_RANKS, load=tmp_path / name)
        entry = "tests.grok1.weights.weights_entries:loaded_weights"
        loaded.append(launch(job, job.recipe, "cpu", entry=entry, timeout_seconds=HANG_SECONDS))
    at_end, overlapped = loaded
    assert at_end.keys() == overlapped.keys()
    assert all((at_end[name] == overlapped[name]).all() for name in at_end)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["at_end", "overlapped"])
def test_waiting_for_gradients_and_weights_is_communication(when: str, train: Train) -> None:
    entry = f"{__name__}:_train_by_a_clock_of_waits"
    seconds = train(1, *TWO_RANKS, f"kernels.gradient_reduction={when}", entry=entry)
    assert seconds["data reduce_scatter_tensor"] == [1.0]
    assert seconds["data all_gather_into_tensor"] == [1.0]


def _train_by_a_clock_of_waits(job: Any, where: Any, emit: Any) -> dict[str, list[float]]:
    """An entry for the launcher: seconds of rank 0's collectives, where waiting takes a second and all else nothing."""
    import torch.distributed as dist

    from grok1.device import mailboxes, traffic
    from grok1.training import run

    vars(mailboxes)["_may_open"] = lambda _size: False  # over connections, where torch's handles are waited for
    seconds = [0.0]
    wait = dist.Work.wait

    def wait_a_second(work: dist.Work) -> bool:
        seconds[0] += 1
        return wait(work)

    dist.Work.wait = wait_a_second  # type: ignore[assignment,method-assign]
    vars(traffic)["stamp"] = lambda: seconds[0]
    result = run.run_rank(job, where, emit)
    return {} if result is None else {name: each.seconds for name, each in result.ranks[0].collectives.items()}
