"""What the forkserver of grok1.distributed.launch imports on a CPU, so that no rank has to; no other process does."""

import atexit
import os

import sentencepiece  # noqa: F401
import torch._dynamo  # noqa: F401  # torch's optimizers load it at their first use

import grok1.training.run  # noqa: F401

# taking apart all that was imported takes a second or two, for which the end of the launcher waits; ranks skip this
atexit.register(os._exit, 0)
