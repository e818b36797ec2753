cimport cython

from ratchet cimport _native
from ratchet.bus._core.inbox cimport Inbox
from ratchet.bus._core.incoming cimport IncomingRequest

cdef class HeldRequest:
    cdef object __weakref__
    cdef public IncomingRequest _incoming

cdef class ServerTransaction(HeldRequest):
    cpdef bint send_response(self, object response) except -1
    cpdef bint send_error(self, object error, object outcome=*) except -1

@cython.locals(transaction=ServerTransaction)
cpdef object receive(Inbox inbox, IncomingRequest incoming, bint tells_failure=*)

@cython.locals(incoming=IncomingRequest)
cpdef list receive_many(Inbox inbox, Py_ssize_t most, object deadline)

@cython.locals(transaction=ServerTransaction, incoming=IncomingRequest)
cpdef object handle(object received, object handler, bint with_transaction, object answer_aside)
