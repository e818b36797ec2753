cimport cython

from ratchet.bus._core.outgoing cimport OutgoingRequest

cdef class ManyRequests:
    cdef object _hub
    cdef double _seconds
    cdef public object deadline
    cdef public bint idempotent
    cdef public list messages
    cdef public object metadata
    cdef public list outcomes
    cdef public list requests

    cpdef object add(self, OutgoingRequest transaction)
    @cython.locals(transaction=OutgoingRequest)
    cpdef bint _wait_until(self, object deadline) except -1
    cpdef list results(self)

cpdef object _result(OutgoingRequest transaction)
