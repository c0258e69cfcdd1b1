"""Which published rows a shard holds, by a count of every row by hand."""

from __future__ import annotations

from grok1.config.load import load_recipe
from grok1.weights.sharding import MatrixShard, _published_rows


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
