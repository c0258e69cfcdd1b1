"""What each option that we pass changes in MindSpeed, and which arguments its patches miss.

`python -m conformance_run.options --output FILE` writes it as JSON.

MindSpeed patches a process once, so each set of options is a process of its own, forked from one that has torch.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import os
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from grok1.config.load import load_recipe
from grok1.device import accelerator, mindspeed_options
from grok1.device.mindspeed_options import MINDSPEED_FLAGS, FlagValue

RECIPES: dict[str, tuple[str, ...]] = {  # changes of grok1-nano that pass options of their own
    "ours": (),
    "mc2": ("kernels.linear=mc2",),
    "reuse": ("training.dtype=bf16", "training.reuse_fp32_parameters=true"),
}
_ASKERS = ("get_args", "get_full_args", "get_mindspeed_args")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    found = {name: _in_a_fork(flags) for name, flags in _variants().items()}
    output.write_text(json.dumps(found), encoding="utf-8")


def _variants() -> dict[str, Mapping[str, FlagValue]]:
    """Sets of options by name: what recipes pass, and each of these less one option that makes it what it is."""
    ours = mindspeed_options.mindspeed_flags()
    variants: dict[str, Mapping[str, FlagValue]] = {
        "ours": ours,
        "level 0": {**ours, "optimization-level": 0},
        "torch's fused AdamW": {**ours, "optimizer-selection": "fused_torch_adamw"},
    }
    for base, changes in RECIPES.items():
        flags = mindspeed_options.mindspeed_flags(load_recipe("grok1-nano", changes))
        own = [name for name in flags if base == "ours" and ours[name] is not False or flags[name] != ours[name]]
        variants |= {base: flags} | {f"{base} without {name}": _without(flags, name) for name in own}
    return variants


def _without(flags: Mapping[str, FlagValue], name: str) -> dict[str, FlagValue]:
    return {key: value for key, value in flags.items() if key != name}


def _in_a_fork(flags: Mapping[str, FlagValue]) -> dict[str, Any]:
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        with os.fdopen(reader, encoding="utf-8") as said:
            answer: dict[str, Any] = json.loads(said.read())
        os.waitpid(child, 0)
        return answer
    try:
        found = _fingerprint(flags)
    except BaseException:
        found = {"error": traceback.format_exc()}
    with os.fdopen(writer, "w", encoding="utf-8") as saying:
        json.dump(found, saying)
    os._exit(0)


def _fingerprint(flags: Mapping[str, FlagValue]) -> dict[str, Any]:
    """What MindSpeed read and patched with these flags, and what a config and RoPE then do."""
    accelerator.use_npu(dict(flags))
    mindspeed_args: Any = importlib.import_module("mindspeed.args_utils")
    manager: Any = importlib.import_module("mindspeed.patch_utils").MindSpeedPatchesManager
    read = vars(mindspeed_args.get_mindspeed_args())
    patches = {path: _named(patch) for path, patch in manager.patches_info.items()}
    return {
        "read": {flag.name: read.get(flag.attribute) for flag in MINDSPEED_FLAGS},
        "patches": patches,
        "missed": sorted(
            f"{path}: {name}"
            for path, patch in manager.patches_info.items()
            for function in (patch.patch_func, *patch.wrappers)
            for name in _missed(function, set(read))
        ),
        "config": _built_config(),
        "rope": _rope_kernels(),
    }


def _named(patch: Any) -> list[str]:
    functions = [each for each in (patch.patch_func, *patch.wrappers) if each is not None]
    return [f"{each.__module__}.{getattr(each, '__qualname__', each)}" for each in functions]


def _missed(function: Callable[..., object] | None, has: set[str]) -> Iterator[str]:
    """Arguments that a patch reads of MindSpeed's without a default, and that are not there."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))  # type: ignore[arg-type]
    except (TypeError, OSError, SyntaxError):
        return
    nodes = list(ast.walk(tree))
    holders = {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign) and _asks(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr not in has:
            is_held = isinstance(node.value, ast.Name) and node.value.id in holders
            if is_held or _asks(node.value):
                yield node.attr
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "get_args":
            yield "get_args()"  # of Megatron's parser, which a program of ours does not run


def _asks(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") in _ASKERS


def _built_config() -> str:
    """What building a TransformerConfig says."""
    config: Any = importlib.import_module("megatron.core.transformer.transformer_config")
    try:
        config.TransformerConfig(
            num_layers=1,
            hidden_size=8,
            num_attention_heads=2,
            add_bias_linear=False,
            tensor_model_parallel_size=2,
            sequence_parallel=True,
            bf16=True,
            params_dtype=torch.bfloat16,
        )
    except Exception as error:
        return type(error).__name__
    return "built"


def _rope_kernels() -> int:
    """How often RoPE of one tensor ran as one operator."""
    kernels: Any = importlib.import_module("torch_npu.kernels")
    rope: Any = importlib.import_module("megatron.core.models.common.embeddings.rope_utils")
    kernels.CALLS.clear()
    rope._apply_rotary_pos_emb_bshd(torch.ones(4, 1, 2, 8), torch.ones(4, 1, 1, 8))
    return int(kernels.CALLS.get("npu_rotary_position_embedding", 0))


if __name__ == "__main__":
    main()
