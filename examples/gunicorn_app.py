"""The application of `web_app.py` under gunicorn: its configuration, and what each worker makes.

    gunicorn -c examples/gunicorn_app.py
    RATCHET_BUS=127.0.0.1:7000 gunicorn -c examples/gunicorn_app.py

The second one has the primes counted by `web_app.py --serve 127.0.0.1:7000`.
Prints where it listens, and finishes what it has begun on SIGTERM.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

# This file is read before the fork.  What belongs to a worker is imported in it.
if TYPE_CHECKING:
    from flask import Flask, Response
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.ggevent import GeventWorker

bind = "127.0.0.1:0"
workers = 2
worker_class = "gevent"
pythonpath = str(Path(__file__).parent)
wsgi_app = "gunicorn_app:make_worker_app()"
# It would be one file for all the gunicorns of a user.
control_socket_disable = True


def when_ready(arbiter: Arbiter) -> None:
    print("listening on", *arbiter.LISTENERS, flush=True)


def make_worker_app() -> Flask:
    """Called in each worker, after the fork: its bus and its connection are its own."""
    from web_app import make_app, open_bus

    server = open_bus(os.environ.get("RATCHET_BUS"))
    app = make_app(server)
    app.extensions["bus"] = server

    @app.after_request
    def name_worker(response: Response) -> Response:
        response.headers["X-Worker"] = str(os.getpid())
        return response

    return app


def worker_exit(arbiter: Arbiter, worker: GeventWorker) -> None:
    """Called in the worker, when it has answered its last request."""
    from web_app import SECONDS_TO_DRAIN

    if (app := getattr(worker, "wsgi", None)) is not None:  # it has come that far
        server = app.extensions["bus"]
        server.drain(SECONDS_TO_DRAIN)
        worker.log.info("Worker's bus: %r, %s", server, server.stats())
