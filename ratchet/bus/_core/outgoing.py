"""A request at its client: it is sent, and ends once, in a response or an error.

The whole life of a request on this side is here, the same for every kind of bus:
`TRANSITIONS` says what may follow what, and what it counts changes nowhere else.  A kind of
bus supplies the `ClientRoute`, by which the server is told.

It ends in three steps, in an order that may be interrupted anywhere: those who wait
are to be woken in a later turn, then it has ended, then its bus forgets it.  Who is
woken looks whether it has ended, and waits on if it has not.

When its time is over and the server can still be asked, it waits a little longer for
the server's last word on whether it ran.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable, Mapping
from typing import Any, Final

from gevent.hub import Hub

from ratchet import _clock, _native
from ratchet._loop import Watcher
from ratchet._run_queue import run_queue_of
from ratchet._wait import TIMED_OUT, Wait, check_hub, check_timeout, suspend
from ratchet.bus._core.deadline import deadline_after, in_words, seconds_until
from ratchet.bus._core.faults import ErrorTexts, Reason, error_from_reason
from ratchet.bus._core.links import Callback, Link, find
from ratchet.bus._core.numbered import Numbered
from ratchet.bus._core.recipient import Recipient
from ratchet.bus._core.stats import Counters
from ratchet.bus.codecs import Decode, PeerAddress
from ratchet.errors import BusError, BusTimeout, Cancelled, Outcome

# When its time is over, a request's client still waits this long, in seconds,
# for the server's word on whether it ran.  A server that is there answers far
# sooner, and one that is gone holds nobody up.
LAST_WORD_TIMEOUT: Final = 0.1


class State(enum.IntEnum):
    """The state of a request on the client's side."""

    WAITING = 1
    """Its response is to come."""
    EXPIRED = 2
    """Its time is over, and only the server's last word is waited for."""
    SUCCEEDED = 3
    """It has a response."""
    FAILED = 4
    """It ended in an error that is not this side's wish."""
    GIVEN_UP = 5
    """It was cancelled, or ran out of time."""


class Event(enum.IntEnum):
    """An event in the life of a request."""

    EXPIRE = 1
    SUCCEED = 2
    FAIL = 3
    GIVE_UP = 4


# Module names, because an enum's attribute takes three times as long to read.
WAITING, EXPIRED, SUCCEEDED, FAILED, GIVEN_UP = State
EXPIRE, SUCCEED, FAIL, GIVE_UP = Event

TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (WAITING, EXPIRE): EXPIRED,
    (WAITING, SUCCEED): SUCCEEDED,
    (WAITING, FAIL): FAILED,
    (WAITING, GIVE_UP): GIVEN_UP,
    (EXPIRED, GIVE_UP): GIVEN_UP,
}
"""Every event that may come in each state, and the state that it leads to; no other may come."""

# Looked up beforehand: each exchange comes by.
_AFTER_SUCCESS: Final = TRANSITIONS[WAITING, SUCCEED]
_AFTER_FAILURE: Final = TRANSITIONS[WAITING, FAIL]
_AFTER_GIVING_UP: Final = TRANSITIONS[WAITING, GIVE_UP]

# Flags of a request that do not travel: it may run more than once; nobody waits for it.
IDEMPOTENT: Final = 0x100
CAST: Final = 0x200

ENDED: Final = (SUCCEEDED, FAILED, GIVEN_UP)
# Asked where most have not: a member that is not in a tuple is compared with each one by value.
UNENDED: Final = (WAITING, EXPIRED)


class ClientRoute(Recipient):
    """The way to the server, as the requests of one client use it.

    Attributes:
        counters: what is counted of its requests.
        server_address: the server, for codecs.
    """

    __slots__ = ("counters", "hub", "run_callback", "run_queue", "server_address")

    def __init__(self, hub: Hub, counters: Counters, server_address: PeerAddress) -> None:
        self.hub = hub
        self.run_callback: Callable[..., object] = hub.loop.run_callback
        self.run_queue = run_queue_of(hub)
        self.counters = counters
        self.server_address = server_address

    @property
    def server_name(self) -> str:
        """The server, for texts."""
        raise NotImplementedError

    def withdraw(self, transaction: OutgoingRequest) -> Outcome:
        """Tell the server that nobody waits any more, without blocking.

        Returns what is certain about the request.  May be called again if it was
        interrupted.
        """
        raise NotImplementedError

    def ask_for_last_word(self, transaction: OutgoingRequest) -> bool:
        """Tell the server that a request's time is over; False if no answer can come of that."""
        raise NotImplementedError

    def retry(self, transaction: OutgoingRequest, error: BusError, moves: bool) -> bool:
        """Have a request that failed sent again, if that is safe and allowed; see `Retrier.take`."""
        return False

    def forget(self, transaction: OutgoingRequest) -> None:
        """Let the bus have it no longer: it has ended.  Calling it twice is the same as once."""
        raise NotImplementedError


class OutgoingRequest(Numbered):
    """A request on the client's side, as the bus holds it.

    Attributes:
        request: the object that was sent.
        route: the way to the server.
        state: where it is.
        error: in what it ended, if not in a response.
        value: the response, which is still to be decoded if there is a `decode`.
        decode: decodes the response; None where that is not needed, or is done.
        id: what its connection knows it by.
        frame_number: the number of its frame on the connection.
        incoming: the server's side of it, if that is in this process.
        content: what travels, to be sent again if need be; None if that cannot be, and then those
            that follow are of no use, and not set.
        flags: the flags that travel with it, `IDEMPOTENT` and `CAST`.
        attempts: how often it was sent.
        doubtful: whether it may have run in an attempt before this one.
        deadline: when its time is over; None for never.
    """

    __slots__ = (
        "_more_waits",
        "_owner",
        "_seconds",
        "_timer",
        "_wait",
        "attempts",
        "content",
        "deadline",
        "decode",
        "doubtful",
        "error",
        "flags",
        "frame_number",
        "incoming",
        "request",
        "route",
        "state",
        "value",
    )

    def __init__(self, owner: object, route: ClientRoute, request: Any, decode: Decode[Any] | None) -> None:
        self.begin(owner, route, request, decode)

    def begin(self, owner: object, route: ClientRoute, request: Any, decode: Decode[Any] | None) -> None:
        """As `__init__`, which takes the compiled build five times as long to call."""
        # The client lives as long as a request of its does.
        self._owner = owner
        self.request = request
        self.state = WAITING
        self.route = route
        self.incoming: Any = None
        self.decode = decode
        self.error: BusError | None = None
        self.value: Any = None
        # What those who wait for its end sleep on: almost always it is one thread.
        self._wait: Wait | None = None
        self._more_waits: list[Wait | Link] | None = None
        self._timer: Watcher | None = None
        # The seconds that it was given, for the text of an error; below 0 if its time is not bounded.
        self._seconds = -1.0
        # Until it is known: an end in the middle of its sending is to say that it may have left.
        self.frame_number = 0
        # Set by its connection, if it has one.
        self.id = 0
        self.content: Any = None

    def keep_to_send_again(self, content: Any, flags: int) -> None:
        """Keep what travels: it may be sent again."""
        self.flags = flags
        self.attempts = 1
        self.doubtful = False
        self.deadline: float | None = None
        # Last, for it says that the others are there.
        self.content = content

    def load(self) -> None:
        """Decode the response; may block."""
        decode = self.decode
        assert decode is not None
        value = decode(self.value, self.route.server_address)
        # Another thread may have decoded it meanwhile; all get the same one.
        if self.decode is not None:
            self.value = value
            self.decode = None

    def result(self, timeout: float | None) -> Any:
        """Wait for the response and return it; see `ClientTransaction.recv_response`."""
        if self.state is WAITING or self.state is EXPIRED:
            self.wait(timeout)
        elif _native.hub_here() is not self.route.hub:
            check_hub(self.route.hub, self)
        if self.error is not None:
            # Each waiter its own copy: a traceback belongs to one thread.
            raise copy.copy(self.error) from self.error.__cause__
        if self.decode is not None:
            self.load()
        return self.value

    def wait(self, timeout: float | None) -> None:
        """Wait until it has ended; blocks.  Raises `BusTimeout` when the time is over."""
        deadline = None
        if timeout is not None:
            check_timeout(timeout)
            deadline = deadline_after(timeout)
        # Its end may be interrupted after those who wait were told, and is then to come.
        while self.state is WAITING or self.state is EXPIRED:
            wait = _native.new_wait()
            if wait.hub is not self.route.hub:
                check_hub(self.route.hub, self)
            try:
                if self._wait is None:
                    self._wait = wait
                elif self._more_waits is None:
                    self._more_waits = [wait]
                else:
                    self._more_waits.append(wait)
                if self.state is not WAITING and self.state is not EXPIRED:
                    # A signal handler came in between, and had the answer read.
                    return
                if deadline is None:
                    # As `suspend` does.
                    timed_out = _native.wait_on(wait, "recv_response", self) is TIMED_OUT
                else:
                    left = seconds_until(deadline)
                    timed_out = suspend(wait, "recv_response", self, left) is TIMED_OUT
            except BaseException:
                self._take_back(wait)
                raise
            # The response may have come in the very turn in which the time ended.
            if self.state is WAITING or self.state is EXPIRED:
                self._take_back(wait)
                if timed_out:
                    raise BusTimeout(self._no_response_within(timeout or 0.0))

    def _take_back(self, wait: Wait) -> None:
        """Let nobody be woken by this any more.  Calling it twice is the same as once."""
        if self._wait is wait:
            self._wait = None
        elif self._more_waits is not None and wait in self._more_waits:
            self._more_waits.remove(wait)

    def add_link(self, callback: Callback) -> None:
        """Have the hub call a function with it once it has ended, or soon if it has."""
        link = Link(callback)
        if self._more_waits is None:
            self._more_waits = [link]
        else:
            self._more_waits.append(link)
        # Looked at last: a signal handler may have had the answer read.
        if self.state in ENDED:
            self.route.run_callback(callback, self)
            self.drop_link(callback)

    def drop_link(self, callback: Callback) -> None:
        """Do not have a function called any more, unless that is about to happen."""
        waits = self._more_waits
        link = None if waits is None else find(waits, callback)
        if waits is not None and link is not None:
            waits.remove(link)

    def end_at(self, deadline: float) -> None:
        """Let the transaction end in `BusTimeout` at `deadline`."""
        if self.content is not None:
            self.deadline = deadline
        self._seconds = max(deadline - _clock.monotonic(), 0.0)
        self._timer = _clock.timer(self.route.hub, self._seconds)
        self._timer.start(self.expire)

    def note_timeout(self, timeout: float) -> None:
        """Name the user's own number in errors, if it is the one that counts."""
        if self._seconds > timeout / 2:
            self._seconds = timeout

    def leave_time_to_caller(self, seconds: float, deadline: float) -> None:
        """Note that it has so many seconds, and that its caller sees to their end, by `expire`."""
        self._seconds = seconds
        if self.content is not None:
            self.deadline = deadline

    def _look_again_after(self, seconds: float) -> None:
        """Have `expire` called once more."""
        before = self._timer
        self._timer = _clock.timer(self.route.hub, seconds)
        self._timer.start(self.expire)
        if before is not None:
            before.close()

    def expire(self) -> None:
        """End it, or ask for the last word first, now that its time is over; also a hub callback.

        Called again after `LAST_WORD_TIMEOUT`.
        """
        if self.state is EXPIRED or not self.route.ask_for_last_word(self):
            self.give_up(BusTimeout, self._no_response_within(self._seconds))
        else:
            if self._timer is not None:
                self._look_again_after(LAST_WORD_TIMEOUT)
            self.state = TRANSITIONS[self.state, EXPIRE]

    def _no_response_within(self, seconds: float) -> str:
        return f"no response from {self.route.server_name} within {in_words(seconds)}"

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        if self.state in ENDED:
            self.route.forget(self)
        elif self._timer is not None and not self._timer.active:
            # It has rung, and what it was for was interrupted.
            self._look_again_after(0.0)

    def give_up(self, error_type: type[BusError], message: str) -> None:
        """End it by this side's wish; does nothing if it has ended."""
        if self.state not in ENDED:
            self._end_given_up(error_type(message, outcome=self.route.withdraw(self)))

    def end_cancelled(self) -> None:
        """Give it up because its user wants no response any more; also a hub callback."""
        self.give_up(Cancelled, f"the request to {self.route.server_name} was cancelled")

    def time_over(self, outcome: Outcome) -> BusTimeout:
        """The error of a request whose time is over."""
        return BusTimeout(self._no_response_within(self._seconds), outcome=outcome)

    def time_out(self, outcome: Outcome) -> None:
        """End it, now that its time is over and its outcome is known; does nothing if it has ended."""
        if self.state not in ENDED:
            self._end_given_up(self.time_over(outcome))

    def _end_given_up(self, error: BusError) -> None:
        self._note_error(error)
        self._end(GIVE_UP, _AFTER_GIVING_UP)
        self.route.counters.cancelled += 1
        self.route.forget(self)

    def fail(self, error: BusError, moves: bool = True) -> None:
        """End it in an error that is not this side's wish, or have it sent again.

        Does nothing if it has ended.  If its time is over already, that is its error, and the
        outcome the other's.  `moves` is as for `Retrier.take`.
        """
        if self.state is EXPIRED:
            self.time_out(error.outcome)
        elif self.state not in ENDED and not (
            self.content is not None and self.route.retry(self, error, moves)
        ):
            self.end_failed(error)

    def end_failed(self, error: BusError) -> None:
        """End it in an error for good; it has not ended."""
        self._note_error(error)
        self._end(FAIL, _AFTER_FAILURE)
        self.route.counters.failed += 1

    def _note_error(self, error: BusError) -> None:
        """Note in what it ends.  No outcome may be false for any of its attempts."""
        if self.content is not None:
            error.attempts = self.attempts
            if self.doubtful and error.outcome is not Outcome.RAN:
                error.outcome = Outcome.UNKNOWN
        self.error = error

    def fail_at_server(self, reason: int, texts: ErrorTexts, outcome: Outcome | None) -> None:
        """End it in the error that the server tells; does nothing if it has ended."""
        error = error_from_reason(reason, texts, self.route.server_name, outcome)
        if reason == Reason.CANCELLED and self._seconds >= 0.0:
            # The server saw the request's time end before this side did.
            self.time_out(error.outcome)
        else:
            self.fail(error, moves=reason == Reason.DRAINING)

    def succeed(self, value: object) -> None:
        """End it in a response; does nothing if that comes too late."""
        if self.state is not WAITING:
            return
        self.value = value
        # One whose giving up was interrupted may have one.
        self.error = None
        self._end(SUCCEED, _AFTER_SUCCESS)
        self.route.counters.answered += 1

    def leave_to_parent(self) -> None:
        """Wake nobody in a forked child: those who wait are the parent's threads."""
        self._wait = self._more_waits = None

    def _end(self, event: Event, after_waiting: State) -> None:
        """Have those who wait woken, for whom the outcome is there, and end it; does not block."""
        run_queue = self.route.run_queue
        if self._wait is not None:
            if run_queue.woken:
                # As `wake` does, without its call: 64 local clients take 1 % less in pure Python.
                run_queue.woken.append(self._wait)
            else:
                run_queue.wake(self._wait)
        if self._more_waits is not None:
            for wait in self._more_waits:
                if isinstance(wait, Link):
                    self.route.run_callback(wait.callback, self)
                else:
                    run_queue.wake(wait)
            # No link is to keep what it belongs to.
            self._more_waits = None
        # Whoever tells this has looked, but a signal handler may have closed the bus since.
        if self.state is WAITING:
            self.state = after_waiting
        else:
            self.state = TRANSITIONS.get((self.state, event), self.state)
        # Its user may keep the transaction for long.
        self.content = None
        timer = self._timer
        if timer is not None:
            timer.close()
            self._timer = None
