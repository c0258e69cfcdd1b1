"""Facts of a foreign job: what its log and its flags say, and what follows from that."""

from __future__ import annotations

from bench.ingest.job import Facts, Log, Value
from grok1.config.recipe import Recipe

_SAME_COUNT = 0.005
# Arguments of Megatron's dump by the names used here; the first that is stated counts.
SIZES = {
    "world_size": ("world_size",),
    "tensor": ("tensor_model_parallel_size",),
    "pipeline": ("pipeline_model_parallel_size",),
    "expert": ("expert_model_parallel_size",),
    "expert_tensor": ("expert_tensor_parallel_size",),
    "context": ("context_parallel_size",),
    "virtual_pipeline": ("virtual_pipeline_model_parallel_size",),
    "sequence_length": ("seq_length",),
    "global_batch": ("global_batch_size",),
    "micro_batch": ("micro_batch_size",),
    "num_layers": ("num_layers",),
    "hidden_size": ("hidden_size",),
    "ffn_hidden_size": ("moe_ffn_hidden_size", "ffn_hidden_size"),
    "num_attention_heads": ("num_attention_heads",),
    "num_query_groups": ("num_query_groups",),
    "head_dim": ("kv_channels",),
    "vocab_size": ("padded_vocab_size",),
    "num_experts": ("num_experts", "num_moe_experts"),
    "experts_per_token": ("moe_router_topk",),
    "log_interval": ("log_interval",),
}
# Choices that change the speed or the size of a job. All other arguments, paths and keys among them, are not kept.
# fmt: off
CHOICES = (
    "bf16", "fp16", "fp8", "swiglu", "group_query_attention", "untie_embeddings_and_output_weights",
    "moe_tp_extend_ep", "multi_latent_attention", "moe_layer_freq", "moe_shared_expert_intermediate_size",
    "first_k_dense_replace", "n_shared_experts", "mtp_num_layers", "sequence_parallel", "recompute_granularity",
    "recompute_method", "recompute_num_layers", "moe_token_dispatcher_type", "moe_grouped_gemm",
    "moe_expert_capacity_factor", "num_layers_per_virtual_pipeline_stage", "use_distributed_optimizer",
    "overlap_grad_reduce", "overlap_param_gather", "use_flash_attn", "transformer_impl",
    # what some steps pay for: runs of another cadence are other work
    "save_interval", "eval_interval", "profile", "profile_step_start", "profile_step_end",
)
# fmt: on
# fmt: off
_UNCOUNTED = (
    "multi_latent_attention", "moe_layer_freq", "moe_shared_expert_intermediate_size", "first_k_dense_replace",
    "n_shared_experts", "mtp_num_layers",
)
# fmt: on
ARGUMENTS = {name for names in SIZES.values() for name in names} | set(CHOICES)
# fmt: off
NEEDED = (
    "world_size", "tensor", "pipeline", "expert", "expert_tensor", "nodes", "sequence_length", "global_batch",
    "micro_batch", "dtype", "device_name",
)
# fmt: on


def settle_facts(log: Log, given: Facts, recipe: Recipe | None) -> tuple[dict[str, Value], dict[str, str]]:
    """One value a fact, and who said it: the log, else a flag, else the recipe; they must agree."""
    _stated_in_words(log)
    facts: dict[str, Value] = dict(log.facts)
    origins = dict.fromkeys(facts, "the log")
    for who, said in (("flag", given), ("recipe", _facts_of(recipe))):
        for name, value in said.items():
            if facts.setdefault(name, value) != value:
                option = f"--{name.replace('_', '-')} {value}" if who == "flag" else f"the recipe's {name} {value}"
                remedy = "leave the flag out" if who == "flag" else "choose another --recipe, or change it with --set"
                raise ValueError(f"{option} contradicts {facts[name]} of {origins[name]}: {remedy}")
            origins.setdefault(name, f"a {who}")
    _refuse_more_than_all(log, facts)
    _follow(log, facts, origins)
    return facts, origins


def _refuse_more_than_all(log: Log, facts: Facts) -> None:
    """Parts of a model that are more than the whole, or none: what is counted from them would look like a model."""
    is_grouped = log.arguments.get("group_query_attention", ("", ""))[0] == "True"
    parts = {"experts_per_token": "num_experts", "expert": "num_experts"}
    parts |= {"num_query_groups": "num_attention_heads"} if is_grouped else {}
    for part, whole in parts.items():
        if part in facts and int(facts.get(whole, 0)) and not 1 <= int(facts[part]) <= int(facts[whole]):
            names = [SIZES[name][0] for name in (part, whole)]
            raise ValueError(
                f"{names[0]} {facts[part]} is not between 1 and {names[1]} {facts[whole]}: "
                "no such model ran; correct what the log or the flag says"
            )


def _stated_in_words(log: Log) -> None:
    chosen = {name: text for name, (text, _) in log.arguments.items()}
    if chosen.get("fp8", "None") not in ("None", "False"):
        raise ValueError(f"the job ran in fp8 ({chosen['fp8']}), which a record cannot say: it is not taken as bf16")
    if chosen.get("bf16") == "True" or chosen.get("fp16") == "True":
        log.facts.setdefault("dtype", "bf16" if chosen.get("bf16") == "True" else "fp16")
    elif "bf16" in chosen and "fp16" in chosen:
        log.facts.setdefault("dtype", "fp32")


def _follow(log: Log, facts: dict[str, Value], origins: dict[str, str]) -> None:
    """Facts that follow from others, each with the reason in its origin."""
    has_dump = "tensor_model_parallel_size" in log.arguments
    world = int(facts.get("world_size", 0))
    if world == 1 or has_dump:
        for name in ("tensor", "pipeline", "expert"):
            _assume(facts, origins, name, 1, "one rank" if world == 1 else "the arguments have no such split")
    if "tensor" in facts and log.arguments.get("moe_tp_extend_ep", ("", ""))[0] == "True":
        facts["expert"] = int(facts.get("expert", 1)) * int(facts["tensor"])
        _assume(facts, origins, "expert_tensor", 1, "moe_tp_extend_ep")
    if "tensor" in facts and (has_dump or world == 1):
        _assume(facts, origins, "expert_tensor", facts["tensor"], "Megatron's default: that of tensor")
    if 1 <= world <= 8:
        _assume(facts, origins, "nodes", 1, "assumed, as there are no more than 8 ranks")


def _assume(facts: dict[str, Value], origins: dict[str, str], name: str, value: Value, why: str) -> None:
    if name not in facts:
        facts[name] = value
        origins[name] = why


def _facts_of(recipe: Recipe | None) -> dict[str, Value]:
    if recipe is None:
        return {}
    model, parallel, training = recipe.model, recipe.parallel, recipe.training
    facts: dict[str, Value] = {
        name: getattr(parallel, name)
        for name in ("world_size", "tensor", "context", "pipeline", "virtual_pipeline", "expert", "expert_tensor")
    }
    facts |= {name: getattr(training, name) for name in ("sequence_length", "global_batch", "micro_batch", "dtype")}
    names = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_experts", "experts_per_token")
    return facts | {name: getattr(model, name) for name in names}


def replicas(facts: Facts) -> int:
    """Data-parallel replicas: the ranks over what splits one copy of the dense weights and its sequences."""
    split = int(facts["tensor"]) * int(facts.get("context", 1)) * int(facts["pipeline"])
    return max(1, int(facts["world_size"]) // max(1, split))


def model_counts(
    log: Log, facts: Facts, recipe: Recipe | None, origins: dict[str, str]
) -> tuple[int, int, float | None]:
    """Parameters in all and for one token, and FLOPs a step where they can be counted."""
    if recipe is not None:
        origins["parameters"] = origins["FLOPs a step"] = "counted by the recipe"
        return recipe.parameters(), recipe.active_parameters(), recipe.flops_per_step()
    counted = _counted(log, facts)
    if counted is None:
        missing = [name for name in ("parameters", "active_parameters") if name not in facts]
        if missing:
            flags = ", ".join("--" + name.replace("_", "-") for name in missing)
            raise ValueError(f"the log does not give all sizes of a model that can be counted here: give {flags}")
        return int(facts["parameters"]), int(facts["active_parameters"]), None
    for name, own in (("parameters", counted[0]), ("active_parameters", counted[1])):
        if name in facts and abs(int(facts[name]) / own - 1) > _SAME_COUNT:
            raise ValueError(f"{name} {facts[name]} of {origins[name]} contradicts {own}, counted from the log's sizes")
    origins["parameters"] = origins["FLOPs a step"] = "counted from the log's sizes"
    return counted


def _counted(log: Log, facts: Facts) -> tuple[int, int, float] | None:
    """Counts of a plain transformer, dense or all of whose layers have experts, as recipes count them."""
    needed = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "vocab_size")
    odd = any(log.arguments.get(name, ("None", ""))[0] not in ("None", "False", "0", "1") for name in _UNCOUNTED)
    if odd or any(int(facts.get(name, 0)) < 1 for name in needed):
        return None
    layers, hidden, ffn, heads, vocabulary = (int(facts[name]) for name in needed)
    chosen = {name: text for name, (text, _) in log.arguments.items()}
    query = heads * int(facts.get("head_dim", hidden // heads))
    is_grouped = chosen.get("group_query_attention") == "True"
    groups = int(facts.get("num_query_groups", heads)) if is_grouped else heads
    attention = hidden * (2 * query + 2 * (query // heads) * groups)
    expert = (3 if chosen.get("swiglu") == "True" else 2) * hidden * ffn
    experts = int(facts.get("num_experts", 0))
    active_experts = int(facts.get("experts_per_token", 2)) if experts else 1
    active = layers * (attention + active_experts * expert + hidden * experts) + vocabulary * hidden
    tables = 2 if chosen.get("untie_embeddings_and_output_weights") == "True" else 1
    total = layers * (attention + max(1, experts) * expert + hidden * experts + 2 * hidden)
    total += tables * vocabulary * hidden + hidden
    length = int(facts["sequence_length"])
    flops = 6.0 * (active + layers * query * length) * length * int(facts["global_batch"])
    return total, active, flops
