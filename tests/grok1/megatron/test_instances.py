"""What benchmarks leave out for a while comes back, after an error too."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from grok1.device.traffic import Traffic
from grok1.megatron.instances import temporary_settings


def test_settings_of_a_config_are_put_back() -> None:
    config: Any = SimpleNamespace(timers="ours", no_sync_func="theirs")
    with pytest.raises(KeyError), temporary_settings(config, timers=None):
        assert (config.timers, config.no_sync_func) == (None, "theirs")
        raise KeyError
    assert (config.timers, config.no_sync_func) == ("ours", "theirs")


def test_collectives_count_again_afterwards() -> None:
    traffic = Traffic()
    with pytest.raises(KeyError), traffic.uncounted():
        assert not traffic.enabled
        raise KeyError
    assert traffic.enabled
