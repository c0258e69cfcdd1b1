"""What benchmarks leave out for a while comes back, after an error too; and weights are awaited by who reads them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from grok1.device.traffic import Traffic
from grok1.megatron.instances import await_weights_of_children, temporary_settings


def test_settings_of_a_config_are_put_back() -> None:
    config: Any = SimpleNamespace(timers="ours", no_sync_func="theirs")
    seen: list[Any] = []

    def fail() -> None:
        with temporary_settings(config, timers=None):
            seen.append((config.timers, config.no_sync_func))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [(None, "theirs")]
    assert (config.timers, config.no_sync_func) == ("ours", "theirs")


def test_collectives_count_again_afterwards() -> None:
    traffic = Traffic()
    seen: list[bool] = []

    def fail() -> None:
        with traffic.uncounted():
            seen.append(traffic.enabled)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (seen, traffic.enabled) == ([False], True)


class _Experts(torch.nn.Module):
    """Reads its children's weights, and calls none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.children_of_it = torch.nn.ModuleList([torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)])

    def forward(self) -> None:
        """Nothing."""


def test_a_module_that_reads_its_childrens_weights_waits_for_them_before_it_runs() -> None:
    awaited: list[str] = []
    wrapped: Any = torch.nn.ModuleDict({"experts": _Experts(), "others": _Experts(), "dense": torch.nn.Linear(1, 1)})
    wrapped.param_to_bucket_group = {
        parameter: SimpleNamespace(finish_param_sync=lambda name=name: awaited.append(name))
        for name, parameter in wrapped.named_parameters()
    }
    await_weights_of_children(wrapped, _Experts)
    assert awaited == []
    wrapped["experts"]()
    assert awaited == [name for name, _ in wrapped.named_parameters() if name.startswith("experts.")]
    wrapped["dense"](torch.zeros(1))
    assert len(awaited) == 4
