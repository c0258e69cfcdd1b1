"""Mutants that change nothing that a test could or should see, each with the reason."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

# (file, the line, the changed line, both without indentation): the reason
KNOWN: dict[tuple[str, str, str], str] = {
    (
        "bench/judge/clock.py",
        "return tick if np.all(np.abs(apart - np.round(apart)) < _OFF_GRID * np.round(apart)) else 0.0",
        "return tick if np.all(np.abs(apart - np.round(apart)) < _OFF_GRID * np.round(apart)) else -1.0",
    ): "the larger of it and another tick is taken, which is at least 0",
    (
        "bench/judge/evidence.py",
        "return critical, float(scipy.optimize.brentq(power_lacks, 0.0, 4 * critical + 20.0, xtol=1e-6))",
        "return critical, float(scipy.optimize.brentq(power_lacks, 0.0, 4 / critical + 20.0, xtol=1e-6))",
    ): "the root lies between both ends all the same",
    (
        "bench/judge/evidence.py",
        "return critical, float(scipy.optimize.brentq(power_lacks, 0.0, 4 * critical + 20.0, xtol=1e-6))",
        "return critical, float(scipy.optimize.brentq(power_lacks, 0.0, 3 * critical + 20.0, xtol=1e-6))",
    ): "the root lies between both ends all the same",
    (
        "bench/judge/evidence.py",
        "_NODES, _WEIGHTS = (np.polynomial.legendre.leggauss(64) + np.array([[1.0], [0.0]])) / 2",
        "_NODES, _WEIGHTS = (np.polynomial.legendre.leggauss( 63) + np.array([[1.0], [0.0]])) / 2",
    ): "one node fewer of 64 changes no digit that counts",
    (
        "bench/judge/metrics.py",
        "names = [name for name in before[0] if metric_of(name) and all(name in run for run in (*before, *after))]",
        "names = [name for name in before[ -1] if metric_of(name) and all(name in run for run in (*before, *after))]",
    ): "the names that every run has are those of any run",
    (
        "bench/judge/periods.py",
        "is_slow = np.zeros(2 * (longest + 1))",
        "is_slow = np.zeros( 3 * (longest + 1))",
    ): "of the sums only those up to the longest distance are kept, and twice as much room keeps the others out",
    (
        "bench/judge/planned_runs.py",
        "needed = [runs_needed(each, error, fewest=1) for each in asked]",
        "needed = [runs_needed(each, error, fewest= 0) for each in asked]",
    ): "no fewer are named than decide at all",
    (
        "bench/judge/sessions.py",
        'last, number = dict.fromkeys(names, float("-inf")), dict.fromkeys(names, 0)',
        'last, number = dict.fromkeys(names, float("-inf")), dict.fromkeys(names, 1)',
    ): "of a label all that matters is which others are equal to it",
    (
        "bench/judge/stats.py",
        "tflops_per_second_per_processor=flops_per_second / 1e12,",
        "tflops_per_second_per_processor=flops_per_second / 1000000000001.0,",
    ): "one in 10^12 changes no digit that counts",
    (
        "grok1/config/memory.py",
        '"expert-data": parallel.expert_data if are_apart else 1,',
        '"expert-data": parallel.expert_data if are_apart else 0,',
    ): "only groups of more than one rank are counted",
}


def why_known(mutant: Mutant) -> str | None:
    """The reason; None for a mutant that must be caught."""
    return KNOWN.get((mutant.path, *mutant.change))
