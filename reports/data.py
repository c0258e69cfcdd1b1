"""The report for programs: the verdicts with all that they rest on, and the figures of each record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench.judge.metrics import figures_of
from bench.records.jsonfile import nonfinite_as_null
from reports.case import CaseResult, Run


def as_json(cases: Sequence[CaseResult]) -> bytes:
    """Strict JSON: what is not a finite number is null."""
    content = {
        "schema": 1,
        "verdicts": [
            {
                **asdict(case.verdict),
                "records": [run.record.id for run in case.runs],
                "expectation": None if case.expectation is None else case.expectation.model_dump(),
            }  # the worst first
            for case in cases
        ],
        "records": [_record(run) for case in cases for run in case.runs],
    }
    return (json.dumps(nonfinite_as_null(content), indent=1, allow_nan=False) + "\n").encode()


def _record(run: Run) -> dict[str, Any]:
    record, summary = run.record, run.summary
    found = asdict(summary) if summary is not None else {}
    found.pop("step_seconds", None)  # raw samples are in the record
    return {
        "id": record.id,
        "case": record.case,
        "created_at": record.created_at,
        "valid": record.valid,
        "void_reasons": record.void_reasons,
        "recipe": {"name": record.recipe.name, "hash": record.recipe.hash},
        "commit": record.commit.model_dump(),
        "summary": found or None,
        "figures": figures_of(summary) if summary is not None else None,
    }
