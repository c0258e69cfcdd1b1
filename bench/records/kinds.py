"""What kind of file of ours a JSON file is, where it is not the one that is read there: told by its fields."""

from __future__ import annotations

import json

from pydantic import BaseModel

_KINDS = {  # by fields that no other kind has together
    "a record": {"case", "ranks", "steps", "valid"},
    "a file of baselines": {"schema", "baselines"},
    "a ledger": {"ranks", "recipe_name", "unknown_operators"},
    "a device profile": {"efficiency", "links", "node_size", "peak"},
    "a file of frozen predictions": {"predictions", "sha256"},
    "a file of expectations": {"expectations"},
    "a series of runs": {"condition", "runs"},
    "verdicts": {"verdicts"},
    "a plan": {"layouts", "rows", "world_size"},
}


def another_kind(raw: bytes, model: type[BaseModel]) -> str:
    """That a file is of another kind than the model's, in words; empty where that is not known."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return ""
    has = set(content) if isinstance(content, dict) else set()
    reads = {field.alias or name for name, field in model.model_fields.items()}
    wanted = next((kind for kind, marks in _KINDS.items() if marks <= reads), "")
    found = next((kind for kind, marks in _KINDS.items() if marks <= has), "")
    return f"is {found}, and {wanted} is wanted here" if wanted and found not in ("", wanted) else ""
