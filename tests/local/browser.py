"""A real, headless Chromium, driven over its DevTools protocol: what a test types and clicks, it
gets as from a keyboard and a mouse.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WAIT_S = 20.0
KEYS = {"Escape": 27, "Enter": 13, " ": 32}


def find() -> str | None:
    """The browser of this machine, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """A running browser; every `person` has a profile of their own."""

    def __init__(self, address: str) -> None:
        self._socket: ClientConnection = connect(address, max_size=None, open_timeout=WAIT_S)
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Ask the browser, and wait for what it says."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": params}
        self._socket.send(json.dumps(asked | ({"sessionId": session} if session else {})))
        while True:
            said = json.loads(self._socket.recv(timeout=WAIT_S))
            if said.get("id") == self._number:
                assert "error" not in said, f"{method}: {said['error']}"
                return dict(said["result"])
            self.events.append(said)

    def person(self) -> Person:
        """Somebody at a browser of their own: no storage is shared with others."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        return Person(self, session["sessionId"])


class Person:
    """One page, and who sits before it."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        size = {"width": 1000, "height": 720, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask the browser about this page."""
        return self._browser.call(method, self._session, **params)

    def open(self, url: str) -> None:
        """Go to a page."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def reload(self) -> None:
        """As by F5."""
        self.run("window.isOld = true")
        self.call("Page.reload")
        self.wait("!window.isOld && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """What a script on the page gives. (The DevTools are not bound by the page's policy.)"""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, f"{script}: {found['exceptionDetails']}"
        return found["result"].get("value")

    def wait(self, script: str) -> None:
        """Until a script on the page gives true."""
        deadline = time.monotonic() + WAIT_S
        while not self._is_true(script):
            assert time.monotonic() < deadline, f"it did not happen in time: {script}"
            time.sleep(0.02)

    def _is_true(self, script: str) -> bool:
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return found.get("result", {}).get("value") is True  # not while a page is being changed

    def press(self, key: str, repeat: bool = False) -> None:
        """A key, down and up."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        told = {"key": key, "windowsVirtualKeyCode": KEYS.get(key, ord(key[0].upper()))}
        self.call("Input.dispatchKeyEvent", type="keyDown", autoRepeat=repeat, **told, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    def type(self, text: str) -> None:
        """Text into what has the focus, as an input method gives it."""
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """The middle of an element."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        place = self.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box})")
        told = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **told)

    def text(self, selector: str) -> str:
        """What an element says."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).textContent"))

    def shows(self, selector: str) -> bool:
        """Whether an element can be seen."""
        return bool(self.run(f"document.querySelector({json.dumps(selector)}).checkVisibility()"))

    def complaints(self) -> list[str]:
        """What the page's console says: errors, breaches of its policy."""
        self.run("0")  # hears what is waiting
        mine = [one for one in self._browser.events if one.get("sessionId") == self._session]
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [json.dumps(one["params"]) for one in mine if one["method"] in kinds]

    def asked(self) -> set[str]:
        """The addresses that the page has fetched from."""
        self.run("0")
        sent = [one for one in self._browser.events if one["method"] == "Network.requestWillBeSent"]
        return {
            one["params"]["request"]["url"] for one in sent if one["sessionId"] == self._session
        }

    def picture(self, file: Path) -> None:
        """A screenshot."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        file.write_bytes(base64.b64decode(data))


@contextmanager
def started(folder: Path) -> Iterator[Browser]:
    """The browser of this machine, with its files in `folder`."""
    program = find()
    assert program, "there is no browser"
    flags = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={folder}"]
    flags += ["--no-first-run", "--disable-gpu", "--disable-background-networking"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium's own does not work for root
    process = subprocess.Popen(
        [program, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield Browser(_address(folder, process))
    finally:
        process.terminate()
        process.wait(30)


def _address(folder: Path, process: subprocess.Popen[bytes]) -> str:
    told = folder / "DevToolsActivePort"
    deadline = time.monotonic() + 60
    while not told.exists() or len(told.read_text().splitlines()) < 2:
        assert process.poll() is None, "the browser has ended"
        assert time.monotonic() < deadline, "the browser did not start"
        time.sleep(0.1)
    port, path = told.read_text().splitlines()[:2]
    return f"ws://127.0.0.1:{port}{path}"
