"""`ratchet serve`: a handler of the user's on the server's side of a bus."""

from __future__ import annotations

import argparse
import errno
import logging
import signal
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import gevent
from gevent import monkey

from ratchet import _clock
from ratchet.bus import Codec, ServerBus, codecs
from ratchet.bus._core.address import parse
from ratchet.bus._core.server import ServerSide
from ratchet.bus._processes.ending import Ending, log_death
from ratchet.bus._processes.names import CODECS, LoadError, is_name, load_codec, load_handler
from ratchet.bus._processes.pid_file import PidFileError
from ratchet.bus._processes.serving import MOST_PROCESSES, fill_standard_descriptors, settings_of, supervise
from ratchet.bus._processes.supervisor import Supervisor
from ratchet.cli.address import FORMS, BrokerAddress, Place, address, check, open_server, shown_address
from ratchet.cli.common import (
    FAILED,
    MOST_AT_ONCE,
    USAGE,
    Commands,
    Failure,
    cannot_load,
    codec_name,
    complain,
    reason,
    say,
    seconds,
    whole_number,
)
from ratchet.cli.connection import add_server_tls, server_context
from ratchet.errors import BusError
from ratchet.kernel import Ratchet

__all__ = ["add_to", "run"]

# Seconds between two looks at whether there is a connection.
_LOOK: Final = 0.05
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

Handler = Callable[..., object]
Server = ServerSide[Any, Any]


def add_to(commands: Commands) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "serve",
        help="answer requests with a function of yours",
        description="""\
Answer each request with HANDLER(request), or HANDLER(request, transaction) if
it requires two arguments.  What it returns is the response; what it raises
goes to the client, and to the log on stderr.

Over a broker, requests come from the queue of the service, which any number of
servers share.

MODULE is imported from the current folder or from what is installed, after
gevent.monkey.patch_all(): while a handler waits in a blocking call of the
standard library, the others go on.""",
        epilog="""\
signals:
  SIGTERM, SIGINT  take no new requests, finish those that were taken, and end;
                   the second one stops everything immediately
  SIGUSR1          write to stderr what every thread does, and go on
  SIGHUP           with --processes, --reload or --pid-file: replace the worker
                   processes one after the other, each by one that is ready
                   before it drains; otherwise it ends the server

exit status:
  0  everything that was taken is finished
  1  it cannot listen there, the broker refuses it, the PID file belongs to
     another process, no worker process could start, or work was cut off at
     shutdown
  2  the command line is wrong, or a file or module that it names

example:
  echo 'def handle(request): return request.upper()' > shout.py
  ratchet serve shout:handle 127.0.0.1:4000 --codec text""",
    )
    parser.add_argument("handler", type=handler_name, metavar="MODULE:HANDLER", help="the function to call")
    parser.add_argument(
        "address",
        type=address,
        metavar="ADDRESS",
        help=f"where to serve: {FORMS}; port 0 takes a free one",
    )
    parser.add_argument(
        "--workers",
        type=whole_number(1, MOST_AT_ONCE),
        default=64,
        metavar="COUNT",
        help="how many requests are handled at once (default: %(default)s)",
    )
    parser.add_argument(
        "--codec",
        type=codec_name("bytes", *CODECS),
        default="bytes",
        help="what requests and responses are: bytes, text, json, or MODULE:NAME for a ratchet.bus.Codec of"
        " yours (default: %(default)s)",
    )
    parser.add_argument(
        "--drain-timeout",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long to wait at shutdown for what was taken (default: %(default)g)",
    )
    parser.add_argument(
        "--stats",
        type=address,
        metavar="ADDRESS",
        help="serve the server's counters there, for 'ratchet stats'; the options of TLS are for them, too",
    )
    add_server_tls(parser)
    add_processes(parser)
    parser.set_defaults(run=run)


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add the options that ask for processes of their own."""
    group = parser.add_argument_group(
        "processes",
        "With any of these, a supervisor accepts clients and hands them to worker\n"
        "processes, each of which has --workers.  One that dies is replaced.",
    )
    group.add_argument(
        "--processes",
        type=whole_number(1, MOST_PROCESSES),
        metavar="COUNT",
        help="how many worker processes (default: 1)",
    )
    group.add_argument("--pid-file", metavar="FILE", help="write the supervisor's process ID to this file")
    group.add_argument(
        "--reload",
        action="store_true",
        help="replace them whenever Python files in the current folder change; needs the extra reload",
    )


def handler_name(text: str) -> str:
    """The type of MODULE:HANDLER."""
    if not is_name(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} names no handler; write MODULE:HANDLER, as in shop.prices:handle"
        )
    return text


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends it; blocks.  Raises `Failure`."""
    check_places(arguments)
    if with_processes(arguments):
        finished = run_processes(arguments)
    else:
        finished = run_here(arguments)
    if finished:
        return 0
    complain(
        "work was cut off at shutdown; --drain-timeout allows it more time, unless a second signal stops it"
    )
    return FAILED


def with_processes(arguments: argparse.Namespace) -> bool:
    """Whether worker processes are to serve."""
    return bool(arguments.processes or arguments.pid_file is not None or arguments.reload)


def check_places(arguments: argparse.Namespace) -> None:
    """Refuse what does not go together.  Raises `Failure`."""
    places = [place for place in (arguments.address, arguments.stats) if place is not None]
    for place in places:
        check(place)
    over_a_broker = [isinstance(place, BrokerAddress) for place in places]
    if over_a_broker[0] and with_processes(arguments):
        raise Failure(
            "worker processes share a socket, which a broker takes the place of; leave out --processes,"
            " --pid-file and --reload, and start 'ratchet serve' as often as you want processes",
            USAGE,
        )
    if arguments.client_ca is not None and all(over_a_broker):
        raise Failure("--client-ca is for those who connect, and nobody does; leave it out", USAGE)
    if arguments.ca is not None and not any(over_a_broker):
        raise Failure("--ca is for a broker, and there is none; for clients, write --client-ca", USAGE)


def codec_of(arguments: argparse.Namespace) -> str | None:
    """The name of the codec; None for bytes as they are."""
    return None if arguments.codec == "bytes" else str(arguments.codec)


def run_processes(arguments: argparse.Namespace) -> bool:
    """Serve by worker processes.  False if work was cut off.  Raises `Failure`."""
    # Checked here, so that what is wrong with it is said once, and not by every worker.
    context = server_context(arguments, arguments.address)
    logging.basicConfig(format=LOG_FORMAT)
    logging.getLogger("ratchet.processes").setLevel(logging.INFO)
    try:
        # The socket of the counters comes before those for which `supervise` does so.
        fill_standard_descriptors()
        with ExitStack() as opened:
            counters: Server | None = None
            if arguments.stats is not None:
                counters = opened.enter_context(new_counters(arguments))
            settings = settings_of(
                arguments.handler,
                arguments.workers,
                codec=codec_of(arguments),
                limits=None,
                drain_timeout=arguments.drain_timeout,
                patch=True,
                ssl_context=None if context is None else "ratchet.cli.connection:server_context_of",
                ssl_arguments=[arguments.cert, arguments.key, arguments.client_ca],
            )
            return supervise(
                parse(arguments.address),
                settings,
                arguments.processes or 1,
                pid_file=arguments.pid_file,
                reload=arguments.reload,
                on_ready=partial(tell_ready, counters),
                more_signals={signal.SIGUSR1: dump_processes},
            )
    except LoadError as error:
        raise cannot_load(error) from error
    except (ImportError, ValueError) as error:
        # watchfiles is missing, or systemd has opened other sockets.
        raise Failure(str(error), USAGE) from error
    except (PidFileError, ChildProcessError) as error:
        raise Failure(error.strerror or str(error)) from error
    except OSError as error:
        raise Failure(cannot_listen(arguments.address, error)) from error


def tell_ready(counters: Server | None, supervisor: Supervisor) -> None:
    """A thread: say that the workers serve, and serve their counters, if these have a bus."""
    say(f"listening on {shown_address(supervisor.address)}")
    if counters is not None:
        say(f"serving stats on {counters.name}")
        counters.serve(lambda _: supervisor.stats()._asdict(), 1)


def dump_processes(supervisor: Supervisor) -> None:
    """Write to stderr the state of the workers, and have each write what its threads do."""
    say(repr(supervisor))
    supervisor.dump()


def run_here(arguments: argparse.Namespace) -> bool:
    """Serve by this process alone.  False if work was cut off.  Raises `Failure`."""
    monkey.patch_all()
    context = server_context(arguments, arguments.address)
    handler, codec = load(arguments.handler, codec_of(arguments))
    # After the import, which may have set logging up in its own way.
    logging.basicConfig(format=LOG_FORMAT)
    with ExitStack() as opened:
        server = opened.enter_context(new_server(arguments.address, codec, context, arguments.workers))
        counters: Server | None = None
        if arguments.stats is not None:
            counters = opened.enter_context(new_counters(arguments))
        return serve(server, handler, arguments.workers, arguments.drain_timeout, counters)


def new_counters(arguments: argparse.Namespace) -> Server:
    """The bus of the counters; blocks while a host name is looked up.  Raises `Failure`."""
    return new_server(arguments.stats, codecs.json, server_context(arguments, arguments.stats), 1)


def new_server(address: Place, codec: Any, context: ssl.SSLContext | None, workers: int) -> Server:
    """Open a server; blocks while a host name is looked up.  Raises `Failure`."""
    try:
        return open_server(address, codec, context, workers=workers)
    except OSError as error:
        raise Failure(cannot_listen(address, error)) from error


def load(handler: str, codec: str | None) -> tuple[Handler, Codec[Any, Any] | None]:
    """Import what the command line names; blocks.  Raises `Failure`."""
    try:
        return load_handler(handler), load_codec(codec)
    except LoadError as error:
        raise cannot_load(error) from error


def cannot_listen(address: Place, error: OSError) -> str:
    """Explain why a server cannot listen, and what to do about it."""
    match error.errno:
        case errno.EADDRINUSE:
            advice = "stop what listens there, or choose another address"
        case errno.EACCES | errno.EPERM:
            advice = "choose a port from 1024 up, or a folder that you may write to"
        case errno.EADDRNOTAVAIL:
            advice = "choose an address of this machine"
        case _:
            advice = "check the host name, or the folder of the socket"
    # The library's text names the address once more; the system's own does not.
    cause = error.__cause__ or error
    return f"cannot listen on {address} ({reason(cause)}); {advice}"


def serve(
    server: Server, handler: Handler, workers: int, drain_timeout: float, counters: Server | None
) -> bool:
    """Serve until a signal ends it, and serve its counters, too, if they have a bus; blocks.

    Returns False if work was cut off.
    """
    with Ratchet(errh=log_death) as kernel:
        ending = Ending(kernel, server, drain_timeout)
        # Not `thread.sigwait`: between two calls the signal would end the process.
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, Stop(ending))
        gevent.signal_handler(signal.SIGUSR1, lambda: say(f"{server!r}\n{kernel.dump()}"))
        if isinstance(server, ServerBus):
            say(f"listening on {server.name}")
        else:
            kernel.attach_background(tell_connected, server)
        if counters is not None:
            say(f"serving stats on {counters.name}")
            kernel.attach_background(counters.serve, lambda _: server.stats()._asdict(), 1)
        try:
            server.serve(handler, workers)
        except BusError as error:
            # A broker will never let it in.
            raise Failure(error.message) from error
        return ending.finish()


def tell_connected(server: Server) -> None:
    """A thread: say that requests are taken, once the broker has let the server in."""
    while not server.stats().connections:
        _clock.sleep(_LOOK)
    say(f"serving {server.name}")


class Stop:
    """Handler of the signals that end the server: the first one drains it, the second one closes it."""

    def __init__(self, ending: Ending) -> None:
        self._ending = ending

    def __call__(self) -> None:
        if self._ending.has_begun:
            self._ending.close()
        else:
            self._ending.drain()
            say("draining; a second signal stops immediately")
