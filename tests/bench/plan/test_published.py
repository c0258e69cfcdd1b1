"""Published rows are read strictly; what contradicts itself is set aside with its reason, and nothing else is said."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plan.device import device_names
from bench.plan.published import COLUMNS, MAX_BYTES, METRICS, PRECISIONS, Published, read_published

GOOD = {
    "source": "a program 1.0", "model": "Llama3.1 8B", "chip": "H100 SXM 80GB", "n_chips": "8", "tp": "2", "pp": "2",
    "ep": "1", "cp": "1", "seq": "4096", "gbs": "32", "mbs": "1", "metric": "s/step", "value": "2.5", "layers": "32",
    "vp": "", "etp": "", "precision": "bf16", "notes": "", "evidence": "a page",
}  # fmt: skip

READERS = ("architectures", "published", "published_checks", "published_fit", "published_places", "situations")
EARLIER = {"moe-intermediate-size", "multi-head-latent-attention", "qk-rope-head-dim", "qk-nope-head-dim"}

HYBRID = "context-parallel-algo=hybrid_cp_algo; ulysses-degree-in-cp="


def written(path: Path, *rows: dict[str, str]) -> Path:
    """A file of these rows, each GOOD where it does not say otherwise."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, COLUMNS)
    writer.writeheader()
    writer.writerows(GOOD | row for row in rows)
    path.write_text(stream.getvalue(), encoding="utf-8", newline="")
    return path


def read(folder: Path, *rows: dict[str, str]) -> Published:
    return read_published(written(folder / "rows.csv", *rows))


def test_the_shipped_rows_are_read_and_those_set_aside_say_why() -> None:
    published = read_published()
    dense = [row for row in published.rows if row.is_time and not row.architecture.num_experts]
    count = {
        (chip, eight): sum(row.chip.startswith(chip) and row.is_eight_bit == eight for row in dense)
        for chip, eight in [("H100", False), ("H100", True), ("GB200", False), ("Ascend Atlas", False)]
    }
    assert count == {("H100", False): 19, ("H100", True): 19, ("GB200", False): 9, ("Ascend Atlas", False): 42}
    reasons = {each.reason for each in published.set_aside}
    assert len(reasons) == 4
    assert all(each.sentence.startswith(f"row {each.line} (") for each in published.set_aside)


def test_rows_without_a_layout_are_kept_only_where_it_may_be_assumed() -> None:
    strict, assumed = read_published(), read_published(assume_layouts=True)
    more = [row for row in assumed.rows if row.is_layout_assumed]
    assert len(assumed.rows) == len(strict.rows) + len(more)
    assert more
    assert {row.chip for row in more} == {"reference chip (unstated, A100-class)"}


def test_a_row_states_its_job(tmp_path: Path) -> None:
    (row,) = read(tmp_path, {}).rows
    assert (row.data, row.micro_batches, row.expert_tensor, row.virtual_pipeline) == (2, 16, 2, 1)
    assert (row.architecture.hidden_size, row.architecture.num_query_groups) == (4096, 8)
    assert row.seconds == 2.5
    assert "row 2" in row.name


def test_a_degree_that_its_way_does_not_use_is_no_reason_to_leave_a_row_out(tmp_path: Path) -> None:
    (row,) = read(tmp_path, {"notes": "context-parallel-algo=megatron_cp_algo; ulysses-degree-in-cp=8"}).rows
    assert (row.ring, row.ulysses_degree) == (1, 1)


def test_all_metrics_of_time_are_seconds_of_the_step(tmp_path: Path) -> None:
    rows = read(
        tmp_path,
        {"metric": "s/step", "value": "2"},
        {"metric": "ms/step", "value": "2000"},
        {"metric": "tokens/s/chip", "value": str(4096 * 32 // 16)},
    ).rows
    assert [row.seconds for row in rows] == [2.0, 2.0, 2.0]


def test_notes_win_over_the_table_of_architectures(tmp_path: Path) -> None:
    notes = "hidden-size=2048; num-attention-heads=16; num-query-groups=4; padded-vocab-size=1000; noop-layers=1,15"
    (row,) = read(tmp_path, {"notes": notes}).rows
    sizes = row.architecture
    assert (sizes.hidden_size, sizes.head_dim, sizes.vocab_size, sizes.ffn_hidden_size) == (2048, 128, 1000, 14336)
    assert row.layers == 30


def test_a_layer_of_experts_is_described_in_words(tmp_path: Path) -> None:
    notes = "dispatcher a2a; hidden 7168, ffn 2048, 32 experts, top 8, shared 2048; forced balance"
    alone = {"metric": METRICS[3], "model": "a layer", "gbs": "", "tp": "1", "pp": "1", "ep": "8", "etp": "1"}
    (row,) = read(tmp_path, alone | {"notes": notes, "layers": "1"}).rows
    sizes = row.architecture
    assert (sizes.num_experts, sizes.experts_per_token, sizes.shared_hidden_size) == (32, 8, 2048)
    assert row.is_layer_alone
    assert row.seconds == 0.0025


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n_chips": "9"}, "n_chips 9 by TP x PP x CP 4"),
        ({"gbs": "33"}, "gbs 33 by mbs x DP 2"),
        ({"seq": "4097", "cp": "2"}, "seq 4097 by CP 2"),
        ({"n_chips": "16", "cp": "4", "notes": f"{HYBRID}3"}, "CP 4 by ulysses-degree-in-cp 3"),
        ({"notes": f"{HYBRID}all"}, "ulysses-degree-in-cp is 'all'"),
        ({"ep": "2"}, "EP 2 without experts"),
        ({"layers": "2", "vp": "8"}, "leave some of 16 chunks"),
        ({"layers": "60000000"}, "60,000,000 layers are more than the 1,000 of any model"),
        ({"pp": "1", "vp": "2"}, "vp 2 with pp 1"),
        ({"tp": "4", "notes": "ffn-hidden-size=14338"}, "ffn 14338 by TP 4"),
        ({"model": "DBRX", "n_chips": "40", "tp": "1", "pp": "1", "gbs": "40", "etp": "5"}, "expert 10752 by ETP 5"),
        ({"seq": "2", "tp": "2", "cp": "2"}, "tokens of a micro-batch 2 by TP x CP 4"),
        ({"value": "nan"}, "value is 'nan'"),
        ({"value": "-1"}, "value is '-1'"),
        ({"value": "0"}, "value is '0'"),
        ({"tp": "0"}, "tp is '0'"),
        ({"tp": "2.0"}, "tp is '2.0'"),
        ({"tp": "\u0662"}, "tp is"),
        ({"metric": "furlongs"}, "metric 'furlongs' is none of"),
        ({"precision": "int1"}, "precision 'int1' is none of"),
        ({"model": "Nobody's 3B"}, "lack hidden_size"),
        ({"notes": "hidden-size=-4"}, "hidden-size='-4'"),
        ({"notes": "num-query-groups=5"}, "32 attention heads cannot share 5"),
        ({"notes": "num-experts=8; moe-router-topk=9"}, "top 9 of 8 experts"),
        ({"notes": "layout of the reference run not stated"}, "the layout of its run is not stated"),
        ({"seq": "16777216", "gbs": "16777216", "mbs": "8388608"}, "larger than any job"),
        ({"metric": "tokens/s/chip", "value": "6553", "notes": "source also states 3.2 s/step"}, "not the 3.2 s"),
    ],
)
def test_a_row_that_cannot_be_used_is_set_aside_in_one_line(
    tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    published = read(tmp_path, {}, change)
    assert len(published.rows) == 1
    (refused,) = published.set_aside
    assert reason in refused.sentence
    assert refused.sentence.startswith("row 3 (")
    assert refused.sentence.isprintable()


def test_a_stated_step_may_be_rounded(tmp_path: Path) -> None:
    published = read(tmp_path, {"metric": "tokens/s/chip", "value": "8192", "notes": "source also states 2.01 s/step"})
    assert not published.set_aside


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "its first line must be source,model,"),
        (b"a,b\n1,2\n", "its first line must be source,model,"),
        (b"\xff\xfe", "is text in UTF-16: save it as UTF-8"),
        (",".join(COLUMNS).encode("utf-16-le"), "is text in UTF-16: save it as UTF-8"),
        (",".join(COLUMNS).encode() + b"\nM\xfcnchen\n", r"is no text in UTF-8 \(line 2\): save it as UTF-8"),
        (",".join(COLUMNS).encode() + b"\n1,2\n", "line 2 has 2 cells"),
        (",".join(COLUMNS).encode() + b'\n"1\n', "line 2: unexpected end of data"),
        (",".join(COLUMNS).encode() + b"\n", "only a header"),
        (b" " * (MAX_BYTES + 1), "larger than the 4 MiB allowed"),
    ],
)
def test_what_is_no_such_file_is_refused_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason) as refusal:
        read_published(path)
    assert str(refusal.value).startswith(str(path))
    assert str(refusal.value).isprintable()


def test_a_spreadsheet_s_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", {})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_published(path).rows) == 1


def test_spaces_empty_lines_and_upper_case_are_no_part_of_a_row(tmp_path: Path) -> None:
    spaced = {name: f" {cell} " for name, cell in GOOD.items()} | {"precision": "BF16"}
    path = written(tmp_path / "rows.csv", spaced)
    header, _, rest = path.read_bytes().partition(b"\n")
    path.write_bytes(header.replace(b",", b", ") + b"\n" + rest + b"\r\n" + b"," * (len(COLUMNS) - 1) + b"\n")
    assert read_published(path) == read(tmp_path, {})


def test_values_that_are_not_used_may_say_anything(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", {"value": "2.5 s"})
    (row,) = read_published(path, needs_values=False).rows
    assert row.value == 1.0


@pytest.mark.parametrize(
    "cells", [{"model": "DeepSeek-V3", "layers": "61", "seq": "131072"}, {"model": "grok1", "layers": "64"}]
)
def test_long_sequences_and_large_batches_of_known_models_are_taken(tmp_path: Path, cells: dict[str, str]) -> None:
    job = {"n_chips": "8", "tp": "1", "pp": "1", "ep": "8", "mbs": "32" if "seq" not in cells else "1", "gbs": "256"}
    assert len(read(tmp_path, {"seq": "8192", "etp": "1"} | job | cells).rows) == 1


CELLS = st.one_of(
    st.text(max_size=12),
    st.integers(-1, 10**12).map(str),
    st.sampled_from(["", *METRICS, *PRECISIONS, "hidden-size=8; num-experts=2; moe-router-topk=1", "1" * 3000]),
)


_ZERO = "\ue000"  # of those that mean nothing


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(COLUMNS), CELLS, max_size=4), max_size=4))
def test_any_cells_are_read_or_refused_in_a_printable_line(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "rows.csv"
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, COLUMNS)
    writer.writeheader()
    # before Python 3.11 the writer, too, refuses the character 0
    writer.writerows(GOOD | {name: cell.replace("\0", _ZERO) for name, cell in row.items()} for row in rows)
    path.write_bytes(stream.getvalue().replace(_ZERO, "\0").encode("utf-8", "surrogatepass"))
    published = _read_or_refused(path)
    for row in published.rows:
        assert row.name.isprintable()
        assert row.micro_batches >= 1
        assert row.metric == "GiB/chip peak alloc" or row.seconds > 0
    assert all(each.sentence.isprintable() for each in published.set_aside)


def _read_or_refused(path: Path) -> Published:
    try:
        return read_published(path)
    except ValueError as error:
        said = str(error)
    assert said.isprintable()
    return Published((), ())


@pytest.mark.parametrize(
    ("notes", "fault"),
    [
        ("noop-layers=1,1", "noop-layers=1,1 names a layer twice"),
        ("noop-layers=1,32", "noop-layers names layer 32 of 32"),
        ("noop-layers=1;noop-layers=2", "its notes contradict themselves: noop-layers is '1' and '2'"),
        ("hidden-size=4096; hidden 2048", "its notes contradict themselves: hidden-size=4096 and 2048 in words"),
        ("recompute-granularity=Full", "recompute-granularity is 'Full', none of full, selective"),
        ("moe-token-dispatcher-type=AllGather", "moe-token-dispatcher-type is 'AllGather', none of alltoall"),
        ("recompute-num-layers=all", "recompute-num-layers is 'all', not a whole number"),
        ("noop-layers=one", "noop-layers is 'one', not whole numbers between commas"),
        ("num-layer-list=16,15", "num-layer-list has 2 entries with 31 layers, not 2 with 32"),
        ("num-layer-list=8,8,16", "num-layer-list has 3 entries with 32 layers, not 2 with 32"),
        ("mtp-num-layers=0", "mtp-num-layers is '0', not a positive whole number"),
        ("mtp-num-layers=969", "1,001 layers are more than the 1,000 of any model"),
        ("moe-pad-expert-input-to-capacity; moe-expert-capacity-factor=-1", "moe-expert-capacity-factor is '-1'"),
        (
            "moe-pad-expert-input-to-capacity; moe-expert-capacity-factor=101",
            "moe-expert-capacity-factor is 101, above",
        ),
    ],
)
def test_a_row_whose_options_cannot_be_is_set_aside(tmp_path: Path, notes: str, fault: str) -> None:
    published = read(tmp_path, {}, {"notes": notes})
    (aside,) = published.set_aside
    assert aside.reason.startswith(fault)
    assert "\n" not in aside.sentence


def test_a_model_of_the_table_needs_no_notes(tmp_path: Path) -> None:
    (row,) = read(tmp_path, {"model": "Mixtral 8x7B", "ep": "2", "etp": "1", "n_chips": "16"}).rows
    assert (row.architecture.num_experts, row.architecture.experts_per_token) == (8, 2)


def test_tensor_ranks_may_hold_experts_of_their_own(tmp_path: Path) -> None:
    cells = {"model": "Mixtral 8x7B", "ep": "2", "n_chips": "16"}
    shared, own = read(tmp_path, cells, cells | {"notes": "moe-tp-extend-ep"}).rows
    assert (shared.expert, shared.expert_tensor) == (2, 2)
    assert (own.expert, own.expert_tensor) == (4, 1)


def test_the_rows_of_the_documentation_are_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "planner-rows.md").read_text(encoding="utf-8")
    path = tmp_path / "rows.csv"
    path.write_text(page.partition("```csv\n")[2].partition("```")[0], encoding="utf-8")
    found = read_published(path, needs_values=False)
    assert len(found.rows) == 2
    assert not found.set_aside
    assert all(f"| {name} |" in page or f" {name}" in page for name in COLUMNS)


def test_every_option_that_counts_is_in_the_documentation() -> None:
    """Options stand in the code as literals; a new one must be told of."""
    root = Path(__file__).parents[3]
    code = "".join((root / "bench" / "plan" / f"{name}.py").read_text(encoding="utf-8") for name in READERS)
    page = (root / "docs" / "planner-rows.md").read_text(encoding="utf-8")
    others = {"utf-8", "fp8-cs", *device_names()}
    options = set(re.findall(r'"([a-z][a-z0-9]*(?:-[a-z0-9]+)+)"', code)) - others
    assert len(options) > 30
    assert {name for name in options if f"`{name}`" not in page} == EARLIER
