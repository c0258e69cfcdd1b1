"""What a generation gave, as plain data that a rank can send to its launcher; and how a person reads it. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from grok1.config.axes import axes_of, axes_text
from grok1.config.sections import Parallel
from grok1.generation.job import Sampling

FinishReason = Literal["eos", "length"]


@dataclass(frozen=True)
class Completion:
    """One prompt, and what continues it."""

    prompt: str
    prompt_tokens: int  # how many
    text: str
    tokens: tuple[int, ...]  # the new ones, without the end token
    finish_reason: FinishReason


@dataclass(frozen=True)
class GenerationResult:
    """All completions, in the order of the prompts, and how fast rank 0 made them."""

    checkpoint_step: int  # training steps behind the weights
    completions: tuple[Completion, ...]
    prefill_seconds: float
    decode_step_seconds: tuple[float, ...]
    decode_tokens_per_second: float | None  # of all replicas together; None without a decoding step
    sampling: Sampling
    tokenizer: str  # its path
    layout: Parallel
    device: Mapping[str, str | float | None]  # grok1.device.measuring.Description, and the weights' dtype
    software: Mapping[str, str]  # versions by package

    def as_json(self) -> dict[str, object]:
        """The result as `grok1 generate --json` writes it."""
        return asdict(self) | {"layout": axes_of(self.layout, "pipeline")}


def transcript(result: GenerationResult) -> str:
    """Each prompt and its completion, and a line on speed."""
    layout = result.layout
    parts = []
    for number, each in enumerate(result.completions, 1):
        parts += [
            f"--- prompt {number} of {len(result.completions)} ({each.prompt_tokens} tokens)",
            _printable(each.prompt),
            f"--- completion ({len(each.tokens)} tokens, ended by {each.finish_reason})",
            _printable(each.text),
            "",
        ]
    speed = result.decode_tokens_per_second
    decode = "no decoding step" if speed is None else f"decode {speed:.1f} tokens/s"
    ranks = f"{layout.world_size} rank{'s' * (layout.world_size > 1)}"
    parts.append(
        f"prefill {result.prefill_seconds:.3f} s, {decode} on {ranks} ({axes_text(layout, 'pipeline')}), "
        f"step {result.checkpoint_step}, tokenizer {result.tokenizer}"
    )
    return "\n".join(parts)


def _printable(text: str) -> str:
    """A model may say anything: characters that would steer the terminal are shown as question marks."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)
