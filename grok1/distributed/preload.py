"""What every rank needs. The forkserver of grok1.distributed.launch imports it on a CPU; no other process does."""

import atexit
import os

import scipy.linalg.blas  # noqa: F401
import sentencepiece  # noqa: F401
import torch._dynamo  # noqa: F401  # torch's optimizers load it at their first use

import grok1.distributed.groups  # noqa: F401  # megatron

# Taking apart all that was imported takes a second or two, and the launcher's end waits for it. Ranks skip this.
atexit.register(os._exit, 0)
