from ratchet cimport _native
from ratchet.bus._core.handle cimport handle, receive
from ratchet.bus._core.intake cimport Intake

cdef class Team:
    cdef object __weakref__
    cdef object _context
    cdef object _handler
    cdef set _idle
    cdef Intake _intake
    cdef object _kernel
    cdef object _one_ended
    cdef bint _tells_failure
    cdef list _threads
    cdef bint _with_transaction
