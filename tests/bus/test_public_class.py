"""Public classes: type parameters at run time, and subclasses of users."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin

import gevent
import pytest

from ratchet.bus import ClientBus, ClientTransaction, LocalBus, ServerBus, ServerTransaction

GENERIC = [ClientBus, ClientTransaction, LocalBus, ServerBus, ServerTransaction]

T = TypeVar("T")
U = TypeVar("U")


@pytest.mark.parametrize("kind", GENERIC)
def test_a_public_class_takes_type_parameters(kind: Any) -> None:
    alias = kind[str, int]
    assert get_origin(alias) is kind
    assert get_args(alias) == (str, int)
    assert repr(alias) == f"ratchet.bus.{kind.__name__}[str, int]"
    assert kind[T, int][str] == alias


@pytest.mark.parametrize("kind", GENERIC)
@pytest.mark.parametrize("parameters", [(str, int), (T, int), (T, U)])
def test_a_user_may_subclass_it_with_them(kind: Any, parameters: tuple[Any, Any]) -> None:
    class Own(kind[parameters]):  # type: ignore[misc]
        pass

    assert issubclass(Own, kind)


class Noting(LocalBus[str, str]):
    """A local bus that notes what is sent and received by the calls that others may rely on."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []

    def send_request(
        self,
        request: str,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        *,
        idempotent: bool = False,
    ) -> ClientTransaction[str, str]:
        self.noted.append(f"sent {request}")
        return super().send_request(request, timeout, metadata, idempotent=idempotent)

    def recv_request(self, timeout: float | None = None) -> tuple[ServerTransaction[str, str], str]:
        transaction, request = super().recv_request(timeout)
        self.noted.append(f"received {request}")
        return transaction, request


def test_calls_and_iteration_go_by_what_a_subclass_overrides() -> None:
    with Noting() as bus:

        def answer() -> None:
            for transaction, request in bus:
                transaction.send_response(request.upper())

        answering = gevent.spawn(answer)
        assert bus.call("tea") == "TEA"
        assert bus.noted == ["sent tea", "received tea"]
    answering.join()


def test_calls_and_iteration_go_by_what_is_put_in_place_of_a_method() -> None:
    with LocalBus[str, str]() as bus:
        send_request, recv_request, noted = bus.send_request, bus.recv_request, []

        def send(*args: Any) -> Any:
            noted.append("sent")
            return send_request(*args)

        def receive(*args: Any) -> Any:
            received = recv_request(*args)
            noted.append("received")
            return received

        setattr(bus, "send_request", send)  # noqa: B010  # mypy refuses the assignment
        setattr(bus, "recv_request", receive)  # noqa: B010

        def answer() -> None:
            for transaction, request in bus:
                transaction.send_response(request.upper())

        answering = gevent.spawn(answer)
        assert bus.call("tea") == "TEA"
        assert noted == ["sent", "received"]
    answering.join()


def test_a_call_goes_by_whatever_transaction_a_subclass_returns() -> None:
    class Ready:
        def recv_response(self) -> str:
            return "at once"

    class Cached(LocalBus[str, str]):
        def send_request(self, request: str, *args: Any, **options: Any) -> Any:
            return Ready()

    with Cached() as bus:
        assert bus.call("tea") == "at once"


def test_buses_and_transactions_may_be_referred_to_weakly() -> None:
    bus = LocalBus[str, str]()
    bus.cast("tea")
    transaction, _ = bus.recv_request()
    references: list[weakref.ref[Any]] = [weakref.ref(bus), weakref.ref(transaction)]
    assert [reference() for reference in references] == [bus, transaction]
    bus.close()
