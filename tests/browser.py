"""A real browser for the tests: Chromium without a screen, told what to do over its own protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium() -> str | None:
    """The browser, where there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page of a browser, told what to do over pipes.

    Attributes:
        said: messages and errors of the page.
        asked: addresses that it asked for.
    """

    def __init__(self, process: subprocess.Popen[bytes], to: Any, back: Any) -> None:
        self._process, self._to, self._back = process, to, back
        self._number, self._session = 0, ""
        self.said: list[str] = []
        self.asked: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """What a command of the browser gives."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while True:
            told = self._next()
            if told.get("id") == self._number:
                assert "error" not in told, told
                result: dict[str, Any] = told["result"]
                return result

    def run(self, script: str) -> Any:
        """What an expression of JavaScript comes to on the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, file: Path, width: int, dark: bool = False, scripts: bool = True) -> None:
        """Opens a file in a window of that width."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Page.navigate", url=file.as_uri())
        time.sleep(0.5)

    def hover(self, selector: str) -> None:
        """Moves the pointer onto the first element of that kind."""
        script = f"const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}});"
        script += "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]"
        x, y = self.run(f"(() => {{ {script} }})()")
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, file: Path) -> None:
        """Writes a picture of the whole page."""
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(told["data"]))

    def _next(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._back.read(1)) not in (b"\0", b""):
            text += byte
        assert text, "the browser is gone"
        told: dict[str, Any] = json.loads(text)
        method, params = told.get("method"), told.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.said.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.said.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.said.append(str(params["args"]))
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        return told


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser, for a while."""
    import os

    program = chromium()
    assert program
    read, to = os.pipe()
    back, write = os.pipe()

    def pipes() -> None:
        saved = os.dup(read), os.dup(write)
        os.dup2(saved[0], 3)
        os.dup2(saved[1], 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        command += [f"--user-data-dir={profile}", "--no-first-run", "--disable-background-networking"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False, preexec_fn=pipes
        )
        os.close(read)
        os.close(write)
        with os.fdopen(to, "wb") as out, os.fdopen(back, "rb") as answers:
            try:
                yield Browser(process, out, answers)
            finally:
                process.kill()
                process.wait()
