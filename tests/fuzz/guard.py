"""What a parser may do with hostile input: refuse it in one printable line of ours, soon, and touch nothing else."""

from __future__ import annotations

import os
import resource
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
MOST_SECONDS = 10.0  # of processor time, for one input
MOST_WALL_SECONDS = 300.0  # for one that sleeps
MOST_BYTES = 2 << 30  # of memory, for one process
MOST_CHARACTERS = 20_000  # of a refusal
_OURS = tuple(f"{ROOT}{os.sep}{room}{os.sep}" for room in ("grok1", "bench", "reports"))
# what Python says when nobody looked at the value first
_NOT_OUR_WORDS = (
    "invalid literal for", "could not convert", "not enough values to unpack", "too many values to unpack",
    "Exceeds the limit", "embedded null", "'utf-8' codec", "is not in list", "math domain error", "must be in range",
)  # fmt: skip
_RUNS_SOMETHING = (
    "pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork",
    "os.forkpty", "socket.connect", "socket.bind", "ctypes.dlopen", "urllib.Request",
)  # fmt: skip
_CHANGES_FILES = (
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown"
)  # fmt: skip


class BrokenPropertyError(BaseException):
    """Not an Exception, so that no parser takes it for its own."""


@dataclass(frozen=True)
class Finding:
    """One input for which a property does not hold."""

    target: str
    what: str  # which property, and where
    details: str


class Watch:
    """Sees every file that is opened for writing, and everything that is started, while an input is read."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder.resolve()) + os.sep
        self._is_armed = False
        self.broken: list[str] = []
        sys.addaudithook(self._hook)

    def __enter__(self) -> Watch:
        self.broken.clear()
        self._is_armed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_armed = False

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._is_armed:
            return
        if event in _RUNS_SOMETHING:
            self.broken.append(f"runs something: {event} {arguments!r:.200}")
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
                self._check_path(event, path)
        elif event in _CHANGES_FILES:
            self._check_path(event, arguments[0])

    def _check_path(self, event: str, path: object) -> None:
        if (
            path != os.devnull
            and isinstance(path, str | bytes)
            and not os.path.realpath(os.fsdecode(path)).startswith(self._folder)
        ):
            self.broken.append(f"writes outside its folder: {event} {path!r:.200}")


def limit_memory() -> None:
    """From here on this process may take MOST_BYTES more of address space, so that a bomb is a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def fault_of(error: BaseException) -> str | None:
    """What is wrong with an error that an input caused; None for a refusal as it should be."""
    where = place_of(error)
    if not isinstance(error, ValueError) or type(error).__module__.split(".")[0] not in ("builtins", "grok1", "bench"):
        return f"{type(error).__name__} at {where}"
    if isinstance(error, UnicodeError):
        return f"{type(error).__name__} at {where}"
    message = str(error)
    if not raised_by_us(error):
        return f"a library's {type(error).__name__} at {where}"
    if message.startswith(_NOT_OUR_WORDS):
        return f"Python's own words at {where}"
    if not message.isprintable():
        return f"a message that is not one printable line at {where}"
    if not message or len(message) > MOST_CHARACTERS:
        return f"{'an empty' if not message else 'an endless'} message at {where}"
    return None


def fault_of_output(text: str) -> str | None:
    """What is wrong with a text made from an input: only lines of printable characters are shown to people."""
    odd = next((char for char in text if not char.isprintable() and char not in "\n\t"), None)
    return None if odd is None else f"shows {odd!a} as it is"


def raised_by_us(error: BaseException) -> bool:
    """Whether the innermost Python frame is ours."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(_OURS)


def place_of(error: BaseException) -> str:
    """File and function of our innermost frame, without its line, so that a finding keeps its name."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(_OURS)]
    if not frames:
        return "nowhere of ours"
    return f"{Path(frames[-1].filename).relative_to(ROOT)} {frames[-1].name}"
