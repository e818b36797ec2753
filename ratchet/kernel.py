"""The scheduler as a program sees it: `Ratchet` owns threads, `run` runs a program.

A `Ratchet` makes each `Thread`; its `Scheduler` starts the thread, notices its end,
and runs the loop.  Which `Ratchet` a greenlet attaches to is known here alone, in
`kernel_of`.  What happens between the start of a thread and its end belongs in
`_scheduler`.
"""

from __future__ import annotations

import concurrent.futures
import os
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, ParamSpec, TypeVar, TypeVarTuple, Unpack

from gevent.hub import Hub, get_hub
from greenlet import GreenletExit, getcurrent, greenlet

from ratchet import _alive
from ratchet._fork import frozen
from ratchet._hub_errors import leave_errors_to_schedulers
from ratchet._interrupts import guard
from ratchet._scheduler import Scheduler
from ratchet._thread import ScheduledThread, described, equip, prepared
from ratchet._wait import check_hub

__all__ = ["Ratchet", "Thread", "run"]


def __dir__() -> list[str]:
    return __all__


Arguments = ParamSpec("Arguments")
Positional = TypeVarTuple("Positional")
Result = TypeVar("Result")
ErrorHandler = Callable[[BaseException, "Thread"], object]


class Thread(ScheduledThread):
    """A greenlet that a `Ratchet` owns.  Made by `attach`, never directly.

    It starts with a copy of its maker's `contextvars` context, so a deadline
    or a trace id goes along.  The deadline of the request that its maker handles
    does not go along into the background: such a thread outlives the request.

    Attributes:
        kernel: the `Ratchet` that owns it.
        background: whether `loop()` does not wait for it.
    """

    kernel: Ratchet


class Ratchet:
    """A set of threads, run to completion on the current OS thread's gevent hub.

    Leaving `with Ratchet() as kernel:` runs `loop()` and then `close()`.  If more
    threads than one failed before the others could be ended, an `ExceptionGroup`
    of their errors comes out (a `BaseExceptionGroup`, if one is not an `Exception`).
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
    one that made it, every call but `submit()` and `dump()` raises `WrongThread`.

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
        self._scheduler = Scheduler(self, self._hub, errh)
        guard(self._hub)
        leave_errors_to_schedulers(self._hub)
        _alive.schedulers.add(self._scheduler)
        if entry is not None:
            self.attach(entry)

    def __repr__(self) -> str:
        scheduler = self._scheduler
        background = len(scheduler.background)
        state = "looping" if scheduler.running else "idle"
        attached = len(scheduler.threads) - background
        return f"<Ratchet at {id(self):#x}: {state}, threads={attached}, background={background}>"

    @property
    def num_threads(self) -> int:
        """The number of its threads that are alive, background ones included."""
        return len(self._scheduler.threads)

    @property
    def method(self) -> str:
        """The operating system's polling method that the hub uses, such as `"epoll"`."""
        if self._hub.loop is None:
            # It has been destroyed; that raises.
            check_hub(self._hub, self)
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
        return start(self, Thread(target, *args, **more), func, background=False)

    def attach_background(
        self, func: Callable[Arguments, object], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Thread:
        """Queue a thread that `loop()` does not wait for, but kills on its way out."""
        target, more = prepared(func, kwargs)
        return start(self, Thread(target, *args, **more), func, background=True)

    def submit(
        self, func: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> concurrent.futures.Future[Result]:
        """Have the scheduler call `func` in a new thread; the one call that any OS thread may make.

        Does not block.  `loop()` waits for the thread, as for one of `attach`.  It inherits
        nothing from the caller: no context variables, and so no deadline.

        Args:
            func: what the thread calls.
            *args: the positional arguments of that call.
            **kwargs: its keyword arguments.

        Returns:
            A future.  It is pending until it has what `func` returns or raises; `loop()` and
            `errh` do not hear of an error.  Until then it can be cancelled, which kills the thread.
            It is also cancelled if the thread is killed, as `close()` does, or ends the program by
            `KeyboardInterrupt` or `SystemExit`.  Its callbacks run in the thread, or wherever it
            is cancelled, and must not block.  Waiting for it in the scheduler's own OS thread lets
            the other threads run.

        Raises `TypeError` if `func` is not callable; `RuntimeError` if the scheduler has been
        closed, or its `loop()` has ended and has not been called again; and `WrongThread` if its
        hub or its OS thread has ended, or it is a forked child's copy.

        .. code-block:: python

            import threading

            import ratchet
            from ratchet import bus, thread

            server, client = bus.new_local()


            def ask(kernel):
                print(kernel.submit(client.call, "hello").result())


            def main():
                with server:
                    thread.attach_background(server.serve, str.upper)
                    os_thread = threading.Thread(target=ask, args=[thread.kernel()])
                    os_thread.start()
                    while os_thread.is_alive():
                        thread.timer(0.01)


            ratchet.run(main)

        .. code-block:: text

            HELLO
        """
        return self._scheduler.submissions.submit(func, args, kwargs)

    def loop(self) -> None:
        """Run until every attached thread has ended, then kill the background ones.

        Blocks the calling greenlet alone.  Raises the error of a thread that
        died of one, if there is no `errh`, or else what `errh` itself raises;
        and `DeadlockError` when no attached thread can ever run again.  The
        other threads stay as they are then, and `loop()` may be called again to
        go on.  Raises `RuntimeError` if another greenlet runs it already.
        """
        self._scheduler.loop()

    def loop_once(self, noblock: bool = False) -> bool:
        """Run one turn of the event loop; False when no attached thread is left.

        Background threads are not killed.  Raises as `loop()` does.

        Args:
            noblock: do not wait for an event if no thread can run now.
        """
        return self._scheduler.loop_once(noblock)

    def stop(self) -> None:
        """Make the running `loop()` return after this turn; the threads stay.

        Does not block.  Does nothing if no `loop()` is running.
        """
        self._scheduler.stop()

    def close(self) -> None:
        """Kill every thread that it still owns, and wait until they have ended; blocks.

        That goes for threads that are attached by a `finally` block meanwhile.  What was
        submitted is cancelled, and `submit()` is refused until `loop()` is called again.
        """
        self._scheduler.close()

    def dump(self) -> str:
        """Describe every thread in the order of attaching: name, state, what it waits for, its stack.

        Returns:
            A text for people.  Its form may change.

        .. code-block:: python

            from ratchet import Ratchet, thread


            def wait_for_news():
                return thread.pause()


            kernel = Ratchet(wait_for_news)
            kernel.loop_once(noblock=True)
            print(kernel.dump())
            kernel.close()

        .. code-block:: text

            <Ratchet at 0x...: idle, threads=1, background=0>

            wait_for_news-... (waiting: pause)
              File "...", line ..., in wait_for_news
                return thread.pause()
              ...
        """
        return "\n\n".join([repr(self), *(described(thread) for thread in self._scheduler.threads)])

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{self!r} cannot be copied or pickled")

    def __enter__(self) -> Ratchet:
        check_hub(self._hub, self)
        self._scheduler.submissions.open()
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
                self._scheduler.run_alone(self._run_to_the_end)
                self._scheduler.raise_all_errors()
            else:
                self.close()
        except BaseException:
            # Whatever it is, Ctrl-C in close(), say, it does not spare the other threads.
            try:
                self._scheduler.log_errors()
            finally:
                self._leave()
                self.close()
            raise

    def _run_to_the_end(self) -> None:
        self._scheduler.run()
        self.close()

    def _leave(self) -> None:
        # By whichever greenlet: that of `__enter__` may be another one.
        for entered, kernels in list(_entered.items()):
            if self in kernels:
                kernels.remove(self)
            if not kernels:
                del _entered[entered]


def start(kernel: Ratchet, thread: Thread, func: Callable[..., object], *, background: bool) -> Thread:
    """Make `kernel` the owner of a thread that was made to call `func`; queue and return it."""
    thread.kernel = kernel
    equip(thread, func, background=background)
    kernel._scheduler.start(thread)
    return thread


# Cython cannot write `*Positional` down as text.
def run(
    main: Callable[[Unpack[Positional]], Result],
    /,
    *args: Unpack[Positional],  # noqa: UP044
) -> Result | None:
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


def _after_fork() -> None:
    """Forget, in a forked child, what the parent's threads had entered; these are frozen by then."""
    for thread in frozen:
        _entered.pop(thread, None)


os.register_at_fork(after_in_child=_after_fork)
