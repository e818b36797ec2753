"""Tools to test programs that use the library: virtual time, a network in memory, interrupts.

This module only names what the others define.
"""

from ratchet.testing._faults import Faults
from ratchet.testing._interrupt import ScenarioFailed, interrupt_everywhere
from ratchet.testing._loop import Livelock
from ratchet.testing._network import Network, network
from ratchet.testing._simulate import Process, World, simulate
from ratchet.testing._sockets import socket_pair
from ratchet.testing._time import Clock, virtual_time

__all__ = [
    "Clock",
    "Faults",
    "Livelock",
    "Network",
    "Process",
    "ScenarioFailed",
    "World",
    "interrupt_everywhere",
    "network",
    "simulate",
    "socket_pair",
    "virtual_time",
]

for _public in map(globals().__getitem__, __all__):
    # Where a program finds it; its repr, its traceback and its pickle say so.
    _public.__module__ = __name__


def __dir__() -> list[str]:
    return __all__
