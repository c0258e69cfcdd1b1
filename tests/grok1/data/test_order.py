"""The order of samples beyond the index: a permutation each time, and no function of what comes later."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from grok1.data.order import SampleOrder

lengths, seeds = st.integers(1, 40), st.integers(0, 2**31 - 1)


@given(length=lengths, seed=seeds)
def test_the_first_reading_is_the_index_as_it_is(length: int, seed: int) -> None:
    order = SampleOrder(length, seed)
    assert [order[number] for number in range(length)] == list(range(length))


@given(length=lengths, seed=seeds, reading=st.integers(1, 5))
def test_every_reading_takes_each_sample_once(length: int, seed: int, reading: int) -> None:
    order = SampleOrder(length, seed)
    numbers = [order[number] for number in range(reading * length, (reading + 1) * length)]
    assert sorted(numbers) == list(range(length))


@given(length=lengths, seed=seeds, numbers=st.lists(st.integers(0, 300), max_size=20))
def test_a_number_has_one_answer_whatever_was_asked_before(length: int, seed: int, numbers: list[int]) -> None:
    order = SampleOrder(length, seed)
    assert [order[number] for number in numbers] == [SampleOrder(length, seed)[number] for number in numbers]


def test_readings_and_seeds_differ() -> None:
    def reading(seed: int, number: int) -> list[int]:
        order = SampleOrder(50, seed)
        return [order[each] for each in range(number * 50, number * 50 + 50)]

    orders = [reading(seed, number) for seed in (1, 2) for number in (1, 2, 3)]
    assert len({tuple(order) for order in orders}) == len(orders)


def test_the_order_stays_what_it_was_when_numpy_changes() -> None:
    """A checkpoint of an older version must go on with the samples that come next."""
    order = SampleOrder(8, 1234)
    assert [order[number] for number in range(8, 24)] == [6, 2, 4, 1, 7, 3, 0, 5, 5, 7, 1, 6, 4, 3, 2, 0]
