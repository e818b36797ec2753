"""The scheduler: it owns threads, runs them to their end, reports their errors.

Rules of this module:

- The scheduler adds nothing to how greenlets are switched: gevent's hub does
  that.  It only knows which threads are its own, and when `loop()` may return.
- A thread's end is noticed in a hub callback (`_on_end`), which must not block
  or run user code: the error handler gets a thread of its own.
- A thread enters the table in `_start` and leaves it in `_on_end`, when all has
  been done about its end.  What an exception leaves half done in between, in
  whatever line, `_settle` does again: a thread that has ended and is still in the
  table says so.
- The errors of threads and of the hub's callbacks are kept until `loop()` raises
  them, each once.
"""

from __future__ import annotations

import logging
import re
import traceback
import weakref
from collections.abc import Callable, Mapping
from contextvars import copy_context
from functools import partial
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, TypeVarTuple

import gevent
from gevent.exceptions import HubDestroyed, LoopExit
from gevent.hub import Hub, Waiter, get_hub
from greenlet import GreenletExit, getcurrent, greenlet

from ratchet import _alive
from ratchet._context import context_that_outlives
from ratchet._death import on_thread_end
from ratchet._fork import freeze
from ratchet._interrupts import guard, settle_soon
from ratchet._log import kernel_logger, log_error, log_soon, shown
from ratchet._turns import suspend_for_a_turn, suspend_until_nothing_is_left
from ratchet._wait import check_hub, waiting_on
from ratchet.errors import DeadlockError

__all__ = ["Ratchet", "Thread", "run"]

Arguments = ParamSpec("Arguments")
Positional = TypeVarTuple("Positional")
Result = TypeVar("Result")
if TYPE_CHECKING:
    Greenlet = gevent.Greenlet[..., Any]
else:
    Greenlet = gevent.Greenlet
ErrorHandler = Callable[[BaseException, "Thread"], object]

# How many errors are kept for a loop() that may never be called.
_KEPT_ERRORS = 100

# In the repr of what a thread waits on; for people it is noise.
_MEMORY_ADDRESS = re.compile(" at 0x[0-9a-f]+")

_DIED = "thread %s died with nobody to tell: %s"


class Thread(Greenlet):
    """A greenlet that a `Ratchet` owns.  Made by `attach`, never directly.

    It starts with a copy of its maker's `contextvars` context, so a deadline
    or a trace id goes along.  The deadline of the request that its maker handles
    does not go along into the background: such a thread outlives the request.

    Attributes:
        kernel: the `Ratchet` that owns it.
        background: whether `loop()` does not wait for it.
    """

    # Set by `Ratchet._start`.  gevent keeps the frames in which a greenlet is made,
    # and that of an `__init__` would take 5 % of the thread's memory.
    kernel: Ratchet
    background: bool
    # gevent forgets the function when the thread has ended; its name must last.
    _called: str

    def __repr__(self) -> str:
        waits = self.waiting_on
        return f"<Thread at {id(self):#x}: {self.name}, {self.state}{f': {waits}' if waits else ''}>"

    @property
    def name(self) -> str:
        """A name for people: the function's and a small number, unless one was set."""
        assigned: str | None = self.__dict__.get("_name")
        return assigned or f"{self._called}-{self.minimal_ident}"

    @name.setter
    def name(self, name: str) -> None:
        self.__dict__["_name"] = name

    @property
    def space(self) -> Any:
        """The thread's own scratch object, made on first use; see `ratchet.thread.space`."""
        return space_of(self)

    @property
    def waiting_on(self) -> str | None:
        """What the thread waits for, in words; None if it is not waiting."""
        return None if self.ready() else waiting_on(self)

    @property
    def state(self) -> str:
        """`starting`, `running`, `waiting` or `ended`."""
        if self.ready():
            return "ended"
        if self is getcurrent():
            return "running"
        return "starting" if self.gr_frame is None else "waiting"

    def _describe(self) -> str:
        """The thread's entry in `dump()` and in a deadlock's text."""
        waits = self.waiting_on
        kind = "background, " if self.background else ""
        head = f"{self.name} ({kind}{self.state}{f': {waits}' if waits else ''})"
        if self.gr_frame is None or self.ready():
            return head
        return head + "\n" + "".join(traceback.format_stack(self.gr_frame)).rstrip()


def prepared(
    func: Callable[..., object], kwargs: Mapping[str, object]
) -> tuple[Callable[..., object], Mapping[str, object]]:
    """What a `Thread` is made with to call `func(**kwargs)`; refuses what cannot be called."""
    if not callable(func):
        raise TypeError(f"func must be callable, not {func!r}")
    if kwargs and ("run" in kwargs or "self" in kwargs):
        # gevent would take these two for its own arguments.
        return partial(func, **kwargs), {}
    return func, kwargs


def space_of(thread: greenlet, premade: object = None) -> Any:
    """The scratch object of any greenlet: `premade`, or an empty namespace, on first use."""
    attributes = thread.__dict__
    if "_space" not in attributes:
        attributes["_space"] = SimpleNamespace() if premade is None else premade
    return attributes["_space"]


class Ratchet:
    """A set of threads, run to completion on the current OS thread's gevent hub.

    Leaving `with Ratchet() as kernel:` runs `loop()` and then `close()`.  If more
    threads than one failed before the others could be ended, an `ExceptionGroup`
    of their errors comes out (a `BaseExceptionGroup`, where one is no `Exception`).
    If an exception leaves the block, `close()` runs alone, that exception goes on,
    and the errors of threads are logged.

    Nothing needs `loop()` in a program that already runs gevent: an attached
    thread starts by itself, and `loop()` blocks only the greenlet that calls
    it.

    Args:
        entry: called without arguments, it becomes the first thread.
        errh: called as `errh(error, thread)`, in a thread of its own, for each
            thread that dies of an exception.  Without it, `loop()` raises the
            exception; if no `loop()` is running then, it is logged as well.

    Raises `TypeError` for what cannot be called.  In another OS thread than the
    one that made it, every call but `dump()` raises `WrongThread`.

    .. code-block:: python

        import ratchet

        with ratchet.Ratchet() as kernel:
            for name in ["Ada", "Grace"]:
                kernel.attach(print, "hello", name)
            print("threads:", kernel.num_threads)

    .. code-block:: text

        threads: 2
        hello Ada
        hello Grace
    """

    def __init__(self, entry: Callable[[], object] | None = None, errh: ErrorHandler | None = None) -> None:
        if errh is not None and not callable(errh):
            raise TypeError(f"errh must be a callable or None, not {errh!r}")
        self._hub = get_hub()
        self._errh = errh
        self._threads: dict[Thread, None] = {}
        # Those of them that `loop()` does not wait for.
        self._background: set[Thread] = set()
        # Errors that no `loop()` has raised yet, by the thread that died of each.
        self._errors: dict[object, BaseException] = {}
        # Whether a greenlet runs it, and what that one sleeps on, or slept on last.
        self._running = False
        self._looper: Waiter[object] = Waiter(self._hub)
        self._stopping = False
        # One bound method for all threads: a new one for each costs memory.
        self._ended = self._on_end
        guard(self._hub)
        _leave_errors_to_kernels(self._hub)
        _alive.kernels.add(self)
        if entry is not None:
            self.attach(entry)

    def __repr__(self) -> str:
        background = len(self._background)
        state = "looping" if self._running else "idle"
        attached = len(self._threads) - background
        return f"<Ratchet at {id(self):#x}: {state}, threads={attached}, background={background}>"

    @property
    def num_threads(self) -> int:
        """How many of its threads are alive, background ones included."""
        return len(self._threads)

    @property
    def method(self) -> str:
        """The operating system's polling method that the hub uses, such as `"epoll"`."""
        return str(self._hub.loop.backend)

    def attach(
        self, func: Callable[Arguments, object], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Thread:
        """Queue a new thread, and return it; it starts on the next turn of the loop.

        Does not block.

        Args:
            func: what the thread calls.
            *args: the positional arguments of that call.
            **kwargs: its keyword arguments.

        Raises `TypeError` if `func` is not callable.
        """
        target, more = prepared(func, kwargs)
        return self._start(Thread(target, *args, **more), func, background=False)

    def attach_background(
        self, func: Callable[Arguments, object], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Thread:
        """As `attach`, but `loop()` does not wait for the thread and kills it on its way out."""
        target, more = prepared(func, kwargs)
        return self._start(Thread(target, *args, **more), func, background=True)

    def _start(self, thread: Thread, func: Callable[..., object], *, background: bool) -> Thread:
        """What `attach` does with the thread that it has made."""
        if get_hub() is not self._hub:
            check_hub(self._hub, self)
        thread.kernel = self
        thread.background = background
        thread._called = getattr(func, "__name__", None) or type(func).__name__
        context = context_that_outlives() if background else copy_context()
        # A thread without one starts with an empty one, and does not keep it before.
        if context:
            thread.gr_context = context
        try:
            self._threads[thread] = None
            if background:
                self._background.add(thread)
            # The first link, so that it is told before any thread that waits for this one.
            thread.rawlink(self._ended)
            thread.start()
            return thread
        except BaseException:
            self._forget(thread)
            thread.unlink(self._ended)
            # Whoever gets the error of `attach` has not attached anything.
            thread.kill(block=False)
            raise

    def _forget(self, thread: Thread) -> None:
        self._background.discard(thread)
        self._threads.pop(thread, None)

    def loop(self) -> None:
        """Run until every attached thread has ended, then kill the background ones.

        Blocks the calling greenlet alone.  Raises the error of a thread that
        died of one, if there is no `errh`, or else what `errh` itself raises;
        and `DeadlockError` when no attached thread can ever run again.  The
        other threads stay as they are then, and `loop()` may be called again to
        go on.  Raises `RuntimeError` if another greenlet runs it already.
        """
        self._run_alone(self._run)
        self._raise_error()

    def _run_alone(self, run: Callable[[], object]) -> None:
        """Call `run` in the one greenlet that runs it: errors come out there, and need not be logged."""
        check_hub(self._hub, self)
        if self._running:
            raise RuntimeError(f"{self!r} is already run by another greenlet")
        try:
            self._running = True
            run()
            self._running = False
        except BaseException:
            self._running = False
            raise

    def _run(self) -> None:
        """Run until there is an error, until `stop()`, or until every thread has ended."""
        self._stopping = False
        while not (self._errors or self._stopping):
            if self._waits_for_threads():
                self._wait_for_change(suspend_until_nothing_is_left)
            elif self._threads:
                # What their `finally` blocks attach or raise, the next round sees.
                self._kill_round()
            else:
                return

    def loop_once(self, noblock: bool = False) -> bool:
        """Run one turn of the event loop; False when no attached thread is left.

        Background threads are not killed.  Raises as `loop()` does.

        Args:
            noblock: do not wait for an event if no thread can run now.
        """
        if self._waits_for_threads():
            sleep = partial(suspend_for_a_turn, noblock=noblock)
            self._run_alone(partial(self._wait_for_change, sleep))
        else:
            check_hub(self._hub, self)
        self._raise_error()
        return self._waits_for_threads()

    def stop(self) -> None:
        """Make the running `loop()` return after this turn; the threads stay.

        Does not block.  Does nothing if no `loop()` is running.
        """
        check_hub(self._hub, self)
        self._wake_loop()
        self._stopping = True

    def close(self) -> None:
        """Kill every thread that it still owns, and wait until they have ended; blocks.

        That goes for threads that are attached by a `finally` block meanwhile.
        """
        check_hub(self._hub, self)
        while self._threads:
            self._kill_round()

    def _kill_round(self) -> None:
        """Kill the threads that there are now, and wait until that is known here."""
        gevent.killall(list(self._threads))
        # One turn, in which `_on_end` sees their ends, and one in which the
        # report of an error starts, before another round may kill that too.
        gevent.sleep(0)
        gevent.sleep(0)

    def dump(self) -> str:
        """Every thread in the order of attaching: name, state, what it waits for, its stack.

        Returns:
            A text for people.  Its form may change.

        .. code-block:: python

            from ratchet import Ratchet, thread

            kernel = Ratchet(thread.pause)
            kernel.loop_once(noblock=True)
            print(kernel.dump())
            kernel.close()

        .. code-block:: text

            <Ratchet at 0x...: idle, threads=1, background=0>

            pause-... (waiting: pause)
              File "...", line ..., in pause
            ...
        """
        return "\n\n".join([repr(self), *(thread._describe() for thread in self._threads)])

    def __enter__(self) -> Ratchet:
        check_hub(self._hub, self)
        try:
            _entered.setdefault(getcurrent(), []).append(self)
            return self
        except BaseException:
            self._leave()
            raise

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            self._leave()
            if error_type is None:
                # The errors of both come out below, all at once.
                self._run_alone(self._run_to_the_end)
                self._raise_all_errors()
            else:
                self.close()
        except BaseException:
            # Whatever it is, Ctrl-C in close(), say, it does not spare the other threads.
            try:
                self._log_errors()
            finally:
                self._leave()
                self.close()
            raise

    def _run_to_the_end(self) -> None:
        self._run()
        self.close()

    def _leave(self) -> None:
        # By whichever greenlet: that of `__enter__` may be another one.
        for entered, kernels in list(_entered.items()):
            if self in kernels:
                kernels.remove(self)
            if not kernels:
                del _entered[entered]

    def _wait_for_change(self, sleep: Callable[[Waiter[object], object], None]) -> None:
        """Sleep until a thread's end, an error or `stop()`, or as long as `sleep` says."""
        looper: Waiter[object] = Waiter(self._hub)
        self._looper = looper
        try:
            sleep(looper, self)
        except LoopExit:
            raise self._deadlock() from None

    def _waits_for_threads(self) -> bool:
        return len(self._threads) > len(self._background)

    def _settle(self) -> None:
        """See `Living`."""
        for thread in list(self._threads):
            if thread.ready():
                # The links of one whose error gevent could not even note were never called.
                thread.rawlink(_do_nothing)
                self._on_end(thread)
            elif not thread:
                # It was never started, and never will be.
                self._forget(thread)
        self._background.intersection_update(self._threads)
        if self._errors or not self._waits_for_threads():
            self._wake_loop()

    def _take_error(self, error: BaseException) -> None:
        """Have `loop()` raise what a callback of the hub has raised."""
        self._wake_loop()
        self._errors[object()] = error

    def _after_fork(self) -> None:
        """In a forked child: its threads are copies of the parent's, and must not run."""
        current = getcurrent()
        copies = [thread for thread in self._threads if thread is not current]
        freeze(copies)
        for thread in copies:
            self._forget(thread)
            _entered.pop(thread, None)
        self._errors.clear()

    def _wake_loop(self) -> None:
        if self._running:
            # One that has been woken already is not woken twice.
            self._hub.loop.run_callback(self._looper.switch, None)

    def _raise_error(self) -> None:
        if self._errors:
            first = next(iter(self._errors))
            if isinstance(first, Thread):
                self._forget(first)
            raise self._errors.pop(first)

    def _raise_all_errors(self) -> None:
        errors = list(self._errors.values())
        if errors:
            self._errors.clear()
            raise (
                errors[0] if len(errors) == 1 else BaseExceptionGroup(f"{len(errors)} threads failed", errors)
            )

    def _log_errors(self) -> None:
        """Log the errors that no loop() has raised, and that none will."""
        for died, error in list(self._errors.items()):
            name = died.name if isinstance(died, Thread) else "(the hub)"
            log_error(kernel_logger, logging.ERROR, _DIED, name, shown(error), error=error)
        self._errors.clear()

    def _deadlock(self) -> DeadlockError:
        stuck = [thread._describe() for thread in self._threads if not thread.background]
        who = "1 thread" if len(stuck) == 1 else f"{len(stuck)} threads"
        text = f"{who} can never run again:\n\n" + "\n\n".join(stuck)
        return DeadlockError(_MEMORY_ADDRESS.sub("", text))

    def _on_end(self, thread: Thread) -> None:
        """Hub callback: a thread has ended, by return, error or kill.

        It leaves `_threads` last, so that `_settle` does again what an exception
        has left half done.
        """
        if thread not in self._threads:
            return
        error = thread.exception
        # One that returned nothing needs no more, and that is most of them.
        if error is not None or thread.value is not None:
            on_thread_end(thread)
            if error is not None and not issubclass(type(error), Hub.SYSTEM_ERROR):
                if self._errh is not None:
                    self.attach(self._report, self._errh, error, thread)
                else:
                    self._keep_error(error, thread)
        if thread.background:
            self._background.discard(thread)
        self._threads.pop(thread, None)
        if self._running:
            if self._errors:
                # At once, and last: gevent tells the threads that wait for this one next.
                self._looper.switch(None)
            elif not self._waits_for_threads():
                self._wake_loop()

    def _report(self, errh: ErrorHandler, error: BaseException, thread: Thread) -> None:
        """Call `errh`.  What it raises itself is for `loop()`, and not for `errh` again."""
        # Told of from here on, however `_on_end` ended.
        self._forget(thread)
        try:
            errh(error, thread)
        except BaseException as failure:
            if issubclass(type(failure), (GreenletExit, *Hub.SYSTEM_ERROR)):
                # A kill is no error; the others end the program from any thread.
                raise
            self._wake_loop()
            self._keep_error(failure, thread)

    def _keep_error(self, error: BaseException, thread: Thread) -> None:
        """Have it for the next `loop()`; log it if none is running to raise it."""
        if not self._running:
            log_soon(kernel_logger, logging.ERROR, _DIED, thread.name, shown(error), error=error)
        if not self._running and len(self._errors) >= _KEPT_ERRORS:
            del self._errors[next(iter(self._errors))]
        self._errors[thread] = error


def run(main: Callable[[*Positional], Result], /, *args: *Positional) -> Result | None:
    """Run a program: a `Ratchet` whose first thread is `main(*args)`; blocks until all has ended.

    Returns what `main` returns, once every thread that it attached has ended
    too; None if `main` was killed, or `stop()` was called before it returned.
    Raises what `main` raises, and all else that `loop()` and `with Ratchet()`
    raise.  The threads that are left are killed then.  Raises `TypeError` if
    `main` is not callable.

    .. code-block:: python

        import ratchet
        from ratchet import thread


        def main(name):
            thread.attach(print, "hello", name)
            return len(name)


        print(ratchet.run(main, "Ada"))

    .. code-block:: text

        hello Ada
        3
    """
    kernel = Ratchet()
    try:
        first = kernel.attach(main, *args)
        kernel.__exit__(None, None, None)
        return None if issubclass(type(first.value), GreenletExit) else first.value
    except BaseException:
        kernel.close()
        raise


def kernel_of(thread: greenlet) -> Ratchet:
    """The scheduler that a greenlet attaches to.

    That of the innermost `with Ratchet()` that the greenlet is in, else the one
    that owns the greenlet, else one that all other greenlets of this hub share.
    """
    if thread in _entered:
        return _entered[thread][-1]
    if isinstance(thread, Thread):
        return thread.kernel
    hub = get_hub()
    if hub not in _shared:
        _shared[hub] = Ratchet()
    return _shared[hub]


_entered: dict[greenlet, list[Ratchet]] = {}
_shared: weakref.WeakKeyDictionary[Hub, Ratchet] = weakref.WeakKeyDictionary()
_quiet_hubs: weakref.WeakSet[Hub] = weakref.WeakSet()


def _leave_errors_to_kernels(hub: Hub) -> None:
    """Have the errors of threads and of the hub's callbacks come out of `loop()`, and not printed.

    Setting `handle_error` on the hub is gevent's own hook for this.  The errors of
    other greenlets, and those of callbacks while no `loop()` runs on the hub, go
    where they went before.
    """
    if hub in _quiet_hubs:
        return
    inner = hub.handle_error

    def handle_error(
        context: object, kind: type[BaseException], value: Any, tb: TracebackType | None
    ) -> None:
        ours = isinstance(context, Thread)
        if not ours and (isinstance(context, greenlet) or issubclass(kind, (HubDestroyed, GreenletExit))):
            inner(context, kind, value, tb)
        elif issubclass(kind, hub.SYSTEM_ERROR):
            # KeyboardInterrupt and SystemExit end the program from any thread.
            if not ours:
                settle_soon(hub)
            hub.handle_system_error(kind, value, tb)
        elif not ours:
            kernel = _running_on(hub)
            # Its type is asked, not the error: its attributes may be anything.
            if kernel is None or not issubclass(type(value), BaseException):
                inner(context, kind, value, tb)
            else:
                settle_soon(hub)
                kernel._take_error(BaseException.with_traceback(value, tb))

    setattr(hub, "handle_error", handle_error)  # noqa: B010  # mypy refuses the assignment
    _quiet_hubs.add(hub)


def _running_on(hub: Hub) -> _alive.LivingKernel | None:
    """The oldest scheduler that a greenlet of this hub runs."""
    for kernel in _alive.kernels.living():
        if kernel._hub is hub and kernel._running:
            return kernel
    return None


def _do_nothing(thread: object) -> None:
    """A link that has gevent call those before it."""
