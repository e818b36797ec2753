"""The tests of the contract that a bus over a broker does not take part in, and why.

What it promises in their place is tested in `broker/`.
"""

from __future__ import annotations

from typing import Final

_CASTS_GO_ON = "a server that drains gives casts to other servers, by way of the broker"
_CLOSED = "when a server closes, the broker tells its clients: Abandoned, or Rejected if it was not taken"
_WAITS = "a request waits in the broker's queue until there is a server"

NOT_OVER_A_BROKER: Final[dict[str, str]] = {
    "test_casts_that_are_left_when_a_server_drains_are_taken_too": _CASTS_GO_ON,
    "test_what_was_cast_and_has_come_is_run_before_a_drain_ends": _CASTS_GO_ON,
    "test_a_drain_runs_what_was_cast_and_refuses_what_was_asked": _CASTS_GO_ON,
    "test_what_was_cast_and_is_never_begun_is_counted_and_logged": _CASTS_GO_ON,
    "test_a_handler_that_drains_its_own_server_sees_what_was_cast_run_first": _CASTS_GO_ON,
    "test_the_worker_in_place_of_a_handler_that_drains_is_killed_with_serve": _CASTS_GO_ON,
    "test_close_with_many_busy_connections_fails_every_request_and_ends_serve": _CLOSED,
    "test_a_handler_may_close_its_own_bus": _CLOSED,
    "test_closing_the_server_fails_each_thread_that_waits_for_a_response": _CLOSED,
    "test_every_request_is_counted_also_when_the_server_closes": _CLOSED,
    "test_drain_with_a_timeout_returns_false_and_cuts_off_the_work_that_is_left": _CLOSED,
    "test_drain_of_an_idle_bus_returns_true_and_closes_it": _WAITS,
    "test_a_request_made_while_the_server_drains_is_rejected_and_certainly_not_run": _WAITS,
}
