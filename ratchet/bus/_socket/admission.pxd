from ratchet.bus._core.incoming cimport IncomingRequest
from ratchet.bus._core.incoming_requests cimport IncomingRequests
from ratchet.bus._core.inbox cimport Inbox
from ratchet.bus._core.intake cimport Intake
from ratchet.bus._socket.budget cimport Budget

cdef class Admission:
    cdef public Intake intake
    cdef public IncomingRequests requests
    cdef public Inbox inbox
    cdef public object limits
    cdef public Budget budget
    cdef public dict connections
    cdef public dict leaving
    cdef public object hello
    cdef public object on_connection_lost
    cdef public object lost_casts
    cdef public bint takes_bodies
    cdef public bint takes_bytes

    cpdef object enqueue(self, IncomingRequest request)
