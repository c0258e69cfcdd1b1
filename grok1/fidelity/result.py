"""What a verification found, as plain data that a rank can send to its launcher. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from grok1.config.axes import axes_of
from grok1.config.sections import Parallel


@dataclass(frozen=True)
class Comparison:
    """One tensor compared with the reference's. The relative error is over the largest absolute value expected."""

    name: str
    max_abs_error: float
    relative_error: float
    tolerance: float  # of a gradient's relative error; of the loss's and the logits' absolute error
    passed: bool


@dataclass(frozen=True)
class VerifyResult:
    """Loss, logits and every gradient of one step, compared with a reference dump's."""

    oracle: str  # the dump's name
    layout: Parallel
    loss: float
    loss_expected: float
    of_loss: Comparison
    of_logits: Comparison
    of_gradients: tuple[Comparison, ...]  # in the order of the layers
    software: Mapping[str, str]  # versions by package

    @property
    def tensors(self) -> tuple[Comparison, ...]:
        """All comparisons: the loss, the logits, the gradients."""
        return self.of_loss, self.of_logits, *self.of_gradients

    @property
    def worst_gradient(self) -> Comparison:
        """The gradient of the largest relative error; one that is not a number is worse than any number."""
        return max(
            self.of_gradients,
            key=lambda each: math.inf if math.isnan(each.relative_error) else each.relative_error,
        )

    @property
    def passed(self) -> bool:
        """Whether every tensor is within its tolerance."""
        return all(each.passed for each in self.tensors)

    def as_json(self) -> dict[str, object]:
        """The result as `grok1 verify --json` writes it."""
        worst = self.worst_gradient
        return {
            "oracle": self.oracle,
            "layout": axes_of(self.layout),
            "loss": self.loss,
            "loss_expected": self.loss_expected,
            "loss_error": self.of_loss.max_abs_error,
            "max_logit_abs_error": self.of_logits.max_abs_error,
            "worst_gradient": {"name": worst.name, "relative_error": worst.relative_error},
            "passed": self.passed,
            "tensors": [asdict(each) for each in self.tensors],
            "software": dict(self.software),
        }
