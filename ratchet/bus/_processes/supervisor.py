"""The supervisor: it accepts clients, hands each to a worker, and keeps the workers.

One thread accepts (`acceptor`).  Each place has a thread that starts another worker when the one
there has ended; one more thread replaces all, place by place, when it is told to.  The listening
socket is closed only when the supervisor is told to end.

One worker's process and messages are handled in `worker_process`; which worker gets a connection,
and which have too many, is decided in `placing`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from gevent.event import Event
from gevent.hub import get_hub

from ratchet import _clock
from ratchet._wait import check_hub
from ratchet.bus._core.address import Address, format_address
from ratchet.bus._core.stats import NOTHING, Stats, total
from ratchet.bus._processes import placing, systemd
from ratchet.bus._processes.acceptor import Acceptor
from ratchet.bus._processes.back_off import BackOff
from ratchet.bus._processes.names import LoadError
from ratchet.bus._processes.settings import Settings
from ratchet.bus._processes.worker_process import DRAINING, READY, WorkerProcess, start_worker
from ratchet.bus._socket.accept import Listener
from ratchet.kernel import Ratchet, Thread

# Seconds that a worker has beyond its own drain time-out, before it is killed; and to end at once.
_GRACE: Final = 1.0
# Seconds between two looks at how connections are spread, while they come and go.
_BETWEEN_LOOKS: Final = 1.0
# Seconds to wait for what a worker counts: one that computes does not answer.
_STATS_TIMEOUT: Final = 1.0

_logger: Final = logging.getLogger("ratchet.processes")


class Place:
    """One of the workers that there are to be, whichever process it is at the time.

    Attributes:
        number: from 1 on.
        worker: the process that serves, or is to serve, there; None before the first one.
        back_off: the pauses before another one.
        wake: set to end such a pause.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: WorkerProcess | None = None
        self.back_off = BackOff()
        self.wake = Event()


class Supervisor:
    """The workers that serve one address; see `serve_processes`, whose `on_ready` gets it.

    Its calls are for the OS thread in which that runs; in another one, they raise `WrongThread`.

    Attributes:
        address: where it listens, in a form that `connect` takes.
    """

    def __init__(self, listener: Listener, family: int, processes: int, settings: Settings) -> None:
        self.address: Address = listener.address
        self._hub = get_hub()
        self._listener = listener
        self._kernel = Ratchet(errh=self._on_death)
        self._drain_timeout = settings.drain_timeout
        self._first = {
            "settings": settings.to_json(),
            "family": family,
            "address": listener.address,
        }
        self._places = [Place(number) for number in range(1, processes + 1)]
        # Every process that has not ended, in the order in which they were started.
        self._workers: list[WorkerProcess] = []
        # What those that have ended have counted.
        self._past = NOTHING
        # The place of the worker that got the last connection.
        self._last = -1
        # Set when a worker has said anything or has ended, and by `stop`.
        self._changed = Event()
        self._acceptor = Acceptor(listener, self._hand_over, self._changed)
        # Set when a worker's connections have come or gone.
        self._counted = Event()
        self._replacement_wanted = Event()
        self._stopping = Event()
        self._hurried = Event()
        self._all_finished = True
        # Whether the first workers have begun: until then, whatever fails is raised.
        self._serves = False
        # What one of its own threads has died of.
        self._error: BaseException | None = None

    def __repr__(self) -> str:
        workers = ", ".join(map(repr, self._workers))
        return f"<Supervisor at {id(self):#x} on {format_address(self.address)}: {workers}>"

    # What its user may call.

    def stats(self) -> Stats:
        """The sum of what all workers have counted, ended ones included; blocks, for a second at most.

        A worker that computes does not answer, and is counted as it was when it answered last.
        What a worker has counted since then is lost when it is killed.
        """
        check_hub(self._hub, self)
        asked = [
            self._kernel.attach_background(worker.ask_for_stats, _STATS_TIMEOUT) for worker in self._workers
        ]
        return total([self._past, *(thread.get() for thread in asked)])

    def replace_workers(self) -> None:
        """Replace all workers, one after the other, each by one that is ready before it drains.

        If a new one cannot be started, the old one stays, and so do those after it.  Does not block.
        """
        check_hub(self._hub, self)
        self._replacement_wanted.set()

    def stop(self) -> None:
        """Have the workers drain, and then `serve_processes` return.  Does not block.

        Called again, it ends them at once.
        """
        check_hub(self._hub, self)
        if self._stopping.is_set():
            self._hurried.set()
        self._stopping.set()
        self._changed.set()

    def dump(self) -> None:
        """Have each worker write to stderr what its threads do.  Does not block."""
        check_hub(self._hub, self)
        for worker in self._workers:
            worker.dump()

    # How it runs.

    def attach(self, func: Callable[..., object], *args: object) -> None:
        """Have a background thread call `func` while the supervisor runs."""
        self._kernel.attach_background(func, *args)

    def run(self, on_ready: Callable[[Supervisor], object] | None) -> bool:
        """Serve until it is told to end, and return whether all that was taken is finished; blocks.

        Raises what `serve_processes` raises.
        """
        with self._kernel as kernel:
            try:
                self._start_first()
                self._wait_for_first()
                for place in self._places:
                    kernel.attach_background(self._keep, place)
                kernel.attach_background(self._replace_when_wanted)
                kernel.attach_background(self._keep_even)
                accepting = kernel.attach_background(self._accept)
                if not self._stopping.is_set():
                    systemd.notify("READY=1")
                    if on_ready is not None:
                        kernel.attach_background(on_ready, self)
                self._stopping.wait()
                systemd.notify("STOPPING=1")
                _logger.info("draining; a second signal stops immediately")
                accepting.kill()
                self._acceptor.run_last()
                self._listener.close()
                self._end_all()
            finally:
                # If an exception has struck, nobody is to be started or to accept any more, either.
                self._stopping.set()
                self._listener.close()
                # None is left, unless an exception has struck.
                for worker in list(self._workers):
                    worker.kill()
                    worker.ended.wait(_GRACE)
        if self._error is not None:
            raise self._error
        return self._all_finished

    def _on_death(self, error: BaseException, thread: Thread) -> None:
        """One of its threads has died, which is a bug, or `on_ready` has raised: end with that."""
        self._error = self._error or error
        self.stop()

    def _start_first(self) -> None:
        """Start a worker at each place; raises `ChildProcessError` if that cannot be done."""
        for place in self._places:
            try:
                place.worker = self._start(place.number)
            except OSError as error:
                reason = error.strerror or error
                raise ChildProcessError(
                    error.errno, f"cannot start worker {place.number}: {reason}"
                ) from error

    def _wait_for_first(self) -> None:
        """Wait until each place has had a worker that is ready, or failed; raises if all have failed."""
        first = list(self._workers)
        while not (self._stopping.is_set() or all(worker.started.ready() for worker in first)):
            self._changed.clear()
            self._changed.wait()
        failed = [worker for worker in first if worker.failure is not None]
        if self._stopping.is_set() or any(worker.has_served for worker in first):
            self._serves = True
            for worker in failed:
                # The others are still to end, which tells of them as well.
                if worker.ended.is_set():
                    _log_failure(worker)
            return
        if failed and failed[0].failure is not None:
            raise LoadError(*failed[0].failure)
        raise ChildProcessError(f"no worker has begun to serve: {first[0]} {first[0].how_it_ended}")

    # Workers.

    def _keep(self, place: Place) -> None:
        """The thread of a place: when its worker has ended, start another one."""
        while not self._stopping.is_set():
            self._wait_for_end(place)
            if place.back_off.pause and not self._stopping.is_set():
                place.wake.clear()
                place.wake.wait(place.back_off.pause)
            if not self._stopping.is_set():
                try:
                    place.worker = self._start(place.number)
                except OSError as error:
                    _logger.error("cannot start worker %d: %s", place.number, error)
                    place.back_off.note_death(0.0)

    def _wait_for_end(self, place: Place) -> None:
        """Wait until the worker of a place has ended, whichever that is by then; blocks."""
        while True:
            worker = place.worker
            assert worker is not None
            if worker.ended.is_set():
                return
            worker.ended.wait()
            if place.worker is worker and not worker.told_to_end:
                # One that was never ready has failed in starting, however long it took.
                age = _clock.monotonic() - worker.since if worker.has_served else 0.0
                place.back_off.note_death(age)

    def _start(self, number: int) -> WorkerProcess:
        worker = start_worker(self._kernel, number, self._first, self._on_change)
        self._workers.append(worker)
        if self._stopping.is_set():
            # It was started while all others were told to end.
            self._kernel.attach_background(self._end, worker)
        return worker

    def _on_change(self, worker: WorkerProcess, kind: str) -> None:
        """A worker has said something, or has ended; does not block."""
        match kind:
            case "ready":
                _logger.info("%s is ready", worker)
                self._rebalance()
            case "counts":
                self._counted.set()
            case "leave":
                self._kernel.attach_background(self._let_go, worker)
            case "died":
                self._note_end(worker)
                self._rebalance()
        self._changed.set()

    def _note_end(self, worker: WorkerProcess) -> None:
        self._workers.remove(worker)
        # Its connections and requests are no more.
        self._past = total([self._past, worker.stats._replace(connections=0, queued=0, in_flight=0)])
        if worker.failure is not None:
            if self._serves:
                _log_failure(worker)
        elif worker.told_to_end and worker.status == 0:
            _logger.info("%s has ended", worker)
        else:
            # One that has not begun to serve has taken nothing.
            self._all_finished = self._all_finished and not (worker.told_to_end and worker.has_served)
            _logger.warning("%s %s", worker, worker.how_it_ended)

    def _let_go(self, worker: WorkerProcess) -> None:
        """A thread: end a worker that wants to, once another one is in its place."""
        for place in self._places:
            if place.worker is worker and worker.state is READY and not self._stopping.is_set():
                self._replace(place)
        self._end(worker)

    def _end(self, worker: WorkerProcess) -> None:
        """Drain a worker, and wait until it has ended; blocks."""
        worker.drain(self._drain_timeout + _GRACE)

    def _replace_when_wanted(self) -> None:
        """A thread: replace all workers whenever that is wanted."""
        while self._replacement_wanted.wait():
            self._replacement_wanted.clear()
            systemd.notify_reloading()
            for place in self._places:
                if not self._replace(place):
                    break
            systemd.notify("READY=1")

    def _replace(self, place: Place) -> bool:
        """Start another worker at a place and, when it is ready, drain the one that is there; blocks.

        False if it could not be started, and the old one goes on.
        """
        old = place.worker
        if old is None or old.ended.is_set():
            # Its successor is about to be started anyway.
            place.wake.set()
            return True
        try:
            new = self._start(place.number)
        except OSError as error:
            _logger.error("cannot replace %s: %s", old, error)
            return False
        began = new.started.get()
        if self._stopping.is_set():
            return False
        if not began:
            _logger.error("cannot replace %s, which goes on", old)
            return False
        if place.worker is not old:
            # It died meanwhile, and has a successor already.
            self._end(new)
            return True
        place.worker = new
        self._end(old)
        return True

    def _keep_even(self) -> None:
        """A thread: look now and then, while connections come and go, whether they are spread evenly.

        Clients may leave unevenly; and one that has not said anything yet cannot be sent away.
        """
        while True:
            self._counted.wait()
            _clock.sleep(_BETWEEN_LOOKS)
            self._counted.clear()
            self._rebalance()

    def _rebalance(self) -> None:
        """Have workers with more than their share send clients away: to those who have fewer."""
        ready = [place.worker for place in self._places if place.worker and place.worker.state is READY]
        moving = sum(
            worker.moving + (worker.load if worker.state is DRAINING else 0) for worker in self._workers
        )
        surplus = placing.surplus([worker.load for worker in ready], moving)
        for worker, count in zip(ready, surplus, strict=True):
            if count and not self._stopping.is_set():
                worker.shed(count)

    def _end_all(self) -> None:
        """Drain all workers, or end them at once if that is wanted; blocks until they have ended."""
        self._kernel.attach_background(self._hurry)
        for worker in list(self._workers):
            self._kernel.attach_background(self._end, worker)
        while self._workers:
            self._workers[0].ended.wait()

    def _hurry(self) -> None:
        """A thread: end all workers at once when that is wanted."""
        self._hurried.wait()
        for worker in list(self._workers):
            self._kernel.attach_background(worker.close, _GRACE)

    # Connections.

    def _hand_over(self, descriptor: int, peer: Address) -> bool:
        """Give a client to the worker with the fewest, or to the next if that one takes none.

        False if none takes it.  Does not block.
        """
        workers = [place.worker for place in self._places]
        loads = [worker.load if worker else 0 for worker in workers]
        for index in placing.order_of(loads, self._last):
            worker = workers[index]
            if worker is None or (worker.is_behind and not self._stopping.is_set()):
                continue
            if worker.hand_over(descriptor, peer):
                self._last = index
                return True
        return False

    def _accept(self) -> None:
        """A thread: accept clients as long as it can."""
        self._acceptor.run()
        if self._stopping.is_set():
            return
        _logger.error("another process has shut %s down", format_address(self.address))
        self.stop()


def _log_failure(worker: WorkerProcess) -> None:
    text, trace = worker.failure or ("", "")
    _logger.error("%s cannot serve: %s%s", worker, text, trace and "\n" + trace)
