"""Grok-1 mixture-of-experts pretraining on megatron-core: the model and its training."""

__version__ = "0.1.0"
