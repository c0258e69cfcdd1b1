"""The cases are recipes: seen wherever Transformer Engine is not, too."""

from __future__ import annotations

import pytest

from tests.transformer_engine.engine_run.cases import CASES, LAYOUTS


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_case_is_a_recipe_of_its_layout(layout: str) -> None:
    for case in CASES:
        plain, engine = case.recipes(layout)
        assert plain.parallel == engine.parallel
        assert plain.kernels != engine.kernels
        assert plain.parallel.world_size == (1 if layout == "one rank" else 2)
