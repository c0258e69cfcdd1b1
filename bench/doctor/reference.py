"""The CPU's numbers. A process has one device for good, so beside an accelerator they come from a process of their own.

`python -m bench.doctor.reference WHAT RECIPE.json OUT.npz` is that process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from bench.places import SOURCES
from grok1.config.recipe import Recipe
from grok1.device.kind import Kind
from grok1.distributed.launch import launch

Arrays = dict[str, npt.NDArray[Any]]
What = Literal["layer", "steps", "ledger"]
_SECONDS = 600
# the CPU's process must not inherit the device, nor load an NPU's package only because it is installed
_ENVIRONMENT = ("env", "-u", "GROK1_DEVICE", "TORCH_DEVICE_BACKEND_AUTOLOAD=0")


def on_cpu(what: What, recipe: Recipe, kind: Kind) -> Arrays:
    """What the CPU computes for this recipe, by name of the array; `kind` is this process's device.

    "layer": output, gradient. "steps": losses, grad_norms, of ten. "ledger": stages, peak_bytes.

    Raises:
        RuntimeError: the CPU's process failed; its last line says why.
    """
    return computed(what, recipe) if kind == "cpu" else in_child(what, recipe)


def computed(what: What, recipe: Recipe) -> Arrays:
    """As `on_cpu`, in a process whose device is the CPU."""
    if what == "layer":
        layer = launch(recipe, recipe, "cpu", entry="bench.doctor.layer:run_rank")
        return {"output": layer.output, "gradient": layer.gradient}
    if what == "steps":
        from bench.doctor.layout import STEPS
        from grok1.training.job import prepare

        run = launch(prepare(recipe, STEPS), recipe, "cpu", entry="grok1.training.run:run_rank")
        return {name: np.array([getattr(step, key) for step in run.steps]) for name, key in _COLUMNS.items()}
    from bench.ledger.count import count

    ranks = count(recipe).ranks
    return {
        "stages": np.array([each.stage for each in ranks]),
        "peak_bytes": np.array([each.memory.peak_bytes for each in ranks]),
    }


_COLUMNS = {"losses": "loss", "grad_norms": "grad_norm"}


def in_child(what: What, recipe: Recipe) -> Arrays:
    """As `on_cpu`, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="grok1-doctor-") as folder:
        given, out = Path(folder) / "recipe.json", Path(folder) / "out.npz"
        given.write_text(json.dumps(recipe.resolved()), encoding="utf-8")
        command = [*_ENVIRONMENT, sys.executable, "-m", "bench.doctor.reference", what, str(given), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, cwd=SOURCES, check=False)
        if done.returncode or not out.is_file():
            reason = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
            raise RuntimeError(f"the CPU's numbers could not be computed: {reason}")
        with np.load(out, allow_pickle=False) as archive:
            return dict(archive)


def _main(what: What, given: Path, out: Path) -> None:
    recipe = Recipe.model_validate_json(given.read_text(encoding="utf-8"))
    arrays: Mapping[str, Any] = computed(what, recipe)
    np.savez(out, **arrays)


if __name__ == "__main__":
    _main(cast(What, sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))  # `in_child` has given them
