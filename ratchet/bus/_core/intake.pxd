from ratchet.bus._core.deadline cimport deadline_after, time_left
from ratchet.bus._core.handle cimport receive
from ratchet.bus._core.inbox cimport Inbox
from ratchet.bus._core.incoming_requests cimport IncomingRequests
from ratchet.bus._core.load cimport Load

cdef class Intake:
    cdef object __weakref__
    cdef public bint cut_off
    cdef public Inbox inbox
    cdef public object last_taker
    cdef public object life
    cdef public Load load
    cdef public IncomingRequests requests
    cdef public dict takers
    cdef public dict workers

    cpdef object take(self, object timeout)
