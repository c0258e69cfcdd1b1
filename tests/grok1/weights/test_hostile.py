"""A checkpoint from a stranger runs nothing: hostile pickles in every file that is unpickled."""

from __future__ import annotations

import functools
import io
import os
import pickle
import shutil
import subprocess
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from grok1.config.load import ONE_RANK, load_recipe
from grok1.megatron.plain_data import RefusedPickleError, read_archive, read_common, read_metadata
from grok1.weights.exporting import export_weights
from grok1.weights.folder import StoredCheckpoint
from tests.grok1.conftest import Train
from tests.grok1.weights.sealing import seal_again

Call = tuple[Callable[..., object], tuple[object, ...]]


class Trap:
    """Pickled, it is a call that the reader makes."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self._call: Call = (call, arguments)

    def __reduce__(self) -> Call:
        return self._call


def traps(marker: Path) -> dict[str, object]:
    """What a hostile file may hold: each leaves the marker behind when it runs."""
    touch = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Trap(os.system, touch),
        "eval": Trap(eval, code),
        "exec": Trap(exec, code),
        "subprocess": Trap(subprocess.check_call, ["touch", str(marker)]),
        "nested": [{"a": (Trap(os.system, touch),)}],
        "a call's argument": OrderedDict([("a", Trap(eval, code))]),
        "partial": Trap(functools.partial(os.system, touch)),
        "a path that writes": Trap(Path.touch, marker),
        "torch.load": Trap(
            functools.partial(torch.load, weights_only=False), Trap(io.BytesIO, _archive(Trap(os.system, touch)))
        ),
        "torch.hub": Trap(functools.partial(torch.hub.load, source="local"), str(marker.parent / "hub"), "run"),
    }


def _archive(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def unpickled(content: bytes) -> Any:
    """As the code did that ran whatever a checkpoint held."""
    return pickle.loads(content)  # noqa: S301


NAMES = sorted(traps(Path("unused")))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What the traps leave behind, and a folder that torch.hub would run."""
    path = tmp_path / "ran"
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "hubconf.py").write_text(f"def run():\n    open({str(path)!r}, 'w').close()\n")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_the_traps_are_traps(marker: Path, name: str) -> None:
    """Else the tests below would show nothing."""
    unpickled(pickle.dumps(traps(marker)[name]))
    assert marker.exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_metadata_runs_nothing(marker: Path, tmp_path: Path, name: str, protocol: int) -> None:
    trap = traps(marker)[name]
    for content in (trap, Metadata({"x": trap}, storage_data={}), Metadata({}, planner_data=trap)):  # type: ignore[dict-item]
        (tmp_path / ".metadata").write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(RefusedPickleError, match=r"\.metadata is refused: it names .*, which is neither a tensor"):
            read_metadata(tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize("name", NAMES)
def test_archives_run_nothing(marker: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "common.pt"
    path.write_bytes(_archive({"step": 1, "x": traps(marker)[name]}))
    with pytest.raises(RefusedPickleError, match=r"common\.pt is refused: it names .*neither a tensor nor plain data"):
        read_archive(path)
    path.write_bytes(pickle.dumps(traps(marker)[name]))  # a pickle without torch's archive around it
    with pytest.raises(RefusedPickleError, match=r"common\.pt is (refused|damaged)"):
        read_archive(path)
    assert not marker.exists()


def _save_common_piece(folder: Path, stored: object) -> None:
    """As megatron-core 0.19 does, which has no common.pt: a list of one, behind other pieces."""
    folder.mkdir()
    content = _archive(stored)
    (folder / "__0_0.distcp").write_bytes(b"another" + content + b"another")
    places = {
        MetadataIndex("another"): _StorageInfo("__0_0.distcp", 0, 7),
        MetadataIndex("common_state/shard_0_1"): _StorageInfo("__0_0.distcp", 7, len(content)),
    }
    (folder / ".metadata").write_bytes(pickle.dumps(Metadata({}, storage_data=places)))


def test_what_is_common_is_read_from_a_file_or_from_a_piece(tmp_path: Path) -> None:
    common = {"step": 3, "optimizer": [{"lr": 0.5, "step": torch.tensor(3)}]}
    _save_common_piece(tmp_path / "piece", [common])
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "common.pt").write_bytes(_archive(common))
    assert read_common(tmp_path / "piece") == read_common(tmp_path / "file") == common


@pytest.mark.parametrize("name", NAMES)
def test_a_common_piece_runs_nothing(marker: Path, tmp_path: Path, name: str) -> None:
    _save_common_piece(tmp_path / "piece", [{"step": 1, "x": traps(marker)[name]}])
    with pytest.raises(RefusedPickleError, match=r"a piece of it is refused: it names .*neither a tensor nor plain"):
        read_common(tmp_path / "piece")
    assert not marker.exists()


def test_a_common_piece_that_is_missing_or_of_another_form_is_refused(tmp_path: Path) -> None:
    for name, stored in (("a", {"step": 1}), ("b", [{"step": 1}, {}])):
        _save_common_piece(tmp_path / name, stored)
        with pytest.raises(RefusedPickleError, match="the piece in the place of common.pt is damaged"):
            read_common(tmp_path / name)
    (tmp_path / "a" / ".metadata").write_bytes(pickle.dumps(Metadata({}, storage_data={})))
    with pytest.raises(RefusedPickleError, match="has neither common.pt nor the piece"):
        read_common(tmp_path / "a")


def test_an_enumeration_by_its_name_is_read_and_no_other_attribute_is(tmp_path: Path) -> None:
    """Python 3.11.0 to 3.11.3 pickle enumerations so; Debian 12 has 3.11.2."""
    member = Trap(getattr, _MEM_FORMAT_ENCODING, "TORCH_PRESERVE_FORMAT")
    properties = TensorProperties(torch.bfloat16)
    state = (*properties.__getstate__()[:3], member, False)
    assert unpickled(pickle.dumps(member)) is _MEM_FORMAT_ENCODING.TORCH_PRESERVE_FORMAT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TensorProperties, "__getstate__", lambda self: state)
        content = pickle.dumps(Metadata({"t": TensorStorageMetadata(properties, torch.Size([1]), [])}, storage_data={}))
    (tmp_path / ".metadata").write_bytes(content)
    (read,) = read_metadata(tmp_path).state_dict_metadata.values()
    assert isinstance(read, TensorStorageMetadata)
    assert read.properties.dtype == torch.bfloat16
    for of, name in ((Metadata, "__init__"), (_MEM_FORMAT_ENCODING, 1), (TensorProperties, "create_from_tensor")):
        (tmp_path / ".metadata").write_bytes(pickle.dumps(Trap(getattr, of, name)))
        with pytest.raises(RefusedPickleError, match=r"it names builtins\.getattr, which is neither a tensor"):
            read_metadata(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93\x8c\x04true\x85R.",
        b"\x80\x04\x8c'torch.distributed.checkpoint.metadata\x8c\x19Metadata.__init__.__class__\x93.",
        b"Pkey\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n}N\x86b.",
        b"",
        b"\x80\x04N.",
        b"\x80\x04",
    ],
)
def test_forged_opcodes_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".metadata").write_bytes(content)
    with pytest.raises(RefusedPickleError, match=r"\.metadata is (refused|damaged)"):
        read_metadata(tmp_path)


@contextmanager
def at_most(mebibytes: int) -> Iterator[None]:
    """Python may not take more memory in this block."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes << 20
    finally:
        tracemalloc.stop()


def _shared_chunks() -> bytes:
    """2,000 tensors that share one list of 1,000 pieces."""
    chunks = [ChunkStorageMetadata(torch.Size([1]), torch.Size([1]))] * 1000
    tensor = TensorStorageMetadata(TensorProperties(torch.float32), torch.Size([1]), chunks)
    return pickle.dumps(Metadata({f"t{each}": tensor for each in range(2000)}, storage_data={}))


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}r\xff\xff\xff\x00.",  # a memo's number
        b"\x80\x02}p16777215\n.",
        b"\x80\x05\x96\x00\x00\x00\x10\x00\x00\x00\x00ab.",  # 256 MiB, of which two bytes are there
        _shared_chunks(),
    ],
    ids=["memo", "memo in digits", "bytes", "pieces"],
)
def test_a_small_file_of_metadata_takes_little_memory(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".metadata").write_bytes(content)
    with at_most(64), suppress(RefusedPickleError):
        read_metadata(tmp_path)


@pytest.mark.parametrize("field", ["size", "shapes"])
def test_sizes_without_end_are_refused(tmp_path: Path, field: str) -> None:
    many = torch.Size([1] * 65)
    tensor = TensorStorageMetadata(TensorProperties(torch.float32), many if field == "size" else torch.Size([1]), [])
    metadata = Metadata({"t": tensor}, storage_data={})
    metadata.mcore_data = {"t": {f"s{each}": (1,) for each in range(17)}}  # type: ignore[attr-defined]
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(
        RefusedPickleError, match="a size is not a short list" if field == "size" else "too many shapes"
    ):
        read_metadata(tmp_path)


@pytest.mark.parametrize(("offset", "length"), [(0, 1 << 50), (1 << 50, 0), (5, 6)])
def test_a_piece_lies_within_its_file(tmp_path: Path, offset: int, length: int) -> None:
    (tmp_path / "__0_0.distcp").write_bytes(bytes(10))
    whole, beyond = (_StorageInfo("__0_0.distcp", *each) for each in ((4, 6), (offset, length)))
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Metadata({}, storage_data={MetadataIndex("t"): whole})))
    assert read_metadata(tmp_path).storage_data == {MetadataIndex("t"): whole}
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Metadata({}, storage_data={MetadataIndex("t"): beyond})))
    with pytest.raises(RefusedPickleError, match=rf"a piece ends at byte {offset + length} of '__0_0.distcp', which"):
        read_metadata(tmp_path)


def test_an_archive_takes_no_more_memory_than_it_has_bytes(tmp_path: Path) -> None:
    path = tmp_path / "common.pt"
    path.write_bytes(_archive({"x": Trap(bytearray, 1 << 28)}))
    with at_most(64), pytest.raises(RefusedPickleError, match=r"common\.pt is refused: it names builtins\.bytearray"):
        read_archive(path)
    with (
        zipfile.ZipFile(io.BytesIO(_archive({"x": torch.zeros(1 << 20)}))) as plain,
        zipfile.ZipFile(path, "w") as small,
    ):
        for name in plain.namelist():
            small.writestr(name, plain.read(name), zipfile.ZIP_DEFLATED)
    for source in (path, io.BytesIO(path.read_bytes())):
        with pytest.raises(RefusedPickleError, match="is refused: it unpacks to more bytes than it has"):
            read_archive(source)


# ---- a whole checkpoint --------------------------------------------------------------------------------


def _spring_common(folder: Path, trap: object) -> None:
    (folder / "common.pt").write_bytes(_archive(trap))


def _spring_metadata(folder: Path, trap: object) -> None:
    metadata = unpickled((folder / ".metadata").read_bytes())
    metadata.planner_data = trap
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def _spring_piece(folder: Path, trap: object, is_tensor: bool) -> None:
    """Append an archive to a shard, and have the metadata point at it."""
    metadata = unpickled((folder / ".metadata").read_bytes())
    for key, place in metadata.storage_data.items():
        if isinstance(metadata.state_dict_metadata[key.fqn], BytesStorageMetadata) is not is_tensor:
            with (folder / place.relative_path).open("ab") as shard:
                place.offset = shard.tell()
                place.length = shard.write(_archive(trap))
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def _outside(folder: Path, _trap: object) -> None:
    metadata = unpickled((folder / ".metadata").read_bytes())
    for place in metadata.storage_data.values():
        place.relative_path = "../../outside"
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


PLACES: dict[str, Callable[[Path, object], None]] = {
    "common": _spring_common,
    "metadata": _spring_metadata,
    "object": functools.partial(_spring_piece, is_tensor=False),
    "tensor": functools.partial(_spring_piece, is_tensor=True),
    "outside": _outside,
}


def test_loading_and_exporting_a_hostile_checkpoint_run_nothing(train: Train, tmp_path: Path, marker: Path) -> None:
    """Its checksums fit: a stranger can write those too."""
    train(1, *ONE_RANK, save=tmp_path / "good")
    for place, spring in PLACES.items():
        shutil.copytree(tmp_path / "good", tmp_path / "bad" / place)
        spring(tmp_path / "bad" / place / "iter_0000001", Trap(os.system, f"touch {marker}"))
        seal_again(tmp_path / "bad" / place / "iter_0000001")
        StoredCheckpoint.open(tmp_path / "bad" / place).verify()
    entry = "tests.grok1.weights.weights_entries:refusals_of_loading"
    refusals = train(2, *ONE_RANK, load=tmp_path / "bad", entry=entry)
    assert not marker.exists()
    assert refusals.keys() == PLACES.keys()
    for place in ("common", "metadata", "object"):
        assert "names posix.system, which is neither a tensor nor plain data" in refusals[place], place
    assert "does not load" in refusals["tensor"]
    assert "system" in refusals["tensor"]
    assert "points at '../../outside', which is not a file of this folder" in refusals["outside"]
    assert not any("\n" in said for said in refusals.values())
    for place in ("metadata", "tensor", "outside"):
        with pytest.raises(ValueError, match=r"refused|does not load"):
            export_weights(tmp_path / "bad" / place, tmp_path / "out")
    assert not marker.exists()
    assert not (tmp_path / "out").exists()
    export_weights(tmp_path / "good", tmp_path / "out")
    assert StoredCheckpoint.open(tmp_path / "good").recipe == load_recipe("grok1-nano", ONE_RANK)
