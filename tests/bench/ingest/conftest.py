"""A log in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.ingest.logs import Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_log(text: str | bytes, name: str = "job.log") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_log
