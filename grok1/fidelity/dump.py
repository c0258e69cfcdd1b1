"""Reference dumps: xAI's own model at small sizes, as arrays. Reads them, and refuses damaged ones. No torch.

`NAME.npz` holds the config, tokens, every weight, the logits and the loss; `NAME.grads*.npz` beside it every
gradient. A dump is untrusted: nothing in it is unpickled, and an array's header is compared with the config
before its content is read. Legend: B batch, T sequence, V vocabulary, D hidden, E experts, F expert width.
"""

from __future__ import annotations

import functools
import lzma
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grok1.config.refusals import describe_validation_error, listed, reason_of
from grok1.weights.names import EMBEDDING, HEAD

Array = npt.NDArray[Any]

_MAX_BYTES = 8 << 30  # of one archive, unpacked
_MAX_CONFIG_CHARACTERS = 64 << 10
_MAX_CHARACTERS = 1000  # of what a file made an error say
_SHOWN_PROBLEMS = 5
# what zipfile, zlib and numpy raise at broken, encrypted or oddly compressed content, and at headers that are no tuple
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError, SyntaxError, OSError),
    *(ValueError, TypeError, KeyError, EOFError, NotImplementedError, RuntimeError, OverflowError, MemoryError),
)
_CACHED_ARRAYS = 4  # an expert's three matrices are read in turn, each from the array of all experts


class OracleError(ValueError):
    """A dump that cannot be used; the message names the file, the array and what is wrong."""


class OracleConfig(BaseModel):
    """What `config_json` says of the model that made the dump; other keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    num_layers: int = Field(ge=1, le=1024)
    emb_size: int = Field(ge=1, le=1 << 20)
    num_q_heads: int = Field(ge=1, le=4096)
    num_kv_heads: int = Field(ge=1, le=4096)
    key_size: int = Field(ge=2, le=4096)
    num_experts: int = Field(ge=1, le=4096)
    num_selected_experts: int = Field(ge=1, le=64)
    vocab_size: int = Field(ge=2, le=1 << 24)
    ffn_size: int = Field(ge=1, le=1 << 22)
    batch: int = Field(ge=1, le=1 << 16)
    seq: int = Field(ge=1, le=1 << 20)
    attn_output_multiplier: float = Field(gt=0.0)
    embedding_multiplier_scale: float = Field(gt=0.0)
    output_multiplier_scale: float = Field(gt=0.0)
    norm_eps: float = Field(gt=0.0)
    rope_base: int = Field(ge=1, le=1 << 40)
    softcap: float = Field(ge=0.0)
    pad_token: int = Field(default=0, ge=-1, le=1 << 24)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every weight, by the name that follows `param.` and `grad.`."""
        hidden, query = self.emb_size, self.num_q_heads * self.key_size
        key_value = self.num_kv_heads * self.key_size
        experts_in = (self.num_experts, hidden, self.ffn_size)
        shapes: dict[str, tuple[int, ...]] = {"in_out_embed.embeddings": (self.vocab_size, hidden)}
        for layer in range(self.num_layers):
            prefix = f"layers.{layer}."
            shapes |= {f"{prefix}{norm}.scale": (hidden,) for norm in _NORMS.values()}
            shapes |= {
                f"{prefix}attn.query.w": (hidden, query),
                f"{prefix}attn.key.w": (hidden, key_value),
                f"{prefix}attn.value.w": (hidden, key_value),
                f"{prefix}attn.linear.w": (query, hidden),
                f"{prefix}router.w": (hidden, self.num_experts),
                f"{prefix}moe.linear.w": experts_in,
                f"{prefix}moe.linear_v.w": experts_in,
                f"{prefix}moe.linear_1.w": (self.num_experts, self.ffn_size, hidden),
            }
        return {**shapes, "final_norm.scale": (hidden,)}


# ---- the dump's names, by the published ones of grok1.weights.names -------------------------------------------

_NORMS = {
    "pre_attn_norm": "rms_norm",
    "post_attn_norm": "rms_norm_1",
    "pre_moe_norm": "rms_norm_2",
    "post_moe_norm": "rms_norm_3",
}
_MATRICES = {
    "attn.q_proj": "attn.query.w",
    "attn.k_proj": "attn.key.w",
    "attn.v_proj": "attn.value.w",
    "attn.o_proj": "attn.linear.w",
    "moe_block.gate": "router.w",
}
_EXPERT = re.compile(r"model\.layers\.(\d+)\.moe_block\.experts\.(\d+)\.(linear|linear_v|linear_1)\.weight")
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")


@dataclass(frozen=True)
class Place:
    """Where a published weight lies in a dump: the array, which expert's slice of it, whether it is transposed."""

    array: str
    expert: int | None = None
    transposed: bool = False


def place_of(key: str) -> Place:
    """Where the dump keeps the weight (and its gradient) of this published name; the head is the embedding."""
    if key in (EMBEDDING, HEAD):
        return Place("in_out_embed.embeddings")
    if key == "model.norm.weight":
        return Place("final_norm.scale")
    expert = _EXPERT.fullmatch(key)
    if expert is not None:
        return Place(f"layers.{expert[1]}.moe.{expert[3]}.w", int(expert[2]), transposed=True)
    match = _LAYER.fullmatch(key)
    assert match is not None, f"no published weight is called {key}"
    layer, name = match.groups()
    if name in _NORMS:
        return Place(f"layers.{layer}.{_NORMS[name]}.scale")
    return Place(f"layers.{layer}.{_MATRICES[name]}", transposed=True)


# ---- reading -------------------------------------------------------------------------------------------


class Dump:
    """A dump that `check_dump` found whole. Arrays are read when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gradient_paths = gradient_paths(path)
        self.config = _read_config(path)

    def array(self, name: str) -> Array:
        """tokens or targets [B, T], logits [B, T, V], loss []."""
        return _array(self.path, name)

    def weight(self, key: str) -> Array:
        """A published weight, [out, in] or [D]."""
        place = place_of(key)
        return _cut(_array(self.path, f"param.{place.array}"), place)

    def gradients(self) -> Iterator[tuple[str, Array]]:
        """(name, gradient) of every array, in the dump's own orientation."""
        for path in self.gradient_paths:
            for name in _members(path):
                if name.startswith("grad."):
                    yield name.removeprefix("grad."), _array(path, name)

    def has_pads(self) -> bool:
        """Whether any token is one that xAI hides from all queries."""
        return bool((self.array("tokens") <= self.config.pad_token).any())


def in_dump_orientation(name: str, published: dict[str, Array], keys: list[str]) -> Array:
    """The array that the dump calls `name`, put together from the published weights `keys` that it holds."""
    places = [place_of(key) for key in keys]
    cuts = [published[key].T if place.transposed else published[key] for key, place in zip(keys, places, strict=True)]
    if places[0].expert is None:
        return cuts[0]
    order = sorted(range(len(cuts)), key=lambda index: places[index].expert or 0)
    return np.stack([cuts[index] for index in order])


def gradient_paths(path: Path) -> list[Path]:
    """The files that hold a dump's gradients, in order."""
    return sorted(path.parent.glob(f"{_escaped(path.stem)}.grads*.npz"))


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def check_dump(path: Path) -> Dump:
    """The dump at `path`, with every array present, of the right shape and finite.

    Raises:
        OracleError: one line that names up to five arrays and what is wrong with each.
    """
    if not path.is_file():
        raise OracleError(f"dump {path} does not exist; give the NAME.npz of a reference dump")
    config = _read_config(path)
    batch = (config.batch, config.seq)
    expected = {
        "tokens": batch,
        "targets": batch,
        "logits": (*batch, config.vocab_size),
        "loss": (),
        **{f"param.{name}": shape for name, shape in config.shapes().items()},
    }
    problems = list(_problems(path, expected, config))
    shards = gradient_paths(path)
    if not shards:
        problems.append(f"{path.stem}.grads.npz: is not in the same folder; verification needs the gradients")
    found: set[str] = set()
    for shard in shards:
        present = {name for name in _members(shard) if name.startswith("grad.")}
        problems += [f"{shard.name}: {name}: is in another shard too" for name in sorted(found & present)]
        wanted = {f"grad.{name}": shape for name, shape in config.shapes().items() if f"grad.{name}" in present}
        problems += [f"{shard.name}: {problem}" for problem in _problems(shard, wanted, config)]
        problems += [f"{shard.name}: {name}: no such weight" for name in sorted(present - wanted.keys())]
        found |= present
    if shards:
        problems += [f"grad.{name}: is in no shard" for name in config.shapes() if f"grad.{name}" not in found]
    if problems:
        raise OracleError(f"dump {path}: {listed(problems, _SHOWN_PROBLEMS)[:_MAX_CHARACTERS]}")
    return Dump(path)


def _problems(path: Path, expected: dict[str, tuple[int, ...]], config: OracleConfig) -> Iterator[str]:
    members = _members(path)
    for name, shape in expected.items():
        if name not in members:
            yield f"{name}: is missing"
            continue
        actual, dtype = _header(path, name)
        kinds = "iu" if name in ("tokens", "targets") else "f"
        if dtype.hasobject:
            yield f"{name}: holds pickled objects, which are never loaded"
        elif dtype.kind not in kinds:
            yield f"{name}: is {dtype}, not {'integers' if kinds == 'iu' else 'floats'}"
        elif actual != shape:
            yield f"{name}: has shape {list(actual)}, the config says {list(shape)}"
        else:
            yield from _value_problems(path, name, config)


def _value_problems(path: Path, name: str, config: OracleConfig) -> Iterator[str]:
    values = _array(path, name)
    if name in ("tokens", "targets"):
        if values.min() < 0 or values.max() >= config.vocab_size:
            yield f"{name}: holds ids outside 0 to {config.vocab_size - 1}"
    elif not np.isfinite(values).all():
        yield f"{name}: holds a value that is not finite"


def _read_config(path: Path) -> OracleConfig:
    if "config_json" not in _members(path):
        raise OracleError(f"dump {path}: config_json: is missing; give the NAME.npz of a reference dump")
    shape, dtype = _header(path, "config_json")
    if dtype.kind not in "US" or shape != () or dtype.itemsize > 4 * _MAX_CONFIG_CHARACTERS:
        raise OracleError(f"dump {path}: config_json: is not one short string")
    text = _array(path, "config_json").item()
    try:
        return OracleConfig.model_validate_json(text)
    except ValidationError as error:
        raise OracleError(f"dump {path}: config_json: {describe_validation_error(error)}") from None


@functools.cache
def _members(path: Path) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except _DAMAGE as error:
        raise OracleError(
            f"dump {path} is not a whole .npz archive ({reason_of(error, _MAX_CHARACTERS)}); copy it again"
        ) from None
    if sum(member.file_size for member in members) > _MAX_BYTES:
        raise OracleError(f"dump {path} unpacks to more than {_MAX_BYTES >> 30} GiB; use a smaller one")
    return {member.filename.removesuffix(".npy"): member for member in members}


def _header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
    except _DAMAGE as error:
        raise OracleError(f"dump {path}: {name}: is damaged ({reason_of(error, _MAX_CHARACTERS)})") from None
    return tuple(shape), dtype


@functools.lru_cache(maxsize=_CACHED_ARRAYS)
def _array(path: Path, name: str) -> Array:
    try:
        with np.load(path, allow_pickle=False) as archive:
            values: Array = archive[name]
    except _DAMAGE as error:
        raise OracleError(f"dump {path}: {name}: is damaged ({reason_of(error, _MAX_CHARACTERS)})") from None
    return values


def _cut(values: Array, place: Place) -> Array:
    if place.expert is not None:
        values = values[place.expert]
    return values.T if place.transposed else values
