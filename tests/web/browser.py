"""A headless Chromium, driven over the W3C's WebDriver protocol: JSON over HTTP.

Each command waits for the browser, for a bounded time.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from tempfile import TemporaryDirectory
from typing import Any

SECONDS = 40.0
"""What the browser gets for one command; it is slow to start while others work."""

MISSING = [program for program in ("chromium", "chromedriver") if shutil.which(program) is None]
"""What a test with a browser needs, and is not installed."""

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key under which the protocol names an element
_ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",  # there is none for root, and only the page under test is shown
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


class Browser:
    """A browser with one tab.  Elements are named by CSS selectors."""

    def __init__(self, driver: HTTPConnection) -> None:
        self._driver = driver
        self._session = ""
        capabilities = {"goog:chromeOptions": {"args": _ARGUMENTS}}
        started = self._command("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{started['sessionId']}"

    def _command(self, method: str, path: str, body: object = None) -> Any:
        content = None if body is None else json.dumps(body)
        self._driver.request(method, self._session + path, content)
        with self._driver.getresponse() as response:
            value = json.load(response)["value"]
        assert response.status == 200, value
        return value

    def _element(self, selector: str) -> str:
        found = self._command("POST", "/element", {"using": "css selector", "value": selector})
        return f"/element/{found[_ELEMENT]}"

    def open(self, url: str) -> None:
        self._command("POST", "/url", {"url": url})

    def fill_in(self, selector: str, text: str) -> None:
        """Type in place of what is there, key by key."""
        field = self._element(selector)
        self._command("POST", f"{field}/clear", {})
        self._command("POST", f"{field}/value", {"text": text})

    def click(self, selector: str) -> None:
        self._command("POST", f"{self._element(selector)}/click", {})

    def is_enabled(self, selector: str) -> bool:
        return bool(self._command("GET", f"{self._element(selector)}/enabled"))

    def text(self, selector: str) -> str:
        return str(self._command("GET", f"{self._element(selector)}/text"))

    def value(self, selector: str) -> float:
        return float(self._command("GET", f"{self._element(selector)}/property/value"))

    def label(self, selector: str) -> str:
        """What a screen reader calls it."""
        return str(self._command("GET", f"{self._element(selector)}/computedlabel"))

    def run(self, script: str) -> Any:
        """Run JavaScript in the page, and return what it returns."""
        return self._command("POST", "/execute/sync", {"script": script, "args": []})

    def close(self) -> None:
        """Close the tab, and with it the browser."""
        self._command("DELETE", "/window")


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser whose files, and processes, are gone at the end of the block."""
    # Not pytest's directory: the path of a socket that the browser makes may not be long.
    with TemporaryDirectory(ignore_cleanup_errors=True) as directory, ExitStack() as stack:
        port = None
        # It takes a free port for IPv4, and gives up if somebody has the same one for IPv6.
        for _ in range(5):
            driver = stack.enter_context(driver_in(directory))
            port = port_of(driver)
            if port is not None:
                break
        assert port is not None, "chromedriver does not start"
        connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        try:
            yield Browser(connection)
        finally:
            connection.close()


def port_of(driver: subprocess.Popen[str]) -> int | None:
    """Where the driver listens; None if it ended before it did."""
    assert driver.stdout is not None
    for line in driver.stdout:
        if "successfully on port" in line:
            return int(line.split()[-1].rstrip("."))
    return None


@contextmanager
def driver_in(directory: str) -> Iterator[subprocess.Popen[str]]:
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"],
        env={**os.environ, "HOME": directory, "TMPDIR": directory},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # A process group, so that the browser ends with its driver.
        start_new_session=True,
    )
    with driver:
        try:
            yield driver
        finally:
            with suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)
