"""In which order samples are read when a job outlives its index. No torch, no megatron."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class SampleOrder:
    """Which sample of the index is the n-th of the training run, for any n; n's answer depends on no later number.

    The first `length` are the index's own, in megatron's order. After that they are read again and again, each time in
    an order of its own, so every document is read equally often. One such order is in memory at a time: 8 bytes a
    sample.
    """

    def __init__(self, length: int, seed: int) -> None:
        self._length, self._seed = length, seed
        self._round, self._order = 0, np.zeros(0, np.int64)

    def __getitem__(self, number: int) -> int:
        """The index's sample that is read as number `number`, counted from 0."""
        reading, place = divmod(number, self._length)
        if reading == 0:
            return place
        if reading != self._round:
            self._round, self._order = reading, self._shuffled(reading)
        return int(self._order[place])

    def _shuffled(self, reading: int) -> npt.NDArray[np.int64]:
        """From seed and number of the reading alone. Both classes give the same numbers in every version of numpy."""
        state = np.random.SeedSequence([self._seed, reading]).generate_state(4)
        return np.random.RandomState(state).permutation(self._length).astype(np.int64)
