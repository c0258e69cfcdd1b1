"""Every parser of files, words and variables that strangers may have written, as bytes in and a text out.

A target reads bytes through the same functions as the commands. What it returns is shown to people somewhere.
"""

from __future__ import annotations

import functools
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from tests.fuzz import mutate
from tests.fuzz.mutate import Bend

if TYPE_CHECKING:
    from grok1.config.recipe import Recipe

Read = Callable[[bytes, Path], str]


@dataclass(frozen=True)
class Target:
    """One parser: valid inputs to start from, how they are bent, and what reads them in an empty folder."""

    name: str
    seeds: Callable[[], list[bytes]]
    bend: Bend
    read: Read
    cost: int = 1  # of one input, roughly, by which the inputs are shared out


def as_file(folder: Path, name: str, raw: bytes) -> Path:
    path = folder / name
    path.write_bytes(raw)
    return path


def as_words(raw: bytes) -> str:
    """As a command line gives it: what is not UTF-8 becomes surrogates, and there is no NUL."""
    return raw.replace(b"\x00", b"").decode("utf-8", "surrogateescape")


# ---- recipes -------------------------------------------------------------------------------------------------


def _shipped_recipes() -> list[bytes]:
    from grok1.config.load import recipe_names

    folder = Path(__file__).resolve().parents[2] / "grok1" / "recipes"
    return [(folder / f"{name}.toml").read_bytes() for name in recipe_names()]


def _recipe(raw: bytes, folder: Path) -> str:
    from grok1.config.load import load_recipe

    return _shown_recipe(load_recipe(str(as_file(folder, "recipe.toml", raw))))


def _shown_recipe(recipe: Recipe) -> str:
    counts = (recipe.parameters(), recipe.active_parameters(), recipe.flops_per_token(), recipe.bytes_per_rank())
    return f"{recipe.name} {json.dumps(recipe.resolved())} {recipe.hash()} {counts}"


def _override(raw: bytes, folder: Path) -> str:
    from grok1.config.load import load_recipe

    return _shown_recipe(load_recipe("grok1-nano", as_words(raw).split("\x1e")))


def _recipe_name(raw: bytes, folder: Path) -> str:
    from grok1.config.load import load_recipe

    return _shown_recipe(load_recipe(as_words(raw)))


def _checkpoint(raw: bytes, folder: Path) -> str:
    """The two small files that describe a checkpoint: tracker, NUL, recipe.json. The checksums fit."""
    from grok1.weights.folder import LATEST, StoredCheckpoint
    from grok1.weights.manifest import Manifest, file_sums, write_manifest

    tracker, _, recipe = raw.partition(b"\x00")
    as_file(folder, LATEST, tracker)
    step = folder / "iter_0000007"
    step.mkdir()
    as_file(step, "recipe.json", recipe)
    write_manifest(step, Manifest(step=7, recipe_hash="", files=file_sums(step, ["recipe.json"])))
    return _shown_recipe(StoredCheckpoint.open(folder).recipe)


def _checkpoints() -> list[bytes]:
    from grok1.config.load import load_recipe

    return [b"7\x00" + json.dumps(load_recipe(name).resolved()).encode() for name in ("grok1-nano", "grok1-40b")]


def _bend_checkpoint(raw: bytes, random: Random) -> bytes:
    tracker, separator, recipe = raw.partition(b"\x00")
    if random.random() < 0.3:
        return mutate.bend_bytes(tracker, random) + separator + recipe
    return tracker + separator + mutate.bend_json(recipe, random)


# ---- text and tokens -----------------------------------------------------------------------------------------


def _rows(suffix: str) -> Read:
    def read(raw: bytes, folder: Path) -> str:
        from grok1.data.documents import count_rows, read_rows

        path = as_file(folder, f"text{suffix}", raw)
        count_rows(path)
        for row in read_rows(path, "text"):
            assert row.text_bytes >= 0
        return ""

    return read


def _parquets() -> list[bytes]:
    import pyarrow
    from pyarrow import parquet

    tables = []
    texts = ["one", "zwei é", "", "drei " * 50]
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.binary(), pyarrow.dictionary("int32", "string")):
        values = [each.encode() for each in texts] if kind == pyarrow.binary() else texts
        tables.append(pyarrow.table({"text": pyarrow.array(values, kind), "id": [1, 2, 3, 4]}))
    tables.append(pyarrow.table({"text": [["a"], [], None, ["b"]], "\x1b[31mother\u202e": [1, 2, 3, 4]}))
    tables.append(pyarrow.table({"\x1b]0;x\x07\n": texts}))
    tables.append(pyarrow.table({"text": [{"a": 1}, None, {"a": 2}, {"a": 3}]}))
    found = []
    for number, table in enumerate(tables):
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(table, sink, compression=("snappy", "gzip", "zstd", "none")[number % 4])
        found.append(sink.getvalue().to_pybytes())
    return found


def _bend_parquet(raw: bytes, random: Random) -> bytes:
    """Mostly the footer, which the reader believes: it ends the file, before its length and the magic."""
    if random.random() < 0.3 or len(raw) < 12:
        return mutate.bend_bytes(raw, random)
    length = struct.unpack_from("<I", raw, len(raw) - 8)[0]
    start = max(4, len(raw) - 8 - length)
    footer = mutate.bend_bytes(raw[start:-8], random)
    return raw[:start] + footer + struct.pack("<I", len(footer)) + raw[-4:]


def _indexes() -> list[bytes]:
    lengths = [3, 5, 2]
    head = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 8, 3, 4)
    return [head + struct.pack("<3i3q4q", *lengths, 0, 6, 16, 0, 1, 2, 3)]


def _index(raw: bytes, folder: Path) -> str:
    from grok1.data.indexed import check_indexed

    as_file(folder, "corpus.idx", raw)
    as_file(folder, "corpus.bin", b"\x01\x00" * 10)
    return str(check_indexed(folder / "corpus"))


def _prompts(raw: bytes, folder: Path) -> str:
    from grok1.generation.job import read_prompts

    read_prompts(as_file(folder, "prompts.txt", raw))
    return ""


def _sentencepiece(raw: bytes, folder: Path) -> str:
    from grok1.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer("SentencePiece", as_file(folder, "tokenizer.model", raw))
    tokenizer.detokenize(tokenizer.tokenize("one two é"))
    return f"{tokenizer.vocab_size} {tokenizer.eod}"


@functools.cache
def _sentencepiece_models() -> list[bytes]:
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["one two three four five six", "seven eight nine ten eleven"] * 20),
        model_writer=model, model_type="bpe", vocab_size=60, minloglevel=2, num_threads=1,
        hard_vocab_limit=False, pad_id=0, bos_id=1, eos_id=2, unk_id=3,
    )  # fmt: skip
    return [model.getvalue()]


def _hugging_face(raw: bytes, folder: Path) -> str:
    from grok1.data.tokenizer import load_tokenizer

    words, _, config = raw.partition(b"\x00")
    as_file(folder, "tokenizer.json", words)
    as_file(folder, "tokenizer_config.json", config)
    tokenizer = load_tokenizer("PretrainedFromHF", folder)
    tokenizer.detokenize(tokenizer.tokenize("one two é"))
    return f"{tokenizer.vocab_size} {tokenizer.eod}"


def _hugging_face_folders() -> list[bytes]:
    words = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": 0, "content": "[EOS]", "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True}],
        "pre_tokenizer": {"type": "Whitespace"}, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"[EOS]": 0, "[UNK]": 1, "one": 2, "two": 3}, "unk_token": "[UNK]"},
    }  # fmt: skip
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "[EOS]", "auto_map": {"AutoTokenizer": "x.Y"}}
    plain = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "[EOS]"}
    return [json.dumps(words).encode() + b"\x00" + json.dumps(each).encode() for each in (plain, config)]


def _bend_pair_of_json(raw: bytes, random: Random) -> bytes:
    first, separator, second = raw.partition(b"\x00")
    if random.random() < 0.5:
        return mutate.bend_json(first, random) + separator + second
    return first + separator + mutate.bend_json(second, random)


# ---- weights and dumps ---------------------------------------------------------------------------------------


def _dumps() -> list[bytes]:
    """A dump of a model of one small layer, and its gradients: two archives, with their lengths before them."""
    import io

    import numpy as np

    from grok1.fidelity.dump import OracleConfig

    sizes = {
        "num_layers": 1, "emb_size": 4, "num_q_heads": 2, "num_kv_heads": 1, "key_size": 2, "num_experts": 2,
        "num_selected_experts": 1, "vocab_size": 8, "ffn_size": 4, "batch": 1, "seq": 2, "rope_base": 10000,
    }  # fmt: skip
    scales = ("attn_output_multiplier", "embedding_multiplier_scale", "output_multiplier_scale", "norm_eps", "softcap")
    config = {**sizes, **dict.fromkeys(scales, 1.0)}
    shapes = OracleConfig.model_validate(config).shapes()
    ones: dict[str, Any] = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    tokens = np.array([[1, 2]])
    arrays: dict[str, Any] = {"config_json": np.array(json.dumps(config)), "tokens": tokens, "targets": tokens,
              "logits": np.zeros((1, 2, 8), np.float32), "loss": np.float32(1.0)}  # fmt: skip
    dump, gradients = io.BytesIO(), io.BytesIO()
    np.savez(dump, **arrays, **{f"param.{name}": value for name, value in ones.items()})
    np.savez(gradients, **{f"grad.{name}": value for name, value in ones.items()})
    return [paired(dump.getvalue(), gradients.getvalue())]


def paired(first: bytes, second: bytes) -> bytes:
    return struct.pack("<Q", len(first)) + first + second


def parted(raw: bytes) -> tuple[bytes, bytes]:
    length = struct.unpack_from("<Q", raw)[0] if len(raw) >= 8 else 0
    return raw[8 : 8 + length], raw[8 + length :]


def _bend_pair_of_zips(raw: bytes, random: Random) -> bytes:
    first, second = parted(raw)
    if random.random() < 0.7:
        return paired(mutate.bend_zip(first, random), second)
    return paired(first, mutate.bend_zip(second, random))


def _dump(raw: bytes, folder: Path) -> str:
    from grok1.fidelity import dump as dumps
    from grok1.fidelity.dump_recipe import oracle_recipe

    dumps._members.cache_clear()
    dumps._array.cache_clear()
    first, second = parted(raw)
    path = as_file(folder, "D.npz", first)
    as_file(folder, "D.grads.npz", second)
    dump = dumps.check_dump(path)
    dump.has_pads()
    for name, _ in dump.gradients():
        assert name.isprintable()
    return _shown_recipe(oracle_recipe(dump))


def _published() -> list[bytes]:
    """Two files: an index, and one with all weights of a small model."""
    import torch
    from safetensors.torch import save

    from grok1.weights.names import published_shapes

    shapes = published_shapes(_small_recipe().model)
    weights = {key: torch.zeros(shape, dtype=torch.bfloat16) for key, shape in shapes.items()}
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights, "model.safetensors")}
    return [paired(json.dumps(index).encode(), save(weights)), paired(b"", save(weights))]


@functools.cache
def _small_recipe() -> Recipe:
    from grok1.config.load import ONE_RANK, load_recipe

    sizes = {"num_layers": 1, "hidden_size": 8, "ffn_hidden_size": 8, "num_attention_heads": 2, "num_query_groups": 1,
             "head_dim": 4, "vocab_size": 64, "num_experts": 2}  # fmt: skip
    return load_recipe("grok1-nano", [*ONE_RANK, *(f"model.{key}={value}" for key, value in sizes.items())])


def _bend_published(raw: bytes, random: Random) -> bytes:
    index, weights = parted(raw)
    if index and random.random() < 0.5:
        return paired(mutate.bend_json(index, random), weights)
    return paired(index, mutate.bend_safetensors(weights, random))


def _weights(raw: bytes, folder: Path) -> str:
    from grok1.weights.importing import INDEX_NAME, check_published

    index, weights = parted(raw)
    if index:
        as_file(folder, INDEX_NAME, index)
    as_file(folder, "model.safetensors", weights)
    check_published(folder, _small_recipe())
    return ""


# ---- words and variables -------------------------------------------------------------------------------------


def _profile(raw: bytes, folder: Path) -> str:
    from grok1.training.job import profile_request

    steps, _, ranks = as_words(raw).partition(" ")
    return str(sorted(profile_request(steps, ranks or "0", folder, 20, 16).steps))


def _environment(raw: bytes, folder: Path) -> str:
    from bench.records.environment import allowed_environment
    from grok1.device.kind import chosen_kind
    from grok1.distributed.rendezvous import rendezvous_from_environment

    lines = [line.partition("=") for line in as_words(raw).splitlines()]
    with _variables({name: value for name, _, value in lines if name.isidentifier()}):
        return f"{chosen_kind()} {len(allowed_environment(os.environ))} {rendezvous_from_environment()}"


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    kept = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_ENVIRONMENTS = [
    b"RANK=1\nWORLD_SIZE=4\nLOCAL_RANK=1\nLOCAL_WORLD_SIZE=2\nMASTER_ADDR=127.0.0.1\nMASTER_PORT=29500\nGROK1_DEVICE=cpu",
    b"SLURM_PROCID=1\nSLURM_NTASKS=4\nSLURM_LOCALID=1\nSLURM_NNODES=2\nMASTER_ADDR=::1\nMASTER_PORT=1\nGROK1_DEVICE=cpu",
]  # fmt: skip


GROK1 = [
    Target("recipe", _shipped_recipes, mutate.bend_toml, _recipe),
    Target("override", lambda: [b"parallel.tensor=2", b"model.activation=geglu\x1etraining.dtype=\"bf16\"", b"name=x"],
           mutate.bend_words, _override),
    Target("recipe-name", lambda: [b"grok1-nano"], mutate.bend_bytes, _recipe_name),
    Target("checkpoint", _checkpoints, _bend_checkpoint, _checkpoint),
    Target("jsonl", lambda: [b'{"text": "one", "id": 1}\n{"text": "two"}\n'], mutate.bend_json_lines, _rows(".jsonl")),
    Target("json", lambda: [b'[{"text": "one"}, {"text": "two", "id": [1]}]'], mutate.bend_json, _rows(".json")),
    Target("txt", lambda: [b"one\ntwo\r\n\n\xef\xbb\xbfthree"], mutate.bend_words, _rows(".txt")),
    Target("parquet", _parquets, _bend_parquet, _rows(".parquet"), cost=2),
    Target("idx", _indexes, mutate.bend_integers, _index),
    Target("prompts", lambda: [b"one\ntwo\n"], mutate.bend_words, _prompts),
    Target("sentencepiece", _sentencepiece_models, mutate.bend_bytes, _sentencepiece),
    Target("tokenizer", _hugging_face_folders, _bend_pair_of_json, _hugging_face, cost=4),
    Target("npz", _dumps, _bend_pair_of_zips, _dump, cost=8),
    Target("safetensors", _published, _bend_published, _weights),
    Target("profile", lambda: [b"5 0", b"4,8-9 0,8"], mutate.bend_words, _profile),
    Target("environment", lambda: _ENVIRONMENTS, mutate.bend_words, _environment),
]  # fmt: skip


def all_targets() -> dict[str, Target]:
    """Every target by its name."""
    from tests.fuzz.bench_targets import BENCH
    from tests.fuzz.folder_targets import FOLDERS
    from tests.fuzz.plan_targets import PLAN

    return {target.name: target for target in [*GROK1, *BENCH, *FOLDERS, *PLAN]}
