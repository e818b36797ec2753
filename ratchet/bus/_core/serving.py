"""The team of `serve`: worker threads, each of which handles one request after the other.

Nothing passes from one request to the next: each starts in a copy of the context in
which `serve` was called, with a fresh `thread.space`, and a worker to which something
still refers afterwards, such as a time-out that was not cancelled, is replaced.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import gevent
from gevent.event import Event
from gevent.hub import get_hub
from greenlet import getcurrent, greenlet

from ratchet import _native
from ratchet._log import bus_logger, log_error
from ratchet._wait import Wait, new_wait, suspend
from ratchet.bus._core.handle import ServerTransaction, handle, receive
from ratchet.bus._core.intake import Intake
from ratchet.bus._core.middleware import refuse_coroutine
from ratchet.bus.codecs import (
    check_callable,
    required_arguments,
    required_keywords,
    takes_an_argument,
)
from ratchet.errors import BusClosed
from ratchet.kernel import Thread, kernel_of


class Team:
    """The workers of one call of `serve`, threads of the current thread's scheduler.

    Args:
        intake: where they take requests from.
        handler: what answers a request.
        with_transaction: whether it is called with the transaction too.
        tells_failure: whether it is called for a request whose codec failed too, with `Undecoded`.
    """

    __slots__ = (
        "__weakref__",
        "_context",
        "_handler",
        "_idle",
        "_intake",
        "_kernel",
        "_one_ended",
        "_tells_failure",
        "_threads",
        "_with_transaction",
    )

    def __init__(
        self,
        intake: Intake,
        handler: Callable[..., Any],
        with_transaction: bool,
        tells_failure: bool = False,
    ) -> None:
        self._intake = intake
        self._handler = handler
        self._with_transaction = with_transaction
        self._tells_failure = tells_failure
        self._kernel = kernel_of(getcurrent())
        self._context = copy_context()
        self._threads: list[Thread] = []
        # The waits of those that wait for a request.
        self._idle: set[Wait] = set()
        self._one_ended = Event()

    def work(self, size: int) -> None:
        """Answer requests with so many workers, until none is left and none can come; blocks."""
        inbox = self._intake.inbox
        while not inbox.closed or len(inbox):
            self._threads = [each for each in self._threads if not each.ready()]
            for _ in range(size - len(self._threads)):
                self.add_worker()
            # A worker ends when the bus does, when it is replaced, or killed.
            self._one_ended.wait()
            self._one_ended.clear()
        gevent.joinall(self._threads)

    def add_worker(self) -> None:
        """Start one more; does not block."""
        # No name is given to it: that would be one more reference, for a while.
        self._threads.append(self._kernel.attach_background(self._work))
        self._intake.workers[self._threads[-1]] = self
        self._threads[-1].rawlink(self.note_end)

    def kill(self) -> None:
        """Kill those that are left; blocks until they have ended."""
        gevent.killall(self._threads)

    def note_end(self, worker: greenlet) -> None:
        """Hub callback: have it replaced.  Called again where it was interrupted."""
        self._one_ended.set()
        self._intake.workers.pop(worker, None)

    def _work(self) -> None:
        """Handle one request after the other; the function of each worker."""
        worker = getcurrent()
        intake, inbox = self._intake, self._intake.inbox
        intake.watch(worker)
        # Whatever started this thread lets go of it.
        _sleep_for_a_turn()
        references = _native.references(worker)
        attributes, answer_aside = worker.__dict__, self._answer_aside
        # In a forked child, the parent's are not in the register any more.
        while worker in intake.workers:
            worker.gr_context = _native.copy_of(self._context)
            if "_space" in attributes:
                del attributes["_space"]
            try:
                # One at a time, also of those whose codec fails: what that leaves behind
                # is not for the next one to see.
                handle(
                    receive(inbox, inbox.first(None, self._idle), self._tells_failure),
                    self._handler,
                    self._with_transaction,
                    answer_aside,
                )
            except BusClosed:
                return
            except gevent.Timeout as error:
                log_error(
                    bus_logger, logging.WARNING, "the handler of a request raised %r", error, error=error
                )
            if _native.references(worker) > references:
                try:
                    # It may be no more than what woke the thread.
                    _sleep_for_a_turn()
                except gevent.Timeout:
                    # It is one that was left behind, and it has just rung.
                    return
                if _native.references(worker) > references:
                    # Most likely by a time-out or an alarm, which is not to strike another request.
                    return

    def _answer_aside(self, transaction: ServerTransaction[Any, Any], response: object) -> None:
        """Answer in another thread: no worker waits for a client that does not read."""
        kernel_of(getcurrent()).attach_background(_answer, transaction, response)


def _sleep_for_a_turn() -> None:
    """Let others run, and be woken as for a request: `gevent.sleep` may take more references to a thread."""
    wait = new_wait()
    get_hub().loop.run_callback(wait.switch, None)
    suspend(wait, "serve")


def _answer(transaction: ServerTransaction[Any, Any], response: object) -> None:
    with transaction:
        transaction.send_response(response)


def wants_transaction(handler: Callable[..., object]) -> bool:
    """Whether a handler is called with the transaction too; refuses one that cannot be called so."""
    check_callable(handler, "handler")
    refuse_coroutine(handler, "handler")
    required, keywords = required_arguments(handler), required_keywords(handler)
    if keywords:
        raise TypeError(f"handler must not require keyword arguments ({', '.join(keywords)}): {handler!r}")
    if required > 2 or (required == 0 and not takes_an_argument(handler)):
        raise TypeError(
            f"handler must take the request, or the request and the transaction; {handler!r} requires"
            f" {required} arguments"
        )
    return required == 2
