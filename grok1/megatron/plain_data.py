"""Reads the pickles of a checkpoint as tensors and plain data only: nothing in them names code that would run.

torch_dist's format has pickles in three places. `.metadata` says where each piece of each tensor lies: it is unpickled
into inert records, and the real objects are made from those, value by value. `common.pt` and the pieces are torch's
archives, read with `weights_only`. A class or function that the format does not need is refused by its name.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import torch
from torch.distributed.checkpoint._nested_dict import set_element  # type: ignore[attr-defined]
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem

from grok1.config.refusals import reason_of

_MAX_METADATA_BYTES = 1 << 30
_MOST_DIMENSIONS = 64  # torch's own bound
_MOST_SHAPES = 16  # that megatron notes of a tensor, which are one or two
_MOST_CHARACTERS = 600  # of a reason: room for a path, for what others say around it, and for the cause behind both
_COMMON_PIECE = "common_state/shard_0_1"
_CHECKPOINT = "torch.distributed.checkpoint"
_RECORDS = {
    *(
        (f"{_CHECKPOINT}.metadata", name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ),
    *(
        (f"{_CHECKPOINT}.planner", name)
        for name in ("BytesIOWriteData", "SavePlan", "TensorWriteData", "WriteItem", "WriteItemType")
    ),
    (f"{_CHECKPOINT}.filesystem", "_StorageInfo"),
    ("megatron.core.dist_checkpointing.strategies.torch", "MCoreSavePlan"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
}
_ENUMERATIONS = ("_MEM_FORMAT_ENCODING", "WriteItemType")
_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}

Values = Mapping[str, object]
_Known = dict[int, list[ChunkStorageMetadata]]  # lists that several tensors share: made once, as a pickle would


class RefusedPickleError(ValueError):
    """A file of a checkpoint is damaged, or holds what is neither tensor nor plain data; the message names it."""


class Record:
    """An object of a pickle: the arguments and the state that it came with, as they were."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _RecordUnpickler(pickle._Unpickler):
    """Makes records of the classes that the format needs; every load has classes of its own.

    Python's own unpickler, which takes twice as long as the one in C: there, five bytes (a memo's number) make a table
    of 64 GiB.
    """

    # without the one that makes as many bytes as it says, before it looks for them
    dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._classes: dict[str, type[Record]] = {}

    def find_class(self, module: str, name: str) -> object:
        """A record's class for each that the format needs."""
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("builtins", "getattr"):
            return _member
        if (module, name) not in _RECORDS:
            raise RefusedPickleError(f"it names {module}.{name}, which is neither a tensor nor plain data")
        if name not in self._classes:
            self._classes[name] = type(name, (Record,), {})
        return self._classes[name]

    def persistent_load(self, key: object) -> NoReturn:
        """The format has none."""
        raise RefusedPickleError("it refers to something outside itself")


def _member(enumeration: object, name: object) -> Record:
    """Of an enumeration, as Python 3.11.0 to 3.11.3 pickle it: by its name, with getattr, not by its value."""
    if not (isinstance(enumeration, type) and enumeration.__name__ in _ENUMERATIONS and type(name) is str):
        raise RefusedPickleError("it names builtins.getattr, which is neither a tensor nor plain data")
    assert issubclass(enumeration, Record)  # all that find_class hands out with such a name
    return enumeration(name)


def read_metadata(folder: Path) -> Metadata:
    """What `.metadata` says of the pieces of all tensors.

    Raises:
        RefusedPickleError: it is damaged, or names anything that this format does not need.
    """
    path = folder / ".metadata"
    try:
        size = path.stat().st_size
        if size > _MAX_METADATA_BYTES:
            raise RefusedPickleError(f"it is larger than {_MAX_METADATA_BYTES} bytes")
        with path.open("rb") as file:
            content = file.read(size)
        return _metadata(_RecordUnpickler(content).load(), folder)
    except OSError as error:
        raise RefusedPickleError(f"{path} cannot be read: {error.strerror}") from None
    except RefusedPickleError as error:
        raise RefusedPickleError(f"{path} is refused: {reason_of(error)}") from None
    except Exception:  # a pickle that is cut or forged fails in any way that it likes
        raise RefusedPickleError(f"{path} is damaged") from None


def read_archive(source: Path | io.BytesIO) -> object:
    """What torch.save wrote, if it is tensors and plain data.

    Raises:
        RefusedPickleError: it is damaged, or names anything else.
    """
    name = source if isinstance(source, Path) else "a piece of it"
    try:
        _check_unpacked(source)
        return torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        raise RefusedPickleError(f"{name} cannot be read: {error.strerror}") from None
    except RefusedPickleError as error:
        raise RefusedPickleError(f"{name} is refused: {error}") from None
    except pickle.UnpicklingError as error:
        raise RefusedPickleError(f"{name} is refused: {_what_was_named(error)}") from None
    except Exception:
        raise RefusedPickleError(f"{name} is damaged") from None


def _check_unpacked(source: Path | io.BytesIO) -> None:
    """Refuse an archive that needs more memory than the bytes that it has; torch.save compresses nothing."""
    size = source.stat().st_size if isinstance(source, Path) else source.getbuffer().nbytes
    with zipfile.ZipFile(source) as archive:
        members = archive.infolist()
        if sum(each.file_size for each in members) > size:
            raise RefusedPickleError("it unpacks to more bytes than it has")
        for each in members:
            # the one thing that torch lets through and that is as large as it says
            if each.filename.endswith("data.pkl") and b"bytearray" in archive.read(each):
                raise RefusedPickleError("it names builtins.bytearray, which is neither a tensor nor plain data")
    if isinstance(source, io.BytesIO):
        source.seek(0)


def read_common(folder: Path) -> object:
    """What is the same on all ranks: common.pt's content, or that of the piece in which megatron-core 0.19 keeps it.

    Raises:
        RefusedPickleError: it is damaged, or names anything but tensors and plain data.
    """
    file = folder / "common.pt"
    if file.exists():
        return read_archive(file)
    places = read_metadata(folder).storage_data
    place = next((each for index, each in places.items() if index.fqn == _COMMON_PIECE), None)
    if place is None:
        raise RefusedPickleError(f"{folder} has neither common.pt nor the piece that may be in its place")
    with (folder / place.relative_path).open("rb") as pieces:
        pieces.seek(place.offset)
        content = read_archive(io.BytesIO(pieces.read(place.length)))
    if not isinstance(content, list) or len(content) != 1:
        raise RefusedPickleError(f"{folder}: the piece in the place of common.pt is damaged")
    return content[0]


class PlainReader(FileSystemReader):
    """torch's reader of a checkpoint, with the metadata read as plain data, once."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._metadata: Metadata | None = None

    def read_metadata(self, *_args: object, **_options: object) -> Metadata:
        """As torch's, but that nothing in it is run."""
        if self._metadata is None:
            self._metadata = read_metadata(Path(self.path))
        return self._metadata


def load_bytes(planner: DefaultLoadPlanner, read_item: ReadItem, value: io.BytesIO) -> None:
    """DefaultLoadPlanner.load_bytes as torch has it (2.7 to 2.13), but that nothing in `value` is run."""
    name, content = read_item.dest_index.fqn, read_archive(value)
    if planner.flatten_state_dict:
        set_element(planner.original_state_dict, planner.mappings[name], content)
    else:
        planner.state_dict[name] = content


def why(error: BaseException) -> str:
    """Why a checkpoint did not load, in a few words: torch's own message on a refused pickle takes a page."""
    if isinstance(error, KeyError):
        return f"it lacks {reason_of(error, _MOST_CHARACTERS)}"
    return _what_was_named(error) if isinstance(error, pickle.UnpicklingError) else reason_of(error, _MOST_CHARACTERS)


def _what_was_named(error: pickle.UnpicklingError) -> str:
    said = str(error)
    for start in ("Unsupported global: GLOBAL ", "Trying to load unsupported GLOBAL ", "Unsupported class "):
        if start in said:
            return f"it names {said.split(start)[1].split()[0]}, which is neither a tensor nor plain data"
    return "it holds what is neither a tensor nor plain data"


# ---- from records to the real objects ------------------------------------------------------------------


def _metadata(record: object, folder: Path) -> Metadata:
    values = _state(record, "Metadata")
    known: _Known = {}
    tensors = {_text(name): _stored(each, known) for name, each in _mapping(values["state_dict_metadata"]).items()}
    files = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    places = {_index(key): _place(each, files) for key, each in _mapping(values["storage_data"]).items()}
    metadata = Metadata(tensors, storage_data=places, storage_meta=StorageMeta())
    shapes = {_text(name): _whole_shape(each) for name, each in _mapping(values.get("mcore_data", {})).items()}
    metadata.mcore_data = shapes  # type: ignore[attr-defined]  # megatron's own, beside torch's fields
    return metadata


def _stored(record: object, known: _Known) -> TensorStorageMetadata | BytesStorageMetadata:
    if type(record).__name__ == "BytesStorageMetadata":
        return BytesStorageMetadata()
    values = _state(record, "TensorStorageMetadata")
    chunks = values["chunks"]
    if not isinstance(chunks, list):
        raise RefusedPickleError("a tensor has no list of pieces")
    properties = _record(values["properties"], "TensorProperties").state
    dtype = properties[0] if isinstance(properties, tuple) and properties else None
    if not isinstance(dtype, torch.dtype):
        raise RefusedPickleError("a tensor has no dtype")
    if id(chunks) not in known:
        known[id(chunks)] = [_chunk(each) for each in chunks]
    return TensorStorageMetadata(TensorProperties(dtype=dtype), _size(values["size"]), known[id(chunks)])


def _chunk(record: object) -> ChunkStorageMetadata:
    values = _state(record, "ChunkStorageMetadata")
    return ChunkStorageMetadata(_size(values["offsets"]), _size(values["sizes"]))


def _index(record: object) -> MetadataIndex:
    values = _state(record, "MetadataIndex")
    offset, index = values.get("offset"), values.get("index")
    return MetadataIndex(
        _text(values["fqn"]), None if offset is None else _size(offset), None if index is None else _count(index)
    )


def _place(record: object, files: Mapping[str, int]) -> _StorageInfo:
    """A piece's file, one of the folder's own, and its place in there; `files` are their sizes."""
    values = _state(record, "_StorageInfo")
    name = _text(values["relative_path"])
    if name not in files:
        raise RefusedPickleError(f"it points at {name[:80]!r}, which is not a file of this folder")
    if values.get("transform_descriptors"):
        raise RefusedPickleError("a piece is compressed or encrypted")
    offset, length = _count(values["offset"]), _count(values["length"])
    if offset + length > files[name]:
        raise RefusedPickleError(f"a piece ends at byte {offset + length} of {name[:80]!r}, which has {files[name]}")
    return _StorageInfo(name, offset, length)


def _whole_shape(values: object) -> dict[str, tuple[int, ...]]:
    shapes = _mapping(values)
    if len(shapes) > _MOST_SHAPES:
        raise RefusedPickleError("a tensor has too many shapes")
    return {_text(key): tuple(_size(each)) for key, each in shapes.items()}


def _size(value: object) -> torch.Size:
    """From torch.Size's record, or a plain tuple."""
    if isinstance(value, Record):
        (value,) = _record(value, "Size").arguments
    if not isinstance(value, (tuple, list)) or len(value) > _MOST_DIMENSIONS:
        raise RefusedPickleError("a size is not a short list of numbers")
    return torch.Size([_count(each) for each in value])


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise RefusedPickleError("a size or place is not a number")
    return value


def _text(value: object) -> str:
    if type(value) is not str:
        raise RefusedPickleError("a name is not a text")
    return value


def _mapping(value: object) -> Mapping[object, object]:
    if type(value) is not dict:
        raise RefusedPickleError("a table is missing")
    return value


def _record(value: object, name: str) -> Record:
    if not isinstance(value, Record) or type(value).__name__ != name:
        raise RefusedPickleError(f"a {name} is missing")
    return value


def _state(value: object, name: str) -> Values:
    state = _record(value, name).state
    if type(state) is not dict:
        raise RefusedPickleError(f"a {name} is empty")
    return state
