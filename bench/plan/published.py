"""Published figures of training jobs, read from a CSV file that strangers may have written. No torch.

A row is one figure of one job: its chip, layout and sizes, and what its source states. A file that cannot be read as
such is refused; a row that contradicts itself, or does not say enough, is set aside with the reason, and the others
are used.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.plan.architectures import Architecture, architecture_of, notes_of
from bench.plan.figures_of_rows import figure, integer, numbers
from bench.plan.published_checks import check_row
from bench.records.jsonfile import read_bounded
from bench.records.terminal import plain
from bench.records.text import utf8_text
from grok1.config.refusals import quoted

SHIPPED = Path(__file__).with_name("published_rows.csv")
MAX_BYTES = 4 << 20
MAX_ROWS = 10_000
_MAX_CELL = 2000
COLUMNS = (
    "source", "model", "chip", "n_chips", "tp", "pp", "ep", "cp", "seq", "gbs", "mbs", "metric", "value", "layers",
    "vp", "etp", "precision", "notes", "evidence",
)  # fmt: skip
# Metrics, and seconds of one of their unit
_SECONDS = {
    "s/step": 1.0,
    "ms/step": 1e-3,
    "ms forward of one MoE layer": 1e-3,
    "ms backward of one MoE layer": 1e-3,
}
THROUGHPUT = "tokens/s/chip"
MEMORY = "GiB/chip peak alloc"
METRICS = (THROUGHPUT, *_SECONDS, MEMORY)
_SIXTEEN_BITS = ("bf16", "fp16")
_EIGHT_BITS = ("fp8", "fp8-cs", "mxfp8")
PRECISIONS = _SIXTEEN_BITS + _EIGHT_BITS
NO_LAYOUT = "layout of the reference run not stated"  # what stands in the row is another run's


@dataclass(frozen=True)
class PublishedRow:
    """One figure of one job. `name` says which row it is, in errors and tables."""

    line: int  # of the file
    source: str
    model: str
    chip: str
    world_size: int
    tensor: int
    pipeline: int
    virtual_pipeline: int
    context: int
    expert: int
    expert_tensor: int
    sequence_length: int
    global_batch: int
    micro_batch: int
    layers: int
    precision: str
    architecture: Architecture
    metric: str
    value: float
    flags: dict[str, str]
    evidence: str

    @property
    def name(self) -> str:
        split = f"TP{self.tensor} PP{self.pipeline}x{self.virtual_pipeline} CP{self.context} EP{self.expert}"
        return plain(f"row {self.line}: {self.model} on {self.world_size} {self.chip}, {split}, {self.precision}")

    @property
    def job(self) -> tuple[object, ...]:
        """Equal for the same job of the same release, whatever is stated of it."""
        return (self.source, self.model, self.chip, self.world_size, self.tensor, self.pipeline, self.virtual_pipeline,
                self.context, self.expert, self.expert_tensor, self.sequence_length, self.global_batch,
                self.micro_batch, self.precision)  # fmt: skip

    @property
    def data(self) -> int:
        """Replicas of the dense weights."""
        return self.world_size // (self.tensor * self.pipeline * self.context)

    @property
    def micro_batches(self) -> int:
        """Micro-batches that each replica runs in a step; one of a layer alone."""
        return max(1, self.global_batch // (self.micro_batch * self.data))

    @property
    def is_layout_assumed(self) -> bool:
        """The source does not state the layout of this run; the row has that of the run beside it."""
        return NO_LAYOUT in self.flags

    @property
    def ring(self) -> int:
        """Steps in which attention meets the keys of the context ranks one after the other; 1: all at once.

        By MindSpeed's names: `megatron_cp_algo` passes keys around, `ulysses_cp_algo` exchanges heads, `hybrid_cp_algo`
        does so among `ulysses-degree-in-cp` ranks and passes keys among the others. 1 where a source names none.
        """
        way = self.flags.get("context-parallel-algo")
        return self.context // self.ulysses_degree if way in ("megatron_cp_algo", "hybrid_cp_algo") else 1

    @property
    def ulysses_degree(self) -> int:
        """Context ranks that exchange heads where the others pass keys around: under `hybrid_cp_algo`, else 1.

        Raises:
            ValueError: it is no positive whole number.
        """
        is_hybrid = self.flags.get("context-parallel-algo") == "hybrid_cp_algo"
        return integer("ulysses-degree-in-cp", self.flags.get("ulysses-degree-in-cp", "1")) if is_hybrid else 1

    @property
    def idle_layers(self) -> tuple[int, ...]:
        """Layers that the job counts and does not run, from 0: "noop-layers=1,15".

        Raises:
            ValueError: the list holds something else, or one twice.
        """
        found = numbers("noop-layers", self.flags.get("noop-layers", ""))
        if len(set(found)) < len(found):
            raise ValueError(f"noop-layers={self.flags['noop-layers'][:40]} names a layer twice")
        return found

    @property
    def stated_layers(self) -> tuple[int, ...]:
        """Layers of each stage where the source states them: "num-layer-list=7,8,8,7"."""
        return numbers("num-layer-list", self.flags.get("num-layer-list", ""))

    @property
    def predicting_layers(self) -> int:
        """Layers behind the last one that predict later tokens, each with logits of its own."""
        return integer("mtp-num-layers", self.flags["mtp-num-layers"]) if self.has("mtp-num-layers") else 0

    @property
    def expert_padding(self) -> float:
        """Rows of an expert over its even share, where all are padded to their capacity."""
        if not self.has("moe-pad-expert-input-to-capacity"):
            return 1.0
        return figure("moe-expert-capacity-factor", self.flags.get("moe-expert-capacity-factor", "1"))

    @property
    def is_causal(self) -> bool:
        """Attention leaves out the scores of later tokens, where MindSpeed's mask is not the `general` one."""
        return self.flags.get("attention-mask-type") != "general"

    @property
    def is_eight_bit(self) -> bool:
        """The products run in 8 bits."""
        return self.precision in _EIGHT_BITS

    @property
    def is_throughput(self) -> bool:
        """The figure is of tokens, not of seconds."""
        return self.metric == THROUGHPUT

    @property
    def is_layer_alone(self) -> bool:
        """One layer of experts was timed, without a step around it."""
        return self.metric.endswith("of one MoE layer")

    @property
    def is_time(self) -> bool:
        """The figure is of a step's time."""
        return self.metric != MEMORY and not self.is_layer_alone

    @property
    def seconds(self) -> float:
        """Of the step, or of the layer's phase.

        Raises:
            ValueError: the figure is of memory.
        """
        if self.is_throughput:
            return self.sequence_length * self.global_batch / (self.value * self.world_size)
        if self.metric not in _SECONDS:
            raise ValueError(f"{self.name}: {self.metric} is no time")
        return self.value * _SECONDS[self.metric]

    def has(self, flag: str) -> bool:
        """Whether the notes hold that flag, with or without a value."""
        return flag in self.flags


@dataclass(frozen=True)
class SetAside:
    """A row that is not used, and why."""

    line: int
    model: str
    reason: str

    @property
    def sentence(self) -> str:
        return plain(f"row {self.line} ({self.model}): {self.reason}")


@dataclass(frozen=True)
class Published:
    """The rows of a file."""

    rows: tuple[PublishedRow, ...]
    set_aside: tuple[SetAside, ...]


def read_published(path: Path = SHIPPED, *, assume_layouts: bool = False, needs_values: bool = True) -> Published:
    """The rows of a CSV file with the columns COLUMNS, in their order.

    Args:
        path: of the file.
        assume_layouts: keep rows whose source does not state the layout of their run.
        needs_values: read the values; without it each is 1, which means nothing, whatever stands there.

    Raises:
        ValueError: not such a file, or no row of it can be used; one line names the file and the line.
    """
    raw = read_bounded(path, MAX_BYTES)
    try:
        rows, set_aside = _parsed(raw, assume_layouts, needs_values)
    except ValueError as error:
        raise ValueError(f"{path}: {plain(error)}") from None
    if not rows:
        why = f": {set_aside[0].sentence}" if set_aside else ", only a header"
        raise ValueError(f"{path}: holds no row that can be used{why}")
    return Published(tuple(rows), tuple(set_aside))


def _parsed(raw: bytes, assume_layouts: bool, needs_values: bool) -> tuple[list[PublishedRow], list[SetAside]]:
    rows: list[PublishedRow] = []
    set_aside: list[SetAside] = []
    for line, cells in _cells(raw):
        try:
            row = _row(line, cells if needs_values else cells | {"value": "1"})
            check_row(row, assume_layouts, has_value=needs_values)
        except ValueError as error:
            set_aside.append(SetAside(line, cells["model"][:80], str(error)))
            continue
        rows.append(row)
    return rows, set_aside


def _cells(raw: bytes) -> list[tuple[int, dict[str, str]]]:
    """Each row's cells by column, with the number of its line; the header is line 1."""
    reader = csv.reader(io.StringIO(utf8_text(raw), newline=""), strict=True)
    found: list[tuple[int, dict[str, str]]] = []
    try:
        header = next(reader, [])
        if tuple(cell.strip() for cell in header) != COLUMNS:
            raise ValueError(f"its first line must be {','.join(COLUMNS)}")
        for written in reader:
            cells = [cell.strip() for cell in written]
            if not any(cells):  # as spreadsheets end a file
                continue
            if len(cells) != len(COLUMNS):
                raise ValueError(f"line {reader.line_num} has {len(cells)} cells, not {len(COLUMNS)}")
            if any(len(cell) > _MAX_CELL for cell in cells):
                raise ValueError(f"line {reader.line_num} has a cell of more than {_MAX_CELL} characters")
            if len(found) == MAX_ROWS:
                raise ValueError(f"holds more than {MAX_ROWS:,} rows")
            found.append((reader.line_num, dict(zip(COLUMNS, cells, strict=True))))
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    return found


def _row(line: int, cells: dict[str, str]) -> PublishedRow:
    metric, precision = cells["metric"], cells["precision"].casefold()
    if metric not in METRICS:
        raise ValueError(f"metric {quoted(metric, 40)} is none of {', '.join(METRICS)}")
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision {quoted(cells['precision'], 40)} is none of {', '.join(PRECISIONS)}, which profiles know"
        )
    is_alone = metric.endswith("of one MoE layer")
    sizes = {key: integer(key, cells[key]) for key in ("n_chips", "tp", "pp", "ep", "cp", "seq", "mbs", "layers")}
    flags = notes_of(cells["notes"])
    # MindSpeed's tensor ranks may each hold experts of their own
    extends = sizes["tp"] if "moe-tp-extend-ep" in flags else 1
    return PublishedRow(
        line=line,
        source=cells["source"],
        model=cells["model"],
        chip=cells["chip"],
        world_size=sizes["n_chips"],
        tensor=sizes["tp"],
        pipeline=sizes["pp"],
        virtual_pipeline=integer("vp", cells["vp"] or "1"),
        context=sizes["cp"],
        expert=sizes["ep"] * extends,
        # unset it is as many: megatron-core's default, and what earlier programs do that do not have the option
        expert_tensor=integer("etp", cells["etp"] or str(sizes["tp"] // extends)),
        sequence_length=sizes["seq"],
        global_batch=integer("gbs", (cells["gbs"] or "1") if is_alone else cells["gbs"]),
        micro_batch=sizes["mbs"],
        layers=sizes["layers"] - len(numbers("noop-layers", flags.get("noop-layers", ""))),
        precision=precision,
        architecture=architecture_of(cells["model"], cells["notes"], is_layer_alone=is_alone),
        metric=metric,
        value=figure("value", cells["value"]),
        flags=flags,
        evidence=cells["evidence"],
    )


def jobs(rows: Sequence[PublishedRow]) -> dict[tuple[object, ...], list[PublishedRow]]:
    """Rows by job."""
    found: dict[tuple[object, ...], list[PublishedRow]] = {}
    for row in rows:
        found.setdefault(row.job, []).append(row)
    return found
