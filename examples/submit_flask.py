"""Flask's threaded server, which calls a bus through `kernel.submit`.

    python examples/submit_flask.py

It prints where it listens; `/hello` there is answered with `HELLO`.  Each browser's request has an
OS thread of werkzeug's, and nothing is patched.  On SIGTERM it ends.
"""

from __future__ import annotations

import argparse
from threading import Thread

import gevent
from flask import Flask
from werkzeug.serving import BaseWSGIServer, make_server

from ratchet import BusError, Ratchet, bus, thread


def application(kernel: Ratchet, client: bus.LocalBus[str, str]) -> Flask:
    app = Flask(__name__)

    @app.get("/<word>")
    def answer(word: str) -> str | tuple[str, int]:
        # The deadline is the request's own: nothing waits for longer than that.
        try:
            return kernel.submit(client.call, word, timeout=5).result()
        except BusError as error:
            return error.code, 503

    return app


def stay_until_told(web: BaseWSGIServer) -> None:
    """Keep the scheduler running until SIGTERM, and then end the web server."""
    thread.sigwait("TERM")
    # It blocks its OS thread until the server's has noticed.
    gevent.get_hub().threadpool.apply(web.shutdown)


def main() -> None:
    argparse.ArgumentParser(description="Serve a bus to browsers with Flask's threaded server.").parse_args()
    server, client = bus.new_local()
    with Ratchet() as kernel:
        kernel.attach_background(server.serve, str.upper)
        web = make_server("127.0.0.1", 0, application(kernel, client), threaded=True)
        kernel.attach(stay_until_told, web)
        Thread(target=web.serve_forever, daemon=True).start()
        print(f"listening on {web.host}:{web.port}", flush=True)


if __name__ == "__main__":
    main()
