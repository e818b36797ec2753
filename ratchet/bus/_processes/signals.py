"""Signals that call functions from the hub while something runs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from gevent.hub import get_hub

from ratchet._loop import loop_of
from ratchet.errors import WrongThread


@contextmanager
def on_signals(acts: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """In the block, each signal calls its function, from the hub; then it does what it did before.

    Raises `WrongThread` outside the main OS thread.
    """
    loop = loop_of(get_hub())
    if not loop.default:
        raise WrongThread("serve_processes must be called in the main OS thread, which handles the signals")
    with ExitStack() as undo:
        for number, act in acts.items():
            watcher = loop.signal(number, ref=False)
            undo.callback(_put_back, number)
            undo.callback(watcher.close)
            watcher.start(act)
        yield


def _put_back(number: signal.Signals) -> None:
    # libev leaves the system's default action behind, and Python still believes in its own handler.
    handler = signal.getsignal(number)
    if handler is not None:
        signal.signal(number, handler)
