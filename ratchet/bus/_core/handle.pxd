cimport cython

from ratchet cimport _native
from ratchet.bus._core.inbox cimport Inbox
from ratchet.bus._core.incoming cimport IncomingRequest

cdef class HeldRequest:
    cdef public IncomingRequest _incoming

    cpdef bint _respond(self, object response) except -1

@cython.locals(transaction=HeldRequest)
cpdef object receive(Inbox inbox, IncomingRequest incoming)

@cython.locals(transaction=HeldRequest, incoming=IncomingRequest)
cpdef object handle(object received, object handler, bint with_transaction, object answer_aside)
