"""The groups that megatron makes for a rank, for a process of their own."""

from __future__ import annotations

from collections.abc import Sequence

from grok1.config.sections import Parallel


def groups_of_first_rank(layouts: Sequence[Parallel]) -> list[dict[str, list[int]]]:
    """Of each layout, the ranks of rank 0's groups by the ledger's names; of a name that two have, the first's."""
    import torch.distributed as dist

    from grok1.distributed.groups import group_names, joined
    from grok1.distributed.rank_process import prepare_process
    from grok1.distributed.rendezvous import FAKE_URL, Rendezvous

    prepare_process()
    found = []
    for parallel in layouts:
        size = parallel.world_size
        with joined(Rendezvous(FAKE_URL, 0, size, local_rank=0, ranks_per_node=size), parallel, seed=1):
            ranks: dict[str, list[int]] = {}
            for group, name in group_names().items():
                ranks.setdefault(name, sorted(dist.get_process_group_ranks(group or dist.group.WORLD)))
            found.append(ranks)
    return found
