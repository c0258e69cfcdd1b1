"""Where a rank keeps what nobody is to find later: a folder that its launcher removes however it ends. No torch."""

from __future__ import annotations

import tempfile
from pathlib import Path


class Scratch:
    """This rank's place for temporary folders: the usual one, until a launcher has one."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def use(self, folder: Path) -> None:
        """Make them in this folder from now on."""
        self._folder = folder

    def new_folder(self, prefix: str) -> Path:
        """A new folder that is its caller's to remove, and goes with the launcher's where the caller is killed.

        Raises:
            OSError: the system does not let us.
        """
        return Path(tempfile.mkdtemp(prefix=prefix, dir=self._folder))


SCRATCH = Scratch()
