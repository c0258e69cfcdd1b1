"""Published figures of training jobs, read from a CSV file that strangers may have written. No torch.

A row is one figure of one job: its chip, layout and sizes, and what its source states. A file that cannot be read as
such is refused; a row that contradicts itself, or does not say enough, is set aside with the reason, and the others
are used.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.plan.architectures import Architecture, architecture_of, notes_of
from bench.plan.figures_of_rows import figure, integer, numbers
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
_MOST_LAYERS = 1000  # of any model; each is looked at
_MOST_PADDING = 100.0
_MOST_FLOPS = 1 << 62  # integers of 64 bits hold them
_SAME_STEP = 0.02  # what rounding of a stated s/step or tokens/s explains
_STATED_STEP = re.compile(r"source also states ([0-9.]{1,12}) s/step")
_NO_LAYOUT = "layout of the reference run not stated"  # what stands in the row is another run's
# Words of notes by which a source contradicts itself or leaves out what its figure is of
_UNUSABLE = (
    ("script says NNODES", "its script and its table state different numbers of nodes"),
    ("swap-attention", "activations are swapped to the host, which the model of a step does not know"),
)


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
        return _NO_LAYOUT in self.flags

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
        if self.metric == THROUGHPUT:
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
        needs_values: set rows without a value aside; without it such rows have the value 1, which means nothing.

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
            row = _row(line, cells if needs_values else cells | {"value": cells["value"] or "1"})
            _check(row, assume_layouts, has_value=bool(cells["value"]))
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
        if tuple(header) != COLUMNS:
            raise ValueError(f"its first line must be {','.join(COLUMNS)}")
        for cells in reader:
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
    metric, precision = cells["metric"], cells["precision"]
    if metric not in METRICS:
        raise ValueError(f"metric {quoted(metric, 40)} is none of {', '.join(METRICS)}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision {quoted(precision, 40)} is none of {', '.join(PRECISIONS)}, which profiles know")
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


def _check(row: PublishedRow, assume_layouts: bool, *, has_value: bool) -> None:
    if row.is_layout_assumed and not assume_layouts:
        raise ValueError("the layout of its run is not stated")
    for words, reason in _UNUSABLE:
        if any(words in flag for flag in row.flags):
            raise ValueError(reason)
    _check_layout(row)
    if row.metric == THROUGHPUT and has_value and not row.is_layout_assumed:  # what is stated is of the run beside it
        _check_stated_step(row)


def _check_layout(row: PublishedRow) -> None:
    replica = row.tensor * row.pipeline * row.context
    _divides("n_chips", row.world_size, "TP x PP x CP", replica)
    _divides("n_chips", row.world_size, "ETP x EP x PP", row.expert_tensor * row.expert * row.pipeline)
    _divides("seq", row.sequence_length, "CP", row.context)
    _divides("CP", row.context, "ulysses-degree-in-cp", row.ulysses_degree)
    if not row.is_layer_alone:
        _divides("gbs", row.global_batch, "mbs x DP", row.micro_batch * row.data)
    sizes = row.architecture
    _divides("attention heads", sizes.num_attention_heads, "TP", row.tensor)
    if sizes.num_experts:
        _divides("experts", sizes.num_experts, "EP", row.expert)
    elif row.expert > 1:
        raise ValueError(f"EP {row.expert} without experts: state them in the notes, or make ep 1")
    chunks = row.pipeline * row.virtual_pipeline
    if row.layers < max(1, chunks - 2):
        raise ValueError(f"{row.layers} layers leave some of {chunks} chunks of a pipeline empty")
    counted, stated = row.layers + len(row.idle_layers), row.stated_layers
    if counted + row.predicting_layers > _MOST_LAYERS:
        raise ValueError(f"{counted + row.predicting_layers} layers are more than the {_MOST_LAYERS} of any model")
    if any(layer >= counted for layer in row.idle_layers):
        raise ValueError(f"noop-layers names layer {max(row.idle_layers)} of {counted}")
    if stated and (len(stated), sum(stated)) != (chunks, counted):
        raise ValueError(
            f"num-layer-list has {len(stated)} entries with {sum(stated)} layers, not {chunks} with {counted}"
        )
    if not row.expert_padding <= _MOST_PADDING:
        raise ValueError(f"moe-expert-capacity-factor is {row.expert_padding:g}, above {_MOST_PADDING:g}")
    if _flops(row) > _MOST_FLOPS:
        raise ValueError("its sizes make a micro-batch that is larger than any job's")


def _flops(row: PublishedRow) -> int:
    """More than the FLOPs, and the bytes, of a micro-batch on all ranks of a replica."""
    sizes = row.architecture
    experts = max(1, sizes.num_experts)
    width = sizes.hidden_size + (sizes.ffn_hidden_size + sizes.expert_width) * experts + sizes.shared_hidden_size
    width += sizes.num_attention_heads * (sizes.head_dim + sizes.value_width) * 4 + sizes.vocab_size
    width += row.sequence_length + sizes.query_rank + sizes.latent_rank
    layers = (row.layers + row.predicting_layers) * int(1 + row.expert_padding)
    return 32 * row.sequence_length * row.micro_batch * width * (sizes.hidden_size + sizes.head_dim) * layers


def _divides(name: str, whole: int, by: str, part: int) -> None:
    if whole % part:
        raise ValueError(f"the layout does not divide: {name} {whole} by {by} {part}")


def _check_stated_step(row: PublishedRow) -> None:
    for flag in row.flags:
        stated = _STATED_STEP.fullmatch(flag)
        if not stated or stated[1].count(".") > 1:
            continue
        seconds = float(stated[1])
        if not abs(row.seconds / seconds - 1) <= _SAME_STEP if seconds > 0 else True:
            raise ValueError(
                f"contradicts itself: {row.value:g} tokens/s/chip take {row.seconds:.4g} s a step, not the "
                f"{stated[1]} s that it states too"
            )


def jobs(rows: Sequence[PublishedRow]) -> dict[tuple[object, ...], list[PublishedRow]]:
    """Rows by job."""
    found: dict[tuple[object, ...], list[PublishedRow]] = {}
    for row in rows:
        found.setdefault(row.job, []).append(row)
    return found
