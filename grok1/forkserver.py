"""What the forkserver of launch.py imports on a CPU, so that no rank has to; no other process imports this."""

import atexit
import os

import sentencepiece  # noqa: F401
import torch._dynamo  # noqa: F401  # torch's optimizers load it at their first use

import grok1.train  # noqa: F401

# taking apart all that was imported takes a second or two, for which the end of the launcher waits; ranks skip this
atexit.register(os._exit, 0)
