"""Seconds of operators of a rank: products, attention, and those that only move bytes. No torch.

By rates: a product takes 2 m n k / (peak x efficiency), times 1 + d/3 (1/m + 1/n + 1/k), the more the smaller its
sides are; or as long as its three matrices pass through memory, if that is longer. Where the profile has timed
operators, these correct the rates: exactly at the shapes that were timed, and between them by how near each is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.plan.device import OF_WIDTH, Device
from bench.plan.layouts import Floats, Ints
from bench.plan.measured import TimedProduct, TimedTraffic
from bench.plan.work import Attention, Product, Traffic

_NEARNESS = 4  # how fast a timed shape's say falls with its distance


def product_seconds(products: Sequence[Product], width: int, device: Device, dtype: str | None = None) -> Floats:
    """[products, places]: seconds of all calls together.

    Args:
        width: bytes of an activation.
        dtype: of the products, where they are narrower than the activations: "fp8".
    """
    calls = np.array([each.calls for each in products])
    shape = [np.array([getattr(each, side) for each in products]) for side in ("rows", "columns", "depth")]
    m, n, k = (np.maximum(1, side).astype(np.float64) for side in shape)
    one = _by_rates(m, n, k, width, device, dtype or OF_WIDTH[width])
    if device.measured and device.measured.products:
        one = one * _correction(m, n, k, device.measured.products, width, device)
    return np.asarray(np.where(calls > 0, one * calls, 0.0))


def _by_rates(m: Floats, n: Floats, k: Floats, width: int, device: Device, dtype: str) -> Floats:
    efficiency = device.efficiency
    computing = 2 * m * n * k / (device.peak_flops(dtype) * efficiency.products.value)
    computing *= 1 + efficiency.shape_penalty.value / 3 * (1 / m + 1 / n + 1 / k)
    moving = width * (m * k + k * n + m * n) / memory_rate(device)
    return np.asarray(np.maximum(computing, moving))


def _correction(m: Floats, n: Floats, k: Floats, timed: Sequence[TimedProduct], width: int, device: Device) -> Floats:
    """Timed over calculated seconds: the mean of the timed shapes' logarithms, weighted by nearness in log shape."""
    at = np.array([(each.rows, each.columns, each.depth) for each in timed], float)
    seconds = np.array([each.seconds for each in timed])
    ratios = np.log(seconds / _by_rates(at[:, 0], at[:, 1], at[:, 2], width, device, OF_WIDTH[width]))
    shapes, inverse = np.unique(np.log(np.stack([m, n, k])).reshape(3, -1), axis=1, return_inverse=True)
    found = np.empty(shapes.shape[1])
    for place, shape in enumerate(shapes.T):
        distance = np.linalg.norm(np.log(at) - shape, axis=1)
        weight = 1 / np.maximum(distance, 1e-6) ** _NEARNESS
        found[place] = weight @ ratios / weight.sum()
    return np.asarray(np.exp(found)[inverse].reshape(m.shape))


def attention_seconds(attention: Attention, width: int, device: Device) -> Floats:
    """Of all calls together, a row a place."""
    of_call = np.maximum(1, attention.flops) / np.maximum(1, attention.calls)
    phase = "backward" if attention.phase == "backward" else "forward"
    timed = [each for each in (device.measured.attention if device.measured else []) if each.phase == phase]
    if timed:
        timed = sorted(timed, key=lambda each: each.flops)
        rates = np.log([each.flops / each.seconds for each in timed])
        rate = np.exp(np.interp(np.log(of_call), np.log([each.flops for each in timed]), rates))
    else:
        rate = np.full(len(of_call), device.peak_flops(OF_WIDTH[width]) * device.efficiency.attention.value)
    return np.asarray(attention.flops / rate)


def traffic_seconds(traffic: Traffic, device: Device) -> Floats:
    """Of all calls together, a row a place; launching is the host's."""
    timed = _timed_traffic(traffic, device)
    if timed is None:
        return np.asarray(traffic.bytes / memory_rate(device))
    return np.asarray(traffic.bytes / timed.bytes_a_second + traffic.calls * timed.call_seconds)


def _timed_traffic(traffic: Traffic, device: Device) -> TimedTraffic | None:
    for each in device.measured.traffic if device.measured else []:
        if (each.component, each.phase) == (traffic.component, traffic.phase):
            return each
    return None


def memory_rate(device: Device) -> float:
    """Bytes/s that operators reach of the device's memory."""
    return device.memory.bytes_a_second.value * device.efficiency.memory.value


def calls_of(operators: Sequence[Product | Attention | Traffic], places: int) -> Ints:
    """Launches of a micro-batch."""
    return np.asarray(sum((each.calls for each in operators), np.zeros(places, np.int64)))
