cimport cython

from ratchet cimport _native
from ratchet.bus._core.many cimport ManyRequests
from ratchet.bus._core.outgoing cimport OutgoingRequest
from ratchet.bus._core.side cimport BusFields

cdef class ClientTransaction(OutgoingRequest):
    cpdef object recv_response(self, object timeout=*)
    cpdef object cancel(self)

cdef class RequestSender:
    cpdef ClientTransaction send(
        self, object owner, object request, object timeout, object metadata, bint idempotent
    )
    cpdef object cast(self, object owner, object request, object timeout, object metadata)
    cpdef object send_some(self, object owner, ManyRequests many)

@cython.locals(sender=RequestSender)
cpdef object _send(BusFields side, object request, object timeout, object metadata, bint idempotent)

@cython.locals(sender=RequestSender, outcomes=list, begun=Py_ssize_t, size=Py_ssize_t)
cpdef object _send_all(BusFields side, ManyRequests many)

@cython.locals(sent=ClientTransaction)
cpdef object _call(object side, object request, object timeout, object metadata, bint idempotent)
