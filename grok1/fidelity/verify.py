"""Does our model compute what xAI's does? Runs a reference dump through the training step and compares the results.

Weights are loaded slice by slice, in any layout. The step's own schedule runs forward and backward. Logits and
gradients are gathered on rank 0.

Legend: B batch, T the dump's sequence, S ours (T lengthened to what tensor parallelism divides).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from grok1.config.recipe import Recipe
from grok1.data.batches import Batch, of_context_rank
from grok1.device import software
from grok1.distributed.groups import Ranks, joined
from grok1.distributed.rendezvous import Rendezvous
from grok1.fidelity.dump import Array, Dump, in_dump_orientation, place_of
from grok1.fidelity.job import VerifyJob
from grok1.fidelity.result import Comparison, VerifyResult
from grok1.model.attention import key_bias
from grok1.model.model import Grok, gather_gradients, unwrapped
from grok1.training.assembly import build_stepper
from grok1.weights.names import HEAD, published_shapes
from grok1.weights.sharding import PublishedSlice, gather_published, load_published

# float32 against float32; the smallest mistake seen (exact GELU for tanh) is ten times as large
LOGIT_TOLERANCE = 2e-5
LOSS_TOLERANCE = 1e-6
GRADIENT_TOLERANCE = 5e-5  # of the gradient's largest element


def run_rank(job: VerifyJob, where: Rendezvous, _emit: object) -> VerifyResult | None:
    """One forward and backward on this rank; rank 0 returns the comparison, the others None."""
    with joined(where, job.recipe.parallel, job.recipe.training.seed) as ranks:
        return compare(job, ranks)


def compare(job: VerifyJob, ranks: Ranks) -> VerifyResult | None:
    """As `run_rank`, on ranks that have joined."""
    dump, recipe = Dump(job.path), job.recipe
    batches = DumpBatches(dump, recipe, ranks)
    stepper = build_stepper(
        recipe,
        ranks,
        batches,
        prepare=lambda model: load_published(model, recipe, ranks, lambda piece: _read_slice(dump, piece)),
    )
    model = stepper.model
    kept: list[Tensor] = []
    grok: Grok = unwrapped(model)
    grok.kept_logits = kept
    loss, *_ = stepper.reduce_losses(stepper.accumulate(batches.step(0)))
    gather_gradients(model)
    gradients = gather_published(model, recipe, ranks, lambda parameter: parameter.main_grad)  # type: ignore[attr-defined]
    logits = _gather_logits(kept, recipe, ranks)
    if ranks.rank != 0:
        return None
    return _judged(dump, recipe, loss, logits, {key: value.numpy() for key, value in gradients.items()})


class DumpBatches:
    """The dump's rows as micro-batches. Where replicas need more, rows are repeated, which changes no mean."""

    def __init__(self, dump: Dump, recipe: Recipe, ranks: Ranks) -> None:
        self._dump, self._recipe, self._ranks = dump, recipe, ranks

    def step(self, _step: int) -> list[Batch]:
        """This replica's micro-batches, each tokens, labels and positions [B, S] on the device."""
        config, length = self._dump.config, self._recipe.training.sequence_length
        target = torch.cuda.current_device()
        rows = np.array(_rows(self._recipe, self._ranks.data)) % config.batch
        filler = ((0, 0), (0, length - config.seq))
        has_pads = self._dump.has_pads()
        batches = []
        for micro in rows:
            tokens, labels = (
                torch.from_numpy(np.pad(self._dump.array(name)[micro], filler).astype(np.int64))
                for name in ("tokens", "targets")
            )
            batch = {"tokens": tokens, "labels": labels, "position_ids": torch.arange(length).expand_as(tokens)}
            if has_pads:
                batch["key_bias"] = key_bias(tokens, config.pad_token, config.seq)
            if length > config.seq:
                counted = (torch.arange(length) < config.seq).float().expand_as(tokens)
                batch["loss_weights"] = counted / counted.sum()
            batch = of_context_rank(batch, self._recipe.parallel.context, self._ranks.context)
            batches.append({name: values.to(target) for name, values in batch.items()})
        return batches


def _rows(recipe: Recipe, replica: int) -> list[list[int]]:
    """Rows of the global batch that a replica's micro-batches take, in the order of grok1.data.batches."""
    size, replicas = recipe.training.micro_batch, recipe.parallel.data
    firsts = [(micro * replicas + replica) * size for micro in range(recipe.num_micro_batches)]
    return [list(range(first, first + size)) for first in firsts]


def _read_slice(dump: Dump, piece: PublishedSlice) -> Tensor:
    rows = dump.weight(piece.key)[piece.row : piece.row + piece.rows]
    if piece.columns:
        rows = rows[:, piece.column : piece.column + piece.columns]
    return torch.from_numpy(np.array(rows))


# (tensor rank, context rank, rows of each micro-batch, logits [S/CP, B, V/TP] of each)
_Logits = tuple[int, int, list[list[int]], list[Tensor]]


def _gather_logits(kept: list[Tensor], recipe: Recipe, ranks: Ranks) -> Tensor:
    """Logits [global batch, S, V] on rank 0, from each last-stage rank's share of the vocabulary; else empty."""
    mine: _Logits = (ranks.tensor, ranks.context, _rows(recipe, ranks.data), [logits.float().cpu() for logits in kept])
    gathered: list[_Logits] | None = [mine] * ranks.world_size if ranks.rank == 0 else None
    dist.gather_object(mine, gathered)
    if gathered is None:
        return torch.empty(0)
    training, vocabulary = recipe.training, recipe.model.vocab_size
    whole = torch.full((training.global_batch, training.sequence_length, vocabulary), torch.nan)
    share = vocabulary // recipe.parallel.tensor
    positions = torch.arange(training.sequence_length)[None]
    for tensor, context, rows, logits in gathered:
        held = of_context_rank({"positions": positions}, recipe.parallel.context, context)["positions"][0]
        columns = torch.arange(tensor * share, (tensor + 1) * share)
        for micro, values_SBV in zip(rows, logits, strict=False):  # earlier stages have rows and no logits
            whole[torch.tensor(micro)[:, None, None], held[:, None], columns] = values_SBV.transpose(0, 1)
    return whole


# ---- judging -------------------------------------------------------------------------------------------


def _judged(dump: Dump, recipe: Recipe, loss: float, logits: Tensor, gradients: dict[str, Array]) -> VerifyResult:
    config = dump.config
    rows = np.arange(recipe.training.global_batch) % config.batch
    expected_loss = float(dump.array("loss"))
    return VerifyResult(
        oracle=dump.path.stem,
        layout=recipe.parallel,
        loss=loss,
        loss_expected=expected_loss,
        of_loss=_compared("loss", np.array(loss), np.array(expected_loss), LOSS_TOLERANCE, absolute=True),
        of_logits=_compared(
            "logits", logits[:, : config.seq].numpy(), dump.array("logits")[rows], LOGIT_TOLERANCE, absolute=True
        ),
        of_gradients=tuple(_compared_gradients(dump, recipe, gradients)),
        software=software.versions() | software.commits(),
    )


def _compared_gradients(dump: Dump, recipe: Recipe, gradients: dict[str, Array]) -> Iterator[Comparison]:
    keys_by_array: dict[str, list[str]] = defaultdict(list)
    for key in published_shapes(recipe.model):
        if key != HEAD:  # an untied head has no gradient in the dump
            keys_by_array[place_of(key).array].append(key)
    expected = dict(dump.gradients())
    for name, keys in keys_by_array.items():
        ours = in_dump_orientation(name, gradients, keys)
        yield _compared(f"grad.{name}", ours, expected[name], GRADIENT_TOLERANCE, absolute=False)


def _compared(name: str, ours: Array, expected: Array, tolerance: float, absolute: bool) -> Comparison:
    error = float(np.abs(ours.astype(np.float64) - expected.astype(np.float64)).max())
    scale = float(np.abs(expected).max())
    # all zero expected, as for an expert that no token chose: then any error at all is too large
    relative = error / scale if scale else (0.0 if error == 0.0 else math.inf)
    return Comparison(name, error, relative, tolerance, (error if absolute else relative) <= tolerance)
