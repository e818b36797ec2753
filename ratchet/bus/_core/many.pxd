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
    cpdef bint _wait_until(self, object deadline) except -1
    cpdef list results(self)

cpdef object _result(OutgoingRequest transaction)
