"""Workers that are replaced under load, each once: the short form of `rolling`."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from helpers import wait_until
from processes.load import Load
from robustness.rolling import opened, replace_all, replace_one_by_one

pytestmark = pytest.mark.slow

SERVERS = WORKERS = CLIENTS = IN_FLIGHT = 2


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_replacing_workers_under_load_fails_nothing_that_can_be_saved(
    number: signal.Signals, folder: Path
) -> None:
    with opened("unix", folder, SERVERS, WORKERS, "tasks:record_slowly") as (servers, _):
        addresses = [server.address for server in servers]
        once = Load(addresses, folder / "once", CLIENTS, IN_FLIGHT)
        perhaps_twice = Load(addresses, folder / "perhaps twice", CLIENTS, IN_FLIGHT, idempotent=True)
        pids = {pid for server in servers for pid in server.pids.values()}
        wait_until(lambda: pids <= {*once.by_process, *perhaps_twice.by_process}, "an answer of each worker")
        for _ in replace_one_by_one(servers, number):
            go_on(once, perhaps_twice)
        replace_all(servers[0])
        go_on(once, perhaps_twice)
        # What a killed worker has taken may have run.
        allowed = {"answered", "UNKNOWN"} if number == signal.SIGKILL else {"answered"}
        assert set(once.stop()) <= allowed
        assert set(perhaps_twice.stop()) == {"answered"}
        for server in servers:
            server.stop()


def go_on(*loads: Load) -> None:
    """Let each have some more requests of each client end."""
    enough = [len(load.ends) + 10 * CLIENTS * IN_FLIGHT for load in loads]
    wait_until(
        lambda: all(len(load.ends) > most for load, most in zip(loads, enough, strict=True)), "requests"
    )
