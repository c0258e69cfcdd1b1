"""The first code of a rank's process: its settings, its entry point, its end. No torch until it runs."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import threading
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

from grok1.config.recipe import Recipe
from grok1.device.kind import device_kind, set_recipe
from grok1.distributed.environment import threads
from grok1.distributed.progress import PROGRESS
from grok1.distributed.rendezvous import Rendezvous
from grok1.distributed.scratch import SCRATCH
from grok1.files import NotDoneError


def rank_main(entry: str, job: object, recipe: Recipe, where: Rendezvous, results: Connection, folder: str) -> None:
    """First code of a rank: run the entry, send what it says; never outlive the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if device_kind() == "cpu":
        _take_turns()
    _end_with_launcher(results)
    PROGRESS.write_to(Path(folder), where.rank)
    SCRATCH.use(Path(folder))
    try:
        set_recipe(recipe)  # before the entry's module, which imports megatron
        module, name = entry.split(":")
        prepare_process()
        run = getattr(importlib.import_module(module), name)
        outcome = run(job, where, lambda event: results.send(("event", event)))
        results.send(("result", outcome))
    except ValueError as error:  # the user's input; only one line of it is of use
        _say(results, "refused", str(error), traceback.format_exc())
        os._exit(2)
    except NotDoneError as error:
        _say(results, "undone", str(error), traceback.format_exc())
        os._exit(1)
    except BaseException:
        _say(results, "error", traceback.format_exc())
        os._exit(1)  # skip the process group's farewell, which would wait for the others


def _say(results: Connection, kind: str, *details: str) -> None:
    with contextlib.suppress(OSError):  # of a launcher that has ended, nobody wants to know
        results.send((kind, time.time(), *details))


def _take_turns() -> None:
    """Let no thread of this rank interrupt another when a message comes; its later threads inherit it. Linux only.

    With more ranks than cores, gloo's threads wake up for every packet, each time in the middle of a rank's own work:
    a third of the step of small recipes. As a batch they wait until the core is free, and find more packets at once.
    """
    if hasattr(os, "SCHED_BATCH"):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _end_with_launcher(results: Connection) -> None:
    """Kill this rank when the launcher's end of its pipe closes, which it does however the launcher ends.

    (The forkserver is no help: it lives as long as its ranks do.)
    """

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            results.recv()  # the launcher never sends
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def prepare_process() -> None:
    """Settings every rank wants: one thread each unless told otherwise, no chatter."""
    # sixteen ranks would each say that torch renamed a collective, or that an option of megatron's does nothing
    for module in (r"megatron\.", r"torch\.distributed\."):
        warnings.filterwarnings("ignore", module=module)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler says on stderr when it starts and stops (2.13)
    leave_backends_to_the_seam()
    import torch

    if device_kind() == "cpu":
        torch.set_num_threads(threads())
    with contextlib.suppress(RuntimeError):  # already set by an earlier job of this process
        torch.set_num_interop_threads(1)


def leave_backends_to_the_seam() -> None:
    """Keep `import torch` from importing torch_npu, here and in what this process starts; torch 2.5 and later do.

    grok1.device imports it itself, after what must come before, and with its warnings ignored. Has no effect once torch
    is imported.
    """
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
