"""Workers that hang while they start; the supervisor is within the test's own process."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from helpers import LONG, wait_until
from ratchet import ConnectionLost, bus
from ratchet.bus import codecs
from ratchet.bus._processes import worker_process

pytestmark = pytest.mark.slow

# In such a time no worker is ready, however fast the machine is.
TOO_SHORT = 0.001
GOOD = "def handle(request): return {!r}\n"
SLEEPS = "import time\nwhile True: time.sleep(3600)\n"
STOPS = "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n"
# Its import returns, and then the worker does not get any further.
NEVER_READY = """import logging, time
logging.basicConfig = lambda **_: time.sleep(3600)
def handle(request): return "never"
"""


class Shop:
    """The module that workers import, and the time that they have to start."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._module = folder / "shop.py"
        self._monkeypatch = monkeypatch

    def write(self, source: str) -> None:
        """Have the workers that are started from now on import this."""
        self._module.write_text(source)

    def allow(self, seconds: float) -> None:
        """Give workers that are started from now on so many seconds."""
        self._monkeypatch.setattr(worker_process, "_START_TIMEOUT", seconds)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Shop:
    monkeypatch.chdir(tmp_path)
    # Sources that follow each other in less than a second may be of one length.
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    caplog.set_level(logging.INFO, "ratchet.processes")
    return Shop(tmp_path, monkeypatch)


def connect(supervisor: bus.Supervisor) -> bus.ClientBus[Any, Any]:
    return bus.connect(supervisor.address, codec=codecs.json)


@pytest.mark.parametrize("source", [STOPS, NEVER_READY], ids=["import", "after it"])
def test_on_a_rolling_restart_the_old_worker_goes_on(
    source: str, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Any] = []

    def use(supervisor: bus.Supervisor) -> None:
        with connect(supervisor) as client:
            shop.write(source)
            shop.allow(1.0)
            supervisor.replace_workers()
            wait_until(lambda: "was not ready within 1 s" in caplog.text, "the end of the new worker")
            wait_until(lambda: "which goes on" in caplog.text, "the end of the restart")
            answers.append(client.call(None, timeout=LONG))
            shop.write(GOOD.format("new"))
            shop.allow(LONG)
            supervisor.replace_workers()
            wait_until(lambda: "has ended" in caplog.text, "the end of the old worker")
            answers.append(client.call(None, timeout=LONG))
        supervisor.stop()

    shop.write(GOOD.format("old"))
    assert bus.serve_processes("127.0.0.1:0", "shop:handle", 1, codec="json", on_ready=use)
    assert answers == ["old", "new"]


def test_one_that_takes_the_place_of_a_dead_one_is_tried_again(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    def use(supervisor: bus.Supervisor) -> None:
        shop.write(SLEEPS)
        shop.allow(TOO_SHORT)
        with connect(supervisor) as client:
            with pytest.raises(ConnectionLost):
                client.call("die", timeout=LONG)
            wait_until(lambda: caplog.text.count("not ready within 0.001 s") > 1, "two that hang")
            shop.write(GOOD.format("new"))
            shop.allow(LONG)
            assert client.call(None, timeout=LONG) == "new"
        supervisor.stop()

    shop.write("import os\ndef handle(request): os._exit(3)\n")
    assert bus.serve_processes("127.0.0.1:0", "shop:handle", 1, codec="json", on_ready=use)


def test_if_all_of_the_first_hang_it_ends_with_the_reason(shop: Shop) -> None:
    shop.write(SLEEPS)
    shop.allow(TOO_SHORT)
    with pytest.raises(
        ChildProcessError, match=r"worker . .* was killed, because it was not ready within 0.001 s"
    ):
        bus.serve_processes("127.0.0.1:0", "shop:handle", 2)


def test_who_ends_it_waits_no_longer_for_one_that_hangs(shop: Shop, tmp_path: Path) -> None:
    def use(supervisor: bus.Supervisor) -> None:
        shop.write(f"import pathlib\npathlib.Path('begun').touch()\n{STOPS}")
        supervisor.replace_workers()
        wait_until((tmp_path / "begun").exists, "the import")
        supervisor.stop()

    shop.write(GOOD.format("old"))
    # It had taken nothing, so nothing was cut off.
    assert bus.serve_processes("127.0.0.1:0", "shop:handle", 1, drain_timeout=0.1, on_ready=use)
