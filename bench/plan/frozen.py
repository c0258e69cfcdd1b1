"""Predictions that are written down before they are scored: a file whose hash says that nothing was changed. No torch.

The hash protects from a change that nobody meant or noticed, and lets a prediction be named in public before its
measurement is. It is no signature: whoever rewrites the whole file gets another hash, and must publish that one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from bench.plan.published import PublishedRow
from bench.records.fields import Figure, Name, Strict, Text
from bench.records.jsonfile import read_model, write_model

MAX_BYTES = 16 << 20
# Sizes that rows did not have at first: those of a model that lacks them are left out of its key, which stays the same
_LATER = (
    "expert_hidden_size", "dense_layers", "dense_between", "query_rank", "latent_rank", "rope_dim", "value_dim",
)  # fmt: skip
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Seconds = Annotated[float, Field(gt=0, le=1e12)]


class FrozenPrediction(Strict):
    """Of one row; without `low` and `high` no interval was promised, and `said` tells why."""

    row: Name
    key: Digest  # of the job and its metric, whatever line it stands in
    seconds: Seconds
    low: Seconds | None
    high: Seconds | None
    null_seconds: Seconds | None
    said: Text = ""

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> FrozenPrediction:
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high stand together: an interval has both, or there is none")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low:g} s is more than high {self.high:g} s")
        return self


class Frozen(Strict):
    """All predictions of one file of rows, and what they were made with."""

    schema_: Literal[1] = Field(alias="schema", default=1)
    level: Annotated[float, Field(gt=0, lt=1)]
    made_with: dict[Name, Text]
    figures: dict[Name, Figure] = {}
    predictions: Annotated[list[FrozenPrediction], Field(min_length=1, max_length=10_000)]
    sha256: Digest | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of all that is in it but the hash itself."""
        content = self.model_copy(update={"sha256": None}).model_dump_json(by_alias=True)
        return hashlib.sha256(content.encode()).hexdigest()


def key_of(row: PublishedRow) -> str:
    """Of the job, its sizes and what is stated of it, so that a row is found again in another file."""
    figure = "seconds of a step" if row.is_time else row.metric
    flags = sorted(each for each in row.flags.items() if " " not in each[0])  # prose may state what was measured
    sizes = sorted(each for each in row.architecture.model_dump().items() if each[0] not in _LATER or each[1])
    said = repr((*row.job, row.layers, sizes, flags, figure))
    return hashlib.sha256(said.encode("utf-8", "backslashreplace")).hexdigest()


def freeze(
    path: Path,
    level: float,
    made_with: dict[str, str],
    figures: dict[str, float],
    predictions: Sequence[FrozenPrediction],
) -> str:
    """Write predictions to a file that must not exist; its hash, to be made known before they are scored.

    Raises:
        ValueError: the file exists, cannot be written, or there is nothing to freeze.
    """
    if not predictions:
        raise ValueError(f"{path}: there is no prediction to freeze")
    frozen = Frozen(level=level, made_with=made_with, figures=figures, predictions=list(predictions))
    digest = frozen.digest
    _write_new(path, frozen.model_copy(update={"sha256": digest}))
    return digest


def _write_new(path: Path, frozen: Frozen) -> None:
    """Whole or not at all; of several that write at once, the first alone."""
    whole = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        if path.exists():  # said before the folder is touched
            raise FileExistsError
        write_model(whole, frozen)
        _name_new(whole, path)
    except FileExistsError:
        raise ValueError(f"{path}: exists; frozen predictions are not written over, choose another file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(str(error).replace(str(whole), str(path))) from None
    finally:
        with contextlib.suppress(OSError):
            whole.unlink()


def _name_new(whole: Path, path: Path) -> None:
    """Give a file its name; a FileExistsError where something has it."""
    try:
        os.link(whole, path)
    except FileExistsError:
        raise
    except OSError:  # of a disk without hard links
        path.touch(exist_ok=False)
        os.replace(whole, path)


def read_frozen(path: Path) -> Frozen:
    """Predictions as they were frozen.

    Raises:
        ValueError: not such a file, without a hash, or changed since.
    """
    frozen = read_model(path, Frozen, max_bytes=MAX_BYTES)
    if frozen.sha256 is None:
        raise ValueError(f"{path}: has no sha256, so it was not frozen; make one with plan --freeze")
    if frozen.sha256 != frozen.digest:
        raise ValueError(
            f"{path}: was changed after it was frozen: its sha256 is {frozen.sha256[:12]}…, its content's "
            f"{frozen.digest[:12]}…; only an unchanged file is scored"
        )
    keys = [each.key for each in frozen.predictions]
    if len(set(keys)) < len(keys):
        raise ValueError(f"{path}: predicts one row twice")
    return frozen
