"""How many layers of a stage MindSpeed's own function runs again under recompute "block", as JSON."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from mindspeed.core.memory import common

_LAYERS_A_CHUNK = 2


def _recomputed(chunks: int, told: int, *, per_stage: bool) -> int:
    """Layers of a stage of so many chunks that are checkpointed, of `told` that are asked for."""
    checkpointed: list[Any] = []

    def checkpoint(_function: Any, _distribute: Any, hidden: Any, *_more: Any) -> tuple[Any, None]:
        checkpointed.append(hidden)
        return hidden, None

    common.tensor_parallel = SimpleNamespace(checkpoint=checkpoint)
    config = SimpleNamespace(
        fp8=None, distribute_saved_activations=False, recompute_method="block", recompute_num_layers=told,
        virtual_pipeline_model_parallel_size=chunks, enable_recompute_layers_per_pp_rank=per_stage,
    )  # fmt: skip
    layer = _Layer()
    block = SimpleNamespace(
        config=config, num_layers_per_pipeline_rank=_LAYERS_A_CHUNK, _get_layer=lambda _index: layer
    )
    for chunk in range(chunks):
        common.mpu = SimpleNamespace(get_virtual_pipeline_model_parallel_rank=lambda chunk=chunk: chunk)
        common.transformer_block_checkpointed_forward(block, 0.0, None, None, None, None, None, None, False)
    return len(checkpointed)


class _Layer:
    layer_number = 1

    def __call__(self, hidden_states: Any, **_more: Any) -> tuple[Any, None]:
        return hidden_states, None


def main() -> None:
    """Print them: of four chunks of two layers each, 1, 3 and 5 layers asked for."""
    cases = [(told, per_stage) for told in (1, 3, 5) for per_stage in (False, True)]
    print(json.dumps([[told, per_stage, _recomputed(4, told, per_stage=per_stage)] for told, per_stage in cases]))


if __name__ == "__main__":
    main()
