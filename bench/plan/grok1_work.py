"""The work of Grok-1 layouts: products, attention, exchanges as the ledger counts them, traffic nearly so. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.plan.exchanges import exchanges
from bench.plan.layouts import Layouts, Places, different_stages
from bench.plan.memory import width_of
from bench.plan.products import attention_cores, products
from bench.plan.traffic import traffic
from bench.plan.work import Work


def work_of(layouts: Layouts, shares: Sequence[float] | None = None) -> Work:
    """A step of each layout, by the stages that differ: the first, the second for all between, the last.

    Args:
        shares: each expert's of the (token, expert) pairs; None: equal ones.
    """
    return work_at(different_stages(layouts), shares)


def work_at(places: Places, shares: Sequence[float] | None = None) -> Work:
    """A step at these places; all places of a layout must be together."""
    of, recipe, ones = places.of, places.of.recipe, np.ones(len(places), np.int64)
    return Work(
        layout=places.layout,
        stage=places.stage,
        layers=places.layers,
        pipeline=of.pipeline,
        virtual_pipeline=of.virtual_pipeline,
        micro_batches=of.micro_batches,
        world_size=of.world_size,
        tokens_per_step=ones * recipe.tokens_per_step,
        model_flops=np.full(len(places), recipe.flops_per_step()),
        width=width_of(places),
        products=products(places, shares),
        attention=attention_cores(places),
        traffic=traffic(places),
        exchanges=exchanges(places, shares),
        hides_data=False,  # but for what the recipe overlaps: its phase is then a pass's
        fuses_tensor=recipe.kernels.linear == "mc2",
    )
