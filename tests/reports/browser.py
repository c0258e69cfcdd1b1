"""A Chromium without a window, for tests of pages: spoken to over a pipe, gone afterwards with all that it wrote."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from tests.limits import HANG_SECONDS

Scheme = Literal["light", "dark"]
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    "--headless",
    "--no-sandbox",  # which root has none of
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
_HEIGHT = 900


def chromium() -> str | None:
    """The program, where there is one."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


def why_not() -> str | None:
    """Why pages cannot be looked at here, if they cannot."""
    if chromium() is None:
        return f"no {', '.join(_NAMES)} found (Debian: apt-get install chromium)"
    return None


class Browser:
    """One page at a time. Use it in a `with` block, which ends every process of it and removes its folder."""

    def __enter__(self) -> Browser:
        program = chromium()
        assert program is not None, why_not()
        self._folder = tempfile.mkdtemp(prefix="browser-")
        self._numbers = itertools.count(1)
        self._unread = bytearray()
        self.events: list[dict[str, Any]] = []
        theirs_in, self._to = _pipe()
        self._from, theirs_out = _pipe()
        with open(Path(self._folder) / "said", "wb") as said:
            # Chromium reads commands from file 3 and answers in file 4
            speak = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash"]
            self._process = subprocess.Popen(
                [*speak, program, *_OPTIONS, f"--user-data-dir={self._folder}/profile", "about:blank"],
                env={**os.environ, "HOME": self._folder, "TMPDIR": self._folder},
                pass_fds=(theirs_in, theirs_out),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            self._session: str | None = None
            target = self.ask("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self.ask(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        """Chromium and all that it started are ended: they hold nothing that is kept."""
        os.close(self._to)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(HANG_SECONDS)
        os.close(self._from)
        _remove(self._folder)

    def show(self, path: Path, width: int, scheme: Scheme) -> None:
        """Load a file in a window so wide, for a reader who prefers this scheme; what the page complains of is kept."""
        self.events.clear()
        size = {"width": width, "height": _HEIGHT, "deviceScaleFactor": 1}
        self.ask("Emulation.setDeviceMetricsOverride", **size, mobile=width < 600)
        wanted = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=wanted)
        self.ask("Page.navigate", url=path.resolve().as_uri())
        while not any(each["method"] == "Page.loadEventFired" for each in self.events):
            self._hear()

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page, which itself runs none."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def picture(self) -> bytes:
        """The whole page as PNG, as far down as a picture can show."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16000), "scale": 1}
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip, optimizeForSpeed=True)
        return base64.b64decode(shot["data"])

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings of the page since it was shown: of its policy, of what it could not load, of its code."""
        found = []
        for event in self.events:
            told = event["params"]
            if event["method"] == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                found.append(told["entry"]["text"])
            elif event["method"] == "Runtime.exceptionThrown" or (
                event["method"] == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert")
            ):
                found.append(json.dumps(told))
        return found

    def ask(self, method: str, **given: Any) -> dict[str, Any]:
        """The answer to a command of Chromium's protocol."""
        number = next(self._numbers)
        words: dict[str, Any] = {"id": number, "method": method, "params": given}
        if self._session is not None:
            words["sessionId"] = self._session
        os.write(self._to, json.dumps(words).encode() + b"\0")
        while True:
            heard = self._hear()
            if heard.get("id") == number:
                assert "error" not in heard, f"{method}: {heard['error']}"
                return dict(heard["result"])

    def _hear(self) -> dict[str, Any]:
        """The next message; one that answers no command is an event."""
        while b"\0" not in self._unread:
            with selectors.DefaultSelector() as ready:
                ready.register(self._from, selectors.EVENT_READ)
                assert ready.select(HANG_SECONDS), "Chromium does not answer"
            part = os.read(self._from, 1 << 20)
            assert part, f"Chromium ended: {(Path(self._folder) / 'said').read_text(errors='replace')[-2000:]}"
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        heard = dict(json.loads(message))
        if "method" in heard:
            self.events.append(heard)
        return heard


def _pipe() -> tuple[int, int]:
    """Both ends with numbers that are not those under which Chromium has them."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]


def _remove(folder: str) -> None:
    """What is being ended may still write."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return
        time.sleep(0.1)
    shutil.rmtree(folder)
