"""Sequences split over a context group train as on one rank, by either exchange, and compute what xAI's model does."""

from __future__ import annotations

from tests.layouts.plan import Trial, Words, recipe_of
from tests.layouts.test_layouts import one_then_all, run_trials, wrong

STEPS = 10
PLAIN: Words = {}
CAPPED: Words = {"model": {"attention_logit_cap": 2.0}}
LONG: Words = {"training": {"sequence_length": 288}}  # chunks of more than a block of capped attention, cut in blocks
A2A: Words = {"parallel": {"context_exchange": "a2a"}}
ALLGATHER: Words = {"parallel": {"dispatcher": "allgather"}}
FUSED: Words = {"kernels": {"experts": "fused", "linear": "fused", "cross_entropy": "fused", "dispatch": "merged"}}
OVERLAPPED: Words = {"kernels": {"gradient_reduction": "overlapped"}, "model": {"tie_embeddings": True}}
RECOMPUTE: Words = {"training": {"recompute": "full"}}


def _trial(world_size: int, sizes: Words, *settings: Words) -> Trial:
    whole = {"pipeline": 1, "tensor": 1, "expert": 1, "expert_tensor": 1, **sizes}
    recipe = recipe_of(world_size, whole, True, *settings)
    assert recipe is not None
    return Trial(recipe, stock=False, steps=STEPS)


TRIALS = {
    2: [
        _trial(2, {"context": 2}),
        _trial(2, {"context": 2}, CAPPED, LONG),
        _trial(2, {"context": 2}, A2A, ALLGATHER),
        _trial(2, {"context": 2, "expert": 2}, A2A, CAPPED, LONG),
        _trial(2, {"context": 2, "expert_tensor": 2}, OVERLAPPED),
    ],
    4: [
        _trial(4, {"context": 4}, RECOMPUTE),
        _trial(4, {"context": 4}, A2A, FUSED),
        _trial(4, {"context": 2, "tensor": 2, "expert": 2}, CAPPED),
        _trial(4, {"context": 2, "tensor": 2, "expert_tensor": 2}, A2A, ALLGATHER),
        _trial(4, {"context": 2, "pipeline": 2}, FUSED),
        _trial(4, {"context": 2, "expert": 2}, OVERLAPPED),  # and two replicas
    ],
}


@one_then_all(TRIALS)
def test_split_sequences_train_as_on_one_rank(world_size: int, most: int | None) -> None:
    found = run_trials(TRIALS[world_size][:most])
    for each in found:
        print(each)
    assert not wrong(found)
