"""Headless Chromium, spoken to over a pair of pipes with what Python brings."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ("--headless=new", "--no-sandbox", "--no-first-run", "--remote-debugging-pipe")
_PATIENCE = 30  # seconds for one answer; past them the browser is ended and the test fails


def executable() -> str | None:
    """Where a browser is, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


class Browser:
    """A browser with one page; a context manager.

    Args:
        path: Of its executable.
        folder: For its profile.
        flags: Beside those that all have.
    """

    def __init__(self, path: str, folder: Path, *flags: str) -> None:
        theirs_in, self._out = (_high(end) for end in os.pipe())
        self._in, theirs_out = (_high(end) for end in os.pipe())
        self._rest, self._calls, self.events = b"", 0, list[dict[str, Any]]()
        with (folder / "stderr.txt").open("w") as errors, open(os.devnull, "r+") as null:
            files = {0: null.fileno(), 1: null.fileno(), 2: errors.fileno(), 3: theirs_in, 4: theirs_out}
            moves = [(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in files.items()]
            argv = [path, *_FLAGS, *flags, f"--user-data-dir={folder}", "about:blank"]
            self._pid = os.posix_spawn(path, argv, os.environ, file_actions=moves)
        os.close(theirs_in)
        os.close(theirs_out)
        self._session: str | None = None

    def __enter__(self) -> Browser:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._session = None
        try:
            if kind is None:
                self.call("Browser.close")
            else:
                os.kill(self._pid, signal.SIGKILL)
        finally:
            os.waitpid(self._pid, 0)
            os.close(self._in)
            os.close(self._out)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and wait for its answer; what else is told goes to ``events``."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": parameters}
        os.write(
            self._out, json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )
        while (answer := self._receive()).get("id") != self._calls:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def open(self, page: Path | str) -> None:
        """Load a page, a file or an address, to its end."""
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri() if isinstance(page, Path) else page)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def evaluate(self, expression: str) -> Any:
        """Value of an expression on the page, of a promise once it has come."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression[:200]}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def choose(self, selector: str, *files: Path) -> None:
        """Give files to an input of the page, as its user does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def look(self, *, width: int, height: int = 800, scheme: str = "light", media: str = "") -> None:
        """See pages as on a screen of a width, by day or night, or on paper."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def complaints(self) -> list[str]:
        """What went wrong since the page was opened: errors, refusals of its policy, requests to elsewhere."""
        self.evaluate("0")  # so that what was told until now has come
        told = {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Network.loadingFailed"}
        return [json.dumps(event) for event in self.events if event["method"] in told]

    def requests(self) -> list[str]:
        """Addresses that the page asked for."""
        asked = (event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent")
        return [str(one["request"]["url"]) for one in asked]

    def picture(self, path: Path) -> None:
        """Save the whole page as it is seen."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            with _deadline(self._pid):
                part = os.read(self._in, 1 << 16)
            if not part:
                raise RuntimeError("the browser went away")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))


def _high(end: int) -> int:
    """A file descriptor out of the way of those that the browser is given."""
    moved = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(end)
    return moved


@contextmanager
def _deadline(pid: int) -> Iterator[None]:
    """End the browser where it does not answer; reading from it then ends too."""
    before = signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.alarm(_PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def started(*flags: str) -> Iterator[Browser | None]:
    """A browser; None where there is none. Without flags of its own it has no GPU, not even one in software."""
    path = executable()
    if path is None:
        yield None
        return
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        Browser(path, Path(folder), *(flags or ("--disable-gpu",))) as browser,
    ):
        yield browser
