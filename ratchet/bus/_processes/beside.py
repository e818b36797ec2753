"""`processes`: worker processes beside a program, for handlers that compute.

Their supervisor is a process of its own, so that the program may compute too; it runs
`beside_program`.  A channel connects the two: its end tells each of the other's death.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any, Final

from gevent.monkey import get_original

from ratchet import _clock
from ratchet.bus._core.limits import Limits
from ratchet.bus._opening import connect
from ratchet.bus._processes.channel import Channel, ChannelClosed, channel_pair
from ratchet.bus._processes.names import LoadError, load_codec
from ratchet.bus._processes.serving import fill_standard_descriptors, process_count, settings_of
from ratchet.bus._processes.worker_process import environment, python
from ratchet.bus._socket.client import ClientBus

# Not gevent's, which works in the main OS thread only.
_Popen: Any = get_original("subprocess", "Popen")
# Seconds beyond the workers' own time to end.
_GRACE: Final = 5.0


@contextmanager
def processes(
    handler: str,
    processes: int | None = None,
    workers: int = 64,
    *,
    codec: str | None = None,
    limits: Limits | None = None,
    drain_timeout: float = 30.0,
    patch: bool = True,
) -> Iterator[ClientBus[Any, Any]]:
    """Worker processes beside this program, as a context manager whose value is a client of them all.

    For handlers that compute: each process has a processor to itself.  They serve a Unix
    socket in a private folder, under a supervisor that is a process of its own.  When the block
    is left they drain, or end at once if it is left by an exception.  Entering blocks until they
    serve, and leaving until they have ended; only the calling thread waits.

    Args:
        handler: as for `serve_processes`, and so are all other arguments, but for what is said here.
        processes: how many; None for one for each processor.
        workers: how many requests each of them handles at once.
        codec: the client's, too; so this process imports it as well.
        limits: the client's, too.
        drain_timeout: seconds that they have, when the block is left, to finish what they have taken.
        patch: whether the standard library is patched in them.

    Raises `ImportError` if what is named here cannot be imported, `ChildProcessError` if all
    processes end before they serve, `OSError` if they cannot be started, and `TypeError` or
    `ValueError` for a wrong argument.

    .. code-block:: python

        from ratchet import bus

        with bus.processes("math:factorial", 2, codec="json") as client:
            print(client.call_many([3, 4, 5], timeout=5))

    .. code-block:: text

        [6, 24, 120]
    """
    count = process_count(processes)
    settings = settings_of(
        handler, workers, codec=codec, limits=limits, drain_timeout=drain_timeout, patch=patch
    )
    # Any, because `connect` has a signature for each: with a codec, and without one.
    client_codec: Any = load_codec(codec)
    with TemporaryDirectory(prefix="ratchet-") as folder:
        address = f"unix:{folder}/socket"
        first = {"settings": settings.to_json(), "processes": count, "address": address}
        with _supervisor(first, drain_timeout) as supervisor:
            _wait_until_ready(supervisor)
            with connect(address, codec=client_codec, limits=limits, connections=count) as client:
                yield client


@contextmanager
def _supervisor(first: dict[str, Any], drain_timeout: float) -> Iterator[Channel]:
    """Start a supervisor in a process of its own, and end it on leaving; blocks until it has ended."""
    fill_standard_descriptors()
    with channel_pair() as (channel, its_end):
        channel.send_first(first)
        process = _Popen(
            [*python(), "ratchet.bus._processes.beside_program", str(its_end)],
            stdin=subprocess.DEVNULL,
            pass_fds=[its_end],
            # Ctrl-C is for the program, which then leaves the block.
            start_new_session=True,
            env=environment(),
        )
    try:
        try:
            yield channel
        except BaseException:
            _clock.with_timeout(_GRACE, _end, channel, 2, timeout_value=None)
            raise
        _clock.with_timeout(drain_timeout + _GRACE, _end, channel, 1, timeout_value=None)
    finally:
        # If it still runs.  Its workers drain then, and nobody waits for them.
        process.kill()
        process.wait()
        channel.close()


def _end(channel: Channel, times: int) -> None:
    """Have a supervisor end, or end at once if it is told so twice, and wait until it has."""
    try:
        for _ in range(times):
            channel.send({"kind": "stop"})
    except ChannelClosed:
        return
    while channel.receive() is not None:
        pass


def _wait_until_ready(channel: Channel) -> None:
    """Wait until the workers serve; raises as `serve_processes` does."""
    message = channel.receive()
    match message:
        case {"kind": "ready"}:
            return
        case {"kind": "failed", "text": text, "trace": trace}:
            raise LoadError(text, trace)
        case {"kind": "cannot", "text": text}:
            raise ChildProcessError(text)
    raise ChildProcessError("the supervisor of the processes has died; its stderr may say why")
