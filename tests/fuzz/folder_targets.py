"""What the folder of a checkpoint or of a sample index says of itself: its manifest, its pickle, its arrays."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from pathlib import Path
from random import Random

import xxhash

from tests.fuzz import mutate
from tests.fuzz.targets import Target, as_file, paired, parted

_CONTENT = b"abc"


def _manifests() -> list[bytes]:
    from grok1.weights.manifest import FileSum, Manifest

    files = {"common.pt": FileSum(bytes=3, xxh3_128=xxhash.xxh3_128(_CONTENT).hexdigest())}
    return [Manifest(step=1, recipe_hash="0" * 12, corpus="a", files=files).text().encode()]


def _bend_manifest(raw: bytes, random: Random) -> bytes:
    """Bent values under a digest that fits, or the digest bent too."""
    from grok1.weights.manifest import _own_digest

    bent = mutate.bend_json(raw, random)
    try:
        content = json.loads(bent)
        content.pop("self")
        return json.dumps({**content, "self": _own_digest(content)}).encode() if random.random() < 0.9 else bent
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return bent


def _manifest(raw: bytes, folder: Path) -> str:
    from grok1.weights.manifest import check_files, read_manifest

    as_file(folder, "manifest.json", raw)
    as_file(folder, "common.pt", _CONTENT)
    manifest = read_manifest(folder, 1)
    check_files(folder, manifest)
    return f"{len(manifest.files)} {manifest.bytes}"


def _metadata_pickles() -> list[bytes]:
    import torch
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import (
        ChunkStorageMetadata,
        Metadata,
        MetadataIndex,
        TensorProperties,
        TensorStorageMetadata,
    )

    chunks = [ChunkStorageMetadata(torch.Size([at, 0]), torch.Size([2, 8])) for at in (0, 2)]
    tensor = TensorStorageMetadata(TensorProperties(dtype=torch.bfloat16), torch.Size([4, 8]), chunks)
    storage = {MetadataIndex("a", torch.Size([at, 0]), at): _StorageInfo("__0_0.distcp", 32 * at, 32) for at in (0, 2)}
    return [pickle.dumps(Metadata({"a": tensor}, None, storage), protocol) for protocol in (2, 4)]


def _metadata(raw: bytes, folder: Path) -> str:
    from grok1.megatron.plain_data import read_metadata

    as_file(folder, ".metadata", raw)
    as_file(folder, "__0_0.distcp", bytes(96))  # where the last piece of the seed ends
    return repr(read_metadata(folder).state_dict_metadata)


def _sample_indexes() -> list[bytes]:
    import numpy as np

    found = []
    for array in (np.arange(4, dtype=np.int32), np.arange(10, dtype=np.int32).reshape(5, 2)):
        stream = io.BytesIO()
        np.save(stream, array)
        found.append(stream.getvalue())
    return [paired(*found)]


def _bend_pair_of_arrays(raw: bytes, random: Random) -> bytes:
    first, second = parted(raw)
    return paired(mutate.bend_npy(first, random), mutate.bend_npy(second, random) if random.random() < 0.5 else second)


def _sample_index(raw: bytes, folder: Path) -> str:
    """The seal fits whatever the arrays hold."""
    from grok1.data.sample_index import ARRAYS, Wanted, find_index, read_index

    wanted = Wanted(corpus="a", seed=1, sequence_length=8, split="8,1,1", samples=4)
    place = folder / wanted.name
    place.mkdir()
    first, second = parted(raw)
    contents = dict(zip(ARRAYS, (first, second, first), strict=True))
    sums = {name: {"bytes": len(each), "sha256": hashlib.sha256(each).hexdigest()} for name, each in contents.items()}
    for name, content in contents.items():
        as_file(place, name, content)
    as_file(place, "seal.json", json.dumps({"files": sums}).encode())
    found = find_index(wanted, [folder], reads_all=True)
    if found is None:
        raise ValueError("a damaged index is built again")
    return " ".join(f"{array.dtype} {array.shape}" for array in read_index(found))


FOLDERS = [
    Target("manifest", _manifests, _bend_manifest, _manifest),
    Target("metadata", _metadata_pickles, mutate.bend_bytes, _metadata),
    Target("sample-index", _sample_indexes, _bend_pair_of_arrays, _sample_index),
]
