from ratchet.bus._core.outgoing cimport OutgoingRequest

cdef class ManyRequests:
    cdef object _hub
    cdef double _seconds
    cdef public object deadline
    cdef public object messages
    cdef public object metadata
    cdef public list outcomes
    cdef public object requests

    cpdef object add(self, OutgoingRequest transaction)
