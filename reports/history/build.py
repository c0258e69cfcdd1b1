"""A history as a folder of pages that need no server: all of them are made before the first is written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from bench.history.store import Entry
from bench.records.files import names_by_run, refuse_folders_in_place
from reports.history import pages
from reports.history.series import SHOWN_POINTS, by_case, case_page, points_page
from reports.history.tables import RecordAddress


def write_site(found: Sequence[Sequence[Entry]], output: Path, records: Path) -> Path:
    """Write the pages of these series into `output`; returns the index. Runs whose records lie in `records` have a
    link there. A build that fails leaves what was there.

    Raises:
        ValueError: the folder cannot be written.
    """
    content = site_of(found, _addresses(output, records))
    try:
        output.mkdir(parents=True, exist_ok=True)
        refuse_folders_in_place(output, content)
        with tempfile.TemporaryDirectory(dir=output, prefix=".site.") as folder:
            for name, text in content.items():
                (Path(folder) / name).write_bytes(text)
            for name in content:  # the index comes last
                os.replace(Path(folder) / name, output / name)
    except OSError as error:
        raise ValueError(f"{output}: cannot be written: {error.strerror or error}; choose another folder") from None
    return output / pages.INDEX


def site_of(found: Sequence[Sequence[Entry]], records: RecordAddress) -> dict[str, bytes]:
    """Every page by its name, the index last."""
    cases = by_case(found)
    content = {}
    for case, series in cases.items():
        content[case_page(case)] = pages.case(series, records)
        if any(len(each.points) > SHOWN_POINTS for each in series):
            content[points_page(case)] = pages.all_points(series, records)
    return content | {pages.INDEX: pages.index(cases)}


def _addresses(output: Path, records: Path) -> RecordAddress:
    there = names_by_run(records)
    folder = quote(Path(os.path.relpath(records.resolve(), output.resolve())).as_posix())

    def address(entry: Entry) -> str | None:
        name = there.get(entry.record_id)
        return None if name is None else f"{folder}/{quote(name)}"

    return address
