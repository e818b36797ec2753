"""A handler with middleware around it, which the workers of `serve` call like any handler.

It is also called for a request whose codec failed, with an `Undecoded`: middleware gets None as
the request, and the codec's error comes out of its `proceed`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ratchet.bus._core.decoding import Undecoded, refuse_undecoded
from ratchet.bus._core.handle import ServerTransaction
from ratchet.bus._core.middleware import Middleware

Transaction = ServerTransaction[Any, Any]


class HandlerChain:
    """A handler of a request and its transaction: middleware, and the user's handler at the end.

    Args:
        middleware: the functions, the outermost first.
        handler: the user's.
        with_transaction: whether `handler` is called with the transaction too.
    """

    __slots__ = ("_handler", "_middleware", "_with_transaction")

    def __init__(
        self, middleware: tuple[Middleware, ...], handler: Callable[..., Any], with_transaction: bool
    ) -> None:
        self._middleware = middleware
        self._handler = handler
        self._with_transaction = with_transaction

    def __call__(self, request: Any, transaction: Transaction) -> Any:
        if type(request) is Undecoded:
            return self._answer_undecoded(request, transaction)
        return self._proceed(self._handle, transaction, 0, request)

    def _proceed(
        self, end: Callable[[Any, Transaction], Any], transaction: Transaction, depth: int, request: Any
    ) -> Any:
        """Call the middleware at `depth`, or `end` if there is none."""
        if depth == len(self._middleware):
            return end(request, transaction)
        return self._middleware[depth](
            request, transaction, partial(self._proceed, end, transaction, depth + 1)
        )

    def _handle(self, request: Any, transaction: Transaction) -> Any:
        return self._handler(request, transaction) if self._with_transaction else self._handler(request)

    def _answer_undecoded(self, undecoded: Undecoded, transaction: Transaction) -> Any:
        """Answer a request that has not reached the handler, whatever middleware makes of it."""
        incoming = transaction._incoming
        # It would keep the error, whose traceback keeps this frame: a cycle.
        incoming.message = None
        try:
            try:
                return self._proceed(undecoded.fail, transaction, 0, None)
            except BaseException as error:
                if not isinstance(error, Exception) and error is not undecoded.error:
                    raise
                refuse_undecoded(incoming, error)
                return None
        except BaseException:
            # Further out, it would be taken for an error of the handler, which has not run.
            incoming.abandon()
            raise
        finally:
            undecoded.error = None
