"""An exception between any two instructions of accepting a client leaks nothing.

The sweep of `interrupts` strikes between lines.  Here a line is too coarse: a signal may
be handled between the system call and the instruction that keeps what it returned.
"""

from __future__ import annotations

import socket
import sys
from types import FrameType
from typing import Any

import gevent
import pytest

from helpers import LONG, wait_until
from ratchet import bus as ratchet_bus
from ratchet.bus import ServerBus
from ratchet.bus._socket.accept import Listener
from robustness.leaks import open_descriptors

ACCEPTING = (ServerBus._accept.__code__, Listener.accept.__code__)


class Strike(BaseException):
    """What a signal handler raises."""


class Striker:
    """Raises `Strike` at instruction number `at` of accepting; 0 for never."""

    def __init__(self, at: int) -> None:
        self._at = at
        self.instructions = 0

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code not in ACCEPTING:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            self.instructions += 1
            if self.instructions == self._at:
                raise Strike
        return self


def accept_one(server: ServerBus[bytes, bytes], at: int) -> int:
    """Let the server accept a client under a strike; returns how many instructions there were."""
    striker = Striker(at)
    address: Any = server.address
    with socket.create_connection(address) as client:
        client.settimeout(LONG)
        before = sys.gettrace()
        try:
            sys.settrace(striker)
            server._on_acceptable()
        except Strike:
            assert at
        finally:
            sys.settrace(before)
        # Whether it was accepted before the strike or not, the server goes on.
        server._on_acceptable()
    return striker.instructions


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_an_exception_at_any_instruction_of_accepting_leaks_no_descriptor() -> None:
    with ratchet_bus.listen("127.0.0.1:0") as server:
        gevent.spawn(server.serve, bytes.upper)
        undisturbed = accept_one(server, at=0)
        assert undisturbed > 20
        wait_until(lambda: not server._admission.connections, "the server to hear of the end")
        before = open_descriptors()
        for at in range(1, undisturbed + 1):
            accept_one(server, at)
            wait_until(lambda: not server._admission.connections, "the server to hear of the end")
            assert open_descriptors() == before, f"instruction {at}"
        with ratchet_bus.connect(server.address) as client:
            assert client.call(b"still here", timeout=LONG) == b"STILL HERE"
