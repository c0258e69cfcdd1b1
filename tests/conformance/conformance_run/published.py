"""What megatron's training program says of jobs on the command line: a list of options by name, as JSON.

The FLOPs of a step by its own formula, and what it does about transfers between stages where nothing is said.
"""

from __future__ import annotations

import argparse
import json
import sys
from types import SimpleNamespace

_UNSET = {
    "hybrid_override_pattern": None, "hybrid_attention_ratio": 0.0, "hybrid_mlp_ratio": 0.0, "is_hybrid_model": False,
    "mtp_num_layers": None, "moe_ffn_hidden_size": None, "moe_shared_expert_intermediate_size": None,
    "moe_layer_freq": 1, "num_experts": None, "multi_latent_attention": False, "q_lora_rank": None,
}  # fmt: skip


def main() -> None:
    from megatron.training.arguments import add_megatron_arguments
    from megatron.training.training import num_floating_point_operations

    jobs = [SimpleNamespace(**(_UNSET | job)) for job in json.loads(sys.argv[1])]
    flops = [num_floating_point_operations(job, job.global_batch_size) for job in jobs]
    parser = add_megatron_arguments(argparse.ArgumentParser())
    transfers = {name: parser.get_default(name) for name in ("overlap_p2p_comm", "overlap_p2p_comm_warmup_flush")}
    print(json.dumps({"flops": flops, "transfers": transfers}))


if __name__ == "__main__":
    main()
