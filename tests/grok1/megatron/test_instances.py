"""What benchmarks leave out for a while comes back, after an error too."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from grok1.device.traffic import Traffic
from grok1.megatron.instances import temporary_settings


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
