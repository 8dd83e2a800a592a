"""A headless Chromium, driven over the DevTools protocol through a pipe: JSON messages that end with a NUL byte."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

KEYS = {
    "Enter": (13, "\r"),
    "Tab": (9, ""),
    "Escape": (27, ""),
    "ArrowRight": (39, ""),
    "ArrowLeft": (37, ""),
    "End": (35, ""),
}
KEYS |= {" ": (32, " "), "Home": (36, ""), "m": (77, "m")}
TIMEOUT_S = 60.0


class Browser:
    """One Chromium; leaving it ends the process."""

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        ours = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)]  # out of the way of 3 and 4
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--mute-audio"]
        flags += [
            f"--user-data-dir={profile}",
            "--no-first-run",
            "--disable-background-networking",
            "--hide-scrollbars",
        ]
        # Chromium reads commands from descriptor 3 and writes to 4
        place = f"import os, sys; os.dup2({ours[0]}, 3); os.dup2({ours[1]}, 4); os.execvp(sys.argv[1], sys.argv[1:])"
        command = [sys.executable, "-S", "-c", place, program, *flags, "about:blank"]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, pass_fds=ours, stdout=quiet, stderr=quiet)
        for end in (to_browser, from_browser, *ours):
            os.close(end)
        self._buffer, self._id = b"", 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, session: str | None = None, **params: Any) -> Any:
        """The result of one command; what else arrives goes to ``events``."""
        self._id += 1
        message = {"id": self._id, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (reply := self._receive()).get("id") != self._id:
            self.events.append(reply)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")
        return reply["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], TIMEOUT_S)[0]:
                raise TimeoutError("Chromium does not answer")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise ConnectionError("Chromium has ended")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(line))

    def tab(self) -> Tab:
        """A new tab."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        tab = Tab(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            tab.call(f"{domain}.enable")
        return tab


class Tab:
    """One page: what a person does with it, and what can be seen of it."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def call(self, method: str, **params: Any) -> Any:
        return self.browser.call(method, self.session, **params)

    def reset(self, downloads: Path) -> None:
        """As a new tab would be, apart from the storage of the origins that it visited."""
        self.open("about:blank")
        self.browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        self.size(1280, 900)
        self.prefer("light")
        self.browser.events.clear()

    def open(self, url: str) -> None:
        """Go there; returns when the page's scripts have run."""
        self.call("Page.navigate", url=url)
        self.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def js(self, expression: str) -> Any:
        """The value of an expression; promises are awaited."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise AssertionError(f"{expression}: {result['exceptionDetails']['exception']['description']}")
        return result["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait until the expression is true; its value."""
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end:
            if value := self.js(f"(() => {{ try {{ return {expression} }} catch {{ return null }} }})()"):
                return value
            time.sleep(0.02)
        raise AssertionError(f"never true: {expression}; the page says: {self.js('document.body.innerText')[:600]}")

    def text(self, selector: str) -> str:
        """What is written there; the empty string where it is hidden."""
        node = f"document.querySelector({json.dumps(selector)})"
        return str(self.js(f"{node}.checkVisibility() ? {node}.innerText : ''"))

    def box(self, selector: str, index: int = 0) -> dict[str, float]:
        """left, top, width, height in pixels, scrolled into view."""
        node = f"document.querySelectorAll({json.dumps(selector)})[{index}]"
        self.js(f"{node}.scrollIntoView({{block: 'nearest'}})")
        return dict(self.js(f"{node}.getBoundingClientRect().toJSON()"))

    def click(self, selector: str, index: int = 0, *, at: tuple[float, float] = (0.5, 0.5)) -> None:
        """A press of the left button at this share of the element's box."""
        box = self.box(selector, index)
        point = {"x": box["left"] + box["width"] * at[0], "y": box["top"] + box["height"] * at[1]}
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **point)

    def hover(self, selector: str, index: int = 0) -> None:
        box = self.box(selector, index)
        point = {"x": box["left"] + box["width"] / 2, "y": box["top"] + box["height"] / 2}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **point)

    def write(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        code, text = KEYS.get(key) or (ord(key.upper()), key)  # a letter or a digit
        event = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def choose(self, selector: str, files: Sequence[Path]) -> None:
        """Choose files in a file field."""
        node = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        names = [str(path) for path in files]
        self.call("DOM.setFileInputFiles", files=names, objectId=node["result"]["objectId"])

    def drop(self, path: Path, x: float, y: float) -> None:
        """Drag a file from outside and let it go."""
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def size(self, width: int, height: int, *, mobile: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def prefer(self, scheme: str) -> None:
        """What the system prefers: light or dark."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path) -> None:
        """Write what is to be seen as a PNG, the whole page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def seen(self, method: str) -> list[dict[str, Any]]:
        """The events of this kind so far."""
        self.js("0")  # what was sent before this answer has arrived with it
        rows = self.browser.events
        return [row["params"] for row in rows if row.get("sessionId") == self.session and row["method"] == method]
