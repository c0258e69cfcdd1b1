"""Sizes of published models: what a row's notes say, and for what they leave unsaid a shipped table. No torch."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path

from pydantic import ValidationError

from bench.records.fields import Positive, Strict, Text
from bench.records.jsonfile import first_fault

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TABLE = Path(__file__).with_name("architectures.toml")
_SHARED_EXPERTS, _PLAIN_DIM = "shared experts", "dimensions without positions"  # which other sizes are made of
_STATED = {  # name here: keys of the notes, which are options of megatron-core and of MindSpeed-LLM
    "hidden_size": ("hidden-size",),
    "ffn_hidden_size": ("ffn-hidden-size",),
    "num_attention_heads": ("num-attention-heads",),
    "num_query_groups": ("num-query-groups",),
    "head_dim": ("kv-channels",),
    "vocab_size": ("padded-vocab-size", "vocab-size"),
    "num_experts": ("num-experts",),
    "experts_per_token": ("moe-router-topk",),
    "expert_hidden_size": ("moe-ffn-hidden-size", "moe-intermediate-size"),
    "shared_hidden_size": ("moe-shared-expert-intermediate-size",),
    "query_rank": ("q-lora-rank",),
    "latent_rank": ("kv-lora-rank",),
    "rope_dim": ("qk-pos-emb-head-dim", "qk-rope-head-dim"),
    "value_dim": ("v-head-dim",),
    _SHARED_EXPERTS: ("n-shared-experts",),
    _PLAIN_DIM: ("qk-head-dim", "qk-nope-head-dim"),
}
_LATENT = ("multi-latent-attention", "multi-head-latent-attention")
_DENSE_FIRST, _MIXTURE_EVERY = "first-k-dense-replace", "moe-layer-freq"
_PATTERN = re.compile(r"\(?\[0\]\*([0-9]{1,4})\+\[1\]\*[0-9]{1,4}\)?")  # of megatron: first dense layers, then others
_IN_WORDS = (  # "hidden 7168, ffn 2048, 32 experts, top 8, shared 2048"
    ("hidden_size", r"\bhidden (\d{1,9})\b"),
    ("ffn_hidden_size", r"\bffn (\d{1,9})\b"),
    ("num_experts", r"\b(\d{1,9}) experts\b"),
    ("experts_per_token", r"\btop[ -]?(\d{1,9})\b"),
    ("shared_hidden_size", r"\bshared (\d{1,9})\b"),
)
_OPTION = re.compile(r"([A-Za-z0-9]+(?:[_-][A-Za-z0-9]+)*)(?:\s*[=:]\s*(.*))?", re.DOTALL)
_TYPED = re.compile(r"--([A-Za-z0-9_-]+)(?:\s*[=\s]\s*(.*))?", re.DOTALL)  # as on a command line
_PARTS = re.compile(r";|\s+(?=--[A-Za-z])")
_MOST = 1 << 24  # no size of a model is larger; products of three still fit 64 bits
_NO_ATTENTION = {"num_attention_heads": 1, "head_dim": 1, "vocab_size": 1}  # of a layer of experts alone


class Architecture(Strict):
    """Sizes of a decoder. A dense one has no experts; of latent attention (MLA) one has ranks and dimensions."""

    hidden_size: Positive
    ffn_hidden_size: Positive  # of dense layers
    num_attention_heads: Positive
    num_query_groups: Positive
    head_dim: Positive  # of queries and keys, positions included
    vocab_size: Positive
    is_gated: bool = True
    num_experts: int = 0
    experts_per_token: int = 0
    shared_hidden_size: int = 0  # of all shared experts together
    expert_hidden_size: int = 0  # 0: as dense layers
    dense_layers: int = 0  # the first ones, which have no experts
    dense_between: int = 0  # layers without experts between two that have some
    query_rank: int = 0  # 0: queries are not compressed
    latent_rank: int = 0  # of keys and values together; 0: no latent attention
    rope_dim: int = 0  # dimensions of a head that hold positions, one key for all heads
    value_dim: int = 0  # 0: as keys

    @property
    def expert_width(self) -> int:
        """Of one expert."""
        return self.expert_hidden_size or self.ffn_hidden_size

    @property
    def value_width(self) -> int:
        """Of one head's values."""
        return self.value_dim or self.head_dim

    @property
    def attention_parameters(self) -> int:
        """Weights of the projections of one layer's attention."""
        heads, groups = self.num_attention_heads, self.num_query_groups
        out = heads * self.value_width * self.hidden_size
        if not self.latent_rank:
            return out + self.hidden_size * (heads * self.head_dim + groups * (self.head_dim + self.value_width))
        from_latent = heads * (self.head_dim - self.rope_dim + self.value_width)
        keys = self.hidden_size * (self.latent_rank + self.rope_dim) + self.latent_rank * from_latent
        wide = heads * self.head_dim
        queries = self.query_rank * (self.hidden_size + wide) if self.query_rank else self.hidden_size * wide
        return out + keys + queries

    def has_experts(self, layer: int) -> bool:
        """Whether that layer has some; the first is 0."""
        return bool(self.num_experts) and layer >= self.dense_layers and layer % (self.dense_between + 1) == 0

    @property
    def family(self) -> str:
        """Models of one family have the same layer, whatever their names, depths and vocabularies."""
        heads = f"{self.num_attention_heads}/{self.num_query_groups} heads"
        said = [f"hidden {self.hidden_size}", f"ffn {self.ffn_hidden_size}", heads]
        said += [] if self.is_gated else ["not gated"]
        if self.num_experts:
            of_width = f" of {self.expert_hidden_size}" if self.expert_hidden_size else ""
            said.append(f"{self.num_experts} experts{of_width} top {self.experts_per_token}")
        said += [f"shared {self.shared_hidden_size}"] if self.shared_hidden_size else []
        said += [f"latent {self.latent_rank}"] if self.latent_rank else []
        return ", ".join(said)


class _Entry(Strict):
    starts: list[Text]
    source: Text
    vocab_size: Positive
    hidden_size: Positive | None = None
    ffn_hidden_size: Positive | None = None
    ffn_over_hidden: Positive | None = None
    num_attention_heads: Positive | None = None
    num_query_groups: Positive | None = None
    head_dim: Positive | None = None
    is_gated: bool = True
    num_experts: Positive | None = None
    experts_per_token: Positive | None = None
    expert_hidden_size: Positive | None = None
    shared_hidden_size: Positive | None = None
    dense_layers: Positive | None = None
    dense_between: Positive | None = None
    query_rank: Positive | None = None
    latent_rank: Positive | None = None
    rope_dim: Positive | None = None
    value_dim: Positive | None = None

    def starts_of(self, name: str) -> list[str]:
        """Those of its starts that the name has: of one model up to the end of a word, of a series any."""
        found = [start for start in self.starts if name.startswith(start)]
        return [start for start in found if self.hidden_size is None or not re.match(r"[a-z0-9.]", name[len(start) :])]


def notes_of(text: str) -> dict[str, str]:
    """The parts between semicolons: "a=1; b" is {"a": "1", "b": ""}.

    An option may be written as on a command line ("--num-experts 8") or in a file of settings ("num_experts: 8"); one
    that is "false" counts as not given.

    Raises:
        ValueError: an option has two values.
    """
    found: dict[str, str] = {}
    for part in filter(None, (each.strip() for each in _PARTS.split(text))):
        name, value = _option(part)
        if found.setdefault(name, value) != value:
            raise ValueError(f"its notes contradict themselves: {name[:60]} is {found[name][:40]!r} and {value[:40]!r}")
    return {name: value for name, value in found.items() if value.casefold() != "false"}


def _option(part: str) -> tuple[str, str]:
    """Name and value; of prose all of it, and no value."""
    match = _TYPED.fullmatch(part) or _OPTION.fullmatch(part)
    if match:
        return match[1].casefold().replace("_", "-"), (match[2] or "").strip()
    name, _, value = part.partition("=")
    return name.strip(), value.strip()


def architecture_of(model: str, notes: str, *, is_layer_alone: bool = False) -> Architecture:
    """Sizes of a published model, from its notes first and the table after them.

    Args:
        model: the row's name of it.
        notes: "hidden-size=4096; ..." or "hidden 7168, ffn 2048, 32 experts, top 8".
        is_layer_alone: a layer of experts is timed alone, so that attention and vocabulary do not count.

    Raises:
        ValueError: a size is missing or impossible.
    """
    flags = notes_of(notes)
    sizes: dict[str, int | bool] = {**_known(model), **_stated(notes, flags), **_dense_layers(flags)}
    if is_layer_alone:
        sizes = _NO_ATTENTION | sizes | {"dense_layers": 0, "dense_between": 0}
    over = int(sizes.pop("ffn_over_hidden", 0))
    if over and "hidden_size" in sizes:
        sizes.setdefault("ffn_hidden_size", over * sizes["hidden_size"])
    needed = ["hidden_size", "ffn_hidden_size", "num_attention_heads", "vocab_size"]
    if _PLAIN_DIM in sizes or "latent_rank" in sizes or any(flag in flags for flag in _LATENT):
        needed += ["latent_rank", "rope_dim", "value_dim"]
    missing = [name for name in needed if name not in sizes]
    if missing:
        raise ValueError(f"its notes and the table of architectures lack {missing[0]}: state it in the notes")
    _derive(sizes)
    try:
        found = Architecture.model_validate(sizes)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None
    _check(found)
    return found


def _derive(sizes: dict[str, int | bool]) -> None:
    """Sizes that follow from others: heads' dimensions, and shared experts, which are as wide as others are."""
    heads = int(sizes["num_attention_heads"])
    sizes.setdefault("num_query_groups", heads)
    plain_dim = int(sizes.pop(_PLAIN_DIM, 0))
    if plain_dim:
        sizes["head_dim"] = plain_dim + sizes["rope_dim"]
    sizes.setdefault("head_dim", max(1, int(sizes["hidden_size"]) // max(1, heads)))
    shared = int(sizes.pop(_SHARED_EXPERTS, 0))
    if shared:
        sizes.setdefault("shared_hidden_size", shared * (sizes.get("expert_hidden_size") or sizes["ffn_hidden_size"]))
    if "num_experts" not in sizes:  # options of experts, which a job without any may state
        for name in ("expert_hidden_size", "shared_hidden_size", "dense_layers", "dense_between"):
            sizes.pop(name, None)


def _dense_layers(flags: dict[str, str]) -> dict[str, int]:
    """Which layers have no experts: the first ones, and all but every so many. -1 is MindSpeed's "none of them"."""
    first, every = flags.get(_DENSE_FIRST), flags.get(_MIXTURE_EVERY)
    pattern = _PATTERN.fullmatch(every or "")
    if pattern:
        return {"dense_layers": int(pattern[1])}
    found = {}
    if first is not None:
        found["dense_layers"] = 0 if first == "-1" else _size(_DENSE_FIRST, first, least=0)
    if every is not None:
        found["dense_between"] = 0 if every == "-1" else _size(_MIXTURE_EVERY, every) - 1
    return found


def _check(sizes: Architecture) -> None:
    if sizes.rope_dim >= sizes.head_dim:
        raise ValueError(f"{sizes.rope_dim} of {sizes.head_dim} dimensions of a head cannot hold positions")
    if sizes.num_attention_heads % sizes.num_query_groups:
        raise ValueError(
            f"{sizes.num_attention_heads} attention heads cannot share {sizes.num_query_groups} query groups"
        )
    if sizes.experts_per_token > sizes.num_experts or bool(sizes.num_experts) != bool(sizes.experts_per_token):
        raise ValueError(f"top {sizes.experts_per_token} of {sizes.num_experts} experts is impossible")


def _stated(notes: str, flags: dict[str, str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, keys in _STATED.items():
        for key in keys:
            if key in flags:
                found.setdefault(name, _size(key, flags[key]))
    in_words = {
        name: _size(name, match[1])
        for name, pattern in _IN_WORDS
        if (match := re.search(pattern, notes, re.IGNORECASE))
    }
    for name, size in in_words.items():
        if found.setdefault(name, size) != size:
            raise ValueError(f"its notes contradict themselves: {_STATED[name][0]}={found[name]} and {size} in words")
    if {"ffn_hidden_size", "num_experts"} <= in_words.keys():  # the width in words is then an expert's
        found.setdefault("expert_hidden_size", 0)
    return found


def _size(name: str, digits: str, least: int = 1) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", digits) or not least <= int(digits) <= _MOST:
        raise ValueError(f"{name}={digits[:40]!r} is not a size of {least} to {_MOST}")
    return int(digits)


def _known(model: str) -> dict[str, int | bool]:
    """What the table has of a model: "Grok-1 314B", "xai-org/GROK1_314B" and "grok1 314b" are one name.

    The name of a model ends where a word does: "Grok-1.5" is not "Grok-1", and one that was distilled is another.
    """
    name = re.sub(r"[\s_-]+", " ", model.casefold().rpartition("/")[2].strip())
    name = re.sub(r"^([a-z]+) (?=[0-9.]+( |$))", r"\1", re.sub(r"^(meta|xai) ", "", name))
    fitting = [(len(start), index) for index, each in enumerate(_table()) for start in each.starts_of(name)]
    if not fitting or " distill" in name:
        return {}
    entry = _table()[max(fitting)[1]]
    return {
        key: value for key, value in entry.model_dump().items() if key not in ("starts", "source") and value is not None
    }


@functools.cache
def _table() -> tuple[_Entry, ...]:
    entries = tomllib.loads(_TABLE.read_text(encoding="utf-8"))["architecture"]
    return tuple(_Entry.model_validate(each) for each in entries)
