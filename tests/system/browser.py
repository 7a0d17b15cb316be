"""A headless Chromium, driven through two pipes: no driver program, no port, no further package.

Source: the Chrome DevTools Protocol (Target, Page, Runtime, Log, Network, Emulation, Input), with
`--remote-debugging-pipe`: messages are JSON that ends with a zero byte.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

PROGRAMS = ("chromium-headless-shell", "chromium", "google-chrome")
"""The first that is there; the first is what `scripts/test` installs on Debian."""
LOOKS = pathlib.Path(__file__).with_name("looks.js")
A4 = 718
"""Pixels across a sheet of A4 with the margins that browsers leave."""
_SECONDS = 60
_TALLEST = 6000
"""Pixels of a picture; a page may be longer."""
_SHELL = 'to=$1 from=$2; shift 2; exec "$@" 3<&"$to" 4>&"$from"'


class Tab:
    """A tab, and everything that was wrong in it."""

    def __init__(self, program: str, profile: str) -> None:
        to, self._to = os.pipe()
        self._from, from_ = os.pipe()
        # Root has no sandbox and a container little /dev/shm; what is opened is all of these tests.
        argv = [program, "--headless", "--no-sandbox", "--disable-dev-shm-usage"]
        argv += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--hide-scrollbars"]
        self._child = subprocess.Popen(
            ["bash", "-c", _SHELL, "bash", str(to), str(from_), *argv],
            pass_fds=(to, from_),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to)
        os.close(from_)
        self._read, self._number = b"", 0
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        """End the browser, all of its processes."""
        self._session = None
        try:
            self.send("Browser.close")
        finally:
            # Without a pipe it goes as well.
            os.close(self._to)
            os.close(self._from)
            self._child.wait(timeout=_SECONDS)

    def send(self, method: str, /, **params: Any) -> dict[str, Any]:
        """One command; raises what the browser says against it."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            found = self._message()
            if found.get("id") == self._number:
                if "error" in found:
                    raise AssertionError(f"{method}: {found['error']['message']}")
                return dict(found["result"])
            self._note(found)

    def _message(self) -> dict[str, Any]:
        until = time.monotonic() + _SECONDS
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._from], [], [], max(0.0, until - time.monotonic()))
            more = os.read(self._from, 1 << 20) if ready else b""
            if not more:
                raise AssertionError(f"the browser says no more, exit status {self._child.poll()}")
            self._read += more
        line, _, self._read = self._read.partition(b"\0")
        return dict(json.loads(line))

    def _note(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                words = [str(one.get("value", one.get("description"))) for one in params["args"]]
                self.problems.append(f"console: {' '.join(words)}")
            case "Runtime.exceptionThrown":
                self.problems.append(f"exception: {params['exceptionDetails']['text']}")
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.problems.append(f"log: {params['entry']['text']}")
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])

    def open(
        self, path: pathlib.Path, *, width: int = 1280, dark: bool = False, media: str = "screen"
    ) -> None:
        """Show a file; what was wrong with the one before is forgotten."""
        self.show(width=width, dark=dark, media=media)
        self._events, self.problems, self.requests = [], [], []
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._note(self._message())
        self.send("Runtime.evaluate", expression=LOOKS.read_text())

    def show(self, *, width: int = 1280, dark: bool = False, media: str = "screen") -> None:
        """The same page on another screen, or on paper."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page; functions of looks.js are `looks.NAME()`."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise AssertionError(f"{expression}: {found['result'].get('description')}")
        return found["result"].get("value")

    def tab(self) -> None:
        """Press the key of that name."""
        for kind in ("rawKeyDown", "keyUp"):
            key = {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}
            self.send("Input.dispatchKeyEvent", type=kind, **key)

    def picture(self, path: pathlib.Path | None = None) -> bytes:
        """What the page looks like, from its top."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "scale": 1}
        clip["height"] = min(size["height"], _TALLEST)
        found = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        data = base64.b64decode(found["data"])
        if path:
            path.write_bytes(data)
        return data


@contextlib.contextmanager
def running() -> Iterator[Tab]:
    """A browser with one tab."""
    program = next(filter(shutil.which, PROGRAMS), "")
    if not program:
        pytest.skip(f"none of {', '.join(PROGRAMS)}: scripts/test installs the first on Debian")
    # It may write a last file while its directory goes.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        tab = Tab(program, profile)
        try:
            yield tab
        finally:
            tab.close()
