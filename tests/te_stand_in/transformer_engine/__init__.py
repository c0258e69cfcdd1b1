"""Transformer Engine's real Python code on a CPU: this file is found in place of its own, and finds its modules.

What lies below them is missing here, and is stood in for: the compiled extension (transformer_engine_torch.py beside
this folder), the device, ONNX. Triton's kernels run in Triton's interpreter (TRITON_INTERPRET=1), untuned.
"""

import contextlib
import functools
import os
import sys
import types
from importlib import metadata
from pathlib import Path
from unittest import mock

import torch
import transformer_engine_torch
import triton
from triton.runtime.interpreter import InterpretedFunction

_FOLDERS = [Path(each) / "transformer_engine" for each in sys.path if each]
__path__ = [next(str(each) for each in _FOLDERS if (each / "common" / "recipe").is_dir())]
__version__ = metadata.version("transformer_engine")


class _Cuda:
    """torch.cuda, with a device as far as Transformer Engine asks."""

    is_available = staticmethod(lambda: True)
    is_current_stream_capturing = staticmethod(lambda: False)
    device = staticmethod(lambda _which: contextlib.nullcontext())
    nvtx = types.SimpleNamespace(range=lambda _name: contextlib.nullcontext())
    get_device_properties = staticmethod(
        lambda *_: types.SimpleNamespace(major=9, minor=0, multi_processor_count=1, name="stand-in")
    )
    get_device_capability = staticmethod(lambda *_: (9, 0))

    def __getattr__(self, name: str) -> object:
        return getattr(torch.cuda, name)


class _Torch:
    """torch with that torch.cuda: what Transformer Engine's modules find by that name, and no others."""

    cuda = _Cuda()

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


class _Untuned:
    """A kernel with the first of the choices that triton.autotune would time on a GPU."""

    def __init__(self, configs: list, kernel: object) -> None:
        self._settings, self._kernel = configs[0].kwargs, kernel

    def __getitem__(self, grid: object) -> object:
        return functools.partial(self._kernel[grid], **self._settings)


def _asks(frame: types.FrameType) -> bool:
    """Whether it is Transformer Engine's code, which asserts of all that it gets that it is on a GPU."""
    return frame.f_globals["__name__"].startswith(f"{__name__}.")


def _noting(run):
    def noted(kernel, *args, **kwargs):
        transformer_engine_torch.CALLS.add(kernel.fn.__name__)
        return run(kernel, *args, **kwargs)

    return noted


def _import() -> None:
    from transformer_engine import common

    common.load_framework_extension = lambda framework: None  # it is imported above
    sys.modules[f"{__name__}.pytorch.onnx_extensions"] = mock.MagicMock()
    with mock.patch.object(triton, "autotune", lambda configs, **_: functools.partial(_Untuned, configs)):
        from transformer_engine import pytorch  # noqa: F401  # for its modules, which the loop below finds
    for name, module in [*sys.modules.items()]:
        if name.startswith(f"{__name__}.") and vars(module).get("torch") is torch:
            module.torch = _Torch()
    torch.Tensor.is_cuda = property(lambda tensor: _asks(sys._getframe(1)))
    InterpretedFunction.run = _noting(InterpretedFunction.run)


with mock.patch.dict(os.environ, NVTE_PROJECT_BUILDING="1"):  # else it looks for its shared objects, and for cuDNN
    _import()
