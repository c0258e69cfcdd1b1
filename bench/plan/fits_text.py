"""What fits, as text for a terminal and as a file. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bench.plan.fits import ORDER, PARTS, Fits
from bench.plan.layout_text import layout_text
from bench.plan.recount import Recounted
from bench.records.fields import Count, Name, Strict
from bench.records.jsonfile import write_model
from bench.records.terminal import plain, table

_GIB = 2**30
_HEADERS = ("layout", "need", "left", *PARTS, "stage", "fullest in")


class FitRow(Strict):
    """A layout, bytes of its fullest rank by part, and whether they fit."""

    layout: Name
    fits: bool
    need_bytes: Count
    peak_bytes: Count  # of tensors: not below what the ledger counts
    between_steps_bytes: Count  # weights, gradients and optimizer state
    parts_bytes: dict[Name, Count]
    communicators: Count
    fullest_stage: Count
    fullest_in: Name
    counted_peak_bytes: Count | None = None  # by the ledger, with --exact


class FitsFile(Strict):
    """What was asked, and the layouts shown, in their order."""

    schema_version: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    recipe_name: Name
    recipe_hash: Name
    world_size: Count
    available_bytes: Count
    skew: Annotated[float, Field(ge=1.0, le=4096.0)]
    layouts: Count
    fitting: Count
    order: Name
    rows: list[FitRow]


def fits_text(found: Fits, rows: Sequence[int], asked: str) -> str:
    """How many fit, a table of these rows, and what is in it; `asked` names the recipe and the device."""
    fitting, total = int(found.fit.sum()), len(found.layouts)
    lines = [f"{asked}: {fitting:,} of {total:,} layouts fit", ""]
    lines += [table(_HEADERS, [_cells(found, row) for row in rows], numbers=range(1, 3 + len(PARTS))), ""]
    kinds = (
        "of even routing" if found.skew == 1.0 else f"where the fullest expert rank gets {found.skew:g} times its share"
    )
    lines += [
        f"GiB of the fullest rank, {kinds}. Shown: {len(rows)}, {ORDER}"
        + ("." if fitting else "; none fits, so those that need least."),
        "weights, gradients and optimizer are exact; activations, temporary and logits are a bound, which is not below "
        "the ledger's peak.",
        f"communicators: two buffers each; margin: allocator, kernels' own memory, driver. {_closest(found)}",
    ]
    return "\n".join(lines)


def recount_text(counts: Sequence[Recounted]) -> str:
    """Both figures of each finalist, and how far they are apart."""
    rows = [
        (each.name, f"{each.planned / _GIB:.3f}", f"{each.counted / _GIB:.3f}", f"{each.above:+.2%}") for each in counts
    ]
    return table(("layout", "planned peak, GiB", "counted", "planned above"), rows, numbers=(1, 2, 3))


def write_fits(path: Path, found: Fits, rows: Sequence[int], counts: Sequence[Recounted]) -> None:
    """The rows shown, with what was asked, as JSON."""
    counted, recipe = {each.row: each.counted for each in counts}, found.layouts.recipe
    file = FitsFile(
        schema=1,
        recipe_name=plain(recipe.name, 200),
        recipe_hash=recipe.hash(),
        world_size=int(found.layouts.world_size[0]),
        available_bytes=found.available,
        skew=found.skew,
        layouts=len(found.layouts),
        fitting=int(found.fit.sum()),
        order=ORDER,
        rows=[_row(found, row, counted.get(row)) for row in rows],
    )
    write_model(path, file)


def _cells(found: Fits, row: int) -> tuple[str, ...]:
    need = int(found.need[row])
    left = (found.available - need) / _GIB
    parts = [f"{part / _GIB:.2f}" for part in found.parts[row].tolist()]
    name = layout_text(found.layouts, row)
    return (name, f"{need / _GIB:.2f}", f"{left:.2f}", *parts, str(found.stage[row]), found.moment_of(row))


def _closest(found: Fits) -> str:
    need = int(found.need.min())
    return f"The least that any layout needs: {need / _GIB:.2f} GiB of {found.available / _GIB:.2f}."


def _row(found: Fits, row: int, counted: int | None) -> FitRow:
    parts = found.parts[row].tolist()
    return FitRow(
        layout=layout_text(found.layouts, row),
        fits=bool(found.fit[row]),
        need_bytes=sum(parts),
        peak_bytes=sum(parts[:6]),
        between_steps_bytes=sum(parts[:3]),
        parts_bytes=dict(zip(PARTS, parts, strict=True)),
        communicators=int(found.communicators[row]),
        fullest_stage=int(found.stage[row]),
        fullest_in=found.moment_of(row),
        counted_peak_bytes=counted,
    )
