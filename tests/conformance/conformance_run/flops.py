"""FLOPs of a step by megatron's own formula, of each job on the command line: a list of options by name, as JSON."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

_UNSET = {
    "hybrid_override_pattern": None, "hybrid_attention_ratio": 0.0, "hybrid_mlp_ratio": 0.0, "is_hybrid_model": False,
    "mtp_num_layers": None, "moe_ffn_hidden_size": None, "moe_shared_expert_intermediate_size": None,
    "moe_layer_freq": 1, "num_experts": None, "multi_latent_attention": False, "q_lora_rank": None,
}  # fmt: skip


def main() -> None:
    from megatron.training.training import num_floating_point_operations

    found = []
    for job in json.loads(sys.argv[1]):
        given = SimpleNamespace(**(_UNSET | job))
        found.append(num_floating_point_operations(given, given.global_batch_size))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
