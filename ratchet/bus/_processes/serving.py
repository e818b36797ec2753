"""`serve_processes`: a supervisor in this process, with its signals, PID file and listening socket.

All arguments are checked before anything is opened.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from ratchet._wait import check_timeout
from ratchet.bus._core.address import Address, Endpoint, parse
from ratchet.bus._core.limits import Limits, check_count, checked_limits
from ratchet.bus._processes import systemd
from ratchet.bus._processes.names import check_codec_name, check_name
from ratchet.bus._processes.pid_file import PidFile, checked_path
from ratchet.bus._processes.reload import call_on_change, check_reload
from ratchet.bus._processes.settings import Settings
from ratchet.bus._processes.signals import on_signals
from ratchet.bus._processes.supervisor import Supervisor
from ratchet.bus._socket.accept import SocketListener
from ratchet.bus._socket.listen import open_listener
from ratchet.bus.codecs import check_callable

# The descriptor of stderr.
_LAST_STANDARD: Final = 2
MOST_PROCESSES: Final = 10_000
"""More than any machine has use for, and few enough that the system, and not memory, ends the attempt."""

_NO_SIGNALS: Final[Mapping[signal.Signals, Callable[[Supervisor], object]]] = {}


def serve_processes(
    address: Address,
    handler: str,
    processes: int | None = None,
    workers: int = 64,
    *,
    codec: str | None = None,
    limits: Limits | None = None,
    ssl_context: str | None = None,
    drain_timeout: float = 30.0,
    patch: bool = True,
    pid_file: str | os.PathLike[str] | None = None,
    reload: bool = False,
    on_ready: Callable[[Supervisor], object] | None = None,
) -> bool:
    """Serve an address by several processes, until a signal ends it; blocks.

    This process becomes the supervisor.  It listens, and hands each new connection to the worker
    process with the fewest.  Each worker imports the handler for itself, and serves as
    `ServerBus.serve` does.  One that dies is replaced, and so is one that is not ready 60 s after
    its start.

    SIGTERM and SIGINT have the workers drain, and then it returns; the second one ends all at once.
    SIGHUP replaces the workers, one by one, each by one that is ready before it drains.
    A worker that gets SIGTERM is replaced, and drains.  When the supervisor itself is killed, the
    workers drain and end.

    Args:
        address: as for `listen`.  A socket that systemd has opened (socket activation) is
            taken in its place: the only one, or of several the one with this address.
        handler: the name of a function, `"module:function"`; the function is called as
            `ServerBus.serve` calls its handler.  The module is imported from the current
            folder, or from where this process finds modules.
        processes: how many workers there are; None for one for each processor.
        workers: how many requests each of them handles at once.
        codec: `"text"`, `"json"`, or the name of a codec, `"module:name"`.
        limits: as for `listen`, for each worker.
        ssl_context: turns on TLS: the name of a context, `"module:name"`, or of a function without
            arguments that makes one.
        drain_timeout: seconds that a worker has to finish what it has taken.
        patch: whether each worker calls `gevent.monkey.patch_all()` before it imports the
            handler, so that a handler which waits in the standard library holds up no others.
        pid_file: a file that holds the process ID of the supervisor while it runs.
        reload: replace the workers whenever Python files in the current folder change, for
            development.  Needs the extra `reload`.
        on_ready: called in a thread of its own as `on_ready(supervisor)` when every worker
            serves or has failed, and at least one serves; see `Supervisor`.  If it raises,
            everything ends, and the error comes out of this call.

    Returns:
        Whether everything that was taken is finished.

    Raises `ImportError` if no worker can import what is named here, or the extra `reload` is
    missing; `ChildProcessError` if all of them end before they serve; `OSError` if it cannot
    listen there, cannot start a process, or the PID file is another process's; `WrongThread`
    outside the main OS thread; and `TypeError` or `ValueError` for a wrong argument, or if none
    of several sockets that systemd has opened listens on the address.

    .. code-block:: python

        from ratchet import bus

        def try_it(supervisor):
            with bus.connect(supervisor.address, codec=bus.codecs.json) as client:
                print(client.call(5, timeout=5))
            supervisor.stop()

        bus.serve_processes("127.0.0.1:0", "math:factorial", 2, codec="json", on_ready=try_it)

    .. code-block:: text

        120
    """
    if on_ready is not None:
        check_callable(on_ready, "on_ready")
    endpoint = parse(address)
    settings = settings_of(
        handler,
        workers,
        codec=codec,
        limits=limits,
        ssl_context=ssl_context,
        drain_timeout=drain_timeout,
        patch=patch,
    )
    return supervise(endpoint, settings, processes, pid_file=pid_file, reload=reload, on_ready=on_ready)


def settings_of(
    handler: str,
    workers: int,
    *,
    codec: str | None,
    limits: Limits | None,
    drain_timeout: float,
    patch: bool,
    ssl_context: str | None = None,
    ssl_arguments: Sequence[Any] = (),
) -> Settings:
    """The settings of workers; raises `TypeError` or `ValueError` for a wrong argument."""
    check_name(handler, "handler")
    check_count(workers, "workers")
    if codec is not None:
        check_codec_name(codec)
    if ssl_context is not None:
        check_name(ssl_context, "ssl_context")
    if drain_timeout is None:
        raise TypeError("drain_timeout must be a number of seconds, not None")
    check_timeout(drain_timeout, "drain_timeout")
    return Settings(
        handler=handler,
        workers=workers,
        codec=codec,
        limits=checked_limits(limits),
        ssl_context=ssl_context,
        ssl_arguments=list(ssl_arguments),
        patch=bool(patch),
        drain_timeout=drain_timeout,
    )


def supervise(
    endpoint: Endpoint,
    settings: Settings,
    processes: int | None,
    *,
    pid_file: str | os.PathLike[str] | None = None,
    reload: bool = False,
    on_ready: Callable[[Supervisor], object] | None = None,
    more_signals: Mapping[signal.Signals, Callable[[Supervisor], object]] = _NO_SIGNALS,
) -> bool:
    """Run a supervisor to its end; see `serve_processes`.

    For each of `more_signals`, the hub calls its function with the supervisor.
    """
    count, pid_file = process_count(processes), checked_path(pid_file)
    if reload:
        check_reload()
    fill_standard_descriptors()
    with PidFile(pid_file):
        listener, family = _listener(endpoint)
        try:
            supervisor = Supervisor(listener, family, count, settings)
            if reload:
                supervisor.attach(call_on_change, os.getcwd(), supervisor.replace_workers)
            more = {number: partial(act, supervisor) for number, act in more_signals.items()}
            with on_signals(
                {
                    signal.SIGTERM: supervisor.stop,
                    signal.SIGINT: supervisor.stop,
                    signal.SIGHUP: supervisor.replace_workers,
                    **more,
                }
            ):
                return supervisor.run(on_ready)
        finally:
            listener.close()


def _listener(endpoint: Endpoint) -> tuple[SocketListener, int]:
    """Listen, or take the socket that the service manager has opened.

    Returns the listener and its address family.
    """
    passed = systemd.passed_socket(endpoint)
    if passed is not None:
        return SocketListener(passed), int(passed.family)
    socket, file = open_listener(endpoint)
    return SocketListener(socket, None, file, opened_here=True), int(socket.family)


def fill_standard_descriptors() -> None:
    """Have 0, 1 and 2 lead to /dev/null if they are closed; before anything else is opened.

    Otherwise a socket of this process gets such a number, and every process that it starts takes
    that for its own stdin, stdout or stderr.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def process_count(processes: int | None) -> int:
    """How many processes there are to be: by default, one for each processor that this one may use."""
    if processes is not None:
        if check_count(processes, "processes") > MOST_PROCESSES:
            raise ValueError(f"processes must be a number up to {MOST_PROCESSES}, not {processes}")
        return processes
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
