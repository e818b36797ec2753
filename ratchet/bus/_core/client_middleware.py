"""A client's side with middleware around each of its calls that send.

A kind of bus makes a class of its own of this and its client's side, so that a client without
middleware goes no other way than before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from ratchet.bus._core.client import ClientSide, ClientTransaction
from ratchet.bus._core.middleware import Middleware
from ratchet.errors import BusError

Request = TypeVar("Request")
Response = TypeVar("Response")

Options = dict[str, Any]
"""The arguments of a call but the request, by name."""


class Proceed:
    """Goes on with a client's call: the last argument of its middleware.

    Calling it with the request returns what the call returns, or raises what it raises.  Arguments by
    name replace the caller's; metadata is added to the caller's.

    Attributes:
        method: the name of the call.
        options: its arguments but the request, by name.
    """

    __slots__ = ("_end", "_inner", "method", "options")

    def __init__(
        self, inner: tuple[Middleware, ...], method: str, end: Callable[..., Any], options: Options
    ) -> None:
        self._inner = inner
        self._end = end
        self.method = method
        self.options = options

    def __call__(self, request: Any, **options: Any) -> Any:
        before, given = self.options.get("metadata"), options.get("metadata")
        if isinstance(before, Mapping) and isinstance(given, Mapping):
            options["metadata"] = {**before, **given}
        return _run(self._inner, self.method, self._end, request, {**self.options, **options})


def _run(
    middleware: tuple[Middleware, ...],
    method: str,
    end: Callable[..., Any],
    request: Any,
    options: Options,
) -> Any:
    """Call the outermost middleware, or `end` if there is none."""
    if not middleware:
        return end(request, **options)
    return middleware[0](request, None, Proceed(middleware[1:], method, end, options))


class ClientMiddleware(ClientSide[Request, Response]):
    """Calls middleware around what a client's side does; stands before that among the bases."""

    _middleware: tuple[Middleware, ...]

    def send_request(
        self,
        request: Request,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        **options: Any,
    ) -> ClientTransaction[Request, Response]:
        sent: list[ClientTransaction[Request, Response]] = []
        send = super().send_request

        def send_and_note(request: Request, **options: Any) -> ClientTransaction[Request, Response]:
            sent.append(send(request, **options))
            return sent[-1]

        try:
            return self._go(  # type: ignore[no-any-return]
                "send_request", send_and_note, request, timeout, metadata, options
            )
        except BaseException:
            # Nobody gets it.
            for transaction in sent:
                transaction.cancel()
            raise

    def cast(
        self,
        request: Request,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self._go("cast", super().cast, request, timeout, metadata, options)

    def call(
        self,
        request: Request,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Response:
        # Of what stands behind this: sent by `self`, it would come by the middleware of `send_request`.
        side: Any = super()
        return self._go(  # type: ignore[no-any-return]
            "call", partial(ClientSide.call, side), request, timeout, metadata, options
        )

    def call_many(
        self,
        requests: Iterable[Request],
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        **options: Any,
    ) -> list[Response | BusError]:
        return self._go(  # type: ignore[no-any-return]
            "call_many", super().call_many, list(requests), timeout, metadata, options
        )

    def _go(
        self,
        method: str,
        end: Callable[..., Any],
        request: Any,
        timeout: float | None,
        metadata: Mapping[str, str] | None,
        options: Options,
    ) -> Any:
        given = {"timeout": timeout, "metadata": metadata, **options}
        return _run(self._middleware, method, end, request, given)
