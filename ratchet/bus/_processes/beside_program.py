"""The process of a supervisor beside another program; see `beside`.

    python -m ratchet.bus._processes.beside_program CHANNEL

It ends with that program.
"""

from __future__ import annotations

import sys
from contextlib import closing
from functools import partial

from ratchet.bus._core.address import parse
from ratchet.bus._processes.channel import Channel, Message
from ratchet.bus._processes.names import LoadError
from ratchet.bus._processes.serving import supervise
from ratchet.bus._processes.settings import settings_from
from ratchet.bus._processes.supervisor import Supervisor


def main(descriptor: str) -> int:
    """Run the supervisor to its end."""
    with closing(Channel(int(descriptor))) as program:
        first = program.receive()
        if first is not None:
            _run(program, first)
    return 0


def _run(program: Channel, first: Message) -> None:
    settings, endpoint = settings_from(first["settings"]), parse(first["address"])
    try:
        supervise(endpoint, settings, first["processes"], on_ready=partial(_serve, program))
    except LoadError as error:
        program.send(error.to_message())
    except OSError as error:
        program.send({"kind": "cannot", "text": error.strerror or str(error)})


def _serve(program: Channel, supervisor: Supervisor) -> None:
    """A thread: tell the program that it serves, and end when that says so, or has died.

    When it says so again, end at once.
    """
    program.send({"kind": "ready"})
    while program.receive() is not None:
        supervisor.stop()
    supervisor.stop()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
