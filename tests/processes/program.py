"""A program that serves by processes; the arguments of `serve_processes` are its own, as JSON.

It logs to stdout, and so says where it listens.  `stats` on stdin has it say what its workers
count.
"""

from __future__ import annotations

import json
import logging
import sys

from gevent.fileobject import FileObject

from ratchet import bus


def ready(supervisor: bus.Supervisor) -> None:
    address = supervisor.address
    logging.info("listening on %s", address if isinstance(address, str) else f"{address[0]}:{address[1]}")
    for line in FileObject(sys.stdin.fileno(), "r", closefd=False):
        if line == "stats\n":
            logging.info("counted %s", json.dumps(supervisor.stats()._asdict()))


logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
finished = bus.serve_processes(on_ready=ready, **json.loads(sys.argv[1]))
logging.info("finished: %s", finished)
