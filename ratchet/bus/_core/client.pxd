from ratchet.bus._core.outgoing cimport OutgoingRequest

cdef class ClientTransaction(OutgoingRequest):
    cpdef object recv_response(self, object timeout=*)
    cpdef object cancel(self)
