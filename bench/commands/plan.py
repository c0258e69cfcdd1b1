"""`python -m bench plan`: which layouts of a recipe fit, which of them is fastest, and why."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from bench.commands.picture_form import form_of
from bench.plan.device import Device, device_names, load_device
from bench.plan.explain import ranking
from bench.plan.fits import Fits, candidates, fits
from bench.plan.fits_text import fits_text, recount_text, write_fits
from bench.plan.intervals import LEVEL
from bench.plan.layout_text import layout_named
from bench.plan.layouts import Layouts
from bench.plan.legal import EVERY_AXIS
from bench.plan.recount import recounted
from bench.plan.timed import Timed, anchor_of_file, time_layouts, write_timed
from bench.records.jsonfile import write_atomically
from bench.records.terminal import plain
from grok1.cli.json_option import Json
from grok1.config.load import load_recipe
from grok1.config.memory import HCCL_BUFFER_MB, SHOWN_GIB
from grok1.megatron.installed import PLANNED_LINE, unplanned_line

if TYPE_CHECKING:
    from reports.picture import Form

_GIB = 2**30
_OF_ROWS = ("--rows", "--freeze", "--score", "--frozen", "--level", "--anchor", "--json")
_VARIED = tuple(axis for axis in EVERY_AXIS if axis != "order")  # which changes no rank's memory


def plan(
    context: typer.Context,
    recipe: Annotated[str, typer.Option(help="A shipped recipe (see `grok1 recipes`) or a .toml file.")] = "grok1-40b",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one recipe value. Repeatable."),
    ] = None,
    world_size: Annotated[int | None, typer.Option(help="Ranks; default: the recipe's.", min=1, max=1 << 16)] = None,
    show_fits: Annotated[
        bool, typer.Option("--fits", help="Say only which layouts fit, and what the fullest rank holds.")
    ] = False,
    explain: Annotated[
        str | None, typer.Option(metavar="LAYOUT", help="One layout's time by terms: TP4 PP2 EP2 ETP4 mb1.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw time against memory of all layouts, as .png or .svg.")
    ] = None,
    memory_gib: Annotated[
        float | None, typer.Option(help="Memory that a rank's device shows, in place of --device.", min=0.0, max=1e6)
    ] = None,
    device: Annotated[str | None, typer.Option(help="A shipped device profile, or a file of one.")] = None,
    skew: Annotated[
        float, typer.Option(help="The fullest expert rank gets so many times its even share.", min=1.0, max=4096.0)
    ] = 1.0,
    axes: Annotated[
        str, typer.Option(help=f"Which axes vary, of {', '.join(EVERY_AXIS)}; the others stay as the recipe has them.")
    ] = ",".join(_VARIED),
    top: Annotated[int, typer.Option(help="How many layouts to show.", min=1, max=10_000)] = 20,
    exact: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Have the ledger count the first N too, seconds to minutes each: 10 is plenty.",
            min=0,
            max=1000,
        ),
    ] = 0,
    communicator_mb: Annotated[
        int | None, typer.Option(help="HCCL_BUFFSIZE; 0 where communicators are not HCCL's.", min=0, max=1 << 16)
    ] = None,
    json_path: Json = None,
    anchor: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The record of a run on this device, which calibrates times; of rows a CSV file."
        ),
    ] = None,
    published: Annotated[
        Path | None, typer.Option("--rows", help="Predict the published jobs of this CSV file.")
    ] = None,
    freeze: Annotated[
        Path | None, typer.Option(help="Write predictions of --rows to this new file, with a hash of them.")
    ] = None,
    score: Annotated[
        Path | None, typer.Option(help="Score predictions against what this CSV file of published jobs measured.")
    ] = None,
    frozen: Annotated[Path | None, typer.Option(help="With --score: the predictions that --freeze wrote.")] = None,
    level: Annotated[float, typer.Option(help="The share of jobs that shall lie in an interval.")] = LEVEL,
) -> None:
    """Rank the layouts of a recipe that fit a device by the time of a step, each with its terms and interval.

    Closed forms: all layouts in seconds. FLOPs and exchanges are what the ledger counts, and so is memory between
    steps, to the byte; the peak is a bound that is not below it. Times come from the device's profile, whose figures
    say where they are from.
    """
    form = form_of("--picture", picture) if picture is not None else None
    given = _given(context)
    _refuse_idle(given)
    others = [option for option in given if option not in _OF_ROWS]
    said = _about_rows(published, freeze, score, frozen, level, anchor, others, json_path)
    if said is not None:
        print(said)
        return
    if exact and not show_fits:
        raise ValueError("--exact N has the ledger count the memory of the first N layouts of --fits: add --fits")
    chosen = load_recipe(recipe, overrides or [])
    ranks, asked = world_size or chosen.parallel.world_size, _Asked.of(memory_gib, device, communicator_mb)
    if explain is not None:
        profile = load_device(_device_of(device))
        named = layout_named(explain, chosen, ranks)
        memory = fits(named, asked.available, skew, buffer_mb=asked.buffer_mb)
        _explain(_times(named, profile, level, anchor), memory, asked, json_path)
        if picture is None:  # which alone needs the other layouts
            _tell_of_line()
            return
    layouts = candidates(chosen, ranks, _named(axes))
    found = fits(layouts, asked.available, skew, buffer_mb=asked.buffer_mb)
    if show_fits:
        _show_fits(found, asked, top, exact, json_path)
    else:
        times = _times(layouts, load_device(_device_of(device)), level, anchor)
        if explain is None:
            _show_times(found, times, asked, top, json_path)
        if picture is not None and form is not None:
            _draw(picture, form, found, times, asked)
    _tell_of_line()


def _refuse_idle(given: Sequence[str]) -> None:
    """What --fits would leave unanswered, and --explain: other layouts than its own, but those that are drawn."""
    times = [name for name in ("--explain", "--picture", "--anchor", "--level") if name in given]
    if "--fits" in given and times:
        raise ValueError(f"--fits tells memory alone, not times as {' and '.join(times)}: ask for one at a time")
    others = [name for name in ("--axes", "--top") if name in given and (name == "--top" or "--picture" not in given)]
    if "--explain" in given and others:
        raise ValueError(f"--explain tells of one layout, and {' and '.join(others)} of several: leave one of them out")


def _given(context: typer.Context) -> list[str]:
    """The options that were given."""
    sources = {each.opts[0]: context.get_parameter_source(each.name or "") for each in context.command.params}
    return [option for option, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def _about_rows(
    published: Path | None,
    freeze: Path | None,
    score: Path | None,
    frozen: Path | None,
    level: float,
    anchor: Path | None,
    others: Sequence[str],
    json_path: Path | None,
) -> str | None:
    """What --rows and --score ask for, whose statistics are imported then alone; None where they are not given."""
    if published is freeze is score is frozen is None and 0 < level < 1:
        return None
    from bench.commands.plan_rows import about_rows

    return about_rows(published, freeze, score, frozen, level, anchor, others, json_path)


def _draw(picture: Path, form: Form, found: Fits, times: Timed, asked: _Asked) -> None:
    from reports.pictures.pareto import pareto_figure

    gib = (found.need / _GIB).tolist()
    drawn = pareto_figure(times.name, times.prediction.step_seconds.tolist(), gib, asked.available / _GIB, form)
    write_atomically(picture, drawn)
    print(f"wrote {plain(picture, 5000)}")


def _times(layouts: Layouts, device: Device, level: float, anchor: Path | None) -> Timed:
    """Predicted, and calibrated by a measured run where one is given."""
    times = replace(time_layouts(layouts, device), level=level)
    return times.anchored(anchor_of_file(anchor, device)) if anchor is not None else times


def _explain(times: Timed, found: Fits, asked: _Asked, json_path: Path | None) -> None:
    need, verdict = int(found.need[0]), "fits" if found.fit[0] else "does not fit"
    print(times.explained(0))
    print(f"\nmemory: the fullest rank needs {need / _GIB:.2f} GiB of {asked.told}{_of_skew(found.skew)}: it {verdict}")
    if json_path is not None:
        write_timed(json_path, times.played(np.array([0])), 1, [need])


def _show_fits(found: Fits, asked: _Asked, top: int, exact: int, json_path: Path | None) -> None:
    layouts, recipe = found.layouts, found.layouts.recipe
    rows = found.best_first()[: max(top, exact)].tolist()
    print(fits_text(found, rows[:top], f"{recipe.name} on {layouts.world_size[0]:,} ranks of {asked.told}"))
    counts = recounted(found, rows[:exact], _tell) if exact else []
    if counts:
        print(f"\n{recount_text(counts)}")
    if json_path is not None:
        write_fits(json_path, found, rows, counts)


def _show_times(found: Fits, times: Timed, asked: _Asked, top: int, json_path: Path | None) -> None:
    fitting, total = np.flatnonzero(found.fit), len(found.layouts)
    if not len(fitting):
        raise ValueError(
            f"none of {total:,} layouts fits {asked.told}: the least that one needs is {found.need.min() / _GIB:.2f} "
            "GiB; plan for more ranks with --world-size, or see --fits"
        )
    shown = times.played(times.fastest(top, fitting))
    need = found.need[shown.prediction.layout]
    recipe, ranks = found.layouts.recipe.name, found.layouts.world_size[0]
    fit = f"{len(fitting):,} of {total:,} layouts fit{_of_skew(found.skew)}"
    print(f"{recipe} on {ranks:,} ranks of {asked.told}: {fit}; the fastest are\n")
    print(ranking(shown.ranked(need), top))
    peak = f"{shown.speed.peak_flops / 1e12:.4g} TFLOP/s of {shown.speed.dtype}"
    print(f"\nMFU of {peak}. GiB: what the fullest rank needs, communicators and margin included.")
    print(shown.basis())
    if json_path is not None:
        write_timed(json_path, shown, total, need.tolist())


def _of_skew(skew: float) -> str:
    """That memory is of uneven routing, while times are of even."""
    return (
        ""
        if skew == 1.0
        else f" (experts of the fullest rank with {skew:g} times their share; times are of even routing)"
    )


def _tell_of_line() -> None:
    """Say so where the megatron-core installed here is not the one whose memory and exchanges are planned."""
    if line := unplanned_line():
        _tell(
            f"planned for megatron-core {PLANNED_LINE}; {line} is installed, whose memory and exchanges differ: "
            "--fits --exact N counts them"
        )


def _device_of(name: str | None) -> str:
    if name is None:
        raise ValueError(f"a time is a device's: name one with --device, of {', '.join(device_names())}, or a file")
    return name


@dataclass(frozen=True)
class _Asked:
    """A device's memory and communicators, and both in words."""

    available: int
    buffer_mb: int
    told: str

    @staticmethod
    def of(memory_gib: float | None, device: str | None, buffer_mb: int | None) -> _Asked:
        """From the options; --memory-gib goes before the profile's memory, and an NPU is meant without either."""
        profile = load_device(device) if device is not None else None
        is_hccl = profile is None or profile.name.startswith("ascend")
        if memory_gib is None:
            memory_gib = SHOWN_GIB if profile is None else profile.memory.bytes.value / _GIB
        name = f"{profile.name}, " if profile else ""
        mb = buffer_mb if buffer_mb is not None else HCCL_BUFFER_MB * is_hccl
        return _Asked(int(memory_gib * _GIB), mb, f"{plain(name)} {memory_gib:.2f} GiB".strip())


def _named(axes: str) -> list[str]:
    return [each.strip() for each in axes.split(",") if each.strip()]


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
