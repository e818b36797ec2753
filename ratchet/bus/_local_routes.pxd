cimport cython

from ratchet cimport _native
from ratchet.bus._core.client cimport ClientTransaction, RequestSender
from ratchet.bus._core.deadline cimport inherited_deadline, request_deadline, time_left
from ratchet.bus._core.inbox cimport Inbox
from ratchet.bus._core.incoming cimport IncomingRequest, Route
from ratchet.bus._core.incoming_requests cimport IncomingRequests
from ratchet.bus._core.intake cimport Intake
from ratchet.bus._core.many cimport ManyRequests
from ratchet.bus._core.outgoing cimport ClientRoute, OutgoingRequest

cdef class ToClient(Route):
    pass

cdef class ToServer(ClientRoute):
    cdef bint _bounded
    cdef object _decode
    cdef Inbox _inbox
    cdef Intake _intake
    cdef IncomingRequests _requests
    cdef ToClient _to_client

    @cython.locals(transaction=ClientTransaction, incoming=IncomingRequest)
    cpdef ClientTransaction ask(
        self, object owner, object request, object message, object deadline, object metadata,
        ManyRequests many=*
    )

cdef class LocalSender(RequestSender):
    cdef object _encode
    cdef ToServer _to_server

    @cython.locals(transaction=ClientTransaction)
    cpdef ClientTransaction send(
        self, object owner, object request, object timeout, object metadata, bint idempotent
    )
    @cython.locals(index=Py_ssize_t)
    cpdef object send_some(self, object owner, ManyRequests many)
