"""What a record states of the program, the recipe and the machine that it is of. A median is of one of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.records.lone_rank import told_tier
from bench.records.record import Record

ABSENT = "–"
_SHA_LETTERS = 12


def program_of(record: Record) -> dict[str, str]:
    """The code that ran and the packages that it ran on."""
    commit = "not a git checkout" if record.commit.sha is None else record.commit.sha[:_SHA_LETTERS]
    return {
        "commit": commit + ", with uncommitted changes" * bool(record.commit.dirty),
        **{
            f"digest of {name}'s sources": digest[:_SHA_LETTERS] for name, digest in sorted(record.code_digests.items())
        },
        **{f"software: {name}": version for name, version in sorted(record.software.items())},
    }


def origin_of(record: Record) -> dict[str, str]:
    """All that is stated before a run begins, which makes it another run than others."""
    host = record.host
    return {
        **program_of(record),
        "device": f"{record.device.kind}, {record.device.name}, {record.device.dtype}",
        "host": ABSENT if host is None else f"{host.cpu_name}, {host.cores} cores, {host.memory_bytes / 2**30:.2f} GiB",
        "machine": ABSENT if record.session is None else record.session.machine,
        "recipe": record.recipe.name,
        **{f"layout: {name}": str(size) for name, size in record.layout.model_dump().items()},
        "tokens a step": f"{record.work.tokens_per_step:,}",
        "model FLOP a step": f"{record.work.model_flops_per_step:.4g}",
        "ran": told_tier(record.lone_rank),
        **{f"value: {name}": str(value) for name, value in flatten("", record.recipe.resolved) if name != "name"},
        **{f"environment: {name}": value for name, value in sorted(record.environment.items())},
    }


def origins(records: Iterable[Record]) -> int:
    """How many different ones these records have."""
    return len({tuple(origin_of(each).items()) for each in records})


def why_several_programs(records: Sequence[Record]) -> str | None:
    """What differs between the programs of two of these runs, in words; None where they are of one."""
    for other in records[1:]:
        first, second = program_of(records[0]), program_of(other)
        if records[0].commit.sha == other.commit.sha and records[0].code_digests and other.code_digests:
            del first["commit"], second["commit"]  # the digests say whether changes of it touch what ran
        for name in (*first, *second):
            if first.get(name) != second.get(name):
                values = [
                    f"{each.get(name, 'not stated')} in run {run.id[:8]}"
                    for each, run in ((first, records[0]), (second, other))
                ]
                return f"runs of several programs: {name} is {values[0]} and {values[1]}"
    return None


def flatten(prefix: str, value: object) -> list[tuple[str, object]]:
    """Every value of a recipe with the path that leads to it."""
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [row for key, child in value.items() for row in flatten(f"{prefix}.{key}" if prefix else key, child)]
