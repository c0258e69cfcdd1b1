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
_STATED = {  # name here: keys of the notes
    "hidden_size": ("hidden-size",),
    "ffn_hidden_size": ("ffn-hidden-size",),
    "num_attention_heads": ("num-attention-heads",),
    "num_query_groups": ("num-query-groups",),
    "head_dim": ("kv-channels",),
    "vocab_size": ("padded-vocab-size", "vocab-size"),
    "num_experts": ("num-experts",),
    "experts_per_token": ("moe-router-topk",),
}
_IN_WORDS = (  # "hidden 7168, ffn 2048, 32 experts, top 8, shared 2048"
    ("hidden_size", r"\bhidden (\d{1,9})\b"),
    ("ffn_hidden_size", r"\bffn (\d{1,9})\b"),
    ("num_experts", r"\b(\d{1,9}) experts\b"),
    ("experts_per_token", r"\btop (\d{1,9})\b"),
    ("shared_hidden_size", r"\bshared (\d{1,9})\b"),
)
_MOST = 1 << 24  # no size of a model is larger; products of three still fit 64 bits
_NO_ATTENTION = {"num_attention_heads": 1, "head_dim": 1, "vocab_size": 1}  # of a layer of experts alone


class Architecture(Strict):
    """Sizes of a decoder. A dense one has no experts; an expert's width is `ffn_hidden_size`."""

    hidden_size: Positive
    ffn_hidden_size: Positive
    num_attention_heads: Positive
    num_query_groups: Positive
    head_dim: Positive
    vocab_size: Positive
    is_gated: bool = True
    num_experts: int = 0
    experts_per_token: int = 0
    shared_hidden_size: int = 0

    @property
    def family(self) -> str:
        """Models of one family have the same layer, whatever their names, depths and vocabularies."""
        experts = f", {self.num_experts} experts top {self.experts_per_token}" if self.num_experts else ""
        shared = f", shared {self.shared_hidden_size}" if self.shared_hidden_size else ""
        gated = "" if self.is_gated else ", not gated"
        heads = f"{self.num_attention_heads}/{self.num_query_groups} heads"
        return f"hidden {self.hidden_size}, ffn {self.ffn_hidden_size}, {heads}{gated}{experts}{shared}"


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


def notes_of(text: str) -> dict[str, str]:
    """The parts between semicolons: "a=1; b" is {"a": "1", "b": ""}."""
    parts = (part.strip() for part in text.split(";"))
    return {name.strip(): value.strip() for name, _, value in (part.partition("=") for part in parts if part)}


def architecture_of(model: str, notes: str, *, is_layer_alone: bool = False) -> Architecture:
    """Sizes of a published model, from its notes first and the table after them.

    Args:
        model: the row's name of it.
        notes: "hidden-size=4096; ..." or "hidden 7168, ffn 2048, 32 experts, top 8".
        is_layer_alone: a layer of experts is timed alone, so that attention and vocabulary do not count.

    Raises:
        ValueError: a size is missing or impossible.
    """
    sizes: dict[str, int | bool] = {**_known(model), **_stated(notes)}
    if is_layer_alone:
        sizes = _NO_ATTENTION | sizes
    over = int(sizes.pop("ffn_over_hidden", 0))
    if over and "hidden_size" in sizes:
        sizes.setdefault("ffn_hidden_size", over * sizes["hidden_size"])
    needed = ("hidden_size", "ffn_hidden_size", "num_attention_heads", "vocab_size")
    missing = [name for name in needed if name not in sizes]
    if missing:
        raise ValueError(f"its notes and the table of architectures lack {missing[0]}: state it in the notes")
    heads = int(sizes["num_attention_heads"])
    sizes.setdefault("num_query_groups", heads)
    sizes.setdefault("head_dim", max(1, int(sizes["hidden_size"]) // max(1, heads)))
    try:
        found = Architecture.model_validate(sizes)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None
    _check(found)
    return found


def _check(sizes: Architecture) -> None:
    if sizes.num_attention_heads % sizes.num_query_groups:
        raise ValueError(
            f"{sizes.num_attention_heads} attention heads cannot share {sizes.num_query_groups} query groups"
        )
    if sizes.experts_per_token > sizes.num_experts or bool(sizes.num_experts) != bool(sizes.experts_per_token):
        raise ValueError(f"top {sizes.experts_per_token} of {sizes.num_experts} experts is impossible")


def _stated(notes: str) -> dict[str, int]:
    flags = notes_of(notes)
    found: dict[str, int] = {}
    for name, keys in _STATED.items():
        for key in keys:
            if key in flags:
                found.setdefault(name, _size(key, flags[key]))
    for name, pattern in _IN_WORDS:
        match = re.search(pattern, notes)
        if match and name not in found:
            found[name] = _size(name, match[1])
    return found


def _size(name: str, digits: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", digits) or not 0 < int(digits) <= _MOST:
        raise ValueError(f"{name}={digits[:40]!r} is not a size of 1 to {_MOST}")
    return int(digits)


def _known(model: str) -> dict[str, int | bool]:
    name = model.casefold().replace("_", " ")
    fitting = [
        (len(start), index) for index, each in enumerate(_table()) for start in each.starts if name.startswith(start)
    ]
    if not fitting:
        return {}
    entry = _table()[max(fitting)[1]]
    return {
        key: value for key, value in entry.model_dump().items() if key not in ("starts", "source") and value is not None
    }


@functools.cache
def _table() -> tuple[_Entry, ...]:
    entries = tomllib.loads(_TABLE.read_text(encoding="utf-8"))["architecture"]
    return tuple(_Entry.model_validate(each) for each in entries)
