"""Which published rows a shard holds, by a count of every row by hand; whose experts' weights have which names."""

from __future__ import annotations

import torch

from grok1.config.load import ONE_RANK, load_recipe
from grok1.distributed.groups import Ranks
from grok1.weights.sharding import MatrixShard, _published_rows, local_weights


def test_a_shard_that_begins_within_a_groups_queries_names_the_rows_it_holds() -> None:
    """megatron's shards begin with a group; the names must be right for any rows."""
    model = load_recipe("grok1-nano").model
    size = model.head_dim
    queries = model.num_attention_heads // model.num_query_groups * size
    whole = model.num_query_groups * (queries + 2 * size)
    meaning: list[tuple[str, int]] = []  # of each row of the interleaved matrix: the published matrix, and the row
    for group in range(model.num_query_groups):
        for branch, rows in (("query", queries), ("key", size), ("value", size)):
            meaning += [(branch, group * rows + row) for row in range(rows)]
    first, rows = 3, whole - 5
    shard = MatrixShard("linear_qkv.weight", row=first, rows=rows, column=0, columns=1, width=1)
    found: list[tuple[str, int]] = []
    for name, offset, row, length in _published_rows(shard, model):
        assert offset == len(found)
        found += [(name.removeprefix("linear_qkv.weight."), row + place) for place in range(length)]
    assert found == meaning[first : first + rows]


def test_transformer_engines_experts_are_named_as_sequential_ones_by_their_place_among_all() -> None:
    """Its parameters are one for each expert, in the order of rows that sequential experts have."""
    recipe = load_recipe("grok1-nano", [*ONE_RANK, "parallel.world_size=2", "parallel.expert=2"])
    hidden, width = recipe.model.hidden_size, recipe.model.ffn_hidden_size
    experts = torch.nn.Module()
    for matrix, shape in (("linear_fc1", (2 * width, hidden)), ("linear_fc2", (hidden, width))):
        layer = torch.nn.Module()
        for index in range(4):
            layer.register_parameter(f"weight{index}", torch.nn.Parameter(torch.empty(shape)))
        experts.add_module(matrix, layer)
    model = torch.nn.Module()
    names = ["decoder", "layers", "1", "mlp", "experts"]
    inner = experts
    for name in reversed(names):
        outer = model if name == names[0] else torch.nn.Module()
        outer.add_module(name, inner)
        inner = outer
    second = Ranks(1, 2, 1, 0, 0, 0, 1, 1, 0, 0, True, True)
    found = {each.name: each for each in local_weights(model, recipe, second)}
    assert set(found) == {
        f"decoder.layers.1.mlp.experts.local_experts.{4 + index}.{matrix}.weight"
        for index in range(4)
        for matrix in ("linear_fc1", "linear_fc2")
    }
    seventh = found["decoder.layers.1.mlp.experts.local_experts.7.linear_fc1.weight"]
    assert seventh.parameter is experts.get_parameter("linear_fc1.weight3")
    assert seventh.matrix(seventh.parameter) is seventh.parameter
    gate, value = seventh.shards
    assert (gate.name.rsplit(".", 1)[1], gate.row, gate.rows) == ("gate", 0, width)
    assert (value.name.rsplit(".", 1)[1], value.row, value.rows) == ("value", 0, width)
