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
from ratchet.bus._socket.accept import SocketListener
from robustness.leaks import open_descriptors

ACCEPTING = (ServerBus._accept.__code__, SocketListener.accept.__code__)


class Strike(BaseException):
    """What a signal handler raises."""


class Striker:
    """Raises `Strike` at instruction number `at` of accepting, within a `with` block; 0 for never."""

    def __init__(self, at: int) -> None:
        self._at = at
        self.instructions = 0

    def _on_instruction(self) -> None:
        self.instructions += 1
        if self.instructions == self._at:
            raise Strike

    if sys.version_info >= (3, 12):

        def __enter__(self) -> Striker:
            monitoring = sys.monitoring
            monitoring.use_tool_id(monitoring.DEBUGGER_ID, "accepting")
            monitoring.register_callback(
                monitoring.DEBUGGER_ID,
                monitoring.events.INSTRUCTION,
                lambda code, offset: self._on_instruction(),
            )
            for code in ACCEPTING:
                monitoring.set_local_events(monitoring.DEBUGGER_ID, code, monitoring.events.INSTRUCTION)
            return self

        def __exit__(self, *_: object) -> None:
            monitoring = sys.monitoring
            for code in ACCEPTING:
                monitoring.set_local_events(monitoring.DEBUGGER_ID, code, 0)
            monitoring.free_tool_id(monitoring.DEBUGGER_ID)

    else:

        def __enter__(self) -> Striker:
            self._before = sys.gettrace()
            sys.settrace(self._trace)
            return self

        def __exit__(self, *_: object) -> None:
            sys.settrace(self._before)

        def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
            if frame.f_code not in ACCEPTING:
                return None
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            if event == "opcode":
                self._on_instruction()
            return self._trace


def accept_one(server: ServerBus[bytes, bytes], at: int) -> int:
    """Let the server accept a client under a strike; returns how many instructions there were."""
    striker = Striker(at)
    address: Any = server.address
    with socket.create_connection(address) as client:
        client.settimeout(LONG)
        try:
            with striker:
                server._on_acceptable()
        except Strike:
            assert at
        # Whether it was accepted before the strike or not, the server goes on.
        server._on_acceptable()
    return striker.instructions


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.pure
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
