"""Where a record comes from: recipe, layout, device, software, environment."""

from __future__ import annotations

from bench.records.origin import flatten
from bench.records.record import Record
from reports.formats import gibibytes, more
from reports.markdown import table

_RESOLVED_ROWS = 400


def provenance(record: Record) -> str:
    """Everything needed to run it again and to doubt it."""
    layout, work, host = record.layout, record.work, record.host
    dirty = {True: ", with uncommitted changes", False: "", None: ""}[record.commit.dirty]
    context = f" x context {layout.context}" if layout.context > 1 else ""
    split = f"tensor {layout.tensor}{context} x pipeline {layout.pipeline} x data {layout.data}"
    if layout.virtual_pipeline > 1:
        split += f", {layout.virtual_pipeline} chunks a stage"
    experts = f"expert {layout.expert}, tensor within an expert {layout.expert_tensor}"
    peak = record.device.peak_flops_per_second
    rows = [
        ("record", f"{record.id}, {'' if record.is_dated else 'read '}{record.created_at}"),
        ("recipe", f"{record.recipe.name}, hash {record.recipe.hash}"),
        ("layout", f"{layout.world_size} ranks on {layout.nodes} node(s): {split}; {experts}"),
        (
            "work",
            f"{work.global_batch} sequences x {work.sequence_length} tokens a step, "
            f"{work.num_micro_batches} micro-batches, {work.model_flops_per_step:.4g} FLOP a step",
        ),
        ("parameters", f"{work.parameters_total:,} ({work.parameters_active:,} active)"),
        ("device", f"{record.device.kind}, {record.device.name}, {record.device.dtype}"),
        (
            "peak of a processor",
            "not known: no MFU" if peak is None else f"{peak / 1e12:.5g} TFLOP/s ({record.device.peak_source})",
        ),
        ("commit", f"{record.commit.sha or 'not a git checkout'}{dirty}"),
        *((f"digest of {name}'s sources", digest) for name, digest in sorted(record.code_digests.items())),
        (
            "host",
            "not known"
            if host is None
            else f"{host.cpu_name}, {host.cores} cores, {gibibytes(host.memory_bytes)} GiB, "
            f"load {host.load_average_1m:.2f}",
        ),
        *([] if record.source is None else [("source", record.source)]),
        *([] if record.lone_rank is None else [("ran", record.lone_rank.told)]),
        *((f"software: {name}", version) for name, version in sorted(record.software.items())),
        *((f"environment: {name}", value) for name, value in sorted(record.environment.items())),
    ]
    return table(["what", "value"], rows)


def resolved_recipe(record: Record) -> str:
    """The recipe after overrides, one row a value."""
    rows = [(name, value) for name, value in flatten("", record.recipe.resolved)]
    return table(["key", "value"], rows[:_RESOLVED_ROWS]) + more(len(rows), _RESOLVED_ROWS, "values")
