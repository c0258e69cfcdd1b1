"""megatron's own layers where another package has taken their names, as MindSpeed's MC2 does."""

from __future__ import annotations

from typing import Any

import pytest

from grok1.kernels.linear import _megatrons

# as in megatron/core/tensor_parallel/layers.py: the constructor asks for its class by the name that it has there
SOURCE = """
class Column:
    def __init__(self, size, scale=2, *, bias=True):
        super(Column, self).__init__()
        self.size, self.bias = size * scale, bias
"""


@pytest.fixture
def module() -> dict[str, Any]:
    """The names of a module that says that it is megatron's."""
    names: dict[str, Any] = {"__name__": "megatron.core.tensor_parallel.layers"}
    exec(SOURCE, names)  # noqa: S102  # the text above
    return names


def test_a_class_whose_name_was_taken_is_made_all_the_same(module: dict[str, Any]) -> None:
    original = module["Column"]
    module["Column"] = taken = type("TakesTheName", (original,), {"__module__": "mindspeed", "__init__": None})
    with pytest.raises(TypeError, match="super"):
        original(3)
    plain: Any = _megatrons(taken)
    assert issubclass(plain, original)
    assert not issubclass(plain, taken)
    for words, bias in (({}, True), ({"bias": False}, False)):
        made = plain(3, **words)
        assert (made.size, made.bias) == (6, bias)


def test_a_class_that_kept_its_name_is_handed_on(module: dict[str, Any]) -> None:
    assert _megatrons(module["Column"]) is module["Column"]
