cimport cython

from ratchet cimport _native
from ratchet.bus._core.deadline cimport time_left
from ratchet.bus._core.inbox cimport Inbox
from ratchet.bus._core.incoming cimport IncomingRequest, Route
from ratchet.bus._core.incoming_requests cimport IncomingRequests
from ratchet.bus._core.intake cimport Intake
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

    @cython.locals(transaction=OutgoingRequest, incoming=IncomingRequest)
    cpdef object ask(
        self, object owner, object request, object message, object deadline, object metadata, object many=*
    )
