from ratchet.bus._core.fair_queue cimport Flow, Queued
from ratchet.bus._core.incoming_requests cimport IncomingRequests
from ratchet.bus._core.outgoing cimport OutgoingRequest
from ratchet.bus._core.recipient cimport Recipient

cdef class IncomingRequest(Queued)

cdef class Route(Recipient):
    cdef public Flow flow
    cdef public bint in_process
    cdef public object peer

    cpdef bint is_writable(self, IncomingRequest request) except -1
    cpdef object park(self, IncomingRequest request)
    cpdef bint send(self, IncomingRequest request, object message) except -1
    cpdef bint fail(self, IncomingRequest request, object reason, object texts, object outcome) except -1
    cpdef object give_up(self, IncomingRequest request)
    cpdef object released(self, IncomingRequest request)

cdef class IncomingRequest(Queued):
    cdef object _begun
    cdef tuple _handling
    cdef object _timer
    cdef public OutgoingRequest client
    cdef public object handler
    cdef public object message
    cdef public object metadata
    cdef public bint one_way
    cdef public IncomingRequests requests
    cdef public Route route
    cdef public Py_ssize_t size
    cdef public object state

    cpdef object begin(
        self, IncomingRequests requests, Route route, object message, bint one_way, object deadline,
        long long id=*, OutgoingRequest client=*, double half_time=*
    )
    cpdef bint claim(self, object inbox) except -1
    cpdef bint respond(self, object response) except -1
    cpdef bint _refuse_unwanted(self) except -1
    cpdef bint respond_error(self, object error, object outcome=*) except -1
    cpdef bint _refuse_answer(self) except -1
    cpdef object refuse(self, object reason, object texts)
    cpdef object abandon(self)
    cpdef bint cancel(self) except -1
    cpdef object begin_handling(self, object handler)
    cpdef object end_handling(self, long handlings)
    cpdef object _release(self)
