"""Faults planted by hand, each once missed by the suite or of a kind that operators do not make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.mutants.mutant import Mutant

_CONVERT = "tests/grok1/weights/test_convert.py::test_"


class Fault(NamedTuple):
    """`old` stands once in the file, and becomes `new`; `tests` must notice."""

    path: str
    old: str
    new: str
    tests: tuple[str, ...]


def planted(root: Path) -> list[Mutant]:
    """The faults as mutants of this tree.

    Raises:
        RuntimeError: the file no longer holds the text, or holds it twice.
    """
    return [_mutant(root, fault) for fault in FAULTS]


def _mutant(root: Path, fault: Fault) -> Mutant:
    source = (root / fault.path).read_text(encoding="utf-8")
    if source.count(fault.old) != 1:
        raise RuntimeError(
            f"{fault.path} holds {fault.old!r} {source.count(fault.old)} times, not once: mend tests/mutants/planted.py"
        )
    return Mutant(fault.path, source, source.replace(fault.old, fault.new), fault.tests)


def _judge(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/bench/judge/test_{name}.py" for name in names)


def _of_the_figures() -> Iterator[Fault]:
    path = "bench/judge/void.py"
    yield Fault(path, "MAX_MFU = 1.0", "MAX_MFU = 1.2", _judge("void"))
    path, tests = "bench/judge/metrics.py", _judge("metrics")
    yield Fault(path, "max(1, len(names) - speed - (LOST in names))", "max(1, len(names) - speed)", tests)
    yield Fault(path, "(SPEED_WEIGHT - lost) / speed", "SPEED_WEIGHT / speed", tests)
    yield Fault(path, "math.log1p(tick / step)", "tick", tests)
    path = "bench/judge/attribution.py"
    yield Fault(path, "_LEAST_SHARE = 0.1", "_LEAST_SHARE = 0.01", _judge("attribution"))


def _of_the_judge() -> Iterator[Fault]:
    path, tests = "bench/judge/difference.py", _judge("difference", "evidence", "sessions")
    capped = "Error(error.size, min(error.freedom, len(before) + len(after) - 2))"
    yield Fault(path, capped, "Error(error.size, error.freedom + 2)", tests)
    yield Fault(
        path, "before.squares + BORROWED * after.variance", "before.squares + BORROWED * before.variance", tests
    )
    yield Fault(path, "max(float(changes.std(ddof=1)), _LEAST_SPREAD)", "float(changes.std(ddof=1))", tests)
    harmonic = "len(self.counts) / math.fsum(1 / count for count in self.counts)"
    yield Fault(path, harmonic, "math.fsum(self.counts) / len(self.counts)", tests)
    yield Fault(path, "SHARE_OF_RUN_SPREAD**2 * runs, seen))", "SHARE_OF_RUN_SPREAD**2 * runs))", tests)
    yield Fault(path, "    if more > 0:\n", "    if more < 0:\n", tests)
    yield Fault(path, "self.session_spread > 0 and len(", "len(", tests)

    path, tests = "bench/judge/multiplicity.py", _judge("multiplicity")
    yield Fault(path, "        left -= math.fsum(weights[name] for name in equal)\n", "", tests)
    yield Fault(path, "going = going and all(", "going = all(", tests)
    yield Fault(path, "setdefault(p_values[name] / weights[name], [])", "setdefault(p_values[name], [])", tests)

    path, tests = "bench/judge/sessions.py", _judge("sessions")
    yield Fault(path, "moment - stamps[place].seconds - last[name]", "moment - last[name]", tests)
    yield Fault(path, "sorted(moments):", "moments:", tests)

    path, tests = "bench/judge/clock.py", _judge("clock")
    yield Fault(path, ">= tick / 2 else tick", ">= tick else tick", tests)
    yield Fault(path, "_MOST_DIFFERENT = 0.7", "_MOST_DIFFERENT = 1.0", tests)

    path, tests = "bench/judge/nightly.py", _judge("nightly")
    yield Fault(path, "int(np.argmax(series.nights))", "int(np.argmin(series.nights))", tests)
    yield Fault(path, "best.e_value / len(found)", "best.e_value", tests)
    yield Fault(path, "rest = 1 / (len(logarithms) + 1)", "rest = 0.0", tests)
    yield Fault(path, "[::-1] - resolution * h", "[::-1]", tests)


def _of_the_findings() -> Iterator[Fault]:
    path, tests = "bench/judge/periods.py", _judge("patterns")
    yield Fault(path, "chance * alike * (alike - 1) / 2 > _CHANCE", "chance > _CHANCE", tests)
    yield Fault(path, "_ordinal(best.period * slow.stride)", "_ordinal(best.period)", tests)
    path = "bench/judge/stretches.py"
    yield Fault(path, "if not _is_solid(after, slow_after):", "if not slow_after:", tests)
    yield Fault(path, "cost = (drift - max(had, 0.0)) / 2", "cost = drift - max(had, 0.0)", tests)
    yield Fault(path, "drift - max(had, 0.0)) / 2", "drift - had) / 2", tests)
    path = "bench/judge/patterns.py"
    yield Fault(path, " and (drift is None or not _is_slope(new, stretch[2]))", "", tests)
    again = (
        "        old, new = without(old, stretch[1]), without(new, stretch[2])\n        drift = find_drift(old, new)\n"
    )
    yield Fault(path, again, "", tests)

    path, tests = "bench/judge/outliers.py", _judge("outliers")
    yield Fault(path, "MAX_ACCIDENTS = 2", "MAX_ACCIDENTS = 3", tests)
    yield Fault(path, "alpha / (2 * (count - step + 1))", "alpha / (count - step + 1)", tests)
    deviate = "        if deviations[farthest] > _critical(count, step, alpha) * spread:\n            beyond = step\n"
    yield Fault(path, deviate, f"{deviate}        else:\n            break\n", tests)


def _of_the_history() -> Iterator[Fault]:
    tests = ("tests/bench/history/test_change_points.py",)
    yield Fault("bench/history/noise.py", "_MOST_CORRELATION = 0.8", "_MOST_CORRELATION = 0.0", tests)
    path = "bench/history/change_points.py"
    yield Fault(path, "holds and not burst for", "holds for", tests)
    of_days = ("tests/bench/history/test_history.py::test_levels_that_come_with_the_days_are_none",)
    yield Fault(path, "        _least_between_days(history, start, at, end),\n", "", of_days)
    path = "bench/history/setback.py"
    yield Fault(path, "KEPT_RUNS = 5", "KEPT_RUNS = 1", tests)
    yield Fault(
        path, "first and levels[first - 1] > levels[first]", "first and levels[first - 1] > levels[best]", tests
    )
    path, tests = "bench/history/session_level.py", ("tests/bench/history/test_session_level.py",)
    yield Fault(path, "spread * float(raised)", "spread", tests)
    yield Fault(path, "np.minimum(differences, far)", "differences", tests)


def _of_the_selftest() -> Iterator[Fault]:
    path, tests = "bench/selftest/ordered.py", ("tests/bench/selftest/test_ordered.py",)
    shuffled = "np.random.default_rng(0).permutation(np.array(series.runs, dtype=object))"
    before = "before = [trace_of(run, series.has_memory) for run in"
    yield Fault(path, f"{before} series.runs]", f"{before} {shuffled}]", tests)
    after = '"every step", percent) for run in'
    yield Fault(path, f"{after} series.runs]", f"{after} {shuffled}]", tests)
    spread = "    spread = assumed_spread(series.device_kind, None, series.is_virtual)\n"
    yield Fault(path, spread, f'{spread}    series = series.model_copy(update={{"runs": list({shuffled})}})\n', tests)
    yield Fault(path, "(start, start + BLOCK + later)\n", "(start + BLOCK + later, start)\n", tests)
    path, tests = "bench/selftest/replay.py", ("tests/bench/selftest/test_selftest.py",)
    halves = "first, second = np.arange(half), np.arange(half, len(series.runs))"
    dealt = "first, second = np.split(np.random.default_rng(0).permutation(len(series.runs)), [half])"
    yield Fault(path, halves, dealt, tests)


def _of_the_model() -> Iterator[Fault]:
    path, tests = "grok1/kernels/dispatch.py", ("tests/grok1/kernels/test_merged_sums.py",)
    yield Fault(path, ".sum(dim=0, dtype=torch.float32)", ".sum(dim=0)", tests)
    parts = "part.view(self.copies, -1, part.shape[1]).sum(dim=0, dtype=torch.float32)"
    yield Fault(path, parts, "sum(part.view(self.copies, -1, part.shape[1]))", tests)
    yield Fault(path, "self._weights[..., None])", "self._weights[..., None].to(results_TKH.dtype))", tests)

    path, tests = "grok1/training/optimizer.py", ("tests/grok1/training/test_optimizer_settings.py",)
    yield Fault(path, "end_wd=training.weight_decay", "end_wd=0.0", tests)
    yield Fault(path, "adam_beta2=training.adam_beta2", "adam_beta2=training.adam_beta1", tests)
    yield Fault(path, 'lr_decay_style="cosine"', 'lr_decay_style="linear"', tests)
    decayed = "        min_lr=training.min_learning_rate,\n        lr_warmup_steps"
    yield Fault(path, decayed, "        min_lr=0.0,\n        lr_warmup_steps", tests)

    path, tests = "grok1/model/model.py", ("tests/grok1/model/test_transformer_config.py",)
    pre_softmax = 'moe_router_pre_softmax=model.router == "softmax_then_topk"'
    yield Fault(path, pre_softmax, "moe_router_pre_softmax=False", tests)
    coefficient = "moe_aux_loss_coeff=model.aux_loss_coefficient * shares,"
    yield Fault(path, coefficient, "moe_aux_loss_coeff=model.aux_loss_coefficient * shares / 2,", tests)
    yield Fault(path, '"fp32" if training.router_dtype == "fp32" else None', "None", tests)
    path, tests = "grok1/model/moe.py", ("tests/grok1/model/test_transformer_config.py",)
    yield Fault(path, 'F.gelu(x, approximate="tanh")', "F.gelu(x)", tests)

    path, tests = "grok1/weights/sharding.py", ("tests/grok1/weights/test_sharding.py",)
    yield Fault(path, "group * rows + low - first, high - low", "group * rows, high - low", tests)
    path, tests = "grok1/weights/blocks.py", (f"{_CONVERT}round_trip_is_bitwise",)
    yield Fault(
        path, '(2 * ffn, hidden), ffn, ffn, "linear_v.weight"', '(2 * ffn, hidden), 0, ffn, "linear_v.weight"', tests
    )


def _of_the_stages() -> Iterator[Fault]:
    path, tests = "grok1/config/stages.py", ("tests/grok1/config/test_stages.py",)
    yield Fault(path, "start = chunk * sum(sizes) + sum(sizes[:stage])", "start = sum(sizes[:stage])", tests)
    yield Fault(path, "2 * (stages - stage - 1) + (chunks - 1) * stages", "(chunks - 1) * stages", tests)
    yield Fault(path, "rest < others or ", "", tests)


def _of_the_levers() -> Iterator[Fault]:
    path, tests = "grok1/training/step.py", ("tests/grok1/training/test_step.py",)
    yield Fault(path, "(routers * parallel.tensor * parallel.context)", "routers", tests)
    yield Fault(path, "self.recipe.num_micro_batches * parallel.data * model.num_layers", "model.num_layers", tests)
    yield Fault(path, "tokens * each - int(counts_E.sum())", "tokens - int(counts_E.sum())", tests)
    yield Fault(path, "        loss = loss / context\n", "        pass\n", tests)

    path, tests = "grok1/model/routing.py", ("tests/grok1/model/test_routing.py",)
    yield Fault(path, "self.seed * 1009 + self.layer_number", "self.seed", tests)
    yield Fault(path, "part * length :", "0:", tests)
    yield Fault(path, "context.size(), context.rank())", "context.size(), 0)", tests)
    yield Fault(path, " + (logits - logits.detach())", "", tests)

    path, tests = "grok1/megatron/instances.py", ("tests/grok1/megatron/test_instances.py",)
    yield Fault(path, "module.register_forward_pre_hook(wait)", "module.register_forward_hook(wait)", tests)
    yield Fault(
        path, "in module.parameters():\n            wrapped.", "in module._parameters:\n            wrapped.", tests
    )

    path, tests = "grok1/kernels/context_parallel.py", ("tests/grok1/kernels/test_context_parallel.py",)
    yield Fault(path, "torch.cat((first, second.flip(dim)), dim)", "torch.cat((first, second), dim)", tests)
    yield Fault(path, "torch.stack((first, second.flip(0)), dim=1)", "torch.stack((first, second), dim=1)", tests)
    yield Fault(
        "grok1/distributed/context_split.py", "return rank, 2 * ranks - 1 - rank", "return rank, ranks + rank", tests
    )

    tests = ("tests/grok1/megatron/test_capacity.py",)
    yield Fault("grok1/megatron/capacity.py", "mask_TE if is_padded else mask_TE & map_TE", "mask_TE & map_TE", tests)
    path, tests = "grok1/config/levers.py", ("tests/grok1/config/test_levers.py",)
    yield Fault(path, "training.micro_batch // (parallel.tensor * parallel.context)", "training.micro_batch", tests)
    yield Fault(path, "return math.ceil(pairs / model.num_experts", "return int(pairs / model.num_experts", tests)
    path, tests = "grok1/training/expert_load.py", ("tests/grok1/training/test_expert_load.py",)
    yield Fault(path, "map_TE & (probs_TE != 0) if self._is_padded else map_TE", "map_TE", tests)


def _of_the_ledger() -> Iterator[Fault]:
    tests = ("tests/bench/ledger/test_live_memory.py",)
    yield Fault("bench/ledger/live_memory.py", "self.bytes += size - before", "self.bytes += 0", tests)
    yield Fault("grok1/device/storages.py", "        hear(storage)\n", "", tests)
    path, tests = "bench/ledger/count.py", ("tests/bench/ledger/test_count.py",)
    yield Fault("bench/ledger/extension.py", "value + step.more * more", "value + (step.more - 1) * more", tests)
    yield Fault(
        path, "size = -(-len(points) // _TIMELINE_POINTS)", "size = len(points) // _TIMELINE_POINTS or 1", tests
    )
    yield Fault(path, "max(stretch, key=lambda point: point[2])", "stretch[0]", tests)
    yield Fault(path, '".experts." in name', '".local_experts." in name', tests)


def _plan(name: str, *tests: str) -> tuple[str, ...]:
    return tuple(f"tests/bench/plan/test_{name}.py::test_{each}" for each in tests)


def _of_memory_planned() -> Iterator[Fault]:
    path, kept = "bench/plan/kept.py", "a_further_layer_adds_what_it_keeps"
    tests = _plan("kept", f"{kept}[fp32, megatron's parts]")
    yield Fault(path, "return 10 * hidden + 4 * _FP32 * s.t", "return 9 * hidden + 4 * _FP32 * s.t", tests)
    tests = _plan("kept", f"{kept}[fp32, norms and attention again]")
    yield Fault(path, "again = (3 * s.q + 3 * s.v) * s.T", "again = (3 * s.q + s.v) * s.T", tests)
    tests = _plan("kept", f"{kept}[fp32, cut to a capacity]")
    yield Fault(path, "np.minimum(own, local * capacity), own)", "np.minimum(own, capacity), own)", tests)

    path, moment = "bench/plan/peak.py", "the_bound_at_another_moment_is_close"
    yield Fault(path, "sizes), 0) + 2 * tied", "sizes), 0) + tied", _plan("peak", f"{moment}[tied ends]"))
    tests = _plan("peak", "chunks_in_flight_are_the_recipes")
    yield Fault(path, "np.minimum(before + 1, of", "np.minimum(before, of", tests)
    tests = _plan("peak", f"{moment}[bf16 gradients]")
    yield Fault(path, '(_FP32 if training.gradient_dtype == "bf16" else 0)', "0", tests)

    path = "bench/plan/buffers.py"
    tests = _plan("memory", "counted_ledgers[tied ends that fill no slot]")
    yield Fault(path, "_BUCKET_END = 64, 128", "_BUCKET_END = 64, 64", tests)
    yield Fault(path, "if is_own or (bucket and", "if (bucket and", tests)
    tests = _plan("memory", "stored_ledgers")
    yield Fault(path, "limit = begin + (end - begin) // replicas", "limit = end // replicas", tests)

    path, ordered = "bench/plan/fits.py", _plan("fits", "the_order_is_the_one_that_is_said")
    tests = _plan("fits", "communicators_are_the_recipes_own_count")
    yield Fault(path, "np.where(are_apart, of.expert_data, 1)", "of.expert_data", tests)
    keys = "(self.need, -of.micro_batch, splits, again)"
    yield Fault(path, keys, "(self.need, of.micro_batch, splits, again)", ordered)
    tests = _plan("fits", "each_layout_has_its_fullest_stage_and_the_sum_of_its_parts")
    yield Fault(path, "np.maximum.reduceat(found.total, starts)", "np.minimum.reduceat(found.total, starts)", tests)


def _of_work_planned() -> Iterator[Fault]:
    path, tests = "bench/plan/rules.py", _plan("legal", "the_rules_are_the_recipes_own")
    yield Fault(path, "_divides(2 * context, length)", "_divides(context, length)", tests)
    yield Fault(path, "(stages > 1) & (rest >= others) &", "(stages > 1) &", tests)
    divided = '(groups % at["context"] == 0) | ~is_exchanged'
    tests = _plan("legal", "heads_that_a_context_cannot_share_are_refused_as_the_recipe_does")
    yield Fault(path, divided, '(groups >= at["context"]) | ~is_exchanged', tests)

    path = "bench/plan/products.py"
    tests = _plan("products", "rows_that_do_not_spread_evenly_are_products_of_two_sizes")
    yield Fault(path, "yield each + 1, more", "yield each, more", tests)
    tests = _plan("products", "blocks_of_capped_attention_meet_the_keys_up_to_their_ends", "a_context_is_planned")
    yield Fault(path, "+ 2 * rest * queries", "+ 2 * rest * rest", tests)
    yield Fault(path, "np.where(is_gathered, length - chunk, 0)", "np.where(is_gathered, length, 0)", tests)

    path = "bench/plan/exchanges.py"
    tests = _plan("exchanges", "what_a_sample_may_lack_is_the_ledgers")
    yield Fault(path, 'call.times(layers - again["experts"])', "call.times(layers)", tests)
    tests = _plan("exchanges", "every_collective_of_a_stored_ledger_is_planned")
    yield Fault(path, "(of.virtual_pipeline > 1) & (of.pipeline == 2)", "of.pipeline == 2", tests)
    yield Fault(path, "2 * of.virtual_pipeline - places.is_first", "2 * of.virtual_pipeline + places.is_first", tests)


FAULTS: tuple[Fault, ...] = (
    *_of_the_figures(),
    *_of_the_judge(),
    *_of_the_findings(),
    *_of_the_history(),
    *_of_the_selftest(),
    *_of_the_model(),
    *_of_the_stages(),
    *_of_the_levers(),
    *_of_the_ledger(),
    *_of_memory_planned(),
    *_of_work_planned(),
)
